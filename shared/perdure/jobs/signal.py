"""Signals: what somebody tells a running or sleeping job unasked; and the one that ends a back-off now."""

from typing import Any, Final

from msgspec import Struct

from perdure.core import bounds
from perdure.core import event as ev
from perdure.core.cause import RETRY_NOW
from perdure.core.event import Status
from perdure.core.jcs import same
from perdure.core.machine import JobState
from perdure.errors import Conflict, Fault, Invalid, OutcomeUnknown
from perdure.ids import EventId, JobRef, Principal, derived, new_event_id
from perdure.jobs.desk import BUDGET_SECONDS, Desk, ring
from perdure.jobs.joblog import JobLog
from perdure.jobs.read import load

OWN: Final = "$"  # names that begin with it are Perdure's own and never reach a workflow


class Signalled(Struct, frozen=True):
    """The signal's place in the log. `replayed`: an earlier call with this key had put it there."""

    seq: int
    job: JobState
    replayed: bool


async def signal(
    desk: Desk,
    ref: JobRef,
    name: str,
    payload: Any,  # any JSON
    by: Principal,
    *,
    key: str | None = None,
) -> Signalled:
    """Append `signal.received` and ring. With an idempotency `key` the same signal is in the log once.

    Raises NotFound, Conflict (`job-terminal`; `job-full`: the log is nearly full), Invalid (`idempotency-key-reused`:
    the key has sent another one), OutcomeUnknown (with the job's id), Unavailable, TooLarge.
    """
    log = await load(desk, ref)
    event_id = new_event_id() if key is None else EventId(derived("signal", ref.tenant, by, ref.job, key))
    if key is not None and (before := await _sent(log, event_id)) is not None:
        if before.data.name != name or not same(before.data.payload, payload):
            fault = Fault("reused", "was sent with another signal before", header="Idempotency-Key")
            raise Invalid([fault], "idempotency-key-reused")
        return Signalled(before.seq, log.state, replayed=True)
    said = ev.SignalData(signal_id=event_id, name=name, payload=payload, by=by)
    seq = await _append(desk, log, said, event_id)
    return Signalled(seq, log.state, replayed=False)


async def retry_now(desk: Desk, ref: JobRef, by: Principal) -> JobState:
    """End a back-off, or the wait for matching code, now; the state after that.

    Raises NotFound, Conflict (`job-not-retrying`, `job-terminal`), OutcomeUnknown, Unavailable.
    """
    log = await load(desk, ref)
    if not log.state.terminal and log.state.status is not Status.RETRYING:
        raise Conflict("job-not-retrying", "the job waits for no retry", {"job_status": log.state.status})
    event_id = new_event_id()
    await _append(desk, log, ev.SignalData(signal_id=event_id, name=RETRY_NOW, payload=None, by=by), event_id)
    return log.state


async def _append(desk: Desk, log: JobLog, said: ev.SignalData, event_id: EventId) -> int:
    def decide(job: JobState) -> ev.AnyData | None:
        if said.name == RETRY_NOW and job.status is not Status.RETRYING:
            return None
        if not job.terminal and bounds.deaf(job, log.size_bytes):
            raise Conflict("job-full", "the job's log is nearly full: it takes no more comments and signals")
        return None if job.terminal else said

    try:
        stored = await log.append(decide, budget_seconds=BUDGET_SECONDS, event_id=event_id)
    except OutcomeUnknown as exc:
        raise OutcomeUnknown(str(exc), log.ref.job) from exc
    if stored is None:
        if log.state.terminal:
            raise Conflict("job-terminal", "the job has ended", {"job_status": log.state.status})
        raise Conflict("job-not-retrying", "the job waits for no retry", {"job_status": log.state.status})
    await ring(desk, log.ref, log.state)
    return stored.event.seq


async def _sent(log: JobLog, event_id: EventId) -> ev.SignalReceived | None:
    """The signal of that id with its payload, where it is in the log."""
    if all(event.id != event_id for event in log.events):
        return None
    for event in await log.resolve():
        if event.id == event_id and isinstance(event, ev.SignalReceived):
            return event
    return None
