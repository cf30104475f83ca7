"""The projection of jobs: the guarded upsert that makes a row from a fold, and the questions lists and sweeper ask."""

from collections.abc import Sequence
from functools import cache
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct
from sqlalchemy import ColumnElement, Row, Select, and_, exists, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.core import event as ev
from perdure.core.alarm import decides_at
from perdure.core.claim import ready_at
from perdure.core.event import Status
from perdure.core.instant import Instant
from perdure.core.machine import JobState
from perdure.core.reason import reason
from perdure.db.page import Page, PageKey, keyset
from perdure.db.record import record, storable
from perdure.db.schema import insert, job_tags, jobs
from perdure.ids import Digest, FlowId, JobId, JobRef, Principal, Queue, RequestId, StreamSeq, Tenant

Quarantine = Literal["broken", "unsupported"]
"""Why a log cannot be folded: it is broken, or only a newer version can read it."""


class ShortRequest(Struct, frozen=True, omit_defaults=True):
    """An open request as a list of jobs shows it."""

    id: RequestId
    name: str
    kind: str
    title: str
    expires_at: Instant | None = None


class JobRow(Struct, frozen=True, kw_only=True):
    """A row of `jobs`: the fold of the first `seq` events. User values are in `outputs` and `progress`."""

    tenant: Tenant
    job_id: JobId
    epoch: int
    seq: int
    stream_seq: StreamSeq
    status: Status
    reason: str | None
    flow_id: FlowId | None
    flow_name: str | None
    flow_version: int | None
    flow_kind: str | None
    owner: Principal | None
    session_id: str | None
    queue: Queue | None
    priority: Literal["low", "normal", "high"] | None
    tags: dict[str, str]
    parent: ev.Parent | None
    attempt: int
    failures: int
    fingerprint: Digest | None
    created_at: Instant
    started_at: Instant | None
    updated_at: Instant
    ended_at: Instant | None
    not_before: Instant | None
    deadline_at: Instant | None
    wake_at: Instant | None
    next_due_at: Instant | None
    ready_at: Instant | None
    waiting: tuple[ev.Waiting, ...]
    requests: tuple[ShortRequest, ...]
    progress: ev.ProgressData | None
    outputs: dict[str, Any] | None  # Any: what users' flows make
    error: ev.Failure | None
    usage: ev.Usage | None
    quarantined: Quarantine | None
    deleted_at: Instant | None

    @property
    def ref(self) -> JobRef:
        """Tenant and job id."""
        return JobRef(self.tenant, self.job_id)


_JSON: Final = frozenset({"tags", "parent", "waiting", "requests", "progress", "outputs", "error", "usage"})
COLUMNS: Final = tuple(jobs.c[name] for name in JobRow.__struct_fields__)


class JobFilter(Struct, frozen=True, kw_only=True):
    """What a list is narrowed to; everything given must hold. `flows` are ids or names, `tags` names and values."""

    statuses: Sequence[Status] = ()
    flows: Sequence[str] = ()
    tags: Sequence[tuple[str, str]] = ()
    sessions: Sequence[str] = ()
    owners: Sequence[str] = ()
    parents: Sequence[str] = ()
    waiting_for_person: bool = False
    created_after: Instant | None = None
    created_before: Instant | None = None
    updated_after: Instant | None = None


EVERYTHING: Final = JobFilter()
Order = Literal["created", "updated"]


async def upsert(conn: AsyncConnection, ref: JobRef, state: JobState, stream_seq: StreamSeq, *, epoch: int = 1) -> bool:
    """Make the row of `ref` the fold `state`, whose last event lies at `stream_seq`; whether anything was written."""
    return bool(await upsert_all(conn, [(ref, state, stream_seq)], epoch=epoch))


