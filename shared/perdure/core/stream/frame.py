"""A frame of a server-sent event stream, and what turns a job's events into frames."""

from collections.abc import Iterable
from typing import Protocol

from msgspec import Struct

from perdure.core.event import AnyEvent
from perdure.core.stream.delta import Said
from perdure.core.stream.offset import Offset
from perdure.core.stream.reading import Reset


class Frame(Struct, frozen=True):
    """`id` moves the reader's offset (None: it stays), `event` is the type, `data` one line of JSON."""

    id: str | None
    event: str
    data: bytes

    def encode(self) -> bytes:
        """The frame as it goes out: LF only, one `data:` line."""
        head = f"id: {self.id}\n" if self.id is not None else ""
        return f"{head}event: {self.event}\ndata: ".encode() + self.data + b"\n\n"


class StreamAdapter(Protocol):
    """How one protocol shows a job. It is asked in the order in which the reader shall see it, each event once."""

    @property
    def deltas(self) -> bool:
        """Whether its reader wants deltas at all."""

    def on_event(self, body: bytes, event: AnyEvent) -> Iterable[Frame]:
        """The frames of a log event: `body` as it is stored, `event` the same decoded."""

    def on_delta(self, said: Said, at: Offset | None) -> Iterable[Frame]:
        """The frames of a delta. `at` is the reader's offset behind it, None where it must not move yet."""

    def on_reset(self, reset: Reset) -> Iterable[Frame]:
        """The frames that make a reader forget the deltas that no event has settled."""

    def close(self, reason: str) -> Iterable[Frame]:
        """The last words of a stream that ends without the job's end."""
