"""Data folders of other versions: older ones are brought along step by step, newer and foreign ones are not opened."""

import asyncio
import json
import sqlite3
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path

import msgspec
import pytest

from perdure import __version__
from perdure.bus.topology import Topology, declare
from perdure.cli.examples import example
from perdure.db import migrate
from perdure.local.launch import UpFailed, UpProcess, launched
from perdure.local.server import NatsServer
from perdure.testing import whole
from perdure.testing.servers import connect

Up = Callable[..., AbstractAsyncContextManager[UpProcess]]
STEPS = 4  # backed up, migrated, declared, keyed


def revision_in(path: Path) -> str:
    with closing(sqlite3.connect(path)) as database:
        [(found,)] = database.execute("SELECT version_num FROM alembic_version")
    return str(found)


def make_old(data: Path) -> None:
    """The folder as an older version would have left it."""
    url = f"sqlite:///{data / 'perdure.db'}"
    migrate.downgrade(url, "0001")
    (data / "format.json").write_text(json.dumps({"data": 1, "perdure": "0.0.9"}))


async def test_an_older_folder_is_brought_along_although_each_step_is_killed_once(
    up: Up, environ: dict[str, str], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    async with up() as running, whole.client_of(running) as client:
        key = running.client.key
        job = await whole.submit(client, example("content_approval"), "before the upgrade", key="k")
        before = await whole.events(client, job, until="suspended")
    await asyncio.to_thread(make_old, data)
    for step in range(1, STEPS + 1):
        armed = environ | {"PERDURE_FAILPOINTS": f"migrate.between_steps=exit:n{step}"}
        with pytest.raises(UpFailed, match="exit code 137"):
            async with launched(data, environ=armed, log=tmp_path / f"killed-{step}.log"):
                pass
        assert json.loads((data / "format.json").read_text())["perdure"] == "0.0.9"  # the last act is not done
        assert revision_in(data / "backup-0.0.9" / "perdure.db") == "0001"
        await asyncio.to_thread(make_old, data)  # each of them from the beginning
    async with up() as running, whole.client_of(running) as client:
        assert running.client.key == key
        assert await whole.events(client, job, until="suspended") == before
        assert await whole.submit(client, example("content_approval"), "before the upgrade", key="k") == job
    assert json.loads((data / "format.json").read_text())["perdure"] == __version__
    assert revision_in(data / "perdure.db") == migrate.head()
    backup = data / "backup-0.0.9" / "perdure.db"
    assert revision_in(backup) == "0001"
    assert backup.stat().st_mode & 0o077 == 0
    assert not list(data.glob("backup-*/*.half"))


async def refused(data: Path, environ: dict[str, str], log: Path) -> str:
    """Why `up` does not start on the folder."""
    with pytest.raises(UpFailed, match="exit code 2"):
        async with launched(data, environ=environ, log=log):
            pass
    return await asyncio.to_thread(log.read_text)


async def test_a_database_of_a_newer_version_is_not_opened_and_not_touched(
    environ: dict[str, str], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    url = f"sqlite:///{data / 'perdure.db'}"
    await asyncio.to_thread(migrate.upgrade, url)
    with closing(sqlite3.connect(data / "perdure.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    (data / "format.json").write_text(json.dumps({"data": 1, "perdure": "8.2.0"}))
    said = await refused(data, environ, tmp_path / "log")
    assert "8.2.0 or newer" in said
    assert revision_in(data / "perdure.db") == "9999"
    assert not list(data.glob("backup-*"))


@pytest.fixture
def folder_of_four(tmp_path: Path) -> Path:
    """A folder whose streams were made with four shards."""
    data = tmp_path / "data"
    with NatsServer(data / "nats") as server:
        asyncio.run(_declare(server, Topology(shards=4)))
    return data


async def _declare(server: NatsServer, topology: Topology) -> None:
    async with connect(server) as bus:
        await declare(bus, topology)


async def _delete(server: NatsServer, stream: str) -> None:
    async with connect(server) as bus:
        await bus.request(f"$JS.API.STREAM.DELETE.{stream}", b"")


async def test_the_folder_s_shard_count_stays_and_what_is_missing_is_declared(
    folder_of_four: Path, up: Up, environ: dict[str, str]
) -> None:
    with NatsServer(folder_of_four / "nats") as server:
        await _delete(server, "BLOB")
    async with up() as running, whole.client_of(running) as client:
        job = await whole.submit(client, example("content_approval"), "hello")
        await whole.events(client, job, until="suspended")
    with NatsServer(folder_of_four / "nats") as server:
        async with connect(server) as bus:
            said = await bus.ask("$JS.API.STREAM.NAMES", b"")
    names = msgspec.json.decode(said)["streams"]
    assert sorted(names) == ["AUDIT", "BLOB", "EV_0", "EV_1", "EV_2", "EV_3", "WORK"]  # LIVE lies in memory


async def test_streams_of_another_kind_are_refused_by_name(
    folder_of_four: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    with NatsServer(folder_of_four / "nats") as server:
        await _delete(server, "BLOB")
        async with connect(server) as bus:
            other = {"name": "BLOB", "subjects": ["blob.*.*.*"], "storage": "file", "max_age": 3_600_000_000_000}
            await bus.request("$JS.API.STREAM.CREATE.BLOB", msgspec.json.encode(other))
    said = await refused(folder_of_four, environ, tmp_path / "log")
    assert "stream BLOB" in said
    assert "max_age" in said
