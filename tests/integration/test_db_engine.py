"""Connections: what a database that is away is called, that it comes back, and how SQLite is set up."""

import asyncio
import os
import sqlite3
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from perdure.db import engine as engines
from perdure.db.engine import Database, database_url, open_database
from perdure.db.migrate import upgrade
from perdure.errors import Malformed, Unavailable
from perdure.testing.postgres import PostgresServer

Eventually = Callable[..., Awaitable[None]]
NEW_TENANT = text("INSERT INTO tenants (tenant, created_at) VALUES (:tenant, 'now')")


async def add(database: Database, tenant: str) -> None:
    async with database.transaction() as conn:
        await conn.execute(NEW_TENANT, {"tenant": tenant})


async def tenants(database: Database) -> list[str]:
    async with database.read() as conn:
        return [row[0] for row in await conn.execute(text("SELECT tenant FROM tenants ORDER BY tenant"))]


async def can_add(database: Database, tenant: str) -> bool:
    try:
        await add(database, tenant)
    except Unavailable:
        return False
    return True


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("sqlite:///a.db", "sqlite+aiosqlite:///a.db"),
        ("sqlite+aiosqlite:////x/a.db", "sqlite+aiosqlite:////x/a.db"),
        ("postgresql://u:p%25@h:5/d", "postgresql+asyncpg://u:p%25@h:5/d"),
        ("postgres://h/d?sslmode=require", "postgresql+asyncpg://h/d?ssl=require"),
        ("postgresql+asyncpg://h/d", "postgresql+asyncpg://h/d"),
    ],
)
def test_urls_get_our_drivers(given: str, used: str) -> None:
    assert database_url(given).render_as_string(hide_password=False) == used


def test_other_drivers_are_refused() -> None:
    with pytest.raises(Malformed, match="mysql"):
        database_url("mysql://h/d")


async def test_a_transaction_is_whole_or_nothing(database: Database) -> None:
    await add(database, "a")

    async def fail() -> None:
        async with database.transaction() as conn:
            await conn.execute(NEW_TENANT, {"tenant": "b"})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await tenants(database) == ["a"]


async def test_a_read_writes_nothing(database: Database) -> None:
    async with database.read() as conn:
        await conn.execute(NEW_TENANT, {"tenant": "a"})
    assert await tenants(database) == []


async def test_a_mistake_in_sql_is_no_outage(database: Database) -> None:
    await add(database, "a")
    with pytest.raises(IntegrityError):
        await add(database, "a")
    async with database.read() as conn:
        with pytest.raises(DBAPIError):
            await conn.execute(text("SELECT nonsense FROM nowhere"))


async def test_thirty_writers_of_one_process_wait_for_each_other(database: Database) -> None:
    await asyncio.gather(*(add(database, f"t{n:02}") for n in range(30)))
    assert len(await tenants(database)) == 30


async def test_a_cancelled_transaction_leaves_nothing_and_the_next_one_works(database: Database) -> None:
    inside = asyncio.Event()

    async def long() -> None:
        async with database.transaction() as conn:
            await conn.execute(NEW_TENANT, {"tenant": "a"})
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(long())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await add(database, "b")
    assert await tenants(database) == ["b"]


# ------------------------------------------------------------------------------------------------ SQLite


async def test_sqlite_is_set_up_to_keep_what_it_committed(tmp_path: Path) -> None:
    path = tmp_path / "p.db"
    async with open_database(f"sqlite:///{path}") as database:
        for using in (database.read, database.transaction):
            async with using() as conn:
                found = [(await conn.execute(text(f"PRAGMA {p}"))).scalar_one() for p in
                         ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")]  # fmt: skip
            assert found == ["wal", 2, 1, 5000]
        async with database.transaction() as conn:
            await conn.execute(text("CREATE TABLE t (x)"))
        modes = {name: stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in os.listdir(tmp_path)}
    assert modes == {"p.db": 0o600, "p.db-wal": 0o600, "p.db-shm": 0o600}


async def test_a_file_locked_by_another_writer_is_unavailable_until_it_lets_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "BUSY_SECONDS", 0.1)
    url = f"sqlite:///{tmp_path / 'p.db'}"
    await asyncio.to_thread(upgrade, url)
    other = sqlite3.connect(tmp_path / "p.db", isolation_level=None)
    async with open_database(url) as database:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable):
            await add(database, "a")
        assert await tenants(database) == []  # readers do not mind
        other.execute("COMMIT")
        await add(database, "a")
        assert await tenants(database) == ["a"]
    other.close()


