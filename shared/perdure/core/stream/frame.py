"""A frame of a server-sent event stream, and what turns a job's events into frames."""

from collections.abc import Iterable
from typing import Protocol

from msgspec import Struct

from perdure.core.event import AnyEvent


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
    """How one protocol shows a job. It is asked in the order of the log, each event once."""

    def on_event(self, body: bytes, event: AnyEvent) -> Iterable[Frame]:
        """The frames of a log event: `body` as it is stored, `event` the same decoded."""

    def on_delta(self, body: bytes) -> Iterable[Frame]:
        """The frames of a live delta; none for one that no reader needs any more, or that is no delta."""

    def close(self, reason: str) -> Iterable[Frame]:
        """The last words of a stream that ends without the job's end."""
