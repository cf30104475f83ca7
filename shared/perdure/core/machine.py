"""The life of a job: what may follow what, and the fold. All decisions about a status are here; no I/O, no clock."""

from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any, Final, TypeVar, assert_never

from msgspec import Struct
from msgspec.structs import replace

from perdure.core import event as ev
from perdure.core.cause import ATTACHED, DETACHED, CauseKind, resolves
from perdure.core.event import EVENT_OF, FORMAT, OPEN, TERMINAL, AnyData, AnyEvent, type_of
from perdure.core.event import Status as S
from perdure.core.instant import Instant
from perdure.core.presence import Detached, missed
from perdure.errors import BrokenLog
from perdure.ids import Digest, EventId, RequestId

_SAME: Final[Mapping[S | None, S]] = {s: s for s in OPEN}
# The whole life cycle, event -> {status before: status after}. A pair that is not here cannot happen.
LIFE: Final[Mapping[type[AnyData], Mapping[S | None, S]]] = {
    ev.SubmittedData: {None: S.QUEUED},
    ev.AttemptData: dict.fromkeys(OPEN, S.RUNNING),  # from running too: a takeover, which fences the runner before
    ev.SuspendedData: {S.RUNNING: S.SUSPENDED},  # or retrying: see status_after
    ev.StepCompletedData: {S.RUNNING: S.RUNNING},
    ev.StepFailedData: {S.RUNNING: S.RUNNING},  # a back-off is a wait; only job.suspended makes the job `retrying`
    ev.StepSkippedData: {S.RUNNING: S.RUNNING},
    ev.OutputData: {S.RUNNING: S.RUNNING},
    ev.MessageData: {S.RUNNING: S.RUNNING},
    ev.ProgressData: {S.RUNNING: S.RUNNING},
    ev.RequestedData: {S.RUNNING: S.RUNNING},  # a restatement from any open status: see status_after
    ev.VotedData: _SAME,
    ev.AnsweredData: _SAME,  # an answer wakes nobody; the doorbell after it does
    ev.ExpiredData: _SAME,
    ev.WithdrawnData: _SAME,
    ev.SignalData: _SAME,
    ev.CancelData: {S.RUNNING: S.RUNNING},  # a job that does not run is cancelled at once
    ev.TimerData: _SAME,
    ev.ChildData: _SAME,
    ev.CompletedData: {S.RUNNING: S.COMPLETED},
    ev.FailedData: {S.RUNNING: S.FAILED},
    ev.CancelledData: dict.fromkeys(OPEN, S.CANCELLED),
    ev.TimedOutData: dict.fromkeys(OPEN, S.TIMED_OUT),
}
# What only a runner in the middle of an attempt writes: one of these and the attempt was no crash (architecture.md 4).
PROGRESS: Final = (
    ev.StepCompletedData,
    ev.StepFailedData,
    ev.StepSkippedData,
    ev.OutputData,
    ev.MessageData,
    ev.ProgressData,
    ev.RequestedData,
    ev.SuspendedData,
)
Item = TypeVar("Item")


class Cause(Struct, frozen=True):
    """A recorded event that resumes a sleeping job."""

    seq: int
    kind: CauseKind | None  # None: `$retry_now`, which ends a back-off and resolves nothing


class Settled(Struct, frozen=True):
    """How a request ended: the record as it was last stated, and the event that settled it."""

    request: ev.Request
    seq: int
    at: Instant
    data: ev.AnsweredData | ev.ExpiredData | ev.WithdrawnData


class Suspension(Struct, frozen=True):
    """The last `job.suspended`, while the job has not run again."""

    seq: int
    at: Instant
    data: ev.SuspendedData
    causes: tuple[Cause, ...] = ()


