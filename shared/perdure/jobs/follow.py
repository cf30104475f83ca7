"""Follows a job: its log from an offset on, in order, each event once, then live, without a consumer on the broker.

    attach: register with the fan-out ── ask the leader for the tail ── replay up to it, page by page ── hand over
    live:   seq ≤ last: a repeat, dropped · seq = last + 1: sent · beyond: a hole, read from the log before going on

A live message may be lost, the last one of a quiet job too. So whoever hears nothing for QUIET_SECONDS, was told that
messages were dropped, or that the connection was lost, asks the leader for what follows the last event that was sent.
Deltas go by `core.stream.reading`; what it misses is read from LIVE, together with the events that may have settled it.
"""

from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Final, Literal

from msgspec import Struct

from perdure import probe
from perdure.bus.entry import Stored
from perdure.bus.eventlog import EventLog
from perdure.bus.fanout import Fanout, Inbox, Lagged, LiveDelta, LiveEvent
from perdure.bus.fanout import Frame as Heard
from perdure.clock import Clock
from perdure.core import codec
from perdure.core.event import TERMINAL, Status
from perdure.core.stream.adapter import StreamAdapter
from perdure.core.stream.delta import Said, read_delta
from perdure.core.stream.frame import Frame
from perdure.core.stream.offset import Offset
from perdure.core.stream.reading import Hole, Reading, Reset, Show, Shown
from perdure.errors import NotFound, Unavailable
from perdure.jobs.backlog import kept_deltas, page_to
from perdure.jobs.until import reached
from perdure.jobs.whole import with_values

QUIET_SECONDS: Final = 15.0  # without news for so long: compare with the tail
AHEAD_SECONDS: Final = 0.25  # a delta is ahead of its event for so long: the event was lost on the way
AWAY_SECONDS: Final = 60.0  # the broker is away for so long: give up, the reader comes back with its offset
AWAY_PAUSE: Final = 1.0
MOST_EVENTS: Final = 500  # of the log that a follower holds at once, before they are sent
MOST_BYTES: Final = 256 * 1024  # the same, but one event at least


class CaughtUp(Struct, frozen=True):
    """Everything that was there when the reader came is behind it; what follows is live."""


