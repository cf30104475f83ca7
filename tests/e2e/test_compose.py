"""compose.yaml, started as local processes: the same command lines, environment, order and health checks.

Only what a container runtime would give is put in place of names: the host names and ports of the network, the folders
of the volumes, `/etc/perdure` of the image. The broker is a real nats-server with the compose file's own
configuration, the database a real Postgres.
"""

import asyncio
import ctypes
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
import yaml

from perdure.cli.examples import example
from perdure.client.sse import SseFrame, SseParser
from perdure.clock import SystemClock
from perdure.core import codec, verify
from perdure.testing.chatmodel import ChatModel
from perdure.testing.postgres import PostgresServer

ROOT: Final = Path(__file__).resolve().parents[2]
BIN: Final = Path(sys.executable).parent
VARIABLE: Final = re.compile(r"\$\{([A-Z_]+)(?::([-?])([^}]*))?\}")
PR_SET_PDEATHSIG: Final = 1
LIBC: Final = ctypes.CDLL(None)
LIMIT: Final = 60.0  # seconds that anything here may take


class Compose:
    """The services of compose.yaml as processes of this machine."""

    def __init__(self, folder: Path, variables: dict[str, str], postgres: PostgresServer) -> None:
        self.folder, self._postgres = folder, postgres
        text = VARIABLE.sub(lambda m: self._value(m, variables), (ROOT / "compose.yaml").read_text())
        self.services: dict[str, Any] = yaml.safe_load(text)["services"]  # Any: YAML
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        ports = free_ports()
        self.api = f"http://127.0.0.1:{ports['8480']}"
        self._ports = {name: ports for name in self.services}
        self._ports["sweeper"] = ports | {"8490": ports["8491"]}  # each container has a loopback of its own

    @staticmethod
    def _value(match: re.Match[str], variables: dict[str, str]) -> str:
        value = variables.get(match[1], "")
        if not value and match[2] == "?":
            raise AssertionError(f"{match[1]}: {match[3]}")
        return value or (match[3] if match[2] == "-" else "")

    def local(self, service: str, text: str) -> str:
        """`text` of a container of `service` with what the runtime would have resolved."""
        if text.startswith("postgresql"):
            return re.sub(r"@postgres:5432/(\w+)", rf"@/\1?host={self._postgres.root}", text)
        text = text.replace("nats://nats:", "nats://127.0.0.1:").replace("0.0.0.0", "127.0.0.1")
        text = re.sub(r"(?<!\d)(4222|8222|8480|8490)(?!\d)", lambda m: str(self._ports[service][m[1]]), text)
        text = text.replace("/etc/perdure/", f"{ROOT}/deploy/")
        return str(self.folder / "data") if text == "/data" else text

    def start(self, service: str) -> "subprocess.Popen[bytes]":
        """Start one service: its command line, its environment and nothing else of ours."""
        self.processes[service] = process = self._run(service, shlex.split(self.services[service]["command"]))
        return process

    def _run(self, service: str, command: list[str]) -> "subprocess.Popen[bytes]":
        program, *arguments = (self.local(service, word) for word in command)
        environment = self.services[service].get("environment", {})
        with (self.folder / f"{service}.log").open("ab") as log:
            return subprocess.Popen(
                [BIN / program, *arguments],
                env={"PATH": os.environ["PATH"], "HOME": str(self.folder)}
                | {
                    name: self.local(service, str(value or "")) for name, value in environment.items()
                },  # null: set to nothing
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),  # none outlives the test
            )

    async def healthy(self, service: str) -> None:
        """Wait until the service's own health check says so."""
        _, *command = self.services[service]["healthcheck"]["test"]
        async with asyncio.timeout(LIMIT):
            while True:
                assert self.processes[service].poll() is None, self.words(service)
                if await asyncio.to_thread(self._run(service, command).wait) == 0:
                    return
                await SystemClock().sleep(0.1)

    async def up(self) -> None:
        """Start everything as `depends_on` says, and wait until all of it is healthy."""
        waiting, ended = dict(self.services), {"postgres"}  # Postgres is there already
        while waiting:
            ready = [n for n, s in waiting.items() if set(s.get("depends_on", {})) <= ended]
            assert ready, f"a circle: {sorted(waiting)}"
            for name in ready:
                service = waiting.pop(name)
                if name != "postgres":
                    self.start(name)
                    if "healthcheck" in service:
                        await self.healthy(name)
                    else:
                        code = await asyncio.to_thread(self.processes[name].wait, LIMIT)
                        assert code == 0, self.words(name)
                ended.add(name)

    def words(self, service: str) -> str:
        """The end of a service's log."""
        return f"{service}: " + (self.folder / f"{service}.log").read_text(errors="replace")[-3000:]

    def down(self) -> dict[str, int]:
        """SIGTERM the services, then the broker; the exit codes."""
        codes = {}
        for name in ("gateway", "runner", "sweeper", "nats"):
            if (process := self.processes.get(name)) is not None:
                process.terminate()
                codes[name] = process.wait(LIMIT)
        return codes


