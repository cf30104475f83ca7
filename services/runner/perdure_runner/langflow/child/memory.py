"""The chat memory of a session, in place of lfx's own, which stores nothing: what the job's log holds, what other jobs
of the session have said, and what the pass adds. A message goes to the parent as an event of its own.
"""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import lfx.memory
from lfx.schema.message import Message

from perdure.core.event import UserValue
from perdure.ids import new_event_id


class Memory:
    """The messages of one pass, oldest first, by id."""

    def __init__(self, known: list[dict[str, UserValue]], recall: Callable[[], Awaitable[list[Any]]]) -> None:
        """`recall` asks what other jobs of the session have said; nobody is asked before somebody looks."""
        self._messages: dict[str, Any] = _records(known)
        self._recall = recall
        self._recalled = asyncio.Lock()
        self._whole = False

    def install(self) -> None:
        """Have lfx store and look here."""
        functions = SimpleNamespace(
            astore_message=self.astore_message,
            aget_messages=self.aget_messages,
            aadd_messages=self.aadd_messages,
            aadd_messagetables=self.aadd_messages,
            aupdate_messages=self.aupdate_messages,
            adelete_messages=self.adelete_messages,
            delete_messages=self.delete_messages,
            delete_message=self.delete_message,
            get_messages=self.get_messages,
            add_messages=self.add_messages,
            store_message=self.store_message,
        )
        lfx.memory._impl = lambda: functions

    async def astore_message(self, message: Any, flow_id: Any = None, run_id: Any = None, **_: Any) -> list[Any]:
        """As lfx 1.13: the message with an id, and the run that it belongs to."""
        return self.store_message(message, flow_id, run_id)

    def store_message(self, message: Any, flow_id: Any = None, run_id: Any = None, **_: Any) -> list[Any]:
        if not (message.session_id and message.sender and message.sender_name):
            raise ValueError("a message needs session_id, sender and sender_name")
        if flow_id:
            message.flow_id = str(flow_id)
        if run_id:
            message.run_id = str(run_id)
        return self.add_messages(message)

    async def aadd_messages(self, messages: Any, **_: Any) -> list[Any]:
        return self.add_messages(messages)

    def add_messages(self, messages: Any, **_: Any) -> list[Any]:
        found = messages if isinstance(messages, list) else [messages]
        for message in found:
            if not getattr(message, "id", None):
                message.id = new_event_id()  # lfx wants a UUID
            self._messages[str(message.id)] = message
        return found

    async def aupdate_messages(self, messages: Any, **_: Any) -> list[Any]:
        return self.add_messages(messages)

    async def adelete_messages(self, session_id: str | None = None, context_id: str | None = None) -> None:
        self.delete_messages(session_id, context_id)

    def delete_messages(self, session_id: str | None = None, context_id: str | None = None) -> None:
        gone = [i for i, m in self._messages.items() if _fits(m, session_id=session_id, context_id=context_id)]
        for name in gone:
            del self._messages[name]

    async def delete_message(self, id_: Any) -> None:
        self._messages.pop(str(id_), None)

    async def aget_messages(self, **wanted: Any) -> list[Any]:
        async with self._recalled:
            if not self._whole:
                others = _records(await self._recall())
                self._messages = {**others, **self._messages}
                self._whole = True
        return self.get_messages(**wanted)

    def get_messages(
        self,
        sender: str | None = None,
        sender_name: str | None = None,
        session_id: Any = None,
        context_id: Any = None,
        order_by: str | None = "timestamp",
        order: str | None = "DESC",
        flow_id: Any = None,
        limit: int | None = None,
        **_: Any,
    ) -> list[Any]:
        """As lfx 1.13: the newest first unless told otherwise, at most `limit`."""
        found = [
            message
            for message in self._messages.values()
            if _fits(message, sender=sender, sender_name=sender_name, session_id=session_id, context_id=context_id)
            and (flow_id is None or str(message.flow_id) == str(flow_id))
        ]
        if (order or "").upper() == "DESC":
            found.reverse()
        return found[:limit] if limit else found


def _records(said: list[dict[str, UserValue]]) -> dict[str, Any]:
    return {str(message["id"]): Message(**message) for message in said if message.get("id")}


def _fits(message: Any, **wanted: Any) -> bool:
    return all(value is None or str(getattr(message, name)) == str(value) for name, value in wanted.items())
