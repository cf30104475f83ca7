"""What is away, and what goes on all the same: SQL, the broker, the gateway itself."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from perdure.bus.topology import Topology, declare
from perdure.clock import SystemClock
from perdure.db.engine import Database, open_database
from perdure.db.migrate import upgrade
from perdure.db.principals import create_key, ensure_tenant, new_key
from perdure.ids import Principal, Tenant
from perdure.local.server import NatsServer
from perdure.testing.postgres import PostgresServer
from perdure.testing.servers import connect, frozen
from perdure_gateway import memory

Gateway = Any  # the conftest's
Start = Callable[..., Awaitable[Gateway]]
Eventually = Callable[..., Awaitable[None]]
SUBMIT = {"flow": "echo", "input": "hello"}
ECHO: dict[str, Any] = {
    "format": "perdure.graph/1",
    "name": "echo",
    "nodes": [{"id": "brief", "component": "chat_input"}, {"id": "out", "component": "text_output"}],
    "edges": [{"from": "brief.text", "to": "out.text"}],
}


@pytest.fixture
def dialect() -> str:
    """What the tests do not stop is SQLite."""
    return "sqlite"


@pytest.fixture
async def own_database(own_postgres: PostgresServer, tenant: Tenant, key: str) -> AsyncIterator[Database]:
    """A database that a test may stop; it knows the key."""
    await asyncio.to_thread(upgrade, own_postgres.url())
    async with open_database(own_postgres.url()) as database:
        now = "2026-01-01T00:00:00.000Z"
        async with database.transaction() as conn:
            await ensure_tenant(conn, tenant, now=now)  # type: ignore[arg-type]  # a literal instant
            await create_key(conn, tenant, Principal("user:ann"), key, now=now)  # type: ignore[arg-type]
        yield database


async def with_flow(gateway: Gateway) -> Gateway:
    made = await gateway.client.post("/api/flows", {"name": "echo", "definition": ECHO})
    assert made.status == 201, made.raw
    return gateway


@pytest.mark.parametrize("how", ["stopped", "frozen"])
async def test_without_sql_known_keys_submit_answer_follow_and_read(
    start_gateway: Start,
    own_database: Database,
    own_postgres: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
    eventually: Eventually,
    how: str,
) -> None:
    gateway = await with_flow(await start_gateway(on=own_database))
    client = gateway.client
    assert (await client.post("/api/jobs", SUBMIT)).status == 202  # now the key and the flow are known
    monkeypatch.setattr(memory, "FRESH_SECONDS", 0.0)  # each call would read them anew
    with away(own_postgres, how):
        submitted = await client.post("/api/jobs", SUBMIT, idempotency_key="k")
        assert submitted.status == 202
        hand = gateway.hand(submitted.body["id"])
        await hand.start()
        asked = await hand.ask()
        assert (await client.post(f"/api/inbox/{asked}/answer", {"action": "approve"})).status == 200
        assert (await client.get(f"/api/inbox/{asked}")).body["status"] == "answered"
        frames = client.stream(f"/api/jobs/{hand.ref.job}/events")
        assert (await anext(frames)).id == "1"
        await hand.complete()
        assert [frame.event async for frame in frames][-1] == "job.completed"
        assert (await client.get(f"/api/jobs/{hand.ref.job}")).body["status"] == "completed"
        assert (await client.post("/api/jobs", SUBMIT, idempotency_key="k")).status == 200
        for path in ("/api/jobs", "/api/inbox", "/api/flows", "/api/flows/echo"):
            refused = await client.get(path)
            assert (refused.status, refused.body["code"]) == (503, "unavailable"), path
            assert "Retry-After" in refused.headers
        run = {"threadId": "t1", "runId": "r1", "messages": [{"id": "u1", "role": "user", "content": "hello"}]}
        told = client.stream("/api/agui/echo", run)
        started = msgspec.json.decode((await anext(told)).data)
        hand = gateway.hand(started["metadata"]["perdure"]["job_id"])
        await hand.start()
        await hand.complete()
        assert [frame.event async for frame in told][-1] == "RUN_FINISHED"
        unknown = await client.post("/api/jobs", SUBMIT | {"flow": "other"})
        assert unknown.status == 503  # not in memory: nobody knows whether there is one
        known, client.key = client.key, new_key()
        assert (await client.get("/api/whoami")).status == 503
        client.key = known
    assert (await client.get("/readyz")).status == 200

    async def back() -> bool:
        answer = await client.get("/api/jobs")
        return bool(answer.status == 200)

    await eventually(back)


@contextmanager
def away(server: PostgresServer, how: str) -> Iterator[None]:
    """The database refuses connections, or takes them and answers nothing."""
    if how == "stopped":
        server.stop()
        try:
            yield
        finally:
            server.start()
        return
    children = [int(pid) for pid in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()]
    server.freeze()
    for pid in children:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in children:
            os.kill(pid, signal.SIGCONT)
        server.thaw()


async def test_what_is_remembered_is_good_for_a_bounded_time(
    start_gateway: Start, own_database: Database, own_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await with_flow(await start_gateway(on=own_database, outage_seconds=0.0))
    monkeypatch.setattr(memory, "FRESH_SECONDS", 0.0)
    with away(own_postgres, "stopped"):
        assert (await gateway.client.post("/api/jobs", SUBMIT)).status == 503


@pytest.mark.parametrize("how", ["stopped", "frozen"])
async def test_without_the_broker_a_submit_is_refused_in_time_and_nothing_is_half_made(
    start_gateway: Start, own_nats_server: NatsServer, how: str, eventually: Eventually
) -> None:
    gateway = await with_flow(await start_gateway(server=own_nats_server))
    if how == "stopped":
        own_nats_server.stop()
        answers = await asyncio.gather(
            *(gateway.client.post("/api/jobs", SUBMIT, idempotency_key="k") for _ in range(8))
        )
        own_nats_server.start()
    else:
        with frozen(own_nats_server):
            answers = await asyncio.gather(
                *(gateway.client.post("/api/jobs", SUBMIT, idempotency_key="k") for _ in range(8))
            )
    assert {answer.status for answer in answers} == {503}
    assert {answer.body["code"] for answer in answers} <= {"unavailable", "outcome-unknown"}
    assert all("Retry-After" in answer.headers for answer in answers)
    unknown = {answer.body["job_id"] for answer in answers if answer.body["code"] == "outcome-unknown"}

    async def accepted() -> bool:
        answer = await gateway.client.post("/api/jobs", SUBMIT, idempotency_key="k")
        return bool(answer.status == 202)

    await eventually(accepted)
    again = await gateway.client.post("/api/jobs", SUBMIT, idempotency_key="k")
    assert unknown <= {again.body["id"]}  # what was unknown is what it is told then
    assert len(await gateway.desk.eventlog.read(gateway.hand(again.body["id"]).ref)) == 1


class GatewayProcess:
    """`python -m perdure_gateway`, which a test may kill."""

    def __init__(self, environ: dict[str, str], port: int, eventually: Eventually) -> None:
        self.environ = environ
        self._eventually = eventually
        self.url = f"http://127.0.0.1:{port}"
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start it and wait until it is ready."""
        self._process = self._spawn()
        async with aiohttp.ClientSession() as session:
            await self._eventually(lambda: self._ready(session))

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def _spawn(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "perdure_gateway"], env=self.environ)

    async def _ready(self, session: aiohttp.ClientSession) -> bool:
        assert self.running, "the gateway ended"
        try:
            async with session.get(f"{self.url}/readyz") as response:
                return response.status == 200
        except aiohttp.ClientConnectionError:
            return False

    def end(self, number: signal.Signals) -> int:
        """Send a signal and wait for the end; the exit code."""
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(30)


