"""The archive: logs as they were, compressed, after the broker has purged them; and what retention asks of the rows.

The events of a row are the bodies as they lay in the log, one a line (JSON has no raw line end inside), compressed with
zlib. Nothing else may read them but `unpack`.
"""

import zlib
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct
from sqlalchemy import ColumnElement, Select, and_, delete, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.core.instant import Instant
from perdure.db.page import PageKey
from perdure.db.record import record
from perdure.db.schema import archive, insert, job_tags, jobs, requests
from perdure.ids import Digest, JobId, JobRef, StreamSeq, Tenant


class Ended(Struct, frozen=True, kw_only=True):
    """The row of an ended job, as far as retention needs it."""

    tenant: Tenant
    job_id: JobId
    epoch: int
    seq: int
    stream_seq: StreamSeq
    ended_at: Instant
    fingerprint: Digest | None
    deleted_at: Instant | None
    purged_at: Instant | None

    @property
    def ref(self) -> JobRef:
        """Tenant and job id."""
        return JobRef(self.tenant, self.job_id)


_ENDED: Final = tuple(jobs.c[name] for name in Ended.__struct_fields__)
_WHOLE: Final = jobs.c.quarantined.is_(None)


def pack(bodies: Iterable[bytes]) -> bytes:
    """The events of a log as the archive keeps them."""
    return zlib.compress(b"\n".join(bodies), 6)


def unpack(events: bytes) -> list[bytes]:
    """The bodies that `pack` was given."""
    return zlib.decompress(events).split(b"\n")


async def put(conn: AsyncConnection, job: Ended, events: bytes | None, refs: Iterable[Digest], at: Instant) -> None:
    """Archive an ended job; what is there already stays, unless `events` is None: then the job was deleted, and its row
    keeps nothing but that it was.
    """
    values = {
        "tenant": job.tenant, "job_id": job.job_id, "seq": job.seq, "ended_at": job.ended_at,
        "fingerprint": job.fingerprint, "events": events, "refs": msgspec.json.encode(sorted(set(refs))).decode(),
        "archived_at": at, "deleted_at": job.deleted_at,
    }  # fmt: skip
    statement = insert(conn, archive).values(values)
    key = [archive.c.tenant, archive.c.job_id]
    if events is None:
        emptied = {"events": None, "refs": "[]", "deleted_at": job.deleted_at}
        await conn.execute(statement.on_conflict_do_update(index_elements=key, set_=emptied))
    else:
        await conn.execute(statement.on_conflict_do_nothing(index_elements=key))


async def holds(conn: AsyncConnection, ref: JobRef) -> bool:
    """Whether the archive knows the job, deleted or not."""
    return (await conn.execute(select(archive.c.seq).where(_is(archive, ref)))).first() is not None


async def events_of(conn: AsyncConnection, ref: JobRef) -> list[bytes] | None:
    """The bodies of an archived log, in order; None for a job that is not there, or was deleted."""
    found = (await conn.execute(select(archive.c.events).where(_is(archive, ref)))).first()
    return None if found is None or found[0] is None else unpack(found[0])


async def kept(conn: AsyncConnection, until: Instant, *, limit: int, after: PageKey | None = None) -> list[Ended]:
    """Jobs that ended until then and whose logs were not purged, by (`ended_at`, id), behind `after`; deleted ones are
    `deleted`'s.
    """
    conditions = (jobs.c.ended_at.is_not(None), jobs.c.purged_at.is_(None), jobs.c.ended_at <= until, _WHOLE)
    return await _ended(conn, [*conditions, jobs.c.deleted_at.is_(None)], limit, after)


async def purged(conn: AsyncConnection, until: Instant, *, limit: int, after: PageKey | None = None) -> list[Ended]:
    """Jobs that ended until then and whose logs were purged, likewise."""
    return await _ended(conn, [jobs.c.purged_at.is_not(None), jobs.c.ended_at <= until], limit, after)


async def deleted(conn: AsyncConnection, *, limit: int, after: PageKey | None = None) -> list[Ended]:
    """Ended jobs that somebody deleted and whose logs were not purged since, likewise."""
    behind = or_(jobs.c.purged_at.is_(None), jobs.c.purged_at <= jobs.c.deleted_at)
    return await _ended(conn, [jobs.c.deleted_at.is_not(None), jobs.c.ended_at.is_not(None), behind], limit, after)


async def mark_purged(conn: AsyncConnection, job: Ended, at: Instant) -> None:
    """Note that the log which `job` was read of is purged."""
    same = (_is(jobs, job.ref), jobs.c.epoch == job.epoch, jobs.c.seq == job.seq)
    await conn.execute(update(jobs).where(*same).values(purged_at=at))


async def empty(conn: AsyncConnection, ref: JobRef) -> None:
    """Take everything that its users put into it out of the row of a deleted job."""
    await conn.execute(delete(job_tags).where(_is(job_tags, ref)))
    await conn.execute(delete(requests).where(_is(requests, ref)))
    nothing = dict.fromkeys(("session_id", "progress", "outputs", "error", "usage"))
    values: dict[str, object] = {**nothing, "tags": "{}", "requests": "[]", "waiting": "[]", "open_requests": 0}
    await conn.execute(update(jobs).where(_is(jobs, ref)).values(values))


async def forget(conn: AsyncConnection, ref: JobRef) -> None:
    """Delete all rows of a job: its tombstone goes in the same breath."""
    for table in (archive, job_tags, requests, jobs):
        await conn.execute(delete(table).where(_is(table, ref)))


async def _ended(
    conn: AsyncConnection, conditions: Sequence[ColumnElement[bool]], limit: int, after: PageKey | None
) -> list[Ended]:
    query: Select[Any] = select(*_ENDED).where(*conditions)
    if after is not None:
        later = and_(jobs.c.ended_at == after[0], jobs.c.job_id > after[1])
        query = query.where(or_(jobs.c.ended_at > after[0], later))
    found = await conn.execute(query.order_by(jobs.c.ended_at, jobs.c.job_id).limit(limit))
    return [record(row, Ended) for row in found]


def _is(table: Any, ref: JobRef) -> ColumnElement[bool]:  # Any: each of the tables has these two columns
    return and_(table.c.tenant == ref.tenant, table.c.job_id == ref.job)
