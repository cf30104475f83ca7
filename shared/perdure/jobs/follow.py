"""Follows a job: its log from an offset on, in order, each event once, then live, without a consumer on the broker.

    attach: register with the fan-out ── ask the leader for the tail ── replay up to it, page by page ── hand over
    live:   seq ≤ last: a repeat, dropped · seq = last + 1: sent · beyond: a hole, read from the log before going on

A live message may be lost, the last one of a quiet job too. So whoever hears nothing for QUIET_SECONDS, was told that
messages were dropped, or that the connection was lost, asks the leader for what follows the last event that was sent.
Deltas go by `core.stream.reading`; what it misses is read from LIVE, together with the events that may have settled it.
"""

from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Final

from msgspec import Struct

from perdure import probe
from perdure.bus.entry import Stored
from perdure.bus.eventlog import EventLog
from perdure.bus.fanout import Fanout, Inbox, Lagged, LiveDelta, LiveEvent
from perdure.clock import Clock
from perdure.core import codec
from perdure.core.event import TERMINAL, AnyEvent, Status
from perdure.core.stream.adapter import StreamAdapter
from perdure.core.stream.delta import Said, read_delta
from perdure.core.stream.frame import Frame
from perdure.core.stream.offset import START, Offset
from perdure.core.stream.reading import Hole, Reading, Reset, Show, Shown
from perdure.errors import Expired, NotFound, Unavailable
from perdure.ids import JobRef
from perdure.jobs.backlog import page_to, replay_to
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
        self._eventlog, self._fanout, self._inbox = eventlog, fanout, inbox
        self._clock, self._adapter = clock, adapter
        self._backlog = deque(backlog)
        self._ref = tail.ref
        self._whole = whole
        self._at = tail.at  # the stream's number of the last event that was sent; meaningful once the backlog is out
        self.repairs: Counter[str] = Counter()  # holes that were healed: `events`, `deltas`
        self._reading = Reading(start, tail.event.status, tail.event.attempt, fresh=fresh)

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
        live = False
        async with aclosing(self._entries(until == "head")) as entries:
            async for entry in entries:
                live = live or isinstance(entry, CaughtUp)
                if self._whole and isinstance(entry, Stored):
                    entry = await with_values(self._eventlog, entry)
                for frame in self._frames_of(entry):
                    yield frame
                if live and self._adapter.ended:
                    return
                if isinstance(entry, Stored):
                    if entry.event.status in TERMINAL:
                        for frame in () if live else self._adapter.on_caught_up():
                            yield frame
                        return
                    if reached(until, entry.event):
                        break
        for frame in self._adapter.close("until"):
            yield frame

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
            stored = self._backlog.popleft()
            self._reading.event(stored.event)
            self._at = stored.at
            yield stored
            if not self._backlog and self.offset.seq < self.head:
                self._backlog.extend(await self._patiently(self._next_page))
        probe.hit("follow.after_replay")
        if head_only:
            yield CaughtUp()
            return
        for show in await self._joined():
            yield show
        yield CaughtUp()
        probe.hit("follow.before_live")
        behind = False
        while True:
            if behind:
                missed, behind = await self._patiently(self._missed), False
                if not missed:
                    self._reading.give_up_waiting()
                self.repairs["events"] += bool(missed)
                for stored in missed:
                    shows = self._take(stored)
                    yield stored
                    for show in shows + await self._caught_up():
                        yield show
            match await self._inbox.next(AHEAD_SECONDS if self._reading.waits else QUIET_SECONDS):
                case LiveEvent() as live:
                    event = codec.decode(live.body)
                    if event.seq == self.offset.seq + 1:
                        stored = Stored(self._ref, live.seq, live.body, event)
                        shows = self._take(stored)
                        yield stored
                        for show in shows + await self._caught_up():
                            yield show
                    behind = event.seq > self.offset.seq
                case LiveDelta(body=body):
                    for show in await self._heard([body, *self._inbox.more_deltas()]):
                        yield show
                case Lagged():
                    behind = True
                    for show in await self._healed([]):
                        yield show
                case None:
                    behind = True

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

    async def _next_page(self) -> list[Stored]:
        return await page_to(
            self._eventlog, self._ref, self.offset.seq, self.head, MOST_EVENTS, MOST_BYTES, at=self._at
        )

    async def _missed(self) -> list[Stored]:
        """The events that were not heard, by the leader's word. Raises Unavailable; NotFound when the log is there no
        longer, Expired when those events are not.
        """
        tail, seen = await self._eventlog.tail(self._ref), self.offset.seq
        if tail is None:
            raise NotFound("the job was deleted")
        if tail.event.seq <= seen:
            return []
        found = await self._eventlog.look(self._ref, self._at)
        if found and found[0].event.seq == seen + 1:
            return found
        return await replay_to(self._eventlog, self._ref, seen, tail.event.seq)  # purged meanwhile

    def _take(self, stored: Stored) -> list[Show]:
        self._at = stored.at
        return self._reading.event(stored.event)

    async def _joined(self) -> list[Show]:
        """What is shown of the deltas before those that come live."""
        if not self._adapter.deltas:
            return []
        try:
            kept = await self._kept([]) if self._reading.running else ([], [])
        except Unavailable:
            return []  # the next delta leaves a hole, which is healed
        return self._reading.join(*kept)

    async def _caught_up(self) -> list[Show]:
        """The deltas that waited for the event which was just sent."""
        ready = self._reading.caught_up()
        return await self._shown(ready, waited=True) if ready else []

    async def _heard(self, bodies: Sequence[bytes]) -> list[Show]:
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

    async def _kept(self, said: Sequence[Said]) -> tuple[list[Said], list[AnyEvent]]:
        """What LIVE has of the job, with `said`, and the events that may have settled it. Raises Unavailable."""
        return await kept_deltas(self._eventlog, self._fanout, self._ref, self._reading, said)


