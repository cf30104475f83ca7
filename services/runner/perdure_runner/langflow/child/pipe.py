"""The child's end of the pipe. Whoever sends waits while the parent does not read, and with it the flow."""

import socket
import threading

from perdure_runner.langflow.frames import HEAD, FromChild, FromParent, encode, from_parent, size


class Pipe:
    """Frames over a socket; `send` may be called from any thread."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._turn = threading.Lock()
        self._read = bytearray()

    def fileno(self) -> int:
        """For a loop that watches it."""
        return self._end.fileno()

    def send(self, frame: FromChild) -> None:
        """Say it. Raises OSError when the parent has gone, TooLarge."""
        body = encode(frame)
        with self._turn:
            self._end.sendall(body)

    def receive(self) -> FromParent | None:
        """Wait for what the parent says; None when it has gone. Raises Malformed."""
        while True:
            if (frame := self._taken()) is not None:
                return frame
            more = self._end.recv(1 << 20)
            if not more:
                return None
            self._read += more

    def glance(self) -> FromParent | None:
        """What the parent has said, None when that is not a whole frame. Raises EOFError when the parent has gone."""
        try:
            more = self._end.recv(1 << 20, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return self._taken()
        if not more:
            raise EOFError
        self._read += more
        return self._taken()

    def _taken(self) -> FromParent | None:
        if len(self._read) < HEAD or len(self._read) < HEAD + (length := size(bytes(self._read[:HEAD]))):
            return None
        body = bytes(self._read[HEAD : HEAD + length])
        del self._read[: HEAD + length]
        return from_parent(body)
