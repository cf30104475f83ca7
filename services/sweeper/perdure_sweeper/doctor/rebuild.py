"""Makes the projection anew beside the living one, then puts it in its place in one transaction.

The new rows are made in temporary tables of one connection, which hide the real ones from every statement on it: so the
projection's own code writes them. Then, under the locks of all positions: archived rows are carried over, as is what
SQL itself knows of a row (that a job was deleted, which reminders were told), the real rows give way, the positions say
how far the new ones are, in the next epoch. Sweepers go on from there.
"""

from typing import Final

from msgspec.structs import replace
from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.bus.connection import Bus
from perdure.bus.entry import Stored
from perdure.bus.eventlog import EventLog
from perdure.db import positions
from perdure.db.engine import Database
from perdure.db.positions import Position
from perdure.db.schema import job_tags, jobs, request_assignees, requests
from perdure.ids import StreamSeq
from perdure_sweeper.doctor.report import Pace
from perdure_sweeper.folds import Folds
from perdure_sweeper.projector import write_rows

FOLDS: Final = 50_000  # of open jobs kept in memory: a log is read once only
KEYS: Final[dict[Table, str]] = {
    jobs: "tenant, job_id",
    job_tags: "tenant, job_id, name",
    requests: "tenant, request_id",
    request_assignees: "tenant, request_id, who",
}


async def rebuild(database: Database, eventlog: EventLog, bus: Bus, shards: int, pace: Pace) -> int:
    """Project every log from its beginning and put the rows in the place of those that are there; how many rows.

    Raises Unavailable: then nothing has changed. `database` must be one of its own: on other connections nothing is
    hidden, but statements that this one prepared before would not see the new tables.
    """
    async with database.session() as conn:
        real = "main" if database.dialect == "sqlite" else await _schema(conn)
        async with conn.begin():
            for table, key in KEYS.items():
                await _run(
                    conn, f"CREATE TEMPORARY TABLE {table.name} AS SELECT * FROM {real}.{table.name} WHERE 1 = 0"
                )
                index = f"rebuilt_{table.name}"
                where = f"temp.{index} ON {table.name}" if database.dialect == "sqlite" else f"{index} ON {table.name}"
                await _run(conn, f"CREATE UNIQUE INDEX {where} ({key})")
        try:
            reached = [await _shard(conn, eventlog, shard, pace) for shard in range(shards)]
            return await _swap(conn, real, reached)
        finally:
            async with conn.begin():
                for table in reversed(KEYS):
                    await _run(conn, f"DROP TABLE {'temp' if database.dialect == 'sqlite' else 'pg_temp'}.{table.name}")


async def _shard(conn: AsyncConnection, eventlog: EventLog, shard: int, pace: Pace) -> Position:
    """Project a shard into the new tables; where it ends."""
    info = await eventlog.shards.info(shard)
    async with conn.begin():
        known = await positions.ensure(conn, shard, info.created_at)
    position = replace(
        known, epoch=known.epoch + 1, applied=StreamSeq(0), event_id=None, stream_created_at=info.created_at
    )
    folds = Folds(eventlog, FOLDS)
    while batch := (await eventlog.shards.scan(shard, position.applied)).entries:
        folded = await folds.fold(batch)
        async with conn.begin():
            await write_rows(conn, folded, position.epoch)
        folds.keep(folded)
        last = batch[-1]
        event_id = last.event.id if isinstance(last, Stored) else None
        position = replace(position, applied=last.at, event_id=event_id)
        await pace.spend()
    return position


async def _swap(conn: AsyncConnection, real: str, reached: list[Position]) -> int:
    async with conn.begin():
        for position in reached:
            found = await positions.get(conn, position.shard, lock=True)
            announced = found.announced if found is not None else position.announced
            await positions.put(conn, replace(position, announced=announced))
        # An archived job has no log to make its row of.
        same = "n.tenant = o.tenant AND n.job_id = o.job_id"
        unknown = f"purged_at IS NOT NULL AND NOT EXISTS (SELECT 1 FROM jobs AS n WHERE {same})"
        archived = f"SELECT o.tenant, o.job_id FROM {real}.jobs AS o WHERE {unknown}"
        of_job = f"JOIN ({archived}) AS a ON a.tenant = r.tenant AND a.job_id = r.job_id"
        of_request = (
            f"JOIN {real}.requests AS q ON q.tenant = r.tenant AND q.request_id = r.request_id "
            f"JOIN ({archived}) AS a ON a.tenant = q.tenant AND a.job_id = q.job_id"
        )
        for table in reversed(KEYS):
            columns = ", ".join(f"r.{column.name}" for column in table.columns)
            names = ", ".join(column.name for column in table.columns)
            joined = of_request if table is request_assignees else of_job
            await _run(
                conn, f"INSERT INTO {table.name} ({names}) SELECT {columns} FROM {real}.{table.name} AS r {joined}"
            )
        deleted = f"SELECT o.deleted_at FROM {real}.jobs AS o WHERE o.tenant = jobs.tenant AND o.job_id = jobs.job_id"
        await _run(conn, f"UPDATE jobs SET deleted_at = ({deleted})")
        same = "o.tenant = requests.tenant AND o.request_id = requests.request_id"
        told = f"{real}.requests AS o WHERE {same}"
        await _run(
            conn,
            f"UPDATE requests SET remind_at = (SELECT o.remind_at FROM {told}) "
            f"WHERE EXISTS (SELECT 1 FROM {told} AND o.tags IS NOT NULL)",
        )
        for table in reversed(KEYS):
            await _run(conn, f"DELETE FROM {real}.{table.name}")
        made = [await _copy(conn, real, table) for table in KEYS]
    return made[0]


async def _copy(conn: AsyncConnection, real: str, table: Table) -> int:
    names = ", ".join(column.name for column in table.columns)
    return await _run(conn, f"INSERT INTO {real}.{table.name} ({names}) SELECT {names} FROM {table.name}")


async def _schema(conn: AsyncConnection) -> str:
    async with conn.begin():
        found = await conn.exec_driver_sql("SELECT quote_ident(current_schema())")
        return str(found.scalar_one())


async def _run(conn: AsyncConnection, statement: str) -> int:
    """Names of ours alone are put together in `statement`; how many rows it touched."""
    return (await conn.exec_driver_sql(statement)).rowcount
