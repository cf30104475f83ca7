"""A frame of a server-sent event stream."""

from msgspec import Struct


class Frame(Struct, frozen=True):
    """`id` moves the reader's offset (None: it stays), `event` is the type, `data` one line of JSON.

    A protocol that lays its frames out otherwise has a frame of its own with another `encode`.
    """

    id: str | None
    event: str
    data: bytes

    def encode(self) -> bytes:
        """The frame as it goes out: LF only, one `data:` line."""
        head = f"id: {self.id}\n" if self.id is not None else ""
        return f"{head}event: {self.event}\ndata: ".encode() + self.data + b"\n\n"
