"""What the doctor asks of the rows: questions that look at everything, page by page."""

from collections.abc import Iterable
from typing import Any, Final

import msgspec
from msgspec import Struct
from sqlalchemy import Row, RowMapping, Select, delete, exists, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.core.instant import Instant
from perdure.db.schema import archive, flow_versions, flows, job_tags, jobs, request_assignees, requests, runners
from perdure.ids import Digest, JobId, JobRef, Queue, Tenant

PAGE: Final = 1000


class Known(Struct, frozen=True, kw_only=True):
    """A row as far as it can be compared with whether there is a log at all."""

    tenant: Tenant
    job_id: JobId
    created_at: Instant
    updated_at: Instant
    ended_at: Instant | None
    deleted_at: Instant | None
    purged_at: Instant | None
    quarantined: str | None
    archived: bool

    @property
    def ref(self) -> JobRef:
        """Tenant and job id."""
        return JobRef(self.tenant, self.job_id)


_SAME: Final = (archive.c.tenant == jobs.c.tenant) & (archive.c.job_id == jobs.c.job_id)
_KNOWN: Final = tuple(jobs.c[name] for name in Known.__struct_fields__ if name != "archived")


async def known(conn: AsyncConnection, after: JobRef | None) -> list[Known]:
    """The rows behind `after`, by tenant and id, PAGE at a time."""
    query: Select[Any] = select(*_KNOWN, exists().where(_SAME).label("archived"))
    if after is not None:
        query = query.where(tuple_(jobs.c.tenant, jobs.c.job_id) > tuple_(after.tenant, after.job))
    found = await conn.execute(query.order_by(jobs.c.tenant, jobs.c.job_id).limit(PAGE))
    return [_known(row) for row in found]


async def one(conn: AsyncConnection, ref: JobRef) -> Known | None:
    """The row of one job; None when there is none."""
    query: Select[Any] = select(*_KNOWN, exists().where(_SAME).label("archived"))
    found = (await conn.execute(query.where(jobs.c.tenant == ref.tenant, jobs.c.job_id == ref.job))).first()
    return None if found is None else _known(found)


async def tenants_of(conn: AsyncConnection, job: JobId) -> list[Tenant]:
    """Whose job that id is, by the rows."""
    found = await conn.execute(select(jobs.c.tenant).where(jobs.c.job_id == job))
    return [Tenant(row[0]) for row in found]


async def archived_alone(conn: AsyncConnection) -> list[JobRef]:
    """Archived jobs without a row."""
    query = select(archive.c.tenant, archive.c.job_id).where(~exists().where(_SAME))
    return [JobRef(Tenant(tenant), JobId(job)) for tenant, job in await conn.execute(query)]


async def requests_of(conn: AsyncConnection, ref: JobRef) -> dict[str, RowMapping]:
    """The rows of a job's requests, by their ids."""
    query = select(requests).where(requests.c.tenant == ref.tenant, requests.c.job_id == ref.job)
    return {row["request_id"]: row for row in (await conn.execute(query)).mappings()}


async def assignees_of(conn: AsyncConnection, ref: JobRef) -> list[RowMapping]:
    """Whom the requests of a job ask, a row a name."""
    same = (requests.c.tenant == request_assignees.c.tenant) & (requests.c.request_id == request_assignees.c.request_id)
    query = select(request_assignees).join(requests, same)
    found = await conn.execute(query.where(requests.c.tenant == ref.tenant, requests.c.job_id == ref.job))
    return list(found.mappings())


async def queues(conn: AsyncConnection, seen_since: Instant) -> set[tuple[Queue, str]]:
    """Queue and priority of every open job, and of every runner that was heard of since."""
    query = select(jobs.c.queue, jobs.c.priority).where(jobs.c.ended_at.is_(None), jobs.c.queue.is_not(None)).distinct()
    found = {(Queue(queue), str(priority)) for queue, priority in await conn.execute(query)}
    served = select(runners.c.queues, runners.c.priorities).where(runners.c.seen_at >= seen_since)
    for told, priorities in await conn.execute(served):
        levels: Iterable[str] = msgspec.json.decode(priorities)
        found |= {(Queue(queue), level) for queue in msgspec.json.decode(told) for level in levels}
    return found


async def definitions(conn: AsyncConnection) -> dict[tuple[Tenant, Digest], str]:
    """Every flow's definition by the blob that holds it too."""
    query = select(flows.c.tenant, flow_versions.c.digest, flow_versions.c.definition)
    found = await conn.execute(query.where(flow_versions.c.flow_id == flows.c.id, flows.c.kind != "python"))
    return {(Tenant(tenant), Digest(digest)): definition for tenant, digest, definition in found}


async def set_deleted(conn: AsyncConnection, ref: JobRef, at: Instant) -> None:
    """Note again that a job was deleted."""
    await conn.execute(update(jobs).where(jobs.c.tenant == ref.tenant, jobs.c.job_id == ref.job).values(deleted_at=at))


async def drop(conn: AsyncConnection, ref: JobRef) -> None:
    """Delete the rows that a projection has made of a job, to be made anew in the same transaction."""
    for table in (job_tags, requests, jobs):
        await conn.execute(delete(table).where(table.c.tenant == ref.tenant, table.c.job_id == ref.job))


def _known(row: Row[Any]) -> Known:
    values = {str(name): value for name, value in row._mapping.items()}  # the names are a subclass of str
    return msgspec.convert(values, Known, strict=False)  # SQLite's truth is 0 and 1
