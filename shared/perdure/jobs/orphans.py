"""Ends the children of parents that have ended."""

from collections.abc import Iterable
from typing import Final

import structlog

from perdure.core.event import TERMINAL
from perdure.core.machine import JobState
from perdure.errors import NotFound, OutcomeUnknown, Unavailable
from perdure.ids import JobRef
from perdure.jobs.control import cancel
from perdure.jobs.desk import Desk
from perdure.jobs.joblog import JobLog

PARENT_ENDED: Final = "parent_ended"

log = structlog.get_logger(__name__)


async def end_orphan(desk: Desk, ref: JobRef) -> JobState | None:
    """Cancel the job `ref` if it is open and its parent has ended (`parent_ended`); its state, None where it is gone.

    A job without a parent, one that was started with `detached`, and one whose parent goes on are left alone. Raises
    Unavailable, OutcomeUnknown: end it again.
    """
    child = await JobLog.load(desk.eventlog, ref, desk.clock)
    job = child.state
    if job.terminal or job.submitted is None or job.submitted.parent is None or job.submitted.parent.detached:
        return job if job.exists else None
    parent = await desk.eventlog.tail(JobRef(ref.tenant, job.submitted.parent.job_id))
    if parent is None or parent.event.status not in TERMINAL:
        return job
    return await cancel(desk, ref, job.submitted.owner, reason=PARENT_ENDED)


async def end_orphans(desk: Desk, children: Iterable[JobRef]) -> int:
    """Cancel every one of `children` whose parent has ended; how many could not be seen to: come again for them."""
    left = 0
    for ref in children:
        try:
            await end_orphan(desk, ref)
        except NotFound:
            continue  # purged meanwhile
        except (Unavailable, OutcomeUnknown) as exc:
            log.warning("orphan not ended", tenant=ref.tenant, job_id=ref.job, error=str(exc))
            left += 1
    return left
