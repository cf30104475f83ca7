"""What parent and child say to each other: frames of msgspec's JSON, each behind its length in four bytes.

The parent says `Start` once, `Stop` at most once, and `Recalled` when it is asked; the child everything else, in the
order in which it happened. A child that ends without `Ended`, `Paused` or `Broken` has died.
"""

from typing import Final, Literal

import msgspec
from msgspec import Struct

from perdure.core.event import UserValue
from perdure.core.langflow.entry import Entry, Finished
from perdure.errors import Malformed, TooLarge

MAX_BYTES: Final = 80 * 1024 * 1024  # a value of a log is at most 64 MiB
HEAD: Final = 4
OUT_OF_MEMORY: Final = 77  # exit codes of a child: it has no memory left, it has no parent left
PARENT_GONE: Final = 78
Kind = Literal["text", "data", "table", "message"]


class Start(Struct, frozen=True, kw_only=True, tag_field="frame", tag=True):
    """All that a child needs for one pass. `flow` is the flow file; `decisions` are by lfx's request ids, `threads`
    what agents saved when they asked, by component; `messages` are those that the job's log holds of its session.
    """

    flow: msgspec.Raw
    flow_id: str
    job_id: str
    user_id: str
    session_id: str
    input_value: str = ""
    start_component_id: str | None = None
    stop_component_id: str | None = None
    tweaks: dict[str, dict[str, UserValue]] = {}
    globals: dict[str, str] = {}
    journal: list[Finished] = []
    decisions: dict[str, dict[str, UserValue]] = {}
    threads: dict[str, UserValue] = {}
    messages: list[dict[str, UserValue]] = []


class Stop(Struct, frozen=True, tag_field="frame", tag=True):
    """`cancel`: end now. `drain`: let the components that run end, start no more."""

    how: Literal["cancel", "drain"]


class Recalled(Struct, frozen=True, tag_field="frame", tag=True):
    """What other jobs of the session have said, oldest first."""

    messages: list[dict[str, UserValue]]


class Planned(Struct, frozen=True, kw_only=True, tag_field="frame", tag=True):
    """The pass begins: what starts now, what is to run in all, how many components the flow has (no loop bodies)."""

    first: tuple[str, ...]
    to_run: tuple[str, ...]
    total: int


class Begun(Struct, frozen=True, tag_field="frame", tag=True):
    """A component begins."""

    component: str


class Done(Struct, frozen=True, kw_only=True, tag_field="frame", tag=True):
    """A component has finished. `kind`: it is terminal, and what its output is."""

    component: str
    type: str
    entry: Entry
    kind: Kind | None = None
    preview: UserValue = None
    input_tokens: int = 0
    output_tokens: int = 0


class Raised(Struct, frozen=True, kw_only=True, tag_field="frame", tag=True):
    """A component raised. `package`: the import that was missing."""

    component: str
    type: str
    error: str
    error_type: str
    package: str | None = None
    preview: UserValue = None


class Asks(Struct, frozen=True, kw_only=True, tag_field="frame", tag=True):
    """A component asks somebody: the request as lfx words it, and the agent's thread where it is an agent."""

    component: str
    request: dict[str, UserValue]
    thread: UserValue = None


class Said(Struct, frozen=True, kw_only=True, tag_field="frame", tag=True):
    """A chat message as Langflow records it; `removed`: it was taken back."""

    component: str
    message: dict[str, UserValue]
    removed: bool = False


class Live(Struct, frozen=True, kw_only=True, tag_field="frame", tag=True):
    """What only followers hear: `event` and `data` as lfx names them."""

    component: str
    event: str
    data: dict[str, UserValue]


class Recall(Struct, frozen=True, tag_field="frame", tag=True):
    """A component reads the chat memory: `Recalled` is to answer, once."""


class Ended(Struct, frozen=True, kw_only=True, tag_field="frame", tag=True):
    """The flow has run to its end; `skipped` never ran and should not have."""

    skipped: tuple[str, ...] = ()


class Paused(Struct, frozen=True, tag_field="frame", tag=True):
    """The pass ends because somebody was asked, or because it was told to."""


class Broken(Struct, frozen=True, kw_only=True, tag_field="frame", tag=True):
    """The pass cannot go on. `code`: `INVALID_FLOW_DATA` (it does not load), `HITL_UNSUPPORTED_PLACE` (somebody was
    asked where lfx does not stop), `component_failed`, `incomplete`, `tweaks_refused`; `code_changed` is no failure.
    """

    code: str
    message: str
    error_type: str = ""
    component: str | None = None
    package: str | None = None


FromParent = Start | Stop | Recalled
FromChild = Planned | Begun | Done | Raised | Asks | Said | Live | Recall | Ended | Paused | Broken

_encoder: Final = msgspec.json.Encoder(enc_hook=str)
_from_parent: Final[msgspec.json.Decoder[FromParent]] = msgspec.json.Decoder(FromParent)
_from_child: Final[msgspec.json.Decoder[FromChild]] = msgspec.json.Decoder(FromChild)


def encode(frame: FromParent | FromChild) -> bytes:
    """The bytes of a frame. Raises TooLarge."""
    body = _encoder.encode(frame)
    if len(body) > MAX_BYTES:
        raise TooLarge(f"a frame of {len(body)} bytes, at most {MAX_BYTES}")
    return len(body).to_bytes(HEAD) + body


def size(head: bytes) -> int:
    """How long the body behind `head` is. Raises Malformed for what can be none."""
    found = int.from_bytes(head)
    if len(head) != HEAD or found > MAX_BYTES:
        raise Malformed("no frame")
    return found


def from_parent(body: bytes) -> FromParent:
    """What a parent said. Raises Malformed."""
    try:
        return _from_parent.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise Malformed(f"no frame: {exc}") from exc


def from_child(body: bytes) -> FromChild:
    """What a child said: flow code runs there, so it may be anything. Raises Malformed."""
    try:
        return _from_child.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise Malformed(f"no frame: {exc}") from exc
