"""Between what a job says and what its reader is sent: one task makes frames, another writes all that is ready at once.

A log of a thousand events is a few writes instead of a thousand, and so are the tokens of a fast model; a frame that
comes alone is written alone. What waits for a slow reader here is bounded, the rest waits in its inbox.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Final

from perdure.core.stream.frame import Frame
from perdure.errors import PerdureError

MOST_BYTES: Final = 64 * 1024  # beyond the last frame


class Outbox:
    """The frames of one stream that are not written yet. Somebody has to `close` it."""

    def __init__(self, frames: AsyncGenerator[Frame]) -> None:
        self._frames: list[Frame] = []
        self._bytes = 0
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._room = asyncio.Event()
        self._making = asyncio.ensure_future(self._make(frames))
        self._making.add_done_callback(lambda _: self._say())

    @property
    def ready(self) -> asyncio.Future[None]:
        """Done as soon as there is something to `take`, or the end."""
        return self._ready

    def take(self) -> list[Frame]:
        """All frames that are ready; none at the end. Raises what ended them instead, behind the last frame."""
        taken, self._frames, self._bytes = self._frames, [], 0
        if not taken and self._making.done():
            self._making.result()
        if not self._making.done():
            self._ready = asyncio.get_running_loop().create_future()
            self._room.set()
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
            self._say()
            if self._bytes >= MOST_BYTES:
                self._room.clear()
                await self._room.wait()

    def _say(self) -> None:
        if not self._ready.done():
            self._ready.set_result(None)
