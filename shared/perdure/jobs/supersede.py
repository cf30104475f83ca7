"""Ends jobs from outside for other reasons than somebody's wish: another job takes their place, or a client's limit."""

from perdure.core import event as ev
from perdure.core.alarm import asleep
from perdure.core.event import Status
from perdure.core.instant import Instant
from perdure.core.machine import JobState
from perdure.errors import OutcomeUnknown
from perdure.ids import JobId, JobRef, Principal
from perdure.jobs.desk import BUDGET_SECONDS, Desk
from perdure.jobs.joblog import Decide, JobLog
from perdure.jobs.parent import try_to_tell_parent

SUPERSEDED = "superseded"


async def supersede(desk: Desk, ref: JobRef, by: Principal, successor: JobId) -> JobState:
    """Cancel a job that sleeps, because `successor` takes its place; its state after that.

    One that runs, or is about to because its answer is in the log, goes on: the first event wins. Raises
    OutcomeUnknown, Unavailable.
    """

    def decide(job: JobState) -> ev.AnyData | None:
        if job.status is not Status.SUSPENDED or job.fingerprint is None or not asleep(job, desk.clock.broker_now()):
            return None
        return ev.CancelledData(fingerprint=job.fingerprint, by=by, reason=SUPERSEDED, superseded_by=successor)

    return await _end(desk, ref, decide)


async def time_out(desk: Desk, ref: JobRef, at: Instant) -> JobState:
    """End a job whose client waits no longer, as `timed_out`; its state after that. One that is suspended stays: a
    person may take longer than a client. Raises OutcomeUnknown, Unavailable.
    """

    def decide(job: JobState) -> ev.AnyData | None:
        if job.terminal or job.status is Status.SUSPENDED or job.fingerprint is None:
            return None
        return ev.TimedOutData(deadline_at=at, fingerprint=job.fingerprint)

    return await _end(desk, ref, decide)


async def _end(desk: Desk, ref: JobRef, decide: Decide) -> JobState:
    log = await JobLog.load(desk.eventlog, ref, desk.clock)
    try:
        await log.append(decide, budget_seconds=BUDGET_SECONDS)
    except OutcomeUnknown as exc:
        raise OutcomeUnknown(str(exc), ref.job) from exc
    if log.state.terminal:
        await try_to_tell_parent(desk, ref, log.state)
    return log.state
