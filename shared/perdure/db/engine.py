"""A database by its URL: connections, transactions, and what an unreachable database is called.

SQLite runs in WAL with `synchronous=FULL` (NORMAL loses commits in a power cut), one writer connection per process and
`BEGIN IMMEDIATE`, so that two writers wait for each other at the start of a transaction and never in its middle; a
foreign writer is waited for at most BUSY_SECONDS. Postgres runs with its defaults.
"""

import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import asyncpg
from sqlalchemy import URL, Connection, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from perdure.errors import Malformed, Unavailable

BUSY_SECONDS: Final = 5.0  # how long SQLite waits for another process's transaction
CONNECT_SECONDS: Final = 5.0
COMMAND_SECONDS: Final = 30.0  # Postgres: a server that is frozen or cut off must not hold a caller for ever
POOL_SECONDS: Final = 10.0  # how long a caller waits for a connection of the pool
READERS: Final = 4
POSTGRES_POOL: Final = 8

Dialect = Literal["sqlite", "postgresql"]

_DRIVERS: Final = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
}
# Primary result codes of SQLite that say "not now": busy, locked, no memory, interrupted, I/O error, full, cannot open,
# protocol.
_SQLITE_AWAY: Final = frozenset({5, 6, 7, 9, 10, 13, 14, 15})
# SQLSTATE classes and codes of Postgres that say "not now": connection, resources, operator intervention, system error;
# serialisation failure, deadlock, lock not available, and a read-only server (one that is failing over).
_POSTGRES_AWAY_CLASSES: Final = frozenset({"08", "53", "57", "58"})
_POSTGRES_AWAY: Final = frozenset({"40001", "40P01", "55P03", "25006"})


class Database:
    """One open database. Every method that hands out a connection raises Unavailable while it cannot be reached.

    A commit whose connection broke is Unavailable too, and may have happened: what is written must bear being repeated.
    """

    def __init__(self, dialect: Dialect, reader: AsyncEngine, writer: AsyncEngine) -> None:
        self.dialect: Dialect = dialect
        self._reader = reader
        self._writer = writer

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection for reading; what it writes is rolled back."""
        with translated():
            async with self._reader.connect() as conn:
                yield conn

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """A connection in a transaction: committed when the block ends, rolled back when it raises."""
        with translated():
            async with self._writer.begin() as conn:
                yield conn

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncConnection]:
        """One connection for many transactions, each begun by the caller (`async with conn.begin()`): temporary tables
        last as long as it does. Other writers of this process wait for it on SQLite.
        """
        with translated():
            async with self._writer.connect() as conn:
                yield conn

    async def close(self) -> None:
        """Close every pooled connection."""
        await self._reader.dispose()
        if self._writer is not self._reader:
            await self._writer.dispose()


def database_url(url: str) -> URL:
    """`url` with our driver, from `sqlite:///path`, `postgresql://…` or SQLAlchemy's forms. Raises Malformed."""
    try:
        parsed = make_url(url)
    except ArgumentError as exc:
        raise Malformed("not a database URL") from exc
    driver = _DRIVERS.get(parsed.drivername)
    if driver is None:
        raise Malformed(f"no such kind of database: {parsed.drivername} (sqlite or postgresql)")
    if driver.startswith("sqlite") and parsed.database in (None, "", ":memory:"):
        raise Malformed("an SQLite database needs a file")
    query = dict(parsed.query)
    if "sslmode" in query:  # libpq's name; asyncpg calls it ssl
        query["ssl"] = query.pop("sslmode")
    return parsed.set(drivername=driver, query=query)


@asynccontextmanager
async def open_database(url: str) -> AsyncIterator[Database]:
    """The database at `url`, closed at the end; nothing is connected yet. Raises Malformed for a URL that is none."""
    parsed = database_url(url)
    database = _sqlite(parsed) if parsed.drivername.startswith("sqlite") else _postgres(parsed)
    try:
        yield database
    finally:
        await database.close()


def _sqlite(url: URL) -> Database:
    path = Path(str(url.database))
    with translated():
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # its -wal and -shm take the same mode
    pool: dict[str, Any] = {"pool_timeout": POOL_SECONDS, "max_overflow": 0}  # Any: keywords of SQLAlchemy
    reader = create_async_engine(url, pool_size=READERS, **pool)
    writer = create_async_engine(url, pool_size=1, **pool)
    for engine, begin in ((reader, "BEGIN"), (writer, "BEGIN IMMEDIATE")):
        event.listen(engine.sync_engine, "connect", _pragmas)
        event.listen(engine.sync_engine, "begin", _begin(begin))
    return Database("sqlite", reader, writer)


def _pragmas(connection: Any, _record: object) -> None:  # Any: SQLAlchemy's adapter around aiosqlite has no public type
    connection.isolation_level = None  # the driver begins nothing by itself; `_begin` does
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin(statement: str) -> Any:  # Any: an SQLAlchemy listener
    def begin(conn: Connection) -> None:
        conn.exec_driver_sql(statement)

    return begin


def _postgres(url: URL) -> Database:
    engine = create_async_engine(
        url,
        pool_size=POSTGRES_POOL,
        max_overflow=0,
        pool_timeout=POOL_SECONDS,
        pool_pre_ping=True,
        connect_args={"timeout": CONNECT_SECONDS, "command_timeout": COMMAND_SECONDS},
    )
    return Database("postgresql", engine, engine)


@contextmanager
def translated() -> Iterator[None]:
    """Raise Unavailable in place of what the drivers raise when the database is away; everything else passes."""
    try:
        yield
    except (DBAPIError, PoolTimeout, sqlite3.Error, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as exc:
        if not _away(exc):
            raise
        raise Unavailable(f"the database cannot be reached ({type(exc).__name__})") from exc


def _away(exc: BaseException) -> bool:
    """Whether `exc` means a database that is lost or busy, by its type and code."""
    match exc:
        case PoolTimeout() | OSError() | asyncpg.InterfaceError():  # a TimeoutError (no answer in time) is an OSError
            return True
        case asyncpg.InvalidCachedStatementError():  # a migration changed the table under it: prepared anew next time
            return True
        case DBAPIError(connection_invalidated=True):
            return True
        case DBAPIError(orig=BaseException() as orig):
            return _away_by_code(orig) or (orig.__cause__ is not None and _away(orig.__cause__))
        case _:
            return _away_by_code(exc)


def _away_by_code(exc: BaseException) -> bool:
    if isinstance(exc, sqlite3.Error):
        code = getattr(
            exc, "sqlite_errorcode", None
        )  # absent where the module itself refused, as for a closed connection
        return isinstance(code, int) and code & 0xFF in _SQLITE_AWAY
    state = getattr(exc, "sqlstate", None)
    return isinstance(state, str) and (state[:2] in _POSTGRES_AWAY_CLASSES or state in _POSTGRES_AWAY)
