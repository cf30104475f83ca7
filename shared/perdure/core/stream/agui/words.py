"""The words of AG-UI 1.0: events without nulls, times in whole milliseconds, names of steps, roles of messages."""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, Final

import msgspec

from perdure.core.instant import Instant, moment
from perdure.core.stream.delta import Call
from perdure.core.stream.frame import Frame

PROTOCOL: Final = "1.0"
ASSISTANT: Final = "assistant"
_ROLES: Final = {role: role for role in ("developer", "system", "assistant", "user")} | {"human": "user"}
_EPOCH: Final = moment(Instant("1970-01-01T00:00:00.000Z"))

Said = dict[str, Any]  # one AG-UI event; Any: JSON


def event(kind: str, at: Instant | None = None, /, **members: Any) -> Said:  # Any: JSON
    """One event. Members that are None are left out, which is how AG-UI says that there is no value."""
    said: Said = {"type": kind} | {name: value for name, value in members.items() if value is not None}
    if at is not None:
        said["timestamp"] = (moment(at) - _EPOCH) // timedelta(milliseconds=1)
    return said


def custom(name: str, value: Any) -> Said:  # Any: JSON
    """A CUSTOM event; its value may be null."""
    return {"type": "CUSTOM", "name": f"perdure.{name}", "value": value}


def frames(events: Sequence[Said], offset: str | None) -> Iterable[Frame]:
    """The events as frames, the last of which moves the reader to `offset`."""
    last = len(events) - 1
    for place, said in enumerate(events):
        yield Frame(offset if place == last else None, said["type"], msgspec.json.encode(said))


def step_name(call: Call) -> str:
    """How a step is called: its occurrence from the second on, its path where that is more than a node's own."""
    path, step, occurrence = call
    name = step if occurrence == 1 else f"{step}#{occurrence}"
    return name if path in ("", f"/{step}") else f"{name}@{path}"


def role(name: str) -> str:
    """The role of a message of the log: what is none of AG-UI's own is the assistant's."""
    return _ROLES.get(name, ASSISTANT)


def as_text(value: Any) -> str:  # Any: JSON
    """A value where AG-UI has a text: a text as it is, everything else as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
