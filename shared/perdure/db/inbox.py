"""The inbox: lists of requests and their counts, each one query.

A page is found in one index and only its own rows are read: whoever is asked for has a row in `request_assignees` which
holds everything that lists are narrowed and sorted by. For each name and status the first rows in order are taken, and
of these the first: so 100,000 pending requests cost what 50 do.
"""

from collections.abc import Sequence
from typing import Any, Final, Literal, get_args

from msgspec import Struct
from sqlalchemy import ColumnElement, FromClause, Row, Select, and_, case, exists, func, or_, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.core import event as ev
from perdure.core.instant import Instant
from perdure.db.page import Page, PageKey, keyset
from perdure.db.record import record
from perdure.db.requestrows import RequestStatus as RequestStatus
from perdure.db.schema import job_tags, request_assignees, requests
from perdure.db.whom import NOT, asked_by, by_name
from perdure.ids import FlowId, JobId, Principal, RequestId, Tenant

STATUSES: Final[tuple[RequestStatus, ...]] = get_args(RequestStatus)
BRANCHES: Final = 64  # of a union; more names than that share them, a little slower
JOB_ID: Final = 36  # characters: what a request's id begins with


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
    tags: dict[str, str] | None
    overdue_at: Instant | None
    votes: int
    tally: tuple[ev.Tally, ...] | None


_COLUMNS: Final = tuple(requests.c[name] for name in RequestRow.__struct_fields__)


class InboxFilter(Struct, frozen=True, kw_only=True):
    """What a list of requests is narrowed to; everything given must hold.

    `flows` are ids or names, `tags` names and values of the job's. `assignees` are `user:x`, `group:x`, `anyone` (or
    `anyone:execute`, `anyone:answer` alone): any of them. With exactly one principal among them what that one has
    handed on is left out; with an `asker`, what that one has, whoever is among them. `overdue_at`: the first reminder
    or escalation lies then or before.
    """

    statuses: Sequence[RequestStatus] = ("pending",)
    flows: Sequence[str] = ()
    jobs: Sequence[str] = ()
    kinds: Sequence[str] = ()
    tags: Sequence[tuple[str, str]] = ()
    assignees: Sequence[str] = ()
    asker: Principal | None = None
    expires_before: Instant | None = None
    overdue_at: Instant | None = None


class Count(Struct, frozen=True):
    """How many requests are of one status, kind and flow, and how many of those are overdue."""

    status: RequestStatus
    kind: str
    flow_id: FlowId | None
    flow_name: str | None
    requests: int
    overdue: int


