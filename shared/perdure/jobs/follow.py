"""Follows a job: its log from an offset on, in order, each event once, then live, without a consumer on the broker.

    attach: register with the fan-out ── ask the leader for the tail ── replay up to it ── hand over
    live:   seq ≤ last: a repeat, dropped · seq = last + 1: sent · beyond: a hole, read from the log before going on

A live message may be lost, the last one of a quiet job too. So whoever hears nothing for QUIET_SECONDS, was told that
messages were dropped, or that the connection was lost, asks the leader for what follows the last event that was sent.
Deltas go out as they come and may be lost; one that runs ahead of its event waits for it.
"""

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Final

from perdure.bus.eventlog import EventLog, Stored
from perdure.bus.fanout import Fanout, Inbox, Lagged, LiveDelta, LiveEvent
from perdure.clock import Clock
from perdure.core import codec
from perdure.core.event import TERMINAL, TYPE_OF, JobSuspended, Status, type_of
from perdure.core.stream.frame import Frame, StreamAdapter
from perdure.core.stream.native import read_delta
from perdure.errors import Expired, NotFound, Unavailable
from perdure.ids import JobRef

QUIET_SECONDS: Final = 15.0  # without news for so long: compare with the tail
AHEAD_SECONDS: Final = 0.25  # a delta is ahead of its event for so long: the event was lost on the way
AWAY_SECONDS: Final = 60.0  # the broker is away for so long: give up, the reader comes back with its offset
AWAY_PAUSE: Final = 1.0
MAX_AHEAD: Final = 1000  # deltas that wait for their event; more are dropped, the event takes their place
UNTIL: Final = frozenset({"terminal", "suspended", "head", *TYPE_OF.values()})


class Follower:
    """One reader of one job, attached after `after`. `head` and `status` are those of the tail at that moment."""

    def __init__(
        self,
        eventlog: EventLog,
        inbox: Inbox,
        clock: Clock,
        adapter: StreamAdapter,
        after: int,
        tail: Stored,
        backlog: list[Stored],
    ) -> None:
        self.head = tail.event.seq
        self.status: Status = tail.event.status
        self._eventlog, self._inbox, self._clock, self._adapter = eventlog, inbox, clock, adapter
        self._backlog = deque(backlog)
        self._ref = tail.ref
        self._last = after
        self._at = tail.at  # the stream's number of the last event that was sent; meaningful once the backlog is out
        self._ahead: deque[tuple[int, bytes]] = deque(maxlen=MAX_AHEAD)

    @property
    def exhausted(self) -> bool:
        """Whether the job has ended and its reader had everything before: nothing will ever come."""
        return not self._backlog and self.status in TERMINAL

    async def frames(self, until: str = "terminal") -> AsyncGenerator[Frame]:
        """The frames from the offset on; ends after the terminal event, or earlier where `until` says so.

        `until`: `terminal`, `suspended` (a `job.suspended` with that status), `head` (what was there at the attach), or
        an event type. Raises Unavailable when the broker has been away for AWAY_SECONDS.
        """
        async with aclosing(self._entries(until == "head")) as entries:
            async for stored in entries:
                if isinstance(stored, Stored):
                    self._last, self._at = stored.event.seq, stored.at
                    for frame in self._adapter.on_event(stored.body, stored.event):
                        yield frame
                    if stored.event.status in TERMINAL:
                        return
                    if _reached(until, stored):
                        break
                    bodies = self._caught_up()
                else:
                    bodies = [stored]
                for body in bodies:
                    for frame in self._adapter.on_delta(body):
                        yield frame
        for frame in self._adapter.close("until"):
            yield frame

    async def _entries(self, head_only: bool) -> AsyncGenerator[Stored | bytes]:
        """Events in order without gap or repeat, and between them the bodies of deltas that may go out."""
        while self._backlog:
            yield self._backlog.popleft()
        away_since: float | None = None
        behind = False
        while not head_only:
            if behind:
                try:
                    missed = await self._eventlog.look(self._ref, self._at)
                except Unavailable:
                    now = self._clock.monotonic()
                    away_since = now if away_since is None else away_since
                    if now - away_since > AWAY_SECONDS:
                        raise
                    await self._clock.sleep(AWAY_PAUSE)
                    continue
                away_since, behind = None, False
                if not missed:
                    self._ahead.clear()  # they speak of an event that the log does not have
                for stored in missed:
                    yield stored
            match await self._inbox.next(AHEAD_SECONDS if self._ahead else QUIET_SECONDS):
                case LiveEvent() as live:
                    event = codec.decode(live.body)
                    if event.seq == self._last + 1:
                        yield Stored(self._ref, live.seq, live.body, event)
                    behind = event.seq > self._last  # after the yield: of an event that was sent this is false
                case LiveDelta(body=body):
                    delta = read_delta(body)
                    if delta is not None and delta.after > self._last:
                        self._ahead.append((delta.after, body))
                    elif delta is not None:
                        yield body
                case Lagged() | None:
                    behind = True

    def _caught_up(self) -> list[bytes]:
        """The deltas that waited for the event which was just sent."""
        ready = [body for after, body in self._ahead if after <= self._last]
        if ready:
            self._ahead = deque(((a, b) for a, b in self._ahead if a > self._last), maxlen=MAX_AHEAD)
        return ready


@asynccontextmanager
async def attach(
    eventlog: EventLog, fanout: Fanout, clock: Clock, ref: JobRef, after: int | None, adapter: StreamAdapter
) -> AsyncIterator[Follower]:
    """A Follower of `ref` behind its event `after` (0: from the start, None: from now on).

    Everything that can be refused is refused here, before the first byte of an answer: raises NotFound, Expired
    (`offset-ahead`, or `offset-expired` when the events behind `after` are gone), Unavailable.
    """
    with fanout.follow(ref) as inbox:
        tail = await eventlog.tail(ref)
        if tail is None:
            raise NotFound("no such job")
        head = tail.event.seq
        after = head if after is None else after
        if after > head:
            raise Expired("offset-ahead", "the job has no event of that number yet", {"latest": str(head)})
        backlog = await replay_to(eventlog, ref, after, head)
        yield Follower(eventlog, inbox, clock, adapter, after, tail, backlog)


async def replay_to(eventlog: EventLog, ref: JobRef, after: int, head: int) -> list[Stored]:
    """The events behind `after`, at least up to `head`. Raises Expired (`offset-expired`) when they are gone."""
    if after >= head:
        return []
    entries = await eventlog.replay(ref, after)
    if not entries or entries[-1].event.seq < head:  # a direct read may be stale, the leader's is not
        entries = [stored for stored in await eventlog.read(ref) if stored.event.seq > after]
    if not entries or entries[0].event.seq != after + 1:
        facts = {"earliest": str(entries[0].event.seq if entries else head), "latest": str(head)}
        raise Expired("offset-expired", "the events behind this offset are no longer kept", facts)
    return entries


def _reached(until: str, stored: Stored) -> bool:
    if until == "suspended":
        return isinstance(stored.event, JobSuspended) and stored.event.status is Status.SUSPENDED
    return until == type_of(stored.event)
