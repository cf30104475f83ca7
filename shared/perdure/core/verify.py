"""The judge of one log: what holds whatever crashed, froze or came twice. Tests, chaos and `doctor` ask the same judge.

    I2  at most one terminal event, nothing after it
    I3  `seq` dense from 1, `attempt` rises by one at `attempt.started` only, `status` is the fold's (or: a tombstone)
    I4  what only a runner writes lies within an attempt, before anything that ended it
    I5  a step is over once: completed, failed for good or skipped
    I7  no attempt starts on a sleeping job without a recorded cause, or a back-off, drain or missing code that is over
    I8  a request is asked before it is settled, by its own id, and settled once; it has votes while it is open, one a
        voter for what it shows

It reads the events by itself, apart from the fold's own verdict on each, so that a mistake of the fold does not hide.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct

from perdure.core import event as ev
from perdure.core.cause import RETRY_NOW
from perdure.core.event import TERMINAL, AnyEvent, type_of
from perdure.core.instant import seconds_between
from perdure.core.machine import EMPTY, PROGRESS, apply
from perdure.errors import BrokenLog
from perdure.ids import Principal, RequestId, request_id

RUNNERS: Final = (*PROGRESS, ev.CompletedData)  # what nobody but a runner in the middle of an attempt may write
SOFT: Final = ("backoff", "runner", "code")
CLOCK_SLACK_SECONDS: Final = 1.0  # two writers' ideas of the broker's clock may differ by as much
CAUSES: Final[dict[type[AnyEvent], str]] = {
    ev.InputAnswered: "answer",
    ev.InputExpired: "expiry",
    ev.InputWithdrawn: "withdrawal",
    ev.SignalReceived: "signal",
    ev.TimerFired: "timer",
    ev.ChildEnded: "child",
}


class Finding(Struct, frozen=True):
    """One thing that is wrong: the invariant, the event at which it shows, and what."""

    invariant: str
    seq: int
    text: str


def log(events: Sequence[AnyEvent]) -> list[Finding]:
    """Everything that is wrong with `events`, a whole log from its first event on (or a tombstone), by `seq`."""
    if len(events) == 1 and events[0].seq > 1 and events[0].status in TERMINAL:
        return []
    judges = (_ends(events), _fold(events), _attempts(events), _steps(events), _resumes(events), _requests(events))
    return sorted((f for judge in judges for f in judge), key=lambda f: (f.seq, f.invariant))


def _ends(events: Sequence[AnyEvent]) -> Iterator[Finding]:
    ended: AnyEvent | None = None
    for event in events:
        if ended is not None:
            yield Finding("I2", event.seq, f"{type_of(event)} after the end by {type_of(ended)} at {ended.seq}")
        elif isinstance(event, ev.JobCompleted | ev.JobFailed | ev.JobCancelled | ev.JobTimedOut):
            ended = event


def _fold(events: Sequence[AnyEvent]) -> Iterator[Finding]:
    state, folds = EMPTY, True
    for number, event in enumerate(events, start=1):
        if event.seq != number:
            yield Finding("I3", event.seq, f"event {number} of the log has seq {event.seq}")
        if folds:
            try:
                state = apply(state, event)
            except BrokenLog as exc:
                folds = False  # the fold ends here; the other judges go on
                yield Finding("I3", event.seq, str(exc))


def _attempts(events: Sequence[AnyEvent]) -> Iterator[Finding]:
    attempt, running = 0, False
    for event in events:
        if isinstance(event, ev.AttemptStarted):
            attempt, running = attempt + 1, True
        elif isinstance(event.data, RUNNERS) and not _restates(event):
            if not running:
                yield Finding("I4", event.seq, f"{type_of(event)} while no attempt ran")
            elif event.attempt != attempt:
                yield Finding("I4", event.seq, f"{type_of(event)} of attempt {event.attempt} within attempt {attempt}")
        if event.attempt != attempt:
            yield Finding("I3", event.seq, f"attempt {event.attempt} where {attempt} is the last one started")
        if isinstance(event, ev.JobSuspended):
            running = False


def _restates(event: AnyEvent) -> bool:
    """Whether anybody, not only a runner, may have written this asking."""
    return isinstance(event, ev.InputRequested) and event.data.request.revision > 1


def _steps(events: Sequence[AnyEvent]) -> Iterator[Finding]:
    over: dict[tuple[str, str, int], int] = {}
    for event in events:
        match event:
            case ev.StepCompleted(data=data) | ev.StepSkipped(data=data):
                key = (data.path, data.step, data.occurrence)
            case ev.StepFailed(data=failed):
                key = (failed.path, failed.step, failed.occurrence)
                if not failed.final and key not in over:
                    continue
            case _:
                continue
        if key in over:
            yield Finding("I5", event.seq, f"step {key[0] or '/'} {key[1]}#{key[2]} was over at {over[key]}")
        over.setdefault(key, event.seq)


def _resumes(events: Sequence[AnyEvent]) -> Iterator[Finding]:
    asleep: ev.JobSuspended | None = None
    since: list[AnyEvent] = []
    for event in events:
        if isinstance(event, ev.JobSuspended):
            asleep, since = event, []
        elif isinstance(event, ev.AttemptStarted):
            if asleep is not None and (why := _no_cause(asleep.data, since, event)) is not None:
                yield Finding("I7", event.seq, why)
            asleep = None
        else:
            since.append(event)


def _no_cause(asleep: ev.SuspendedData, since: Sequence[AnyEvent], start: ev.AttemptStarted) -> str | None:
    """Why `start` had no right to resume what `asleep` says, None when it had."""
    data = start.data
    if asleep.resume == "all":
        settled = {_settles(e) for e in since}
        open_ = [w.request_id for w in asleep.waiting if w.kind == "input" and w.request_id not in settled]
        if open_:
            return f"{len(open_)} of the requests that are waited for together are open"
    if data.because_seq is not None:
        named = next((e for e in since if e.seq == data.because_seq), None)
        if named is None or CAUSES.get(type(named)) != data.cause:
            return f"event {data.because_seq} is no {data.cause} after the suspension"
        return None if _wakes(asleep, named) else f"event {data.because_seq} settles nothing that is waited for"
    if any(_wakes(asleep, e) for e in since):
        return None
    if any(w.kind in SOFT and _over(w, start) for w in asleep.waiting):
        return None
    return f"resumed ({data.reason}) without a cause"


def _wakes(asleep: ev.SuspendedData, event: AnyEvent) -> bool:
    """Whether `event` settles one of the waits, or ends a soft one by `$retry_now`."""
    waits = asleep.waiting
    match event:
        case ev.InputAnswered() | ev.InputExpired() | ev.InputWithdrawn():
            found = any(w.kind == "input" and w.request_id == event.data.request_id for w in waits)
        case ev.SignalReceived(data=data) if data.name.startswith("$"):
            return data.name == RETRY_NOW and any(w.kind in ("backoff", "code") for w in waits)
        case ev.SignalReceived(data=data):
            found = any(w.kind == "signal" and w.name == data.name for w in waits)
        case ev.TimerFired(data=data):
            key = (data.path, data.name, data.occurrence)
            found = any((w.path, w.name, w.occurrence) == key for w in waits if w.kind not in (*SOFT, "input"))
        case ev.ChildEnded(data=data):
            found = any(w.kind == "child" and w.job_id == data.job_id for w in waits)
        case _:
            return False
    return found or asleep.more > 0


def _over(wait: ev.Waiting, start: ev.AttemptStarted) -> bool:
    """Whether a wait that needs no recorded cause had ended when `start` was written."""
    if wait.kind == "runner" or wait.until is None:
        return True
    return seconds_between(wait.until, start.at) >= -CLOCK_SLACK_SECONDS


def _ballots(vote: ev.VotedData) -> set[tuple[RequestId, Principal, str | None]]:
    """What a vote uses up: its name's, and where it was given by a link, of whoever gave that out."""
    voters = {vote.by} if vote.via.link_by is None else {vote.by, vote.via.link_by}
    return {(vote.request_id, voter, vote.proposal_digest) for voter in voters}


