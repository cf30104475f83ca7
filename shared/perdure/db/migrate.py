"""Migrations from the wheel or the checkout: upgrade, downgrade (tests), and which revision a database is at.

`migrations/env.py` uses `asyncio.run`, so nothing here but `revision` is called where a loop runs: use
`asyncio.to_thread` there.
"""

import asyncio
import threading
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import AsyncConnection

import perdure
from perdure.db.engine import open_database

_one: Final = threading.Lock()  # Alembic keeps what it works on in globals; other processes wait in the database


def upgrade(url: str, to: str = "head") -> None:
    """Bring the database at `url` up to the revision `to`. Many may call at once: one does the work, the others wait.

    Raises Unavailable while the database cannot be reached, Malformed for a URL that is none.
    """
    with _one:
        command.upgrade(_config(url), to)


def downgrade(url: str, to: str) -> None:
    """Take the database at `url` down to the revision `to` ("base": no tables)."""
    with _one:
        command.downgrade(_config(url), to)


def current(url: str) -> str | None:
    """The revision of the database at `url`, None before the first migration. Raises Unavailable."""

    async def ask() -> str | None:
        async with open_database(url) as database, database.read() as conn:
            return await revision(conn)

    return asyncio.run(ask())


async def revision(conn: AsyncConnection) -> str | None:
    """The revision of the database behind `conn`, None before the first migration: for whoever has it open."""
    return await conn.run_sync(lambda c: MigrationContext.configure(c).get_current_revision())


def head() -> str:
    """The newest revision that this version of Perdure brings along."""
    newest = ScriptDirectory.from_config(_config("")).get_current_head()
    assert newest is not None  # there is at least 0001
    return newest


def knows(found: str) -> bool:
    """Whether this version of Perdure brings the revision `found` along; a newer one's it does not."""
    return found in {script.revision for script in ScriptDirectory.from_config(_config("")).walk_revisions()}


def _config(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_folder()).replace("%", "%%"))
    config.attributes["url"] = url  # not a main option: a password may hold a "%"
    return config


def _folder() -> Path:
    """`_migrations` beside the package where a wheel put it, else the checkout's `migrations`."""
    package = Path(perdure.__file__).parent
    installed = package / "_migrations"
    return installed if installed.is_dir() else package.parents[1] / "migrations"
