"""What every use case of a job needs: the logs, the doorbells, the time."""

from typing import Final

import structlog
from msgspec import Struct

from perdure.bus.doorbell import Doorbells
from perdure.bus.entry import Stored
from perdure.bus.eventlog import EventLog
from perdure.clock import Clock
from perdure.core.machine import JobState
from perdure.errors import Unavailable
from perdure.ids import JobRef

log = structlog.get_logger(__name__)
# How long a use case tries to append before its caller is told. The last try and its look may take 4 s more: 10 in all.
BUDGET_SECONDS: Final = 6.0


class Desk(Struct, frozen=True):
    """The adapters, made by an `app.py`."""

    eventlog: EventLog
    doorbells: Doorbells
    clock: Clock


async def ring(desk: Desk, ref: JobRef, job: JobState, *, submitted: Stored | None = None) -> None:
    """Ring for `job` at its own queue and priority. A ring that fails is the sweeper's business, nobody's error."""
    if job.submitted is None:
        return
    try:
        await desk.doorbells.ring(ref, job.submitted.queue, job.submitted.priority, submitted=submitted)
    except Unavailable as exc:
        log.warning("ring lost", tenant=ref.tenant, job_id=ref.job, error=str(exc))
