"""What the duties have in common: many rows at a time, a job's log in hand, a doorbell where one must be."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from perdure import log as logs
from perdure import probe
from perdure.core.claim import runnable
from perdure.db.engine import Database
from perdure.db.page import PageKey
from perdure.errors import BrokenLog, Malformed, UnsupportedVersion
from perdure.ids import JobRef
from perdure.jobs.desk import Desk
from perdure.jobs.joblog import JobLog

ROWS: Final = 500  # a query
AT_ONCE: Final = 16  # jobs looked at side by side

log = logs.get(__name__)

Row = TypeVar("Row")
Seen = TypeVar("Seen")
Find = Callable[[AsyncConnection, int, PageKey | None], Awaitable[list[Row]]]
"""At most so many rows behind a place, in order."""
Key = Callable[[Row], PageKey]


async def pages(database: Database, find: Find[Row], key: Key[Row]) -> AsyncIterator[list[Row]]:
    """All rows that `find` finds, ROWS at a time; `key` is the place of a row.

    Raises Unavailable.
    """
    after: PageKey | None = None
    while True:
        async with database.read() as conn:
            rows = await find(conn, ROWS, after)
        probe.hit("sweep.after_scan")
        yield rows
        if len(rows) < ROWS:
            return
        after = key(rows[-1])


async def each(rows: Sequence[Row], look: Callable[[Row], Awaitable[Seen]]) -> list[Seen]:
    """What `look` says of each row, a few at a time; the first error ends the others."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(row: Row) -> Seen:
        async with gate:
            return await look(row)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(row)) for row in rows]
    except BaseExceptionGroup as errors:  # what is away for one is away for the others
        raise errors.exceptions[0] from errors
    return [task.result() for task in tasks]


async def load(desk: Desk, ref: JobRef) -> JobLog | None:
    """The log of an open row; None, with a word in the log, when there is nothing that could be folded. The projector
    quarantines such a job, a row without a log is the doctor's. Raises Unavailable.
    """
    try:
        job = await JobLog.load(desk.eventlog, ref, desk.clock)
    except (BrokenLog, Malformed, UnsupportedVersion) as exc:
        log.warning("log passed over", tenant=ref.tenant, job_id=ref.job, why=type(exc).__name__)
        return None
    if not job.state.exists:
        log.warning("row without a log", tenant=ref.tenant, job_id=ref.job)
        return None
    return job


async def ring_if_runnable(desk: Desk, job: JobLog) -> bool:
    """Ring for a job that is runnable by its fold and has no doorbell; whether that was done. Raises Unavailable."""
    asked = job.state.submitted
    if asked is None or not runnable(job.state, desk.clock.broker_now()):
        return False
    if await desk.doorbells.exists(job.ref, asked.queue, asked.priority):
        return False
    await desk.doorbells.ring(job.ref, asked.queue, asked.priority)
    probe.hit("sweep.after_ring")
    log.info("lost doorbell rung", tenant=job.ref.tenant, job_id=job.ref.job, status=job.state.status)
    return True
