"""Which open jobs the sweeper has to look at: those that may need a doorbell, those about which time has decided."""

from typing import Any

from sqlalchemy import ColumnElement, Select, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.core.instant import Instant
from perdure.db.jobs import COLUMNS, JobRow, row_of
from perdure.db.page import PageKey
from perdure.db.schema import jobs
from perdure.ids import JobId, JobRef, Tenant


async def ready(conn: AsyncConnection, now: Instant, *, limit: int, after: PageKey | None = None) -> list[JobRow]:
    """Open jobs for which a doorbell may have to exist at `now`, by (`ready_at`, id), behind `after`; the log says."""
    return await _swept(conn, jobs.c.ready_at, now, limit, after)


async def overdue(conn: AsyncConnection, now: Instant, *, limit: int, after: PageKey | None = None) -> list[JobRow]:
    """Open jobs about which time has decided something by `now`, the latest first by (`next_due_at`, id), behind
    `after`: runners are rung in the order in which it did, and meet the sweeper once, in the middle, not at every job.
    """
    return await _swept(conn, jobs.c.next_due_at, now, limit, after, latest_first=True)


async def unsupported(conn: AsyncConnection) -> list[JobRef]:
    """The jobs that an older version could not fold: a newer one tries them again."""
    found = await conn.execute(select(jobs.c.tenant, jobs.c.job_id).where(jobs.c.quarantined == "unsupported"))
    return [JobRef(Tenant(tenant), JobId(job)) for tenant, job in found]


async def _swept(
    conn: AsyncConnection,
    by: ColumnElement[Any],
    now: Instant,
    limit: int,
    after: PageKey | None,
    *,
    latest_first: bool = False,
) -> list[JobRow]:
    open_rows = (jobs.c.ended_at.is_(None), jobs.c.quarantined.is_(None))  # as in the index
    query: Select[Any] = select(*COLUMNS).where(*open_rows, by <= now)
    if after is not None:
        key, last = tuple_(by, jobs.c.job_id), tuple_(*after)
        query = query.where(key < last if latest_first else key > last)
    order = [column.desc() if latest_first else column for column in (by, jobs.c.job_id)]
    return list(map(row_of, (await conn.execute(query.order_by(*order).limit(limit))).all()))