@asynccontextmanager
async def attach(
    eventlog: EventLog,
    fanout: Fanout,
    clock: Clock,
    ref: JobRef,
    after: Offset | None,
    adapter: StreamAdapter,
    *,
    whole: bool = False,
) -> AsyncIterator[Follower]:
    """A Follower of `ref` behind the offset `after` (START: from the beginning, None: from now on). `whole`: the
    adapter is told events with their values, wherever those lie; bodies stay as they are stored.

    Everything that can be refused is refused here, before the first byte of an answer: raises NotFound, Expired
    (`offset-ahead`, or `offset-expired` when the events behind `after` are gone), Unavailable.
    """
    with fanout.follow(ref) as inbox:
        tail = await eventlog.tail(ref)
        if tail is None:
            raise NotFound("no such job")
        head = tail.event.seq
        start = Offset(head) if after is None else after
        if start.seq > head:
            raise Expired("offset-ahead", "the job has no event of that number yet", {"latest": str(head)})
        backlog = await page_to(eventlog, ref, start.seq, head, MOST_EVENTS, MOST_BYTES)
        fresh = after is None or after == START
        yield Follower(eventlog, fanout, inbox, clock, adapter, start, tail, backlog, fresh=fresh, whole=whole)


async def kept_deltas(
    eventlog: EventLog, fanout: Fanout, ref: JobRef, reading: Reading, said: Sequence[Said] = ()
) -> tuple[list[Said], list[AnyEvent]]:
    """What LIVE has of the job, with `said`, and the events up to the reader's that may have settled some of it.

    Raises Unavailable.
    """
    kept = [found for body in await fanout.kept(ref) if (found := read_delta(body, ref.job))]
    kept += said
    oldest, head = reading.oldest(kept), reading.offset.seq
    if oldest is None or oldest >= head:
        return kept, []
    log = await replay_to(eventlog, ref, oldest, head)
    return kept, [stored.event for stored in log if stored.event.seq <= head]
