"""Migrations on both databases: up, down, up; what they make is what `db.schema` says; many may run at once."""

import asyncio
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect

from perdure.db.engine import open_database
from perdure.db.migrate import current, downgrade, head, upgrade
from perdure.db.schema import metadata
from perdure.errors import Malformed

TABLES = {
    "tenants", "api_keys", "flows", "flow_versions", "jobs", "job_tags", "requests", "positions", "runners",
    "served", "archive",
    "duties", "groups", "group_members", "answer_links", "request_assignees", "spent_tickets",
}  # fmt: skip


async def tables(url: str) -> set[str]:
    async with open_database(url) as database, database.read() as conn:
        return set(await conn.run_sync(lambda c: inspect(c).get_table_names())) - {"alembic_version"}


def test_up_down_and_up_again(empty_database_url: str) -> None:
    url = empty_database_url
    assert current(url) is None
    upgrade(url)
    assert current(url) == head()
    assert asyncio.run(tables(url)) == TABLES
    downgrade(url, "base")
    assert current(url) is None
    assert asyncio.run(tables(url)) == set()
    upgrade(url)
    assert asyncio.run(tables(url)) == TABLES
    upgrade(url)
    assert current(url) == head()


async def test_the_migrated_database_is_what_the_schema_says(database_url: str) -> None:
    def differences(connection: Connection) -> Sequence[object]:
        found: list[object] = compare_metadata(
            MigrationContext.configure(connection, opts={"compare_type": True}), metadata
        )
        return found

    async with open_database(database_url) as database, database.read() as conn:
        assert await conn.run_sync(differences) == []


async def test_eight_threads_migrate_at_once_while_a_loop_runs(empty_database_url: str) -> None:
    await asyncio.gather(*(asyncio.to_thread(upgrade, empty_database_url) for _ in range(8)))
    assert await tables(empty_database_url) == TABLES


def test_three_processes_migrate_at_once(empty_database_url: str) -> None:
    code = "import sys; from perdure.db.migrate import upgrade; upgrade(sys.argv[1])"
    started = [subprocess.Popen([sys.executable, "-c", code, empty_database_url]) for _ in range(3)]
    assert [process.wait(60) for process in started] == [0, 0, 0]
    assert asyncio.run(tables(empty_database_url)) == TABLES


def test_an_sqlite_file_is_its_owner_s_alone(tmp_path: Path) -> None:
    path = tmp_path / "own.db"
    upgrade(f"sqlite:///{path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://localhost/x", "nonsense", ""])
def test_a_url_of_no_database_is_refused(url: str) -> None:
    with pytest.raises(Malformed):
        upgrade(url)