class Follower:
    """One reader of one job, attached behind `start`. `head` and `status` are those of the tail at that moment."""

    def __init__(
        self,
        eventlog: EventLog,
        fanout: Fanout,
        inbox: Inbox,
        clock: Clock,
        adapter: StreamAdapter,
        start: Offset,
        tail: Stored,
        backlog: list[Stored],
        *,
        fresh: bool,
        whole: bool,
    ) -> None:
        self.head = tail.event.seq
        self.status: Status = tail.event.status
        self._eventlog, self._inbox, self._clock, self._adapter = eventlog, inbox, clock, adapter
        self._backlog = backlog
        self._reading = Reading(start, tail.event.status, tail.event.attempt, fresh=fresh)
        self._kept = partial(kept_deltas, eventlog, fanout, tail.ref, self._reading)
        self._live = self._behind = False  # whether everything that was there is told; whether events were missed
        self._ref, self._whole = tail.ref, whole
        self._at = tail.at  # the stream's number of the last event that was sent; meaningful once the backlog is out
        self.repairs: Counter[str] = Counter()  # holes that were healed: `events`, `deltas`

    @property
    def offset(self) -> Offset:
        """Where the reader is behind the last frame."""
        return self._reading.offset

    @property
    def exhausted(self) -> bool:
        """Whether the job has ended and its reader had everything before: nothing will ever come."""
        return not self._backlog and self.status in TERMINAL

    async def frames(self, until: str = "terminal") -> AsyncGenerator[Frame]:
        """The frames from the offset on; ends after the terminal event, where the protocol's stream ends (`ended`), or
        earlier where `until` says so.

        `until`: `terminal`, `suspended` (a `job.suspended` with that status), `head` (what was there at the attach), or
        an event type. Raises Unavailable when the broker has been away for AWAY_SECONDS, NotFound when the job was
        deleted, Expired when events were missed that are kept no longer.
        """
        async with aclosing(self._entries(until == "head")) as entries:
            async for entry in entries:
                if self._whole and isinstance(entry, Stored):
                    entry = await with_values(self._eventlog, entry)
                told, over = self._tell(entry, until)
                del entry  # an idle reader holds nothing that it was told
                while told:
                    yield told.pop(0)
                if over is not None:
                    break
            else:
                over = "until"
        for frame in self._adapter.close("until") if over == "until" else ():
            yield frame

    def _tell(self, entry: Stored | Show | CaughtUp, until: str) -> tuple[list[Frame], Literal["until", "end"] | None]:
        """The frames of an entry, and whether the stream ends behind them: as the caller wished, or by itself."""
        self._live = self._live or isinstance(entry, CaughtUp)
        told = [*self._frames_of(entry)]
        if self._live and self._adapter.ended:
            return told, "end"
        if isinstance(entry, Stored):
            if entry.event.status in TERMINAL:
                return [*told, *(() if self._live else self._adapter.on_caught_up())], "end"
            if reached(until, entry.event):
                return told, "until"
        return told, None

    def _frames_of(self, entry: Stored | Show | CaughtUp) -> Iterable[Frame]:
        match entry:
            case Stored():
                return self._adapter.on_event(entry.body, entry.event)
            case Reset():
                return self._adapter.on_reset(entry)
            case Shown():
                return self._adapter.on_delta(entry.said, entry.at)
            case CaughtUp():
                return self._adapter.on_caught_up()

    async def _entries(self, head_only: bool) -> AsyncGenerator[Stored | Show | CaughtUp]:
        """Events in order without gap or repeat, and behind them what is shown of the deltas."""
        while self._backlog:
            yield self._replayed()
            if not self._backlog and self.offset.seq < self.head:
                self._backlog = await self._patiently(lambda: self._page(self.head))
        probe.hit("follow.after_replay")
        if head_only:
            yield CaughtUp()
            return
        for show in await self._joined():
            yield show
        yield CaughtUp()
        probe.hit("follow.before_live")
        while True:
            quiet = AHEAD_SECONDS if self._reading.waits else QUIET_SECONDS
            async for entry in self._heard_of(await self._inbox.next(quiet)):
                yield entry
                del entry
            while self._behind:
                missed = await self._patiently(self._missed)
                self._behind = bool(missed)  # there may be more than a page
                if not missed:
                    self._reading.give_up_waiting()
                self.repairs["events"] += bool(missed)
                while missed:
                    async for entry in self._in_order(missed.pop(0)):
                        yield entry
                        del entry

    def _replayed(self) -> Stored:
        stored = self._backlog.pop(0)
        self._reading.event(stored.event)
        self._at = stored.at
        return stored

    async def _heard_of(self, heard: Heard | None) -> AsyncGenerator[Stored | Show]:
        """What is told of what was heard; None: nothing was."""
        match heard:
            case LiveEvent() as live:
                event = codec.decode(live.body)
                if event.seq == self.offset.seq + 1:
                    async for entry in self._in_order(Stored(self._ref, live.seq, live.body, event)):
                        yield entry
                self._behind = event.seq > self.offset.seq
            case LiveDelta(body=body):
                for show in await self._said([body, *self._inbox.more_deltas()]):
                    yield show
            case Lagged():
                self._behind = True
                for show in await self._healed([]):
                    yield show
            case None:
                self._behind = True

    async def _in_order(self, stored: Stored) -> AsyncGenerator[Stored | Show]:
        """The event that comes next, and the deltas that are told behind it."""
        self._at = stored.at
        shows = self._reading.event(stored.event)
        yield stored
        for show in shows + await self._caught_up():
            yield show

    async def _patiently(self, read: Callable[[], Awaitable[list[Stored]]]) -> list[Stored]:
        """What `read` gives, however often it has to be asked. Raises Unavailable after AWAY_SECONDS."""
        away_since: float | None = None
        while True:
            try:
                return await read()
            except Unavailable:
                now = self._clock.monotonic()
                away_since = now if away_since is None else away_since
                if now - away_since > AWAY_SECONDS:
                    raise
                await self._clock.sleep(AWAY_PAUSE)

    async def _page(self, head: int) -> list[Stored]:
        seen = self.offset.seq
        return await page_to(self._eventlog, self._ref, seen, head, MOST_EVENTS, MOST_BYTES, at=self._at)

    async def _missed(self) -> list[Stored]:
        """A page of the events that were not heard, by the leader's word. Raises Unavailable; NotFound when the log is
        there no longer, Expired when those events are not.
        """
        tail = await self._eventlog.tail(self._ref)
        if tail is None:
            raise NotFound("the job was deleted")
        return await self._page(tail.event.seq)

    async def _joined(self) -> list[Show]:
        """What is shown of the deltas before those that come live."""
        if not self._adapter.deltas:
            return []
        try:
            kept = await self._kept() if self._reading.running else ([], [])
        except Unavailable:
            return []  # the next delta leaves a hole, which is healed
        return self._reading.join(*kept)

    async def _caught_up(self) -> list[Show]:
        """The deltas that waited for the event which was just sent."""
        ready = self._reading.caught_up()
        return await self._shown(ready, waited=True) if ready else []

    async def _said(self, bodies: Sequence[bytes]) -> list[Show]:
        if not self._adapter.deltas:
            return []
        said = [found for body in bodies if (found := read_delta(body, self._ref.job)) is not None]
        return await self._shown(said, waited=False)

    async def _shown(self, said: Sequence[Said], *, waited: bool) -> list[Show]:
        shows = self._reading.say(said, waited=waited)
        if not isinstance(shows, Hole):
            return shows
        self.repairs["deltas"] += 1
        return await self._healed(said)

    async def _healed(self, said: Sequence[Said]) -> list[Show]:
        """What LIVE has of the deltas that were missed, with what was just heard."""
        if not self._adapter.deltas or not self._reading.running:
            return []
        try:
            return self._reading.heal(*await self._kept(said))
        except Unavailable:
            return []  # the next delta leaves a hole again
