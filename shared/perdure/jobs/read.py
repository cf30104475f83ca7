"""Reads one job from its log, so that a writer always reads its own writes."""

from perdure.errors import NotFound
from perdure.ids import JobRef
from perdure.jobs.desk import Desk
from perdure.jobs.joblog import JobLog


async def load(desk: Desk, ref: JobRef) -> JobLog:
    """The job's log to its end, by the leader's word. Raises NotFound for one that was never submitted, Unavailable."""
    log = await JobLog.load(desk.eventlog, ref, desk.clock)
    if not log.state.exists:
        raise NotFound("no such job")
    return log
