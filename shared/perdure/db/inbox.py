"""The projection of requests: what each event changes about them, the rows of the inbox, and its lists."""

from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct
from sqlalchemy import ColumnElement, Row, Select, and_, delete, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.core import event as ev
from perdure.core.event import AnyEvent
from perdure.core.instant import Instant
from perdure.core.machine import JobState
from perdure.db.page import Page, PageKey, keyset
from perdure.db.record import record, storable
from perdure.db.schema import insert, requests
from perdure.ids import FlowId, JobId, JobRef, Principal, RequestId, Tenant

LAST: Final = "9999-12-31T23:59:59.999Z"  # what a request without a deadline sorts by

RequestStatus = Literal["pending", "answered", "expired", "withdrawn"]
Settling = ev.AnsweredData | ev.ExpiredData | ev.WithdrawnData


class Change(Struct, frozen=True):
    """Where a request is after an event. A request that is open when its job ends is withdrawn by that end."""

    request: ev.Request
    status: RequestStatus
    settled_at: Instant | None = None
    settled_seq: int | None = None
    settled_by: Principal | None = None
    action: str | None = None


class RequestRow(Struct, frozen=True, kw_only=True):
    """A row of `requests`; `record` is the request whole, as last stated."""

    tenant: Tenant
    request_id: RequestId
    job_id: JobId
    status: RequestStatus
    revision: int
    kind: str
    name: str
    title: str
    flow_id: FlowId | None
    flow_name: str | None
    record: ev.Request
    asked_at: Instant
    expires_at: Instant | None
    urgent_at: Instant
    settled_at: Instant | None
    settled_seq: int | None
    settled_by: Principal | None
    action: str | None


_COLUMNS: Final = tuple(requests.c[name] for name in RequestRow.__struct_fields__)


class InboxFilter(Struct, frozen=True, kw_only=True):
    """What a list of requests is narrowed to; everything given must hold. `flows` are ids or names."""

    statuses: Sequence[RequestStatus] = ("pending",)
    flows: Sequence[str] = ()
    jobs: Sequence[str] = ()
    kinds: Sequence[str] = ()
    expires_before: Instant | None = None


PENDING: Final = InboxFilter()
Order = Literal["urgency", "asked"]


def changes(before: JobState, event: AnyEvent, after: JobState) -> list[Change]:
    """What `event`, which led from `before` to `after`, changes about requests."""
    match event:
        case ev.InputRequested(data=data):
            return [Change(after.asked[data.request.id], "pending")]
        case ev.InputAnswered(data=data):
            return [Change(before.asked[data.request_id], "answered", event.at, event.seq, data.by, data.action)]
        case ev.InputExpired(data=data):
            request = before.asked[data.request_id]
            return [Change(request, "expired", event.at, event.seq, action=data.outcome.action)]
        case ev.InputWithdrawn(data=data):
            return [Change(before.asked[data.request_id], "withdrawn", event.at, event.seq, data.by)]
        case _ if after.terminal:
            return [Change(request, "withdrawn", event.at, event.seq) for request in before.asked.values()]
        case _:
            return []


async def write(conn: AsyncConnection, ref: JobRef, flow: ev.FlowRef, changed: Iterable[Change]) -> None:
    """Write the rows of `ref`'s changed requests, the last change of each. Only in the transaction, and behind the
    guard, that wrote the job's own row.
    """
    last = {change.request.id: change for change in changed}
    if not last:
        return
    statement = insert(conn, requests)
    names = [name for name in RequestRow.__struct_fields__ if name not in ("tenant", "request_id", "job_id")]
    statement = statement.on_conflict_do_update(
        index_elements=[requests.c.tenant, requests.c.request_id],
        set_={name: statement.excluded[name] for name in names},
    )
    await conn.execute(statement, [_values(ref, flow, change) for change in last.values()])


async def forget_pending(conn: AsyncConnection, shard: int, shards: int) -> None:
    """Delete the pending requests of a shard that is projected again from 0; those that are still asked come back."""
    digits = [f"{d:x}" for d in range(16) if d % shards == shard]
    shard_digit = func.substr(requests.c.job_id, 36, 1)  # the last of a job id, as in `bus.subject`
    await conn.execute(delete(requests).where(requests.c.status == "pending", shard_digit.in_(digits)))


async def get_request(conn: AsyncConnection, tenant: Tenant, request_id: RequestId) -> RequestRow | None:
    """One request of a tenant; None when the projection has none (a writer reads the log instead)."""
    query: Select[Any] = select(*_COLUMNS).where(requests.c.tenant == tenant, requests.c.request_id == request_id)
    found = (await conn.execute(query)).first()
    return None if found is None else _row(found)


async def list_requests(
    conn: AsyncConnection,
    tenant: Tenant,
    narrow: InboxFilter = PENDING,
    *,
    order: Order = "urgency",
    limit: int = 50,
    after: PageKey | None = None,
) -> Page[RequestRow]:
    """A page of a tenant's requests: by urgency (the next to expire first, those that never do last) or as asked
    (newest first). `after` is the `next` of the page before.
    """
    urgent = order == "urgency"
    by = requests.c.urgent_at if urgent else requests.c.asked_at
    query: Select[Any] = select(*_COLUMNS).where(requests.c.tenant == tenant, *_conditions(narrow))
    query = keyset(query, by, requests.c.request_id, descending=not urgent, limit=limit, after=after)
    rows = tuple(map(_row, (await conn.execute(query)).all()))
    if len(rows) <= limit:
        return Page(rows)
    last = rows[limit - 1]
    return Page(rows[:limit], (last.urgent_at if urgent else last.asked_at, last.request_id))


def _conditions(narrow: InboxFilter) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if narrow.statuses:
        found.append(requests.c.status.in_(narrow.statuses))
    if narrow.flows:
        found.append(or_(requests.c.flow_id.in_(narrow.flows), requests.c.flow_name.in_(narrow.flows)))
    if narrow.jobs:
        found.append(requests.c.job_id.in_(narrow.jobs))
    if narrow.kinds:
        found.append(requests.c.kind.in_(narrow.kinds))
    if narrow.expires_before is not None:
        found.append(and_(requests.c.expires_at.is_not(None), requests.c.expires_at < narrow.expires_before))
    return found


def _values(ref: JobRef, flow: ev.FlowRef, change: Change) -> dict[str, object]:
    request = change.request
    return {
        "tenant": ref.tenant,
        "request_id": request.id,
        "job_id": ref.job,
        "status": change.status,
        "revision": request.revision,
        "kind": request.kind,
        "name": storable(request.name),
        "title": storable(request.title),
        "flow_id": flow.id,
        "flow_name": storable(flow.name),
        "record": msgspec.json.encode(request).decode(),
        "asked_at": request.asked_at,
        "expires_at": request.expires_at,
        "urgent_at": request.expires_at or LAST,
        "settled_at": change.settled_at,
        "settled_seq": change.settled_seq,
        "settled_by": change.settled_by,
        "action": storable(change.action),
    }


def _row(found: Row[Any]) -> RequestRow:
    return record(found, RequestRow, json=("record",))
