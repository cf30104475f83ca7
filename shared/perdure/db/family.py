"""Parents and children as the rows know them."""

from collections.abc import Iterable

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.core.event import Parent
from perdure.db.schema import jobs
from perdure.ids import JobId, JobRef, Tenant


async def open_children(conn: AsyncConnection, parents: Iterable[JobRef]) -> list[JobRef]:
    """The open jobs that were started by one of `parents` and not `detached`; a quarantined one is left alone."""
    wanted = set(parents)
    if not wanted:
        return []
    query = select(jobs.c.tenant, jobs.c.job_id, jobs.c.parent).where(
        jobs.c.tenant.in_({p.tenant for p in wanted}),
        jobs.c.parent_job_id.in_({p.job for p in wanted}),
        jobs.c.ended_at.is_(None),
        jobs.c.quarantined.is_(None),
    )
    found = []
    for tenant, job, told in await conn.execute(query):
        parent = msgspec.json.decode(told, type=Parent)
        if JobRef(Tenant(tenant), parent.job_id) in wanted and not parent.detached:
            found.append(JobRef(Tenant(tenant), JobId(job)))
    return found
