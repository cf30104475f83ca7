"""Arms the alarms that a job calls for. Alarms are doorbells: any may be lost, the sweeper rings what is overdue."""

import structlog

from perdure import probe
from perdure.bus.doorbell import Doorbells
from perdure.core.alarm import alarms
from perdure.core.instant import Instant
from perdure.core.machine import JobState
from perdure.errors import Unavailable
from perdure.ids import JobRef

log = structlog.get_logger(__name__)


async def arm(doorbells: Doorbells, ref: JobRef, job: JobState, now: Instant) -> None:
    """Arm every alarm of `job` due within a day. A failure is logged: the row's `next_due_at` is the backstop."""
    if job.submitted is None or not (wanted := alarms(job, now)):
        return
    try:
        await doorbells.arm(ref, job.submitted.queue, job.submitted.priority, wanted)
        probe.hit("alarm.after_arm")
    except Unavailable as exc:
        log.warning("alarms not armed", tenant=ref.tenant, job_id=ref.job, error=str(exc))
