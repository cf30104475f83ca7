"""Tells a parent that its child has ended.

`child.ended` is appended to the parent's log by compare-and-set, by whoever gets there first: the writer of the child's
terminal event at once, whoever meets the ended child later (its redelivered doorbell, a second submit, the projector).
All of it bears being repeated.
"""

import structlog

from perdure import probe
from perdure.core import event as ev
from perdure.core.event import Parent
from perdure.core.machine import JobState
from perdure.errors import OutcomeUnknown, Unavailable
from perdure.ids import JobRef
from perdure.jobs.desk import BUDGET_SECONDS, Desk, ring
from perdure.jobs.joblog import JobLog

log = structlog.get_logger(__name__)


async def tell_parent(desk: Desk, ref: JobRef, child: JobState, parent: Parent | None = None) -> bool:
    """See to it that the parent of the ended job `ref` knows; whether this call appended it.

    Nothing is done for a job that is open, has no parent or was started with `detached`, and for a parent that has
    ended, knows already or is gone. `parent` names it where the child's log is a tombstone, which no longer does.
    Raises Unavailable, OutcomeUnknown: then it is not known to be told, tell again.
    """
    parent = parent or (child.submitted.parent if child.submitted is not None else None)
    if parent is None or parent.detached or not child.terminal:
        return False
    probe.hit("child.after_end")
    told = JobRef(ref.tenant, parent.job_id)
    last = await desk.eventlog.tail(told)
    if last is None or last.event.status in ev.TERMINAL:  # so a whole log is read only where there is somebody to tell
        return False
    parents_log = await JobLog.load(desk.eventlog, told, desk.clock)
    data = ended(ref, child, parent)

    def decide(job: JobState) -> ev.ChildData | None:
        return None if job.terminal or not job.exists or _knows(parents_log, ref) else data

    stored = await parents_log.append(decide, budget_seconds=BUDGET_SECONDS)
    probe.hit("child.after_parent_append")
    if stored is not None or await _left_unrung(desk, told, parents_log.state):
        await ring(desk, told, parents_log.state)
    return stored is not None


async def _left_unrung(desk: Desk, parent: JobRef, job: JobState) -> bool:
    """Whether `job` sleeps although something woke it, and nobody has rung: who appended died in between."""
    if job.suspension is None or not job.suspension.causes or job.submitted is None:
        return False
    return not await desk.doorbells.exists(parent, job.submitted.queue, job.submitted.priority)


async def try_to_tell_parent(desk: Desk, ref: JobRef, child: JobState) -> None:
    """`tell_parent` for a caller whose own work is done: a failure is logged, the projector tells again."""
    try:
        await tell_parent(desk, ref, child)
    except (Unavailable, OutcomeUnknown) as exc:
        log.warning("parent not told", tenant=ref.tenant, job_id=ref.job, error=str(exc))


def ended(ref: JobRef, child: JobState, parent: Parent) -> ev.ChildData:
    """What a parent reads of its ended child: how it ended, with which outputs or why not."""
    assert child.status is not None, "a job that has ended was submitted"
    outputs, refs, error = None, dict[str, ev.BlobRef](), None
    match child.end:
        case ev.CompletedData():
            outputs, refs = child.end.outputs, child.end.outputs_ref
        case ev.FailedData(error=failure):
            error = failure
        case ev.CancelledData(reason=reason):
            error = ev.Failure(code="cancelled", message=reason or "cancelled", retryable=False)
        case _:
            error = ev.Failure(code="deadline", message="the job's deadline passed", retryable=False)
    return ev.ChildData(
        step=parent.step,
        occurrence=parent.occurrence,
        path=parent.path,
        job_id=ref.job,
        status=child.status,
        outputs=outputs,
        outputs_ref=refs,
        error=error,
    )


def _knows(parents_log: JobLog, child: JobRef) -> bool:
    return any(isinstance(e, ev.ChildEnded) and e.data.job_id == child.job for e in parents_log.events)
