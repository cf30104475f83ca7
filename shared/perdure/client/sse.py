"""Server-Sent Events: bytes become frames (WHATWG HTML, "server-sent events"). Pure; chunks may be cut anywhere."""

from msgspec import Struct


class SseFrame(Struct, frozen=True):
    """One dispatched event. `id` is None where the frame had none; one that only moves the id has no `data`."""

    id: str | None
    event: str
    data: bytes


class SseParser:
    """Feed it what arrives. `retry_ms` is the server's last word on how long to wait before reconnecting."""

    def __init__(self) -> None:
        self.retry_ms: int | None = None
        self._rest = b""
        self._last_was_cr = False
        self._id: str | None = None
        self._event = ""
        self._data: list[bytes] = []
        self._any = False

    def feed(self, chunk: bytes) -> list[SseFrame]:
        """The frames that `chunk` completes. What an interrupted stream leaves behind is no frame."""
        if self._last_was_cr and chunk.startswith(b"\n"):
            chunk, self._last_was_cr = chunk[1:], False
        if chunk:
            self._last_was_cr = chunk.endswith(b"\r")
        text = (self._rest + chunk).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, self._rest = text.split(b"\n")
        frames: list[SseFrame] = []
        for line in lines:
            if line:
                self._field(line)
            elif self._any:
                frames.append(SseFrame(self._id, self._event or "message", b"\n".join(self._data)))
                self._id, self._event, self._data, self._any = None, "", [], False
        return frames

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match name:
            case b"data":
                self._data.append(value)
                self._any = True
            case b"event":
                self._event = value.decode("utf-8", "replace")
            case b"id" if b"\0" not in value:
                self._id = value.decode("utf-8", "replace")
                self._any = True
            case b"retry" if value.isdigit():
                self.retry_ms = int(value)
            case _:
                pass  # a comment, or a field that nobody knows