def free_ports() -> dict[str, int]:
    """A free port for each port that compose.yaml names (8491: the second 8490)."""
    names = ("4222", "8222", "8480", "8490", "8491")
    sockets = [socket.socket() for _ in names]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    found = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return dict(zip(names, found, strict=True))


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        server.execute("CREATE ROLE perdure SUPERUSER LOGIN")  # what the image makes of POSTGRES_USER and POSTGRES_DB
        server.execute("CREATE DATABASE perdure OWNER perdure")
        yield server


@pytest.fixture
def variables(model: ChatModel) -> dict[str, str]:
    """What `deploy/new-env.sh` makes, with a model."""
    made = subprocess.run(["sh", "deploy/new-env.sh"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    found = dict(re.findall(r"^([A-Z_]+)=(.*)$", made, re.MULTILINE))
    return found | {"PERDURE_MODEL_URL": model.url, "PERDURE_MODEL_KEY": "k", "PERDURE_MODEL_NAME": "local"}


async def frames(session: aiohttp.ClientSession, job: str, after: str | None = None) -> AsyncIterator[SseFrame]:
    """The frames of a job's stream as bytes bring them, from an offset; ends with the job."""
    headers = {"Accept": "text/event-stream"} | ({} if after is None else {"Last-Event-ID": after})
    parser = SseParser()
    async with session.get(f"/api/jobs/{job}/events", headers=headers) as response:
        assert response.status == 200
        async for chunk in response.content.iter_any():
            for frame in parser.feed(chunk):
                yield frame


async def until(session: aiohttp.ClientSession, job: str, event: str, after: str | None = None) -> list[SseFrame]:
    """The frames up to the first of a type; then the connection is dropped."""
    found = []
    async with asyncio.timeout(LIMIT), aclosing(frames(session, job, after)) as stream:  # type: ignore[type-var]  # it is an async generator
        async for frame in stream:
            found.append(frame)
            if frame.event == event:
                break
    assert found[-1].event == event, [f.event for f in found]
    return found


def events_of(stream: list[SseFrame]) -> list[SseFrame]:
    """The log events among the frames: not the deltas, and not what the stream says of itself."""
    return [f for f in stream if not f.event.startswith(("delta.", "stream."))]


async def call(session: aiohttp.ClientSession, method: str, path: str, expected: int, **options: Any) -> Any:  # JSON
    async with session.request(method, path, **options) as response:
        body = await response.json()
        assert response.status == expected, body
        return body


async def test_the_main_job_runs_on_compose(
    tmp_path: Path, postgres: PostgresServer, model: ChatModel, variables: dict[str, str]
) -> None:
    compose = Compose(tmp_path, variables, postgres)
    model.delay_seconds = 0.1
    try:
        await compose.up()
        headers = {"Authorization": f"Bearer {variables['PERDURE_FIRST_KEY']}"}
        async with aiohttp.ClientSession(compose.api, headers=headers) as session:
            await main_job(compose, session, model)
            await broker_restart(compose, session)
    except BaseException:
        for name in compose.processes:
            print(compose.words(name))  # noqa: T201  # shown by pytest when the test fails
        raise
    finally:
        codes = compose.down()
    assert {name: codes[name] for name in ("gateway", "runner", "sweeper")} == {"gateway": 0, "runner": 0, "sweeper": 0}


async def main_job(compose: Compose, session: aiohttp.ClientSession, model: ChatModel) -> None:
    """Submit, stream, lose the runner in the middle of a step, go on, ask, re-attach, answer, complete."""
    definition = example("content_approval")
    await call(session, "POST", "/api/flows", 201, json={"name": "content_approval", "definition": definition})
    order = {"flow": "content_approval", "input": "the text of this test"}
    once = {"Idempotency-Key": "order-1"}
    job = (await call(session, "POST", "/api/jobs", 202, json=order, headers=once))["id"]
    begin = await until(session, job, "delta.text")
    compose.processes["runner"].kill()
    compose.processes["runner"].wait(LIMIT)
    compose.start("runner")
    model.delay_seconds = 0.0
    asleep = await until(session, job, "job.suspended", after="0")
    middle = [f for f in asleep if f.event == "attempt.started"][-1].id
    again = await until(session, job, "job.suspended", after=middle)
    assert events_of(asleep)[-len(events_of(again)) :] == events_of(again)
    [request] = (await call(session, "GET", f"/api/jobs/{job}", 200))["requests"]
    asked = await call(session, "GET", f"/api/inbox/{request['id']}", 200)
    answer = {"action": "approve", "proposal_digest": asked["proposal_digest"]}
    await call(session, "POST", f"/api/inbox/{request['id']}/answer", 200, json=answer)
    await call(session, "POST", f"/api/inbox/{request['id']}/answer", 200, json=answer)
    await call(session, "POST", f"/api/inbox/{request['id']}/answer", 409, json=answer | {"action": "reject"})
    rest = await until(session, job, "job.completed", after=asleep[-1].id)
    whole = await until(session, job, "job.completed", after="0")
    log = events_of(whole)
    assert events_of([*asleep, *rest]) == log
    assert events_of(begin) == log[: len(events_of(begin))]
    events = [codec.decode(f.data) for f in log]
    assert [e.seq for e in events] == list(range(1, len(log) + 1))
    assert verify.log(events) == []
    reasons = [json.loads(f.data)["data"]["reason"] for f in log if f.event == "attempt.started"]
    assert reasons == ["first", "lease_lost", "resumed"]
    done = await call(session, "GET", f"/api/jobs/{job}", 200)
    assert done["status"] == "completed"
    assert "the text of this test" in done["outputs"]["post"]
    repeated = await call(session, "POST", "/api/jobs", 200, json=order, headers=once)
    assert repeated["id"] == job
    async with asyncio.timeout(LIMIT):  # the projection in Postgres
        while [j["status"] for j in (await call(session, "GET", "/api/jobs", 200))["data"]] != ["completed"]:
            await SystemClock().sleep(0.05)


async def broker_restart(compose: Compose, session: aiohttp.ClientSession) -> None:
    """What was acknowledged is there after the broker was killed and started again on the same volume."""
    [job] = [j["id"] for j in (await call(session, "GET", "/api/jobs", 200))["data"]]
    before = await until(session, job, "job.completed", after="0")
    compose.processes["nats"].kill()
    compose.processes["nats"].wait(LIMIT)
    compose.start("nats")
    for service in ("nats", "gateway", "runner", "sweeper"):
        await compose.healthy(service)
    assert await until(session, job, "job.completed", after="0") == before