PENDING: Final = InboxFilter()
Order = Literal["urgency", "asked", "oldest"]


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
    (newest first, or `oldest`). `after` is the `next` of the page before.
    """
    rows = tuple(map(_row, (await conn.execute(page_query(tenant, narrow, order, limit, after))).all()))
    if len(rows) <= limit:
        return Page(rows)
    last = rows[limit - 1]
    return Page(rows[:limit], (last.urgent_at if order == "urgency" else last.asked_at, last.request_id))


def page_query(tenant: Tenant, narrow: InboxFilter, order: Order, limit: int, after: PageKey | None) -> Select[Any]:
    """The rows of a page, and one more where there is another page."""
    name, newest = "urgent_at" if order == "urgency" else "asked_at", order == "asked"

    def first(found: FromClause, *conditions: ColumnElement[bool]) -> Select[Any]:
        at, request_id = found.c[name], found.c.request_id
        query: Select[Any] = select(at.label("at"), request_id.label("request_id")).where(*conditions)
        return keyset(query, at, request_id, descending=newest, limit=limit, after=after)

    parts = [first(found, *conditions) for found, conditions in _branches(tenant, narrow)]
    page = parts[0].subquery("page")
    if len(parts) > 1:
        both = union_all(*[select(part.subquery()) for part in parts]).subquery("parts")
        query = select(both.c.at, both.c.request_id).group_by(both.c.at, both.c.request_id)
        page = keyset(query, both.c.at, both.c.request_id, descending=newest, limit=limit, after=None).subquery("page")
    whole = and_(requests.c.tenant == tenant, requests.c.request_id == page.c.request_id)
    rows: Select[Any] = select(*_COLUMNS).select_from(page.join(requests, whole))
    by = requests.c[name]
    return rows.order_by(*((by.desc(), requests.c.request_id.desc()) if newest else (by, requests.c.request_id)))


async def count_requests(
    conn: AsyncConnection, tenant: Tenant, narrow: InboxFilter = PENDING, *, now: Instant
) -> list[Count]:
    """How many requests there are by status, kind and flow, the most first; overdue is what is so at `now`."""
    found = await conn.execute(count_query(tenant, narrow, now))
    return [record(row, Count) for row in found]


def count_query(tenant: Tenant, narrow: InboxFilter, now: Instant) -> Select[Any]:
    """One row for each status, kind and flow."""
    names = ("request_id", "status", "kind", "flow_id", "flow_name", "overdue_at")
    parts = [
        select(*[found.c[name] for name in names]).where(*conditions) for found, conditions in _branches(tenant, narrow)
    ]
    # Somebody may be asked by his name and by a group: then the union drops the second.
    one = parts[0].subquery() if len(parts) == 1 else parts[0].union(*parts[1:]).subquery()
    overdue = func.sum(case((one.c.overdue_at <= now, 1), else_=0))
    groups = (one.c.status, one.c.kind, one.c.flow_id, one.c.flow_name)
    query: Select[Any] = select(*groups, func.count().label("requests"), overdue.label("overdue")).group_by(*groups)
    return query.order_by(func.count().desc(), *groups)


def _branches(tenant: Tenant, narrow: InboxFilter) -> list[tuple[FromClause, list[ColumnElement[bool]]]]:
    """Where to look: the table and all conditions, one for each name and status, so that an index gives each sorted."""
    statuses = tuple(dict.fromkeys(narrow.statuses)) or STATUSES
    names, one = asked_by(narrow.assignees)
    one = narrow.asker or one
    if narrow.jobs:
        few = _of_jobs(tenant, narrow.jobs)
        conditions = [few.c.status.in_(statuses), *_narrowed(few, narrow)]
        if names:
            conditions.append(or_(*[_asks(few, some, one) for some in _alike(names, len(names))]))
        return [(few, conditions)]
    if not names:
        return [(requests, [*_of(requests, tenant, status), *_narrowed(requests, narrow)]) for status in statuses]
    asked = request_assignees
    branches: list[tuple[FromClause, list[ColumnElement[bool]]]] = []
    for some in _alike(names, -(-len(names) // max(1, BRANCHES // len(statuses)))):
        for status in statuses:
            who = asked.c.who == some[0] if len(some) == 1 else asked.c.who.in_(some)
            conditions = [*_of(asked, tenant, status), who, *_narrowed(asked, narrow)]
            if one is not None and not by_name(some[0]):
                conditions.append(~_handed_on(asked, one))  # last: it is a look into another index
            branches.append((asked, conditions))
    return branches


def _alike(names: Sequence[str], share: int) -> list[Sequence[str]]:
    """`names` by at most `share`; what is asked by name and what as one of many are apart."""
    kinds = [name for name in names if by_name(name)], [name for name in names if not by_name(name)]
    return [kind[n : n + share] for kind in kinds for n in range(0, len(kind), share)]


def _of(found: FromClause, tenant: Tenant, status: RequestStatus) -> list[ColumnElement[bool]]:
    return [found.c.tenant == tenant, found.c.status == status]


def _of_jobs(tenant: Tenant, of: Sequence[str]) -> FromClause:
    """The requests of some jobs, read before anything else: SQLite would rather walk all that wait, in order."""
    query: Select[Any] = select(requests).where(requests.c.tenant == tenant, requests.c.job_id.in_(of))
    return query.cte("few").prefix_with("MATERIALIZED")


def _asks(found: FromClause, names: Sequence[str], one: str | None) -> ColumnElement[bool]:
    asked = request_assignees
    same = and_(asked.c.tenant == found.c.tenant, asked.c.request_id == found.c.request_id)
    named = exists().where(same, asked.c.who.in_(names))
    return named if one is None or by_name(names[0]) else and_(named, ~_handed_on(found, one))


def _handed_on(found: FromClause, who: str) -> ColumnElement[bool]:
    gone = request_assignees.alias("gone")
    same = and_(gone.c.tenant == found.c.tenant, gone.c.request_id == found.c.request_id)
    return exists().where(same, gone.c.who == f"{NOT}{who}")


def _narrowed(found: FromClause, narrow: InboxFilter) -> list[ColumnElement[bool]]:
    """The other filters, by columns of the index alone."""
    conditions: list[ColumnElement[bool]] = []
    if narrow.flows:
        conditions.append(or_(found.c.flow_id.in_(narrow.flows), found.c.flow_name.in_(narrow.flows)))
    if narrow.kinds:
        conditions.append(found.c.kind.in_(narrow.kinds))
    for name, value in narrow.tags:
        job = func.substr(found.c.request_id, 1, JOB_ID)
        tagged = and_(job_tags.c.tenant == found.c.tenant, job_tags.c.job_id == job)
        conditions.append(exists().where(tagged, job_tags.c.name == name, job_tags.c.value == value))
    if narrow.expires_before is not None:  # what never expires is urgent last of all
        conditions.append(found.c.urgent_at < narrow.expires_before)
    if narrow.overdue_at is not None:
        conditions.append(found.c.overdue_at <= narrow.overdue_at)
    return conditions


def _row(found: Row[Any]) -> RequestRow:
    return record(found, RequestRow, json=("record", "tags", "tally"))
