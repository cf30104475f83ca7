"""What a job says in AG-UI, as Langflow's translator words it: each name and data of its own stream as AG-UI events.

One RUN_STARTED in a job, exactly one of RUN_FINISHED and RUN_ERROR, last; steps are paired. Of texts one is open at a
time: what would begin while another is being said waits until that one has ended.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from perdure.core import event as ev
from perdure.core.event import AnyEvent, UserValue
from perdure.core.langflow.telling import Told

Event = dict[str, UserValue]
MIRRORED: Final = frozenset({"add_message", "token", "remove_message", "error", "end"})
CONTENTS: Final = frozenset({"json", "code", "media", "error"})
CUSTOM: Final = {"human_input_required": "langflow.human_input_required", "warning": "langflow.warning"}


class Translator:
    """One job for one reader, told in the order of its stream."""

    def __init__(self, job: str) -> None:
        self._job, self._thread = job, ""
        self._graph = False  # whether the graph is shown
        self._pictured = False
        self._steps: dict[str, None] = {}  # begun and not finished
        self._open: str | None = None  # the message that is being said, piece by piece
        self._said = ""
        self._waiting: list[Event] = []
        self._error: Event | None = None

    def submitted(self, thread: str, *, graph: bool) -> list[Event]:
        """The run begins."""
        self._thread, self._graph = thread, graph
        begin: list[Event] = [{"type": "RUN_STARTED"} | self._run]
        return begin + ([{"type": "STATE_SNAPSHOT", "snapshot": {"nodes": {}}}] if graph else [])

    def event(self, event: AnyEvent, told: Iterable[Told]) -> list[Event]:
        """What an event of the log says."""
        found = [each for one in told for each in self._each(one, live=False)]
        if isinstance(event, ev.StepSkipped) and self._graph:
            found.append(_node(event.data.step, "inactive", None))
        return found

    def delta(self, told: Iterable[Told]) -> list[Event]:
        """What a delta says. A piece that began its message is not said again as a token."""
        told = list(told)
        begun = {data["id"] for name, data in told if name == "add_message"}
        return [
            each
            for name, data in told
            if not (name == "token" and data["id"] in begun)
            for each in self._each((name, data), live=True)
        ]

    def reset(self) -> list[Event]:
        """What was being said is said anew, under the id of its message."""
        return self._closed()

    @property
    def _run(self) -> Event:
        return {"threadId": self._thread, "runId": self._job}

    def _each(self, told: Told, *, live: bool) -> Iterator[Event]:
        name, data = told
        if self._graph and name in MIRRORED:
            mirror: Event = {"event_type": name, "data": data}
            yield from self._custom("langflow.event", mirror)
        match name:
            case "vertices_sorted" if not self._pictured:
                self._pictured = True
                ids: Any = data.get("to_run")
                nodes = {node: {"status": "pending", "output": None} for node in ids or ()}
                yield {"type": "STATE_SNAPSHOT", "snapshot": {"nodes": nodes}}
            case "build_start" if "id" in data:
                yield from self._begun(str(data["id"]))
            case "end_vertex":
                yield from self._built(data)
            case "add_message":
                yield from self._message(data, live=live)
            case "token":
                yield from self._piece(str(data["id"]), str(data["chunk"]))
            case "remove_message":
                yield from self._custom("langflow.message.removed", data)
            case "human_input_required" | "warning":
                yield from self._custom(CUSTOM[name], data)
            case "log":
                yield from self._custom("langflow.log", data)
            case "error":
                text = str(data.get("text") or "").strip()
                self._error = {"type": "RUN_ERROR", "message": text, "code": data.get("code")}
            case "cancelled":
                yield from self._ending()
                yield from self._custom("langflow.run.cancelled", data)
                yield {"type": "RUN_FINISHED"} | self._run
            case "end":
                yield from self._ending()
                yield self._error or {"type": "RUN_FINISHED"} | self._run
            case _:
                pass

    def _custom(self, name: str, value: UserValue) -> Iterator[Event]:
        yield {"type": "CUSTOM", "name": name, "value": value}

    # A step that nobody heard begin begins where it ends: the two are always a pair.

    def _begun(self, step: str) -> Iterator[Event]:
        if self._graph and step not in self._steps:
            self._steps[step] = None
            yield {"type": "STEP_STARTED", "stepName": step}
            yield _node(step, "running", None)

    def _built(self, vertex: dict[str, UserValue]) -> Iterator[Event]:
        build: Any = vertex.get("build_data") or {}
        step = str(build.get("id"))
        if step not in self._steps:
            yield {"type": "STEP_STARTED", "stepName": step}
        self._steps.pop(step, None)
        yield {"type": "STEP_FINISHED", "stepName": step}
        yield _node(step, "success" if build.get("valid") else "error", build.get("data"))

    # ------------------------------------------------------------------------------------------------ texts

    def _message(self, record: dict[str, UserValue], *, live: bool) -> Iterator[Event]:
        if record.get("sender") == "User":
            return
        message, text = str(record.get("id")), record.get("text")
        text = text if isinstance(text, str) else ""
        if live:
            yield from self._begin(message, text)
            return
        calls = list(_contents(record, message))
        if self._open == message:
            if text.startswith(self._said) and len(text) > len(self._said):
                yield _content(message, text[len(self._said) :])
            yield from self._closed(calls)
            return
        whole = [*calls, *_whole(message, text)]
        if self._open is None:
            yield from whole
        else:
            self._waiting += whole

    def _begin(self, message: str, text: str) -> Iterator[Event]:
        """The first piece of a message. While another is being said it waits, and comes whole with its event."""
        if self._open is not None or not text:
            return
        self._open, self._said = message, text
        yield _start(message)
        yield _content(message, text)

    def _piece(self, message: str, text: str) -> Iterator[Event]:
        if self._open == message and text:
            self._said += text
            yield _content(message, text)

    def _closed(self, first: Iterable[Event] = ()) -> list[Event]:
        """The end of what is being said, and what waited for that."""
        if self._open is None:
            return list(first)
        found: list[Event] = [{"type": "TEXT_MESSAGE_END", "messageId": self._open}, *first, *self._waiting]
        self._open, self._said, self._waiting = None, "", []
        return found

    def _ending(self) -> list[Event]:
        """Whatever is open, ended."""
        found = self._closed()
        found += [{"type": "STEP_FINISHED", "stepName": step} for step in self._steps]
        self._steps.clear()
        return found


def _start(message: str) -> Event:
    return {"type": "TEXT_MESSAGE_START", "messageId": message, "role": "assistant"}


def _content(message: str, text: str) -> Event:
    return {"type": "TEXT_MESSAGE_CONTENT", "messageId": message, "delta": text}


def _whole(message: str, text: str) -> Iterator[Event]:
    """A message that was said at once; an empty one is not said."""
    if text:
        yield _start(message)
        yield _content(message, text)
        yield {"type": "TEXT_MESSAGE_END", "messageId": message}


def _node(node: str, status: str, output: UserValue) -> Event:
    path = "/nodes/" + node.replace("~", "~0").replace("/", "~1")
    return {
        "type": "STATE_DELTA",
        "delta": [{"op": "add", "path": path, "value": {"status": status, "output": output}}],
    }


def _contents(record: dict[str, UserValue], message: str) -> Iterator[Event]:
    """Tool calls with their results, and other contents, of a message that is whole."""
    number = 0
    for content in _flat(record.get("content_blocks")):
        kind = content.get("type")
        if kind == "tool_use":
            known = content.get("id") or content.get("tool_call_id")
            call = f"{message}:tool:id:{known}" if known else f"{message}:tool:ord:{number}"
            number += 1
            yield {
                "type": "TOOL_CALL_START",
                "toolCallId": call,
                "toolCallName": content.get("name") or "tool",
                "parentMessageId": message,
            }
            yield {"type": "TOOL_CALL_ARGS", "toolCallId": call, "delta": _text(content.get("tool_input") or {})}
            yield {"type": "TOOL_CALL_END", "toolCallId": call}
            result = content.get("error") if content.get("output") is None else content.get("output")
            if result is not None:
                told = {"messageId": f"{call}:result", "toolCallId": call, "content": _text(result)}
                yield {"type": "TOOL_CALL_RESULT", **told}
        elif kind in CONTENTS:
            yield {"type": "CUSTOM", "name": f"langflow.content.{kind}", "value": content}


def _flat(blocks: Any) -> Iterator[dict[str, Any]]:  # Any: what Langflow's engine sent
    for block in blocks if isinstance(blocks, list) else ():
        if isinstance(block, dict):
            if block.get("type") not in (None, "group"):
                yield block
            yield from _flat(block.get("contents"))


def _text(value: UserValue) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
