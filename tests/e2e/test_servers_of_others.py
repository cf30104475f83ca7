"""`perdure up` and `perdure migrate` with a broker and a database of somebody else."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.cli.examples import example
from perdure.client import Client
from perdure.local.launch import UpFailed, launched
from perdure.local.server import NatsServer
from perdure.testing import whole

FLOW = example("content_approval")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[NatsServer]:
    """A broker without streams."""
    with NatsServer(tmp_path / "broker") as server:
        yield server


async def cli(environ: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    """One command of the real program."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "perdure.cli.app", *arguments, env=environ, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    return subprocess.CompletedProcess(arguments, process.returncode or 0, out.decode(), err.decode())


async def test_up_uses_servers_of_others_once_they_are_prepared_and_leaves_them_alone(
    broker: NatsServer, environ: dict[str, str], tmp_path: Path
) -> None:
    database = f"sqlite:///{tmp_path / 'theirs.db'}"
    admin = broker.credentials["admin"]
    environ |= {
        "PERDURE_NATS": broker.url,
        "PERDURE_NATS_USER": admin.user,
        "PERDURE_NATS_PASSWORD": admin.password,
        "PERDURE_DATABASE": database,
    }
    arguments = ("--nats", broker.url, "--database", database)
    log = tmp_path / "up.log"
    with pytest.raises(UpFailed, match="exit code 2"):
        async with launched(tmp_path / "data", *arguments, environ=environ, log=log):
            pass
    assert "run `perdure migrate up --database" in log.read_text()

    assert (await cli(environ, "migrate", "current")).stdout == "none\n"
    due = await cli(environ, "migrate", "check", "--streams")
    assert (due.returncode, "streams: the streams are not declared yet" in due.stdout) == (1, True)
    made = await cli(environ, "migrate", "up", "--streams", "--shards", "4")
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    again = await cli(environ, "migrate", "up", "--streams", "--shards", "4")
    assert (again.returncode, again.stdout) == (0, "")
    other = await cli(environ, "migrate", "up", "--streams", "--shards", "8")
    assert (other.returncode, "shard" in other.stderr) == (5, True)
    assert (await cli(environ, "migrate", "check", "--streams")).returncode == 0

    async with (
        launched(tmp_path / "data", *arguments, environ=environ, log=log) as running,
        Client(running.url, key) as client,
    ):
        assert set(running.processes()) == {"gateway", "runner-1", "sweeper"}
        job = await whole.submit(client, FLOW, "theirs")
        await whole.events(client, job, until="suspended")
        [request] = (await client.job(job)).requests
        await client.answer(await client.request(request.id), "approve")
        assert (await whole.events(client, job))[-1].type == "job.completed"
        assert await running.stop() == 0
    assert broker.running