def _settles(event: AnyEvent) -> RequestId | None:
    """The request that `event` settles."""
    if isinstance(event, ev.InputAnswered | ev.InputExpired | ev.InputWithdrawn):
        return event.data.request_id
    return None


def _requests(events: Sequence[AnyEvent]) -> Iterator[Finding]:
    asked: dict[RequestId, int] = {}  # the revision that counts
    settled: dict[RequestId, int] = {}
    voted: set[tuple[RequestId, Principal, str | None]] = set()
    for event in events:
        if isinstance(event, ev.InputRequested):
            request = event.data.request
            if request.id in settled:
                yield Finding("I8", event.seq, f"{request.id} asked again, settled at {settled[request.id]}")
            elif request.revision != asked.get(request.id, 0) + 1:
                yield Finding("I8", event.seq, f"{request.id} skips to revision {request.revision}")
            elif request.revision == 1 and request.id != request_id(request.job_id, event.seq):
                yield Finding("I8", event.seq, f"{request.id} does not name the event that asks it")
            asked[request.id] = request.revision
        elif isinstance(event, ev.InputVoted):
            vote = event.data
            if vote.request_id not in asked or vote.request_id in settled:
                yield Finding("I8", event.seq, f"a vote on {vote.request_id}, which is not open")
            elif not voted.isdisjoint(ballots := _ballots(vote)):
                yield Finding("I8", event.seq, f"a second vote of {vote.by} on {vote.request_id}")
            else:
                voted |= ballots
        elif (settles := _settles(event)) is not None:
            if settles not in asked:
                yield Finding("I8", event.seq, f"{settles} was never asked here")
            if settles in settled:
                yield Finding("I8", event.seq, f"{settles} was settled at {settled[settles]}")
            settled.setdefault(settles, event.seq)