async def test_a_writer_waits_for_a_short_transaction_of_another_process(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'p.db'}"
    await asyncio.to_thread(upgrade, url)
    other = sqlite3.connect(tmp_path / "p.db", isolation_level=None)
    async with open_database(url) as database:
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(add(database, "a"))
        await tenants(database)  # the writer had its turn to begin
        other.execute("COMMIT")
        await waiting
        assert await tenants(database) == ["a"]
    other.close()


async def test_a_file_that_cannot_even_be_set_up_now_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "BUSY_SECONDS", 0.1)
    other = sqlite3.connect(tmp_path / "p.db", isolation_level=None)
    other.execute("CREATE TABLE tenants (tenant, created_at)")
    async with open_database(f"sqlite:///{tmp_path / 'p.db'}") as database:
        other.execute("BEGIN EXCLUSIVE")  # not in WAL yet: nobody may look
        with pytest.raises(Unavailable):
            await tenants(database)
        other.execute("COMMIT")
        assert await tenants(database) == []
    other.close()


async def test_a_folder_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        async with open_database(f"sqlite:///{tmp_path / 'gone' / 'p.db'}"):
            pass


# ------------------------------------------------------------------------------------------------ Postgres


@pytest.mark.parametrize("ending", ["stop", "kill"])
async def test_postgres_away_is_unavailable_and_back_again_it_works(
    own_postgres: PostgresServer, ending: str, eventually: Eventually
) -> None:
    url = own_postgres.url()
    await asyncio.to_thread(upgrade, url)
    async with open_database(url) as database:
        await add(database, "before")
        await asyncio.to_thread(getattr(own_postgres, ending))
        for _ in range(3):
            with pytest.raises(Unavailable):
                await tenants(database)
            with pytest.raises(Unavailable):
                await add(database, "lost")
        await asyncio.to_thread(own_postgres.start)
        await eventually(lambda: can_add(database, "after"))
        assert await tenants(database) == ["after", "before"]


async def test_a_migration_under_a_running_service_is_felt_once(own_postgres: PostgresServer) -> None:
    url = own_postgres.url()
    await asyncio.to_thread(upgrade, url)
    async with open_database(url) as database:
        everything = text("SELECT * FROM tenants")
        async with database.read() as conn:
            await conn.execute(everything)
        await asyncio.to_thread(own_postgres.execute, "ALTER TABLE tenants ADD COLUMN more text")
        async with database.read() as conn:
            with pytest.raises(DBAPIError) as refused:
                await conn.execute(everything)
        with pytest.raises(Unavailable), engines.translated():
            raise refused.value
        async with database.read() as conn:
            assert "more" in (await conn.execute(everything)).keys()  # noqa: SIM118  # a result is no mapping


async def test_a_transaction_that_loses_its_server_is_unavailable(own_postgres: PostgresServer) -> None:
    url = own_postgres.url()
    await asyncio.to_thread(upgrade, url)
    async with open_database(url) as database:

        async def lose() -> None:
            async with database.transaction() as conn:
                await conn.execute(NEW_TENANT, {"tenant": "a"})
                await asyncio.to_thread(own_postgres.kill)
                await conn.execute(NEW_TENANT, {"tenant": "b"})

        with pytest.raises(Unavailable):
            await lose()
        await asyncio.to_thread(own_postgres.start)
        assert await tenants(database) == []


async def test_a_frozen_postgres_is_unavailable_not_a_hang(
    own_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "CONNECT_SECONDS", 0.2)
    async with open_database(own_postgres.url()) as database:
        own_postgres.freeze()
        with pytest.raises(Unavailable):
            await tenants(database)
        own_postgres.thaw()


async def test_postgres_that_was_never_there_is_unavailable(tmp_path: Path) -> None:
    async with open_database(f"postgresql://postgres@/p?host={tmp_path}") as database:
        with pytest.raises(Unavailable):
            await tenants(database)
    async with open_database("postgresql://postgres@127.0.0.1:1/p") as database:
        with pytest.raises(Unavailable):
            await tenants(database)
