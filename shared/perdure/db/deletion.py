"""Jobs that somebody deleted: the fact is SQL's own, the log goes with the next look of retention."""

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.core.instant import Instant
from perdure.db.schema import jobs
from perdure.ids import JobId, JobRef, Tenant


async def mark_deleted(conn: AsyncConnection, ref: JobRef, now: Instant) -> bool:
    """Note that somebody deleted the job, which has ended; whether there is a row to note it in. Again changes nothing.

    The duty `retention` purges the log and empties the rows.
    """
    if (await conn.execute(select(jobs.c.seq).where(*_is(ref)))).first() is None:
        return False
    await conn.execute(update(jobs).where(*_is(ref), jobs.c.deleted_at.is_(None)).values(deleted_at=now))
    return True


async def deleted_since(conn: AsyncConnection, since: Instant) -> list[JobRef]:
    """The jobs of all tenants that were deleted at `since` or later."""
    found = await conn.execute(select(jobs.c.tenant, jobs.c.job_id).where(jobs.c.deleted_at >= since))
    return [JobRef(Tenant(tenant), JobId(job)) for tenant, job in found]


def _is(ref: JobRef) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return jobs.c.tenant == ref.tenant, jobs.c.job_id == ref.job
