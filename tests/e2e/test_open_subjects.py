"""A job followed by a plain NATS client: what it hears live may be lost, and its transcript is the log all the same."""

import asyncio
import json
import random
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error

from perdure.local.launch import UpProcess, launched
from perdure.testing import whole

Eventually = Callable[..., Awaitable[None]]
APP = """
import asyncio
from pathlib import Path

from perdure import workflow


@workflow
async def count(ctx, until: str) -> int:
    async def more() -> bool:
        await asyncio.sleep(0.05)
        return not Path(until).exists()

    n = 0
    while await ctx.step("more", more):
        n += 1
    return n
"""


class Reader:
    """Follows one job. `keep` says of each live message whether it arrives at all."""

    def __init__(self, nc: Client, tenant: str, job: str, last: int, keep: Callable[[], bool]) -> None:
        self.nc, self.subject, self.last, self.keep = nc, f"{tenant}.{job}", last, keep
        self.log: list[Any] = []
        self.live = self.lost = self.holes = self.replayed = 0
        self.done = False
        self.news = asyncio.Event()
        self.ahead = True  # there may be events that were not heard

    async def run(self) -> None:
        """Subscribe, replay, drop what is known, replay again on a hole and after a silence."""
        await self.nc.subscribe(f"job.{self.subject}.event", cb=self.hear)
        while not self.done:
            try:
                await self.mend()
            except Error:  # the broker or the gateway is away
                self.ahead = True
                await asyncio.sleep(0.1)
                continue
            try:
                await asyncio.wait_for(self.news.wait(), 1.0)
            except TimeoutError:
                self.ahead = True

    async def hear(self, message: Msg) -> None:
        if not self.keep():
            self.lost += 1
            return
        event = json.loads(message.data)
        if event["seq"] == self.last + 1:
            self.take(event)
            self.live += 1
        elif event["seq"] > self.last:
            self.holes += 1
            self.ahead = True
            self.news.set()

    async def mend(self) -> None:
        self.news.clear()
        while self.ahead:
            self.ahead = False
            ask = json.dumps({"after": str(self.last), "limit": 7}).encode()
            said = json.loads((await self.nc.request(f"replay.{self.subject}", ask, timeout=2)).data)
            assert "problem" not in said or said["problem"]["code"] == "unavailable", said
            for event in said.get("events", ()):
                if event["seq"] == self.last + 1:  # else it was heard while the answer was on its way
                    self.take(event)
                    self.replayed += 1
            self.ahead = self.ahead or "problem" in said or self.last < said["head"]
        self.ahead = False

    def take(self, event: Any) -> None:
        self.log.append(event)
        self.last = event["seq"]
        if event["type"] in ("job.completed", "job.failed", "job.cancelled", "job.timed_out"):
            self.done = True
            self.news.set()


@asynccontextmanager
async def connected(data: Path) -> AsyncIterator[Client]:
    told = json.loads((data / "nats.json").read_text())
    prefix = told["inbox_prefix"]
    nc = await nats.connect(
        told["url"], user=told["user"], password=told["password"], inbox_prefix=prefix, max_reconnect_attempts=-1,
        reconnect_time_wait=0.1, error_cb=silent,
    )  # fmt: skip
    try:
        yield nc
    finally:
        await nc.close()


async def silent(_: Exception) -> None:
    """The broker dies on purpose."""


async def cli(running: UpProcess, environ: dict[str, str], *arguments: str) -> str:
    command = [sys.executable, "-m", "perdure.cli.app", *arguments, "--data", str(running.data)]
    process = await asyncio.create_subprocess_exec(*command, env=environ, stdout=subprocess.PIPE)
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    return out.decode()


async def test_a_plain_client_that_loses_messages_has_the_log_across_a_restart_of_the_broker(
    tmp_path: Path, environ: dict[str, str], eventually: Eventually
) -> None:
    (tmp_path / "counting.py").write_text(APP)
    app = environ | {"PYTHONPATH": f"{tmp_path}:{environ.get('PYTHONPATH', '')}"}
    chance = random.Random(8)
    async with (
        launched(tmp_path / "data", "--app", "counting", environ=app, log=tmp_path / "up.log") as up,
        whole.client_of(up) as http,
        connected(up.data) as nc,
    ):
        job = (await http.submit("count", str(tmp_path / "enough"))).id
        readers = [
            Reader(nc, "main", job, 0, lambda: True),
            Reader(nc, "main", job, 0, lambda: chance.random() > 0.3),
            Reader(nc, "main", job, 5, lambda: chance.random() > 0.3),  # from an offset
        ]
        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            for reader in readers[:2]:
                group.create_task(reader.run())
            await eventually(lambda: readers[0].last > 10)
            group.create_task(readers[2].run())
            for name in ("nats", "gateway"):
                await eventually(lambda: all(reader.live for reader in readers), within_seconds=60)
                await eventually(lambda: all(reader.holes for reader in readers[1:]), within_seconds=60)
                up.kill(name)
                for reader in readers:
                    reader.live = reader.holes = 0
            await eventually(lambda: all(reader.live and reader.replayed for reader in readers), within_seconds=60)
            (tmp_path / "enough").touch()
        log = [json.loads(line) for line in (await http.log(job)).splitlines()]
        for event in log:
            del event["job_id"]  # on NATS the subject says it
        assert [reader.log for reader in readers] == [log, log, log[5:]]
        assert all(reader.lost for reader in readers[1:])

        [said] = [json.loads(line) for line in (await cli(up, app, "subject", job, "--json")).splitlines()]
        assert said == {
            "event": f"job.main.{job}.event",
            "delta": f"job.main.{job}.delta",
            "inbox": "inbox.main.request",
            "replay": f"replay.main.{job}",
            "inbox_prefix": "_INBOX.main",
        }
        printed = (await cli(up, app, "subject", job)).splitlines()
        [typed] = [shlex.split(line) for line in printed if line.startswith("nats ") and " request " in line]
        assert typed[typed.index("request") + 1] == f"replay.main.{job}"
        assert typed[typed.index("--inbox-prefix") + 1] == "_INBOX.main"
        everything = json.loads((await nc.request(said["replay"], typed[-1].encode(), timeout=20)).data)
        assert (everything["events"], everything["done"]) == (log, True)