class JobState(Struct, frozen=True):
    """What the first `seq` events of a log say. `status` is None while nothing is submitted."""

    seq: int = 0
    status: S | None = None
    attempt: int = 0
    attempt_id: EventId | None = None  # the id of the last attempt.started: what fences (the number is for readers)
    attempt_data: ev.AttemptData | None = None
    progressed: bool = False  # whether the last attempt wrote anything but its own start
    crashes: int = 0  # attempts in a row, before the last one, that ended by a lost lease having written nothing
    failures: int = 0
    submitted: ev.SubmittedData | None = None  # None in a tombstone too
    submitted_at: Instant | None = None
    started_at: Instant | None = None
    updated_at: Instant | None = None
    ended_at: Instant | None = None
    suspension: Suspension | None = None
    asked: dict[RequestId, ev.Request] = {}  # open requests, as last stated
    settled: dict[RequestId, Settled] = {}
    votes: dict[RequestId, tuple[ev.VotedData, ...]] = {}  # on open requests, in their order
    voted_at: dict[RequestId, tuple[Instant, ...]] = {}  # when each of them was given
    cancel: ev.CancelData | None = None
    cancel_at: Instant | None = None
    outputs: dict[str, Any] = {}  # user values, by output name, as far as produced
    outputs_ref: dict[str, ev.BlobRef] = {}  # those that are too large for an event; a name is in one of the two
    fired: frozenset[tuple[str, str | None, int | None]] = frozenset()  # keys of the timers that have fired
    progress: ev.ProgressData | None = None
    detached: Detached | None = None
    end: ev.CompletedData | ev.FailedData | ev.CancelledData | ev.TimedOutData | None = None
    fingerprint: Digest | None = None

    @property
    def terminal(self) -> bool:
        """Whether the job has ended; nothing can follow."""
        return self.status in TERMINAL

    @property
    def exists(self) -> bool:
        """Whether anything was ever submitted under this id."""
        return self.status is not None


EMPTY: Final = JobState()


def status_after(job: JobState, data: AnyData) -> S | None:
    """The status that `data` leads to, None when it cannot follow."""
    after = LIFE[type(data)].get(job.status)
    if isinstance(data, ev.SuspendedData) and after is not None:
        soft = all(w.kind in ("backoff", "runner", "code") for w in data.waiting)
        return S.RETRYING if soft else S.SUSPENDED
    if isinstance(data, ev.RequestedData) and restates(data):
        return job.status if job.status in OPEN and data.request.id in job.asked else None
    if isinstance(data, ev.VotedData | ev.AnsweredData | ev.ExpiredData | ev.WithdrawnData):
        return after if data.request_id in job.asked else None
    return after


def restates(data: AnyData) -> bool:
    """Whether `data` states a request anew: anybody may append that, so it says nothing about an attempt."""
    return isinstance(data, ev.RequestedData) and data.request.revision > 1


def may_follow(job: JobState, data: AnyData) -> bool:
    """Whether an event with `data` can be the next one."""
    return status_after(job, data) is not None


def stamp(job: JobState, event_id: EventId, at: Instant, data: AnyData, refs: Iterable[Digest] = ()) -> AnyEvent:
    """The event that puts `data` behind `job`. Raises BrokenLog when it cannot follow."""
    after = status_after(job, data)
    cls = EVENT_OF[type(data)]
    if after is None:
        raise BrokenLog(f"{ev.TYPE_OF[cls]} cannot follow {job.status} at {job.seq}")
    attempt = job.attempt + isinstance(data, ev.AttemptData)
    return cls(
        v=FORMAT,
        id=event_id,
        seq=job.seq + 1,
        attempt=attempt,
        at=at,
        status=after,
        refs=tuple(refs),
        data=data,  # type: ignore[arg-type]  # EVENT_OF pairs each data class with its event
    )


def apply(job: JobState, event: AnyEvent) -> JobState:
    """The state after `event`. Raises BrokenLog for a gap, an impossible successor or a fenced writer."""
    if job.seq == 0 and event.seq > 1 and event.status in TERMINAL:
        return _tombstone(event)
    after = status_after(job, event.data)
    attempt = job.attempt + isinstance(event, ev.AttemptStarted)
    if after is None or (event.seq, event.attempt, event.status) != (job.seq + 1, attempt, after):
        raise BrokenLog(f"event {event.seq} ({type_of(event)}) cannot follow {job.status} at {job.seq}")
    now = replace(job, seq=event.seq, status=after, attempt=attempt, updated_at=event.at)
    if isinstance(event.data, PROGRESS) and not restates(event.data):
        now = replace(now, progressed=True, crashes=0)
    return _apply(now, event, job)


