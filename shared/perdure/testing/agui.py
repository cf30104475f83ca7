"""Judges streams of AG-UI: what one connection may say, and what a client has that applies it. Pure.

The rules are those of AG-UI 1.0 (the verifier of `@ag-ui/client` 1.0.0), and Perdure's own, which are stricter: one run
in a response, ids of the run echoed, an id begins once and means one thing, whatever is open is in every snapshot.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from perdure.core.stream.frame import Frame

TYPES: Final = frozenset(
    {
        *("TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END"),
        *("TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_END", "TOOL_CALL_RESULT"),
        *("STATE_SNAPSHOT", "STATE_DELTA", "MESSAGES_SNAPSHOT", "ACTIVITY_SNAPSHOT", "CUSTOM"),
        *("RUN_STARTED", "RUN_FINISHED", "RUN_ERROR", "STEP_STARTED", "STEP_FINISHED"),
        *("REASONING_START", "REASONING_MESSAGE_START", "REASONING_MESSAGE_CONTENT"),
        *("REASONING_MESSAGE_END", "REASONING_END"),
    }
)
OUTCOMES: Final = ("success", "interrupt", "cancelled")
VALUES: Final = (
    "snapshot",
    "value",
    "result",
    "content",
    "delta",
    "messages",
    "metadata",
    "outcome",
)  # users' own JSON
_SPANS: Final = {
    "TEXT_MESSAGE": ("text", "messageId"),
    "TOOL_CALL": ("tool", "toolCallId"),
    "REASONING_MESSAGE": ("reasoning", "messageId"),
    "REASONING": ("span", "messageId"),
}
_PRELUDE: Final = ("RUN_STARTED", "STATE_SNAPSHOT", "MESSAGES_SNAPSHOT", "ACTIVITY_SNAPSHOT")

Event = Mapping[str, Any]  # Any: JSON


def events_of(frames: Iterable[Frame]) -> list[dict[str, Any]]:
    """The events that frames carry."""
    return [msgspec.json.decode(frame.data) for frame in frames]


class Client:
    """What `@ag-ui/client` has after the events that it was given: messages by id, state, interrupts."""

    def __init__(self) -> None:
        self.messages: dict[str, dict[str, Any]] = {}
        self.state: Any = {}
        self.interrupts: list[dict[str, Any]] = []
        self.outcome: str | None = None

    def take(self, event: Event) -> None:
        """Apply one event."""
        kind, mid = event["type"], event.get("messageId", "")
        match kind:
            case "RUN_STARTED":
                self.outcome = None
            case "TEXT_MESSAGE_START":
                self.messages.setdefault(mid, {"id": mid, "role": event["role"], "content": ""})
            case "REASONING_MESSAGE_START":
                self.messages.setdefault(mid, {"id": mid, "role": "reasoning", "content": ""})
            case "TEXT_MESSAGE_CONTENT" | "REASONING_MESSAGE_CONTENT":
                message = self.messages[mid]
                self.messages[mid] = message | {"content": message["content"] + event["delta"]}
            case "TOOL_CALL_START":
                call = {"name": event["toolCallName"], "arguments": ""}
                calls = [{"id": event["toolCallId"], "type": "function", "function": call}]
                self.messages[event["toolCallId"]] = {
                    "id": event["toolCallId"],
                    "role": "assistant",
                    "toolCalls": calls,
                }
            case "TOOL_CALL_ARGS":
                self.messages[event["toolCallId"]]["toolCalls"][0]["function"]["arguments"] += event["delta"]
            case "TOOL_CALL_RESULT":
                self.messages[mid] = {"id": mid, "role": "tool"} | {n: event[n] for n in ("toolCallId", "content")}
            case "ACTIVITY_SNAPSHOT":
                self.messages[mid] = {"id": mid, "role": "activity", "content": event["content"]}
            case "MESSAGES_SNAPSHOT":
                self._snapshot({message["id"]: message for message in event["messages"]})
            case "STATE_SNAPSHOT":
                self.state = event["snapshot"]
            case "STATE_DELTA":
                for op in event["delta"]:
                    _patch(self.state, op)
            case "RUN_FINISHED":
                self.outcome = event["outcome"]["type"]
                self.interrupts = event["outcome"].get("interrupts", [])
            case "RUN_ERROR":
                self.outcome = "error"
            case _:
                pass

    def _snapshot(self, sent: dict[str, dict[str, Any]]) -> None:
        """Those that were sent; of those that were not, activities, and reasoning where none was sent, stay."""
        stay = {"activity"} | (set() if any(m["role"] == "reasoning" for m in sent.values()) else {"reasoning"})
        kept = {mid: sent.get(mid, m) for mid, m in self.messages.items() if mid in sent or m["role"] in stay}
        self.messages = kept | {mid: m for mid, m in sent.items() if mid not in kept}


def check(events: Iterable[Event], thread_id: str, run_id: str) -> None:
    """Judge what one connection said. Raises AssertionError for what no client must be sent."""
    client = Client()
    opened: dict[str, set[str]] = {kind: set() for kind, _ in _SPANS.values()}
    meant: dict[str, str] = {}
    begun: set[tuple[str, str]] = set()
    steps: set[str] = set()
    over = ""
    for place, event in enumerate(events):
        kind = event["type"]
        assert kind in TYPES, f"{kind} is no type of AG-UI 1.0 that we say"
        assert not over, f"{kind} after {over}"
        assert place >= len(_PRELUDE) or kind == _PRELUDE[place], f"the prelude has {kind} in the place {place}"
        assert place < len(_PRELUDE) or kind != "RUN_STARTED", "RUN_STARTED inside a run"
        _without_nulls(event)
        stem, _, verb = kind.rpartition("_")
        if stem in _SPANS and verb in ("START", "CONTENT", "ARGS", "END"):
            what, name = _SPANS[stem]
            mid = event[name]
            assert meant.setdefault(mid, what) == what, f"{mid} is {meant[mid]} and {what}"
            if verb == "START":
                assert (what, mid) not in begun, f"{what} {mid} begins twice"
                begun.add((what, mid))
                opened[what].add(mid)
            assert mid in opened[what], f"{kind} of {mid}, which is not open"
            if verb == "END":
                opened[what].remove(mid)
        elif kind == "STEP_STARTED":
            assert event["stepName"] not in steps, f"step {event['stepName']} begins twice"
            steps.add(event["stepName"])
        elif kind == "STEP_FINISHED":
            steps.remove(event["stepName"])
        elif kind == "MESSAGES_SNAPSHOT":
            held = {message["id"]: message for message in event["messages"]}
            assert len(held) == len(event["messages"]), "an id twice in a snapshot"
            for mid in opened["text"] | opened["reasoning"]:
                assert held.get(mid) == client.messages[mid], f"{mid} is open and not in the snapshot as it is"
        elif kind in ("RUN_STARTED", "RUN_FINISHED"):
            assert (event["threadId"], event["runId"]) == (thread_id, run_id)
        if kind in ("RUN_FINISHED", "RUN_ERROR"):
            over = kind
            assert not any(opened.values()), f"open at the end: {opened}"
            assert not steps, f"open at the end: {steps}"
        if kind == "RUN_FINISHED":
            assert event["outcome"]["type"] in OUTCOMES
            assert event["outcome"]["type"] != "interrupt" or event["outcome"]["interrupts"]
        client.take(event)


def _without_nulls(event: Event) -> None:
    assert all(value is not None for name, value in event.items() if name not in VALUES), f"null in {event}"
    assert isinstance(event.get("timestamp", 0), int), "a timestamp is a whole number"


def _patch(state: Any, op: Event) -> None:  # Any: JSON
    *way, last = op["path"].split("/")[1:]
    for name in way:
        state = state[name]
    assert op["op"] == "add" or last in state, f"{op['path']} is not there to be replaced"
    state[last] = op["value"]
