"""Which kinds of flows runners of a queue have ever said that they execute: whoever never will is told so at submit."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.core.instant import Instant
from perdure.db.schema import insert, served
from perdure.ids import Queue


async def note(conn: AsyncConnection, queues: Sequence[Queue], kind: str, now: Instant) -> None:
    """A runner of these queues executes flows of `kind`; again changes nothing."""
    rows = [{"queue": queue, "kind": kind, "first_seen_at": now} for queue in queues]
    await conn.execute(insert(conn, served).on_conflict_do_nothing(), rows)


async def ever(conn: AsyncConnection, queue: Queue, kind: str) -> bool:
    """Whether any runner of `queue` ever said that it executes flows of `kind`."""
    query = select(served.c.queue).where(served.c.queue == queue, served.c.kind == kind)
    return (await conn.execute(query)).first() is not None
