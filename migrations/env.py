"""Alembic's entry: one transaction for all revisions, under a lock, so that many may migrate at once."""

import asyncio
from typing import Final

from alembic import context
from sqlalchemy import Connection, text

from perdure.db.engine import open_database
from perdure.db.schema import metadata

LOCK: Final = 0x70657264  # "perd": Postgres' advisory lock; on SQLite BEGIN IMMEDIATE is the lock


def _migrate(connection: Connection) -> None:
    context.configure(
        connection=connection, target_metadata=metadata, render_as_batch=connection.dialect.name == "sqlite"
    )
    with context.begin_transaction():
        context.run_migrations()


async def _run(url: str) -> None:
    async with open_database(url) as database, database.transaction() as conn:
        if database.dialect == "postgresql":
            await conn.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        await conn.run_sync(_migrate)


asyncio.run(_run(context.config.attributes["url"]))
