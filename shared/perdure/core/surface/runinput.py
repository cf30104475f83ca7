"""What an AG-UI client posts, as the input of a flow: the first of these shapes that the flow takes.

    its fields by name     `message` `messages` `state` `tools` `context` `forwarded_props` `thread_id` `run_id`
                           `parent_run_id`, and every other field out of the posted state
    a text                 the last message of a user
    everything             the object of all the names above, where the flow says nothing about its input

A flow says what it takes by its schema: that of a Python workflow's annotation, or of a graph's input nodes.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from msgspec import Struct

from perdure.core.event import UserValue

OWN: Final = "perdure"  # the key of the state, and of the forwarded properties, that is Perdure's own


class RunInput(Struct, frozen=True, kw_only=True):
    """A RunAgentInput, as far as a flow can use it."""

    thread_id: str
    run_id: str
    parent_run_id: str | None = None
    messages: list[dict[str, UserValue]]
    state: UserValue = None
    tools: list[UserValue] = []
    context: list[UserValue] = []
    forwarded: UserValue = None

    @property
    def message(self) -> str | None:
        """What the user said last; None when no user said anything."""
        return said_last(self.messages)

    def members(self) -> dict[str, UserValue]:
        """Everything by its name; what was not posted is not there."""
        found = {
            "message": self.message,
            "messages": self.messages,
            "state": _without(self.state),
            "tools": self.tools,
            "context": self.context,
            "forwarded_props": _without(self.forwarded),
            "thread_id": self.thread_id,
            "run_id": self.run_id,
            "parent_run_id": self.parent_run_id,
        }
        return {name: value for name, value in found.items() if value is not None}


def said_last(messages: UserValue) -> str | None:
    """The text of the last message of a user among messages of AG-UI; None where there is none."""
    said = (
        [m for m in messages if isinstance(m, dict) and m.get("role") == "user"] if isinstance(messages, list) else []
    )
    return _text(said[-1].get("content")) if said else None


def candidates(schema: Mapping[str, UserValue] | None, run: RunInput) -> list[UserValue]:
    """The inputs that a flow with this schema may be given, the best first; none where it takes a text and no user
    said one.
    """
    everything = run.members()
    state = _without(run.state)
    named = {**(state if isinstance(state, dict) else {}), **everything}
    full: list[UserValue] = []
    texts: list[UserValue] = []
    rest: list[UserValue] = []
    for branch in _branches(schema or {}, schema or {}):
        properties, kinds = branch.get("properties"), branch.get("type", "object")
        kinds = kinds if isinstance(kinds, list) else [kinds]
        if isinstance(properties, dict) and properties:
            given = {name: named[name] for name in properties if name in named}
            whole = given and all(name in given for name in branch.get("required", ()))
            (full if whole else rest).append(given)
        elif "object" in kinds:
            rest.append(everything)
        if "string" in kinds and run.message is not None:
            texts.append(run.message)
        if "array" in kinds:
            rest.append(run.messages)
        if "null" in kinds:
            rest.append(None)
    return full + texts + rest


def _branches(schema: UserValue, whole: Mapping[str, UserValue], depth: int = 0) -> Iterator[Mapping[str, UserValue]]:
    """The alternatives of a schema, its references to its own definitions followed."""
    if not isinstance(schema, dict) or depth > 4:
        return
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/$defs/"):
        yield from _branches(whole.get("$defs", {}).get(reference.removeprefix("#/$defs/")), whole, depth + 1)
        return
    inner = schema.get("anyOf") or schema.get("oneOf")
    if not inner:
        yield schema
    for each in inner or ():
        yield from _branches(each, whole, depth + 1)


def _text(content: Any) -> str | None:  # Any: JSON
    """The text of a message: itself, or its text parts one below the other."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
    return "\n".join(texts) if texts else None


def _without(value: UserValue) -> UserValue:
    return {name: each for name, each in value.items() if name != OWN} if isinstance(value, dict) else value