@pytest.fixture
async def process(
    nats_server: NatsServer, database_url: str, tmp_path: Path, key: str, eventually: Eventually
) -> AsyncIterator[GatewayProcess]:
    """A gateway in a process of its own, not started yet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    who = nats_server.credentials["gateway"]
    environ = {
        "PATH": str(tmp_path),
        "PERDURE_NATS": nats_server.url,
        "PERDURE_NATS_USER": who.user,
        "PERDURE_NATS_PASSWORD": who.password,
        "PERDURE_DATABASE": database_url,
        "PERDURE_PORT": str(port),
    }
    process = GatewayProcess(environ, port, eventually)
    yield process
    if process.running:
        process.end(signal.SIGKILL)


async def test_killed_and_started_again_in_the_middle_of_a_stream(
    gateway: Gateway, process: GatewayProcess, eventually: Eventually
) -> None:
    """kill -9 between two frames; the reader comes back with its last id and misses nothing."""
    await process.start()
    gateway.client.url = process.url
    hand = await gateway.submit()
    await hand.start()
    seen: list[int] = []
    last: dict[str, str] = {}

    async def read() -> None:
        while True:
            try:
                async for frame in gateway.client.stream(f"/api/jobs/{hand.ref.job}/events", **last):
                    if frame.event != "delta.reset":
                        seen.append(int(frame.id))
                    last["last_event_id"] = frame.id
                    if frame.event == "job.completed":
                        return
            except (aiohttp.ClientError, ConnectionError):
                await SystemClock().sleep(0.02)  # a client's pause before it tries again

    reading = asyncio.create_task(read())
    for turn in range(3):
        for n in range(10):
            await hand.step("s", occurrence=turn * 10 + n + 1)
        reached = 3 + turn * 10
        await eventually(lambda reached=reached: len(seen) >= reached)
        await asyncio.to_thread(process.end, signal.SIGKILL)
        await hand.step("while it was away", occurrence=turn + 1)
        await process.start()
    await hand.complete()
    await asyncio.wait_for(reading, 60)
    assert seen == list(range(1, 37))


async def test_told_to_stop_it_closes_its_streams_and_exits_well(gateway: Gateway, process: GatewayProcess) -> None:
    await process.start()
    gateway.client.url = process.url
    hand = await gateway.submit()
    frames = gateway.client.stream(f"/api/jobs/{hand.ref.job}/events")
    assert (await anext(frames)).id == "1"
    code = asyncio.create_task(asyncio.to_thread(process.end, signal.SIGTERM))
    assert [frame.event async for frame in frames] == ["stream.close"]
    assert await code == 0


async def test_it_waits_for_streams_that_are_not_declared_yet(process: GatewayProcess, tmp_path: Path) -> None:
    with NatsServer(tmp_path / "empty") as bare:
        who = bare.credentials["gateway"]
        process.environ |= {"PERDURE_NATS": bare.url, "PERDURE_NATS_PASSWORD": who.password}
        starting = asyncio.create_task(process.start())
        done, _ = await asyncio.wait({starting}, timeout=1.5)
        assert not done
        async with connect(bare) as bus:
            await declare(bus, Topology())
        await starting
        assert await asyncio.to_thread(process.end, signal.SIGTERM) == 0
