"""Events and deltas for readers who may see that something happened, not what it said.

Users' values (inputs, results, payloads, texts) become `{withheld, size_bytes, digest}`. Whoever holds the value can
tell by the digest (SHA-256 of its canonical JSON) that it is the same; ids, names, times, errors' codes stay.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

import msgspec

from perdure.core import codec

VALUES: Final = frozenset(
    {
        "input",
        "sealed",
        "thread",
        "result",
        "preview",
        "original",
        "value",
        "payload",
        "proposal",
        "defaults",
        "comment",
    }
)
NAMED: Final = frozenset({"outputs"})  # objects whose members are users' values
IN: Final = ("request", "outcome", "on_timeout", "settled")
IN_EACH: Final = ("votes", "delegations", "errors", "comments", "history")
WITHDRAWN: Final = ("input.withdrawn", "settled", "history")
TEXTS: Final = {
    "errors": ("detail",),
    "comments": ("text",),
    "message": ("text", "parts", "tool_calls"),
    "request": ("title", "message"),
    "progress": ("text", "data"),
    "delta.progress": ("text",),
}
SILENT: Final = frozenset({"delta.text", "delta.reasoning", "delta.tool", "delta.log"})  # they are nothing but values


def withhold(value: object) -> dict[str, Any]:
    """What is shown of a value."""
    encoded = codec.canonical(value)
    return {"withheld": True, "size_bytes": len(encoded), "digest": sha256(encoded).hexdigest()}


def event(body: bytes) -> bytes:
    """A stored event, or its envelope, without users' values."""
    members: dict[str, Any] = msgspec.json.decode(body)  # Any: the log's JSON
    members["data"] = data(members["data"], str(members["type"]))
    return msgspec.json.encode(members)


def data(members: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The members of an event's `data`, or of a record inside it, without users' values."""
    shown: dict[str, Any] = {}
    for name, value in members.items():
        if name in VALUES or name in TEXTS.get(kind, ()):
            shown[name] = withhold(value)
        elif name in NAMED and isinstance(value, dict):
            shown[name] = {key: withhold(each) for key, each in value.items()}
        elif name in IN and isinstance(value, dict):
            shown[name] = data(value, name)
        elif name in IN_EACH and isinstance(value, list | tuple):
            shown[name] = [data(each, name) if isinstance(each, dict) else withhold(each) for each in value]
        elif name == "reason" and kind in WITHDRAWN and members.get("by") is not None:
            shown[name] = withhold(value)  # somebody's own words; else a word of ours
        elif name == "error" and isinstance(value, dict) and "message" in value:
            shown[name] = value | {"message": "withheld"}  # the author's own words
        else:
            shown[name] = value
    return shown


def delta(body: bytes) -> bytes:
    """A delta without users' values; those of SILENT have nothing to say then."""
    members: dict[str, Any] = msgspec.json.decode(body)
    return msgspec.json.encode({n: v for n, v in members.items() if n not in TEXTS.get(str(members["type"]), ())})
