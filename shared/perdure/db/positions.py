"""How far each shard's logs are in the rows, and how far that was announced. Locked by whoever moves it."""

from msgspec import Struct
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.db.record import record
from perdure.db.schema import insert, positions
from perdure.ids import EventId, StreamSeq


class Position(Struct, frozen=True, kw_only=True):
    """One shard. `applied` and `announced` are stream sequences (0: nothing yet), `event_id` is the one at `applied`.

    `epoch` counts the projections from 0: it rises when the stream turns out to be another one than `stream_created_at`
    and `event_id` say.
    """

    shard: int
    epoch: int
    applied: StreamSeq
    event_id: EventId | None
    stream_created_at: str | None
    announced: StreamSeq


async def get(conn: AsyncConnection, shard: int, *, lock: bool = False) -> Position | None:
    """The position of a shard, None before its first. With `lock` others wait until the transaction ends (SQLite's
    transactions have one writer anyway).
    """
    columns = [positions.c[name] for name in Position.__struct_fields__]
    query = select(*columns).where(positions.c.shard == shard)
    found = (await conn.execute(query.with_for_update() if lock else query)).first()
    return None if found is None else record(found, Position)


async def every(conn: AsyncConnection) -> list[Position]:
    """The positions of all shards that were ever projected."""
    columns = [positions.c[name] for name in Position.__struct_fields__]
    found = await conn.execute(select(*columns).order_by(positions.c.shard))
    return [record(row, Position) for row in found]


async def ensure(conn: AsyncConnection, shard: int, stream_created_at: str) -> Position:
    """The position of a shard, made at 0 when there is none; locked."""
    new = {"shard": shard, "epoch": 1, "applied": 0, "stream_created_at": stream_created_at, "announced": 0}
    await conn.execute(insert(conn, positions).values(new).on_conflict_do_nothing())
    position = await get(conn, shard, lock=True)
    assert position is not None  # inserted above
    return position


async def put(conn: AsyncConnection, position: Position) -> None:
    """Write what `position` says of its shard; its row is there, and locked."""
    names = [name for name in Position.__struct_fields__ if name != "shard"]
    values = {name: getattr(position, name) for name in names}
    await conn.execute(update(positions).where(positions.c.shard == position.shard).values(values))


async def announce(conn: AsyncConnection, shard: int, epoch: int, upto: StreamSeq) -> None:
    """Move `announced` forward to `upto`, unless the shard is projected anew meanwhile or it is further already."""
    mine = (positions.c.shard == shard, positions.c.epoch == epoch, positions.c.announced < upto)
    await conn.execute(update(positions).where(*mine).values(announced=upto))
