"""Between what a job says and what its reader is sent: one task makes frames, another writes all that is ready at once.

A log of a thousand events is a few writes instead of a thousand, and so are the tokens of a fast model; a frame that
comes alone is written alone. What waits for a slow reader here is bounded, the rest waits in its inbox.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Final

from perdure.core.stream.frame import Frame
from perdure.errors import PerdureError

MOST_BYTES: Final = 64 * 1024  # beyond the last frame


class Bell:
    """Wakes the one that waits for it; what is rung before it waits is not lost."""

    def __init__(self) -> None:
        self._rung = False
        self._waiter: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """Wake it."""
        self._rung = True
        self._wake()

    async def wait(self, seconds: float) -> bool:
        """Whether it was rung, now or within `seconds`."""
        if not self._rung:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            late = loop.call_later(seconds, self._wake)
            try:
                await self._waiter
            finally:
                late.cancel()
                self._waiter = None
        rung, self._rung = self._rung, False
        return rung

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Outbox:
    """The frames of one stream that are not written yet; it rings when there are some, and at their end. Somebody has
    to `close` it.
    """

    def __init__(self, frames: AsyncGenerator[Frame], ring: Callable[[], None]) -> None:
        self._frames: list[Frame] = []
        self._bytes = 0
        self._ring = ring
        self._room: asyncio.Future[None] | None = None
        self._making = asyncio.ensure_future(self._make(frames))
        self._making.add_done_callback(lambda _: ring())

    def take(self) -> list[Frame] | None:
        """All frames that are ready; None at their end. Raises what ended them instead, behind the last frame."""
        taken, self._frames, self._bytes = self._frames, [], 0
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        if self._making.done():
            if not taken:
                self._making.result()
                return None
            self._ring()
        return taken

    async def close(self) -> None:
        """Make no more."""
        self._making.cancel()
        with contextlib.suppress(asyncio.CancelledError, PerdureError):
            await self._making

    async def _make(self, frames: AsyncGenerator[Frame]) -> None:
        async for frame in frames:
            self._frames.append(frame)
            self._bytes += len(frame.data)
            del frame
            self._ring()
            if self._bytes >= MOST_BYTES:
                self._room = asyncio.get_running_loop().create_future()
                await self._room
                self._room = None