async def upsert_all(
    conn: AsyncConnection, folds: Sequence[tuple[JobRef, JobState, StreamSeq]], *, epoch: int = 1
) -> set[JobRef]:
    """Make the row of each job its fold, whose last event lies at the stream sequence beside it; which were written.

    Guarded: a row never goes back to a lower `seq`, however many projectors write, unless `epoch` is higher: then its
    log was replaced (a restored backup) and the new one counts from its first event. A tombstone (a log purged down to
    its terminal event) writes nothing: the row that retention left says more. No job comes twice.
    """
    told = {ref: (job, job.submitted, at) for ref, job, at in folds if job.submitted is not None}
    rows = [_values(ref, job, asked, at, epoch) for ref, (job, asked, at) in told.items()]
    if not rows:
        return set()
    statement = _guarded(conn.dialect.name, tuple(rows[0]))
    found = (await conn.execute(statement.returning(jobs.c.tenant, jobs.c.job_id), rows)).all()
    written = {JobRef(Tenant(tenant), JobId(job)) for tenant, job in found}
    tags = [
        {"tenant": ref.tenant, "job_id": ref.job, "name": name, "value": value}
        for ref, (_, asked, _) in told.items()
        if ref in written
        for name, value in asked.tags.items()
    ]
    if tags:
        await conn.execute(insert(conn, job_tags).on_conflict_do_nothing(), tags)
    return written


@cache
def _guarded(dialect: str, columns: tuple[str, ...]) -> sqlite.Insert | postgresql.Insert:
    """The upsert of a row that never goes back. Made once: building it costs more than running it."""
    statement = sqlite.insert(jobs) if dialect == "sqlite" else postgresql.insert(jobs)
    new = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=[jobs.c.tenant, jobs.c.job_id],
        set_={name: new[name] for name in columns if name not in ("tenant", "job_id")},
        where=or_(jobs.c.epoch < new.epoch, and_(jobs.c.epoch == new.epoch, jobs.c.seq < new.seq)),
    )


async def quarantine(
    conn: AsyncConnection, ref: JobRef, why: Quarantine, noticed_at: Instant, at: StreamSeq, *, epoch: int = 1
) -> bool:
    """Mark the row of a log that cannot be folded; whether that is news. Where there is no row yet it makes one, with
    nothing but the instant and the stream sequence at which it was noticed. Nobody rings a quarantined job.
    """
    known = (await conn.execute(select(jobs.c.quarantined).where(_is(ref)))).first()
    if known is not None:
        await conn.execute(update(jobs).where(_is(ref)).values(quarantined=why))
        return bool(known[0] != why)
    values = {
        "tenant": ref.tenant, "job_id": ref.job, "epoch": epoch, "seq": 0, "stream_seq": at, "status": Status.QUEUED,
        "tags": "{}", "attempt": 0, "failures": 0, "created_at": noticed_at, "updated_at": noticed_at,
        "waiting": "[]", "requests": "[]", "open_requests": 0, "quarantined": why,
    }  # fmt: skip
    await conn.execute(insert(conn, jobs).values(values))
    return True


async def get_row(conn: AsyncConnection, ref: JobRef) -> JobRow | None:
    """The row of one job, deleted or not; None when there is none."""
    found = (await conn.execute(select(*COLUMNS).where(_is(ref)))).first()
    return None if found is None else row_of(found)


async def list_jobs(
    conn: AsyncConnection,
    tenant: Tenant,
    narrow: JobFilter = EVERYTHING,
    *,
    order: Order = "created",
    limit: int = 50,
    after: PageKey | None = None,
) -> Page[JobRow]:
    """A page of a tenant's jobs, newest first; deleted ones are not there. `after` is the `next` of the page before."""
    by = jobs.c.created_at if order == "created" else jobs.c.updated_at
    query: Select[Any] = select(*COLUMNS).where(
        jobs.c.tenant == tenant, jobs.c.deleted_at.is_(None), *_conditions(narrow)
    )
    query = keyset(query, by, jobs.c.job_id, descending=True, limit=limit, after=after)
    rows = tuple(map(row_of, (await conn.execute(query)).all()))
    if len(rows) <= limit:
        return Page(rows)
    last = rows[limit - 1]
    return Page(rows[:limit], (last.created_at if order == "created" else last.updated_at, last.job_id))


