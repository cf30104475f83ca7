"""A job's events as one iterator: reconnects with its offset, yields every event once and in order, ends with the job.

The offset is the `seq` of the last event that was yielded. A connection that ends, stalls or shows a hole is replaced
by one with `Last-Event-ID`; what comes twice is dropped by `seq`. Deltas are live words: some may be missing.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import aiohttp
import msgspec
from msgspec import Struct

from perdure.client.sse import SseFrame, SseParser
from perdure.clock import Chance, Clock
from perdure.core import codec
from perdure.core.event import TERMINAL, AnyEvent
from perdure.errors import Malformed, Unavailable, UnsupportedVersion

STALL_SECONDS: Final = 45.0  # three heartbeats
FIRST_PAUSE: Final = 0.5
LAST_PAUSE: Final = 15.0


class Frame(Struct, frozen=True):
    """One event or delta as it came. `seq` is None for a delta and for what the stream says of itself (`stream.*`)."""

    type: str
    data: bytes
    seq: int | None = None


class UnknownEvent(Struct, frozen=True):
    """An event of a type or format that this version does not know."""

    v: int
    seq: int
    type: str
    data: dict[str, Any] = {}  # Any: whatever a newer version says
    status: str | None = None


class Delta(Struct, frozen=True):
    """A live word: tokens of a step (`delta.text`), its start (`delta.step`), a log line (`delta.log`), …"""

    type: str
    attempt: int = 0
    step: str | None = None
    path: str = ""
    occurrence: int | None = None
    channel: str | None = None
    kind: str | None = None
    text: str | None = None
    level: str | None = None
    after: int | None = None


Event = AnyEvent | UnknownEvent


class _Envelope(Struct):
    """As much of a frame's data as tells where it stands."""

    seq: int | None = None
    status: str | None = None
    reason: str | None = None


Connect = Callable[[int], AbstractAsyncContextManager[aiohttp.ClientResponse]]


def decode(frame: Frame) -> Event | Delta | None:
    """The record in a frame; None for a frame of the stream itself. Raises Malformed."""
    if frame.seq is None:
        return msgspec.json.decode(frame.data, type=Delta) if frame.type.startswith("delta.") else None
    try:
        return codec.decode(frame.data)
    except UnsupportedVersion:
        return msgspec.json.decode(frame.data, type=UnknownEvent)


class EventStream:
    """The iterator behind `Client.events`. `offset` is where it stands; give it to another one to go on there.

    `connections` counts those that were answered, `repeated` the events that came again and were dropped, `holes` the
    connections that were given up because an event was missing.
    """

    def __init__(
        self,
        connect: Connect,
        clock: Clock,
        chance: Chance,
        *,
        after: int = 0,
        reconnect_seconds: float = 120.0,
    ) -> None:
        self.offset = after
        self.connections = 0
        self.repeated = 0
        self.holes = 0
        self._connect, self._clock, self._chance = connect, clock, chance
        self._reconnect_seconds = reconnect_seconds

    async def frames(self) -> AsyncGenerator[Frame, None]:
        """Every event after the offset, and deltas as they come, until the job's terminal event.

        Raises NotFound, Expired (the offset is gone or beyond the head), Unauthenticated, Forbidden, Invalid;
        Unavailable when nothing could be reached for `reconnect_seconds`.
        """
        failures, away_since = 0, self._clock.monotonic()
        while True:
            parser = SseParser()
            try:
                async with self._connect(self.offset) as response:
                    self.connections += 1
                    if response.status == 204:
                        return
                    async for frame in self._read(response, parser):
                        failures, away_since = 0, self._clock.monotonic()
                        if not frame.type.startswith("stream."):
                            yield frame
                        if _ends(frame):
                            return
            except (aiohttp.ClientError, TimeoutError, Unavailable, ConnectionError) as exc:
                if self._clock.monotonic() - away_since > self._reconnect_seconds:
                    raise Unavailable(
                        f"the event stream could not be reached for {self._reconnect_seconds:g} s"
                    ) from exc
            pause = min(LAST_PAUSE, FIRST_PAUSE * 2.0**failures)
            failures += 1
            await self._clock.sleep(pause * self._chance.random())

    async def _read(self, response: aiohttp.ClientResponse, parser: SseParser) -> AsyncIterator[Frame]:
        """The new frames of one connection; ends early at a hole, which the next connection fills."""
        async for chunk in response.content.iter_any():
            for raw in parser.feed(chunk):
                frame = _frame(raw)
                if frame is None:
                    continue
                if frame.seq is not None:
                    if frame.seq <= self.offset:
                        self.repeated += 1
                        continue
                    if frame.seq != self.offset + 1:
                        self.holes += 1
                        return
                    self.offset = frame.seq
                yield frame


def _frame(raw: SseFrame) -> Frame | None:
    """A frame of ours; None for one that only moves the id. Raises Malformed."""
    if not raw.data:
        return None
    if raw.event.startswith(("delta.", "stream.")):
        return Frame(raw.event, raw.data)
    seq = _envelope(raw.data).seq
    if seq is None:
        raise Malformed(f"a frame {raw.event} without seq")
    return Frame(raw.event, raw.data, seq)


def _ends(frame: Frame) -> bool:
    """Whether nothing can follow: the terminal event, or the end that the caller asked for with `until`."""
    if frame.type == "stream.close":
        return (_envelope(frame.data).reason or "until") == "until"
    return frame.seq is not None and _envelope(frame.data).status in _TERMINAL


def _envelope(data: bytes) -> _Envelope:
    try:
        return msgspec.json.decode(data, type=_Envelope)
    except msgspec.MsgspecError as exc:
        raise Malformed("a frame that is no event") from exc


_TERMINAL: Final = frozenset(str(status) for status in TERMINAL)
