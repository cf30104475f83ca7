"""Which requests wait to be reminded of: `remind_at` in their rows is the next reminder that no sweeper has told."""

from typing import Any

from msgspec import Struct
from sqlalchemy import Select, and_, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.core.instant import Instant
from perdure.db.page import PageKey
from perdure.db.record import record
from perdure.db.schema import requests
from perdure.ids import JobId, JobRef, RequestId, Tenant


class Reminding(Struct, frozen=True, kw_only=True):
    """A pending request, and when its next reminder falls."""

    tenant: Tenant
    request_id: RequestId
    job_id: JobId
    remind_at: Instant

    @property
    def ref(self) -> JobRef:
        """Tenant and job id."""
        return JobRef(self.tenant, self.job_id)


async def reminding(
    conn: AsyncConnection, now: Instant, *, limit: int, after: PageKey | None = None
) -> list[Reminding]:
    """Pending requests with a reminder that falls by `now`, by (`remind_at`, id), behind `after`; the log says."""
    by, row_id = requests.c.remind_at, requests.c.request_id
    columns = [requests.c[name] for name in Reminding.__struct_fields__]
    query: Select[Any] = select(*columns).where(requests.c.status == "pending", by.is_not(None), by <= now)
    if after is not None:
        query = query.where(or_(by > after[0], and_(by == after[0], row_id > after[1])))
    found = await conn.execute(query.order_by(by, row_id).limit(limit))
    return [record(row, Reminding) for row in found]


async def reminded(conn: AsyncConnection, told: Reminding, then: Instant | None) -> None:
    """Note that all reminders before `then` are told, unless somebody has noted so meanwhile. Needs a transaction."""
    mine = (requests.c.tenant == told.tenant, requests.c.request_id == told.request_id)
    await conn.execute(update(requests).where(*mine, requests.c.remind_at == told.remind_at).values(remind_at=then))
