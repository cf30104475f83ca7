"""One job's log in the hands of a writer: read to its end, fold, append by compare-and-set, settle what is unknown.

Everyone who writes a job (gateway, runner, sweeper) does it through `JobLog.append`, and nobody else does. The caller
does not hand over an event but a decision: a pure function from the newest state to what should follow, or None. The
event keeps its id however often the append is tried; its `seq`, `status` and `at` are written anew after news.

    append ── accepted ──► stored
       └─ refused, or no answer ── read every event after the expected one from the leader ── core.fence.judge:
             none: the same bytes again · mine: stored · fenced: Interrupted · news: fold, decide again

Values that are too large for their event are put as blobs before the append (`core.blob`): a crash in between leaves a
blob that nothing names, never an event that names nothing. `entries` and `state` hold references; who needs the values
themselves asks for `resolved`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Self

from perdure import probe
from perdure.bus.entry import Stored
from perdure.bus.eventlog import EventLog
from perdure.clock import Clock
from perdure.core import blob, codec
from perdure.core.codec import INLINE_VALUE_BYTES
from perdure.core.event import AnyData, AnyEvent
from perdure.core.fence import Verdict, judge
from perdure.core.machine import EMPTY, JobState, apply, may_follow, stamp
from perdure.errors import BrokenLog, Interrupted, OutcomeUnknown, StreamFull, TailMoved, Unavailable
from perdure.ids import Digest, EventId, JobRef, StreamSeq, new_event_id

Decide = Callable[[JobState], AnyData | None]
APPEND_BUDGET_SECONDS: Final = 10.0  # of a gateway or sweeper; a runner's is its belief in the lease
MOVED_PAUSE: Final = 0.002
UNKNOWN_PAUSE: Final = 0.05
AWAY_PAUSE: Final = 0.1


class JobLog:
    """The log of one job, for one writer at a time: callers take turns."""

    def __init__(self, eventlog: EventLog, ref: JobRef, clock: Clock, entries: Iterable[Stored] = ()) -> None:
        self.ref = ref
        self.entries: list[Stored] = []
        self.state: JobState = EMPTY
        self.tail = StreamSeq(0)
        self._size_bytes = 0
        self._eventlog = eventlog
        self._clock = clock
        self._resolved: list[AnyEvent] = []
        self._whole: dict[EventId, AnyEvent] = {}  # own events with blobs, as they were before those left
        self._take(entries)

    @classmethod
    async def load(cls, eventlog: EventLog, ref: JobRef, clock: Clock) -> Self:
        """The log to its end, by the leader's word. A job that was never submitted has an empty one.

        Raises Unavailable, BrokenLog for a log that cannot be, UnsupportedVersion for one that is too new.
        """
        return cls(eventlog, ref, clock, await eventlog.read(ref))

    @property
    def events(self) -> Sequence[AnyEvent]:
        """The events alone, by `seq`."""
        return [stored.event for stored in self.entries]

    @property
    def size_bytes(self) -> int:
        """How much the log takes, without its blobs."""
        return self._size_bytes

    async def resolve(self) -> list[AnyEvent]:
        """The events with all their values, by `seq`: one list that grows with each call. What a reader is given who
        runs the job.

        Raises NotFound or Malformed when a blob is missing or damaged (the list ends before the first such event),
        Unavailable.
        """
        for stored in self.entries[len(self._resolved) :]:
            event, found = stored.event, dict[Digest, bytes]()
            whole = self._whole.pop(event.id, None)
            if whole is None:
                for digest in blob.refs(event.data):
                    found[digest] = await self._eventlog.blobs.get(self.ref.tenant, digest)
                whole = blob.resolve(event, found)
            self._resolved.append(whole)
        return self._resolved

    async def refresh(self) -> int:
        """Read what others have appended since, fold it, and return how many events that were. Raises Unavailable."""
        news = await self._eventlog.look(self.ref, self.tail)
        self._take(news)
        return len(news)

    async def append(
        self,
        decide: Decide,
        *,
        attempt: EventId | None = None,
        refs: Iterable[Digest] = (),
        budget_seconds: float = APPEND_BUDGET_SECONDS,
        event_id: EventId | None = None,
    ) -> Stored | None:
        """Append what `decide` says of the newest state; return the stored event, None when nothing fits any more.

        `attempt` is the event id of the writer's `attempt.started` (a runner inside its attempt), None for all others.
        `event_id` is a derived one, so that a wish which is sent twice at once is stored once. Raises Interrupted when
        that attempt is no longer the last one; OutcomeUnknown when the budget is over and the event may be stored,
        Unavailable (StreamFull) when it is over and it is not; TooLarge, Malformed for what nobody could read back;
        BrokenLog when the log has been purged meanwhile.
        """
        event_id, deadline = event_id or new_event_id(), self._clock.monotonic() + budget_seconds
        put: set[Digest] = set()
        while True:
            if attempt is not None and self.state.attempt_id != attempt:
                raise Interrupted(f"job {self.ref.job}: another attempt has taken over")
            data = decide(self.state)
            if data is None or not may_follow(self.state, data):
                return None
            whole = event = self._stamped(event_id, data, refs)
            body = codec.unbounded(event)
            if len(body) > INLINE_VALUE_BYTES:
                left = blob.offload(data, len(body))
                event = self._stamped(event_id, left.data, refs)
                body = codec.readable(codec.encode(event))  # what does not fit even so leaves nothing behind
                await self._put(left.blobs, put)
            else:
                codec.readable(body)
            stored = await self._settle(event, body, attempt, deadline)
            if stored is not None:
                if whole is not event and stored.event.id == event_id:
                    self._whole[event_id] = whole
                return stored

    def _stamped(self, event_id: EventId, data: AnyData, refs: Iterable[Digest]) -> AnyEvent:
        reachable = dict.fromkeys((*refs, *blob.refs(data)))
        return stamp(self.state, event_id, self._clock.broker_now(), data, reachable)

    async def _put(self, blobs: Mapping[Digest, bytes], already: set[Digest]) -> None:
        """Store blobs that this append has not stored yet. Raises Unavailable, StreamFull."""
        for digest, body in blobs.items():
            if digest not in already:
                already.add(await self._eventlog.blobs.put(self.ref.tenant, body))
                probe.hit("blob.after_put")

    async def _settle(self, event: AnyEvent, body: bytes, attempt: EventId | None, deadline: float) -> Stored | None:
        """Send `event`, encoded in `body`, until its fate is known: the stored entry, or None when news was folded."""
        unsure = False  # whether a copy without an answer may still be stored
        while True:
            moved = False
            try:
                at = await self._eventlog.append(self.ref, event, self.tail, body)
            except TailMoved as exc:
                failed: Exception = exc
                pause, moved = MOVED_PAUSE, True
            except OutcomeUnknown as exc:
                failed, pause, unsure = exc, UNKNOWN_PAUSE, True
            except StreamFull as exc:
                if attempt is None and not unsure:  # whoever holds no attempt is told at once; a running job waits
                    raise
                failed, pause = exc, AWAY_PAUSE
            except Unavailable as exc:
                failed, pause = exc, AWAY_PAUSE
            else:
                self._take([Stored(self.ref, at, body, event)])
                return self.entries[-1]
            try:
                news = await self._eventlog.look(self.ref, self.tail)
            except Unavailable as exc:
                failed, pause = exc, AWAY_PAUSE
            else:
                probe.hit("look.after_read")
                verdict = judge(event.id, attempt, [stored.event for stored in news])
                self._take(news)
                if verdict is Verdict.MINE:
                    return next(stored for stored in news if stored.event.id == event.id)
                if verdict is Verdict.FENCED:
                    raise Interrupted(f"job {self.ref.job}: another attempt has taken over")
                if verdict is Verdict.NEWS:
                    return None  # an unsure copy of ours expected an older tail: it can never be stored now
                if moved:
                    await self._still_there()
            if self._clock.monotonic() + pause > deadline:
                if unsure:
                    raise OutcomeUnknown(f"job {self.ref.job}: event {event.id} may be stored") from failed
                raise failed if isinstance(failed, Unavailable) else Unavailable("the log takes no append") from failed
            await self._clock.sleep(pause)

    async def _still_there(self) -> None:
        """Raise BrokenLog when the log has become shorter than it was read: purged, then nothing can ever follow."""
        try:
            tail = await self._eventlog.tail(self.ref)
        except Unavailable:
            return  # the next try says more
        if (StreamSeq(0) if tail is None else tail.at) < self.tail:
            raise BrokenLog(f"job {self.ref.job}: the log that was read is gone")

    def _take(self, entries: Iterable[Stored]) -> None:
        for stored in entries:
            self.state = apply(self.state, stored.event)
            self.entries.append(stored)
            self._size_bytes += len(stored.body)
            self.tail = stored.at
