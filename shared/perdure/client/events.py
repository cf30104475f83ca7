"""A job's events as one iterator: reconnects with its offset, yields every event once and in order, ends with the job.

The offset is the id of the last frame that was yielded: `<seq>` of an event, `<seq>.<n>` of the n-th delta of its
attempt. A connection that ends, stalls or shows a hole is replaced by one with `Last-Event-ID`, after the time that a
gateway named as it sent its readers away; what comes twice is dropped by `seq` and `n`. After `delta.reset` the numbers
of deltas count for nothing: everything that is still open is told again. Deltas are live words: some may be missing,
and then a reset comes.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import aiohttp
import msgspec
from msgspec import Struct

from perdure.client.sse import SseFrame, SseParser
from perdure.client.withheld import readable
from perdure.clock import Chance, Clock
from perdure.core import codec
from perdure.core.event import TERMINAL, AnyEvent
from perdure.core.stream.offset import Offset, parse
from perdure.errors import Expired, Malformed, Unavailable, UnsupportedVersion

STALL_SECONDS: Final = 45.0  # three heartbeats
FIRST_PAUSE: Final = 0.5
LAST_PAUSE: Final = 15.0


class StreamGap(Expired):
    """The events behind this offset are kept nowhere any more, or the job has none of that number: `facts` has
    `latest`, and where the job's state is (`snapshot`).
    """


class Frame(Struct, frozen=True):
    """One event or delta as it came. `seq` is None for a delta and for what the stream says of itself (`stream.*`).
    `at` is the offset behind it; None where nothing can go on exactly there.
    """

    type: str
    data: bytes
    seq: int | None = None
    at: Offset | None = None


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
    pos: int | None = None  # where in its channel the text begins, in code points
    level: str | None = None
    done: float | None = None  # of progress
    total: float | None = None
    reason: str | None = None  # of a reset
    after: int | None = None


Event = AnyEvent | UnknownEvent


class _Job(Struct):
    status: str | None = None


class _Envelope(Struct):
    """As much of a frame's data as tells where it stands. `job` is a snapshot's."""

    seq: int | None = None
    attempt: int = 0
    status: str | None = None
    reason: str | None = None
    job: _Job | None = None


Connect = Callable[[str], AbstractAsyncContextManager[aiohttp.ClientResponse]]


def decode(frame: Frame) -> Event | Delta | None:
    """The record in a frame; None for a frame of the stream itself. Raises Malformed."""
    if frame.seq is None:
        return msgspec.json.decode(frame.data, type=Delta) if frame.type.startswith("delta.") else None
    try:
        return codec.decode(readable(frame.data))
    except UnsupportedVersion:
        return msgspec.json.decode(frame.data, type=UnknownEvent)


class EventStream:
    """The iterator behind `Client.events`. `offset` is where it stands; give it to another one to go on there.

    `connections` counts those that were answered, `repeated` the frames that came again and were dropped, `holes` the
    connections that were given up because an event was missing. Where only some types were asked for (`narrowed`) a
    missing number is none of our business.
    """

    def __init__(
        self,
        connect: Connect,
        clock: Clock,
        chance: Chance,
        *,
        after: str = "0",
        narrowed: bool = False,
        reconnect_seconds: float = 120.0,
    ) -> None:
        self.connections = 0
        self.repeated = 0
        self.holes = 0
        self._begin = after
        self._at: Offset | None = None  # None: nothing has come, and `after` may be a word (`now`)
        self._said, self._attempt = 0, 0  # the last delta since the last reset: its number, and whose it was
        if after != "now":
            self._at = parse(after)
            self._said = self._at.n or 0
        self._connect, self._clock, self._chance = connect, clock, chance
        self._narrowed, self._reconnect_seconds = narrowed, reconnect_seconds

    @property
    def offset(self) -> str:
        """Where it stands, as `after` and `Last-Event-ID` take it."""
        return self._begin if self._at is None else str(self._at)

    async def frames(self) -> AsyncGenerator[Frame, None]:
        """Every event after the offset, and deltas as they come, until the job's terminal event.

        Of the stream's own frames only `stream.gap` and `stream.snapshot` are passed on, where they were asked for.
        Raises NotFound, StreamGap (the offset is gone or beyond the head), Unauthenticated, Forbidden, Invalid;
        Unavailable when nothing could be reached for `reconnect_seconds`.
        """
        failures, away_since = 0, self._clock.monotonic()
        while True:
            parser, sent_away = SseParser(), False
            try:
                async with self._connect(self.offset) as response:
                    self.connections += 1
                    if response.status == 204:
                        return
                    async for frame in self._read(response, parser):
                        failures, away_since = 0, self._clock.monotonic()
                        if frame.type != "stream.close":
                            yield frame
                        if _ends(frame):
                            return
                        sent_away = _sends_away(frame)
            except Expired as exc:
                if exc.code.startswith("offset-"):
                    raise StreamGap(exc.code, str(exc), exc.facts) from exc
                raise
            except (aiohttp.ClientError, TimeoutError, Unavailable, ConnectionError) as exc:
                if self._clock.monotonic() - away_since > self._reconnect_seconds:
                    raise Unavailable(
                        f"the event stream could not be reached for {self._reconnect_seconds:g} s"
                    ) from exc
            if sent_away and parser.retry_ms is not None:  # drawn there, so that not all come back at once
                await self._clock.sleep(min(LAST_PAUSE, parser.retry_ms / 1000))
                continue
            pause = min(LAST_PAUSE, FIRST_PAUSE * 2.0**failures)
            failures += 1
            await self._clock.sleep(pause * self._chance.random())

    async def _read(self, response: aiohttp.ClientResponse, parser: SseParser) -> AsyncIterator[Frame]:
        """The new frames of one connection; ends early at a hole, which the next connection fills."""
        async for chunk in response.content.iter_any():
            for raw in parser.feed(chunk):
                frame = _frame(raw)
                if frame is None:  # a filter hid what lies before: only the offset moves
                    self._move(_offset(raw), None)
                    continue
                if frame.seq is not None:
                    seen = self._at.seq if self._at is not None else frame.seq - 1
                    if frame.seq <= seen:
                        self.repeated += 1
                        continue
                    if frame.seq != seen + 1 and not self._narrowed:
                        self.holes += 1
                        return
                elif frame.at is not None and frame.at.n is not None and self._heard(frame.at.n, frame.data):
                    self.repeated += 1
                    continue
                self._move(frame.at, frame.type)
                yield frame

    def _heard(self, n: int, data: bytes) -> bool:
        """Whether a delta came before. Each attempt numbers its own from 1."""
        attempt = _envelope(data).attempt
        if attempt != self._attempt:
            first, self._attempt = self._attempt == 0, attempt
            self._said = self._said if first else 0
        return n <= self._said

    def _move(self, at: Offset | None, kind: str | None) -> None:
        """Stand behind a frame of type `kind`."""
        if kind in ("delta.reset", "attempt.started"):
            self._said = 0  # what was said is void, or is told again
        if at is None or (kind is None and self._at is not None and at.seq <= self._at.seq):
            return
        self._at = at
        if at.n is not None:
            self._said = at.n


def _frame(raw: SseFrame) -> Frame | None:
    """A frame of ours; None for one that only moves the id. Raises Malformed."""
    if not raw.data:
        return None
    if raw.event.startswith(("delta.", "stream.")):
        return Frame(raw.event, raw.data, at=_offset(raw))
    seq = _envelope(raw.data).seq
    if seq is None:
        raise Malformed(f"a frame {raw.event} without seq")
    return Frame(raw.event, raw.data, seq, Offset(seq))


def _offset(raw: SseFrame) -> Offset | None:
    return parse(raw.id) if raw.id else None


def _ends(frame: Frame) -> bool:
    """Whether nothing can follow: the terminal event, or the end that the caller asked for with `until`."""
    match frame.type:
        case "stream.close":
            return (_envelope(frame.data).reason or "until") == "until"
        case "stream.snapshot":
            job = _envelope(frame.data).job
            return job is not None and job.status in _TERMINAL
        case _:
            return frame.seq is not None and _envelope(frame.data).status in _TERMINAL


def _sends_away(frame: Frame) -> bool:
    """Whether the gateway ends the stream for reasons of its own, and has said when to come back."""
    return frame.type == "stream.close" and _envelope(frame.data).reason in ("drain", "rotate")


def _envelope(data: bytes) -> _Envelope:
    try:
        return msgspec.json.decode(data, type=_Envelope)
    except msgspec.MsgspecError as exc:
        raise Malformed("a frame that is no event") from exc


_TERMINAL: Final = frozenset(str(status) for status in TERMINAL)
