"""Server-sent events on a plain response: frames as they come, a heartbeat while nothing does, an end with its reason.

Nothing is compressed or buffered. A reader that takes nothing for WRITE_SECONDS is cut off: its offset brings it back.
The stream also ends when the process drains, when it is old (so that readers spread over the gateways again), when the
caller's key is no longer good, when the job was deleted, and when the broker stays away.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from typing import Final, Protocol

import structlog
from aiohttp import web

from perdure.clock import Chance, Clock
from perdure.core.stream.adapter import Manners
from perdure.core.stream.delta import RESET
from perdure.core.stream.frame import Frame
from perdure.errors import Expired, NotFound, Unauthenticated, Unavailable, UnsupportedVersion
from perdure_gateway.metrics import Metrics
from perdure_gateway.outbox import Bell, Outbox
from perdure_gateway.revoke import Revocations

HEARTBEAT_SECONDS: Final = 15.0
WRITE_SECONDS: Final = 30.0
AUTH_SECONDS: Final = 300.0
AGE_SECONDS: Final = 1800.0
AGE_JITTER_SECONDS: Final = 180.0
HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store, no-transform",
    "X-Accel-Buffering": "no",
}

log = structlog.get_logger(__name__)


class SlowReader(Exception):
    """Nothing was taken for WRITE_SECONDS."""


class Voice(Protocol):
    """As much of an adapter as a stream asks for itself."""

    @property
    def manners(self) -> Manners:
        """How the stream behaves between its frames."""

    def close(self, reason: str) -> Iterable[Frame]:
        """The last words."""


class Stream:
    """One open stream. `still_good` raises Unauthenticated when the caller's key is no longer good, and NotFound when
    there is nothing to read any more; `offset` is where the reader is behind the last frame.
    """

    def __init__(
        self,
        request: web.Request,
        clock: Clock,
        chance: Chance,
        stopping: asyncio.Event,
        still_good: Callable[[], Awaitable[object]],
        offset: Callable[[], str],
        revocations: Revocations,
        metrics: Metrics,
        adapter: Voice,
    ) -> None:
        self._request, self._clock, self._chance = request, clock, chance
        self._stopping, self._still_good = stopping, still_good
        self._offset, self._sent = offset, offset()
        self._revocations, self._metrics = revocations, metrics
        self._adapter, self._manners = adapter, adapter.manners
        self._response = web.StreamResponse(headers={**HEADERS, **adapter.manners.headers})
        self.lost = False  # whether the reader left, or took nothing any more
        self._ends_at = clock.monotonic() + AGE_SECONDS + AGE_JITTER_SECONDS * (2 * chance.random() - 1)
        self._look_at = clock.monotonic() + AUTH_SECONDS

    async def send(self, frames: AsyncGenerator[Frame]) -> web.StreamResponse:
        """Write `frames` to their end; the finished response. Everything that may be refused was refused before."""
        try:
            await self._response.prepare(self._request)
            if self._manners.retry:
                await self._write(f": perdure\nretry: {1000 + int(2000 * self._chance.random())}\n\n".encode())
            reason = await self._pump(frames)
            self._metrics.closed.labels(reason or "done").inc()
            if reason is not None:
                if reason in ("drain", "rotate") and self._manners.retry:  # all come back at once: spread them out
                    await self._write(f"retry: {500 + int(9500 * self._chance.random())}\n\n".encode())
                for frame in self._adapter.close(reason):
                    await self._write(frame.encode())
            await self._response.write_eof()
        except ConnectionError:
            self.lost = True
            self._metrics.closed.labels("left").inc()  # nothing of the job depends on its reader
        except SlowReader:
            log.info("slow reader cut off")
            self.lost = True
            self._metrics.closed.labels("slow_reader").inc()
            if self._request.transport is not None:
                self._request.transport.abort()
        return self._response

    async def _pump(self, frames: AsyncGenerator[Frame]) -> str | None:
        """Write what comes; None at the end of `frames`, else why the stream has to end."""
        bell = Bell()
        outbox = Outbox(frames, bell.ring)
        revoked = -1  # since the key was looked at: what was revoked meanwhile is seen at the first turn
        try:
            with self._revocations.waking(bell.ring):
                while True:
                    rung = await bell.wait(HEARTBEAT_SECONDS)
                    if revoked != self._revocations.count:
                        revoked, self._look_at = self._revocations.count, 0.0
                    if not await self._tell(outbox.take()):
                        return None
                    if not rung:
                        await self._beat()
                    if self._stopping.is_set():
                        return "drain"
                    if (reason := await self._overdue()) is not None:
                        return reason
        except Unavailable:
            return "upstream"
        except (NotFound, Expired):
            return "gone"
        except UnsupportedVersion:
            return "unsupported"  # an event of a later version: another gateway may know it
        finally:
            await outbox.close()

    async def _tell(self, frames: Sequence[Frame] | None) -> bool:
        """Write frames, in one piece; False where there will be none."""
        if not frames:
            return frames is not None
        await self._write(b"".join([frame.encode() for frame in frames]))
        self._sent = next((frame.id for frame in reversed(frames) if frame.id), self._sent)
        for kind, count in Counter(map(_kind, frames)).items():
            self._metrics.frames.labels(kind).inc(count)
        return True

    async def _beat(self) -> None:
        """A comment, and where a filter hid what moved the offset, the offset alone: nothing that a reader sees."""
        moved, said = self._offset(), self._manners.heartbeat
        if self._manners.moves and moved != self._sent:
            said += f"id: {moved}\n\n".encode()
        await self._write(said)
        self._sent = moved

    async def _overdue(self) -> str | None:
        now = self._clock.monotonic()
        if now >= self._ends_at:
            return "rotate"
        if now >= self._look_at:
            self._look_at = now + AUTH_SECONDS
            try:
                await self._still_good()
            except Unauthenticated:
                return "auth"
            except NotFound:
                return "gone"
            except Unavailable:
                pass  # SQL is away longer than keys are good without it: the reconnect will be told
        return None

    async def _write(self, data: bytes) -> None:
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await self._response.write(data)
        except TimeoutError as exc:
            raise SlowReader from exc


def _kind(frame: Frame) -> str:
    head = frame.event.partition(".")[0]
    return "reset" if frame.event == RESET else head if head in ("delta", "stream") else "event"
