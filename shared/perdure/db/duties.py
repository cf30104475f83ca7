"""Duties that are done once a day by whichever sweeper comes first: when each began and ended last."""

from typing import Final

from sqlalchemy import or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.core.instant import Instant, later
from perdure.db.schema import duties, insert

AGAIN_SECONDS: Final = 3600.0  # a sweeper that began so long ago and has not ended is taken for dead


async def begin(conn: AsyncConnection, name: str, now: Instant, period_seconds: float) -> bool:
    """Take the duty `name` when it is due at `now`; whether this call took it. Only in a transaction."""
    fresh = {"name": name, "started_at": now, "ended_at": None}
    made = insert(conn, duties).values(fresh).on_conflict_do_nothing().returning(duties.c.name)
    if (await conn.execute(made)).first() is not None:
        return True
    dead = duties.c.ended_at.is_(None) & (duties.c.started_at <= later(now, -AGAIN_SECONDS))
    due = or_(dead, duties.c.started_at <= later(now, -period_seconds))
    taken = update(duties).where(duties.c.name == name, due).values(started_at=now, ended_at=None)
    return (await conn.execute(taken)).rowcount == 1


async def end(conn: AsyncConnection, name: str, started_at: Instant, now: Instant) -> None:
    """Note that the duty that began at `started_at` is done."""
    mine = (duties.c.name == name, duties.c.started_at == started_at)
    await conn.execute(update(duties).where(*mine).values(ended_at=now))


async def last(conn: AsyncConnection, name: str) -> tuple[Instant, Instant | None] | None:
    """When the duty began and ended last; None when it never has."""
    found = (await conn.execute(select(duties.c.started_at, duties.c.ended_at).where(duties.c.name == name))).first()
    return None if found is None else (found[0], found[1])
