"""Takes what lfx tells its followers: messages and tokens; of each message the last state, when its component is done.

lfx builds a message up to nine times, under one id. It must take every event at once and never raise: lfx drops the
event then. It is called from threads of components too.
"""

import json
import threading
from collections.abc import Callable
from typing import Any, Final

from perdure_runner.langflow.child.place import COMPONENT
from perdure_runner.langflow.frames import FromChild, Live, Said

_LIVE: Final = frozenset({"token", "log", "build_start", "build_end", "end_vertex"})


class Saying:
    """Stands in for the queue of lfx's event manager."""

    def __init__(self, send: Callable[[FromChild], None]) -> None:
        self._send = send
        self._turn = threading.Lock()
        self._messages: dict[str, tuple[str, dict[str, Any]]] = {}

    def put_nowait(self, item: tuple[str, bytes, float]) -> None:
        """One event of lfx: its id, its JSON, when."""
        told = json.loads(item[1])
        name, data, component = told["event"], told["data"], COMPONENT.get()
        if not isinstance(data, dict):
            return
        if name == "add_message":
            self._message(component, data)
        elif name == "remove_message" and (gone := str(data.get("id", ""))):
            with self._turn:
                self._messages.pop(gone, None)
            self._send(Said(component=component, message={"id": gone}, removed=True))
        elif name in _LIVE:
            self._send(Live(component=component, event=name, data=data))

    def settle(self, component: str) -> None:
        """The component is done: its messages are what they are now."""
        with self._turn:
            mine = [name for name, (owner, _) in self._messages.items() if owner == component]
            said = [self._messages.pop(name) for name in mine]
        for _, message in said:
            self._send(Said(component=component, message=message))

    def _message(self, component: str, message: dict[str, Any]) -> None:
        if message.get("category") == "error":  # with a traceback; `Raised` says what others may know
            return
        if (message.get("properties") or {}).get("state") == "partial":
            self._send(Live(component=component, event="add_message", data=message))
        with self._turn:
            self._messages[str(message.get("id"))] = (component, message)