def _apply(now: JobState, event: AnyEvent, before: JobState) -> JobState:
    match event:
        case ev.JobSubmitted(data=data):
            return replace(now, submitted=data, submitted_at=event.at, fingerprint=data.fingerprint)
        case ev.AttemptStarted(data=data):
            return replace(
                now,
                attempt_id=event.id,
                attempt_data=data,
                crashes=crashes_at_claim(before),
                progressed=False,
                suspension=None,
                started_at=before.started_at or event.at,
            )
        case ev.JobSuspended(data=data):
            return replace(now, suspension=Suspension(event.seq, event.at, data))
        case ev.StepFailed():
            return replace(now, failures=before.failures + 1)
        case ev.StepCompleted(data=data):
            if data.output is None:
                return now
            return _given_out(now, data.output.name, data.result, data.result_ref)
        case ev.Output(data=data):
            return _given_out(now, data.name, data.value, data.value_ref)
        case ev.Progress(data=data):
            return replace(now, progress=data)
        case ev.InputRequested(data=data):
            return replace(now, asked={**before.asked, data.request.id: data.request})
        case ev.InputAnswered(data=settling) | ev.InputExpired(data=settling) | ev.InputWithdrawn(data=settling):
            asked = dict(before.asked)
            request = asked.pop(settling.request_id)
            settled = Settled(request, event.seq, event.at, settling)
            now = replace(now, asked=asked, settled={**before.settled, request.id: settled})
            if request.id in before.votes:
                now = replace(now, votes=_without(before.votes, request.id))
                now = replace(now, voted_at=_without(before.voted_at, request.id))
            return _caused(now, event)
        case ev.InputVoted(data=vote):
            votes = (*before.votes.get(vote.request_id, ()), vote)
            times = (*before.voted_at.get(vote.request_id, ()), event.at)
            return replace(
                now,
                votes={**before.votes, vote.request_id: votes},
                voted_at={**before.voted_at, vote.request_id: times},
            )
        case ev.TimerFired(data=data):
            return _caused(replace(now, fired=before.fired | {(data.path, data.name, data.occurrence)}), event)
        case ev.SignalReceived(data=said) if said.name in (DETACHED, ATTACHED):
            return replace(now, detached=missed(event.at, said))
        case ev.SignalReceived() | ev.ChildEnded():
            return _caused(now, event)
        case ev.CancelRequested(data=data):
            if before.cancel is not None:  # the first one counts; its grace runs
                return now
            return replace(now, cancel=data, cancel_at=event.at)
        case ev.JobCompleted() | ev.JobFailed() | ev.JobCancelled() | ev.JobTimedOut():
            if isinstance(event, ev.JobCompleted):
                now = replace(now, outputs=event.data.outputs, outputs_ref=event.data.outputs_ref)
            return replace(now, end=event.data, ended_at=event.at, asked={}, votes={}, voted_at={}, suspension=None)
        case ev.StepSkipped() | ev.Message():
            return now
        case _:
            assert_never(event)


def _without(items: Mapping[RequestId, Item], gone: RequestId) -> dict[RequestId, Item]:
    return {request: item for request, item in items.items() if request != gone}


def _given_out(job: JobState, name: str, value: Any, ref: ev.BlobRef | None) -> JobState:
    """Note an output under its name, in the place of an earlier one."""
    outputs = {n: v for n, v in job.outputs.items() if n != name} if ref is not None else {**job.outputs, name: value}
    refs = {n: r for n, r in job.outputs_ref.items() if n != name}
    return replace(job, outputs=outputs, outputs_ref=refs if ref is None else {**refs, name: ref})


def crashes_at_claim(job: JobState) -> int:
    """Crashes in a row, were somebody to claim `job` now: a running attempt that wrote nothing is one."""
    return job.crashes + 1 if job.status is S.RUNNING and not job.progressed else job.crashes


def _caused(job: JobState, event: AnyEvent) -> JobState:
    """Note `event` as a cause when the sleeping job waits for it."""
    asleep = job.suspension
    kind = resolves(asleep.data, event) if asleep else False
    if asleep is None or kind is False:
        return job
    return replace(job, suspension=replace(asleep, causes=(*asleep.causes, Cause(event.seq, kind))))


def _tombstone(event: AnyEvent) -> JobState:
    """The state that a purged log still tells: how it ended, at which `seq`, and which body it came from."""
    if not isinstance(event, ev.JobCompleted | ev.JobFailed | ev.JobCancelled | ev.JobTimedOut):
        raise BrokenLog(f"a log begins with event {event.seq} ({type_of(event)})")
    return JobState(
        seq=event.seq,
        status=event.status,
        attempt=event.attempt,
        updated_at=event.at,
        ended_at=event.at,
        end=event.data,
        outputs=event.data.outputs if isinstance(event, ev.JobCompleted) else {},
        outputs_ref=event.data.outputs_ref if isinstance(event, ev.JobCompleted) else {},
        fingerprint=event.data.fingerprint,
    )


def fold(log: Iterable[AnyEvent], since: JobState = EMPTY) -> JobState:
    """The state that `log` leads to; `since` continues an earlier fold."""
    return reduce(apply, log, since)