async def count_by_status(conn: AsyncConnection, tenant: Tenant) -> dict[Status, int]:
    """How many jobs of a tenant are where; statuses without jobs are absent."""
    query = select(jobs.c.status, func.count()).where(jobs.c.tenant == tenant, jobs.c.deleted_at.is_(None))
    return {Status(status): n for status, n in (await conn.execute(query.group_by(jobs.c.status))).all()}


def _is(ref: JobRef) -> ColumnElement[bool]:
    return and_(jobs.c.tenant == ref.tenant, jobs.c.job_id == ref.job)


def _conditions(narrow: JobFilter) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if narrow.statuses:
        found.append(jobs.c.status.in_([s.value for s in narrow.statuses]))
    if narrow.flows:
        found.append(or_(jobs.c.flow_id.in_(narrow.flows), jobs.c.flow_name.in_(narrow.flows)))
    for name, value in narrow.tags:
        same = and_(job_tags.c.tenant == jobs.c.tenant, job_tags.c.job_id == jobs.c.job_id)
        found.append(exists().where(same, job_tags.c.name == name, job_tags.c.value == value))
    if narrow.sessions:
        found.append(jobs.c.session_id.in_(narrow.sessions))
    if narrow.owners:
        found.append(jobs.c.owner.in_(narrow.owners))
    if narrow.parents:
        found.append(jobs.c.parent_job_id.in_(narrow.parents))
    if narrow.waiting_for_person:
        found.append(jobs.c.open_requests > 0)
    if narrow.created_after is not None:
        found.append(jobs.c.created_at > narrow.created_after)
    if narrow.created_before is not None:
        found.append(jobs.c.created_at < narrow.created_before)
    if narrow.updated_after is not None:
        found.append(jobs.c.updated_at > narrow.updated_after)
    return found


def _values(ref: JobRef, job: JobState, asked: ev.SubmittedData, at: StreamSeq, epoch: int) -> dict[str, object]:
    """The row: explicit columns, in the order of the table."""
    sleep = job.suspension.data if job.suspension is not None else None
    short = [ShortRequest(r.id, r.name, r.kind, r.title, r.expires_at) for r in job.asked.values()]
    completed = job.end if isinstance(job.end, ev.CompletedData) else None
    return {
        "tenant": ref.tenant,
        "job_id": ref.job,
        "epoch": epoch,
        "seq": job.seq,
        "stream_seq": at,
        "status": job.status,
        "reason": reason(job),
        "flow_id": asked.flow.id,
        "flow_name": storable(asked.flow.name),
        "flow_version": asked.flow.version,
        "flow_kind": asked.flow.kind,
        "owner": asked.owner,
        "session_id": storable(asked.session_id),
        "queue": asked.queue,
        "priority": asked.priority,
        "tags": _json(asked.tags),
        "parent": _json(asked.parent),
        "parent_job_id": asked.parent.job_id if asked.parent is not None else None,
        "attempt": job.attempt,
        "failures": job.failures,
        "fingerprint": job.fingerprint,
        "created_at": job.submitted_at,
        "started_at": job.started_at,
        "updated_at": job.updated_at,
        "ended_at": job.ended_at,
        "not_before": asked.not_before,
        "deadline_at": asked.deadline_at,
        "wake_at": sleep.wake_at if sleep is not None else None,
        "next_due_at": decides_at(job),
        "ready_at": ready_at(job),
        "waiting": _json(sleep.waiting if sleep is not None else ()),
        "requests": _json(short),
        "open_requests": len(short),
        "progress": _json(job.progress),
        "outputs": _json(completed.outputs) if completed is not None else None,
        "error": _json(job.end.error) if isinstance(job.end, ev.FailedData) else None,
        "usage": _json(completed.usage) if completed is not None else None,
        "quarantined": None,  # it folds again
        "purged_at": None,  # after a restored backup its log is back
    }


def _json(value: object) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


def row_of(found: Row[Any]) -> JobRow:
    """A result of a query for COLUMNS."""
    return record(found, JobRow, json=_JSON)
