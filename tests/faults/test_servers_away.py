"""The broker away, the database away, around processes that stay: what is refused, what goes on, what comes back."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from perdure.cli.examples import example
from perdure.client import Client, decode
from perdure.clock import SystemClock
from perdure.core import verify
from perdure.core.event import AnyEvent
from perdure.db.migrate import upgrade
from perdure.local.launch import UpProcess, launched
from perdure.local.server import NatsServer
from perdure.testing import whole
from perdure.testing.chatmodel import ChatModel
from perdure.testing.postgres import PostgresServer

Eventually = Callable[..., Awaitable[None]]
FLOW = "content_approval"
REFUSED_WITHIN = 10.0  # what the design promises; a client of a loaded machine gets a second more
KEY = "away-1"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[NatsServer]:
    """A broker that a test may stop and that nobody starts again but the test."""
    with NatsServer(tmp_path / "broker") as server:
        yield server


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    """A Postgres that a test may stop."""
    with PostgresServer() as server:
        yield server


def session(up: UpProcess) -> aiohttp.ClientSession:
    """Plain HTTP: no try is repeated."""
    return aiohttp.ClientSession(up.url, headers={"Authorization": f"Bearer {up.client.key}"})


async def submit(http: aiohttp.ClientSession, key: str) -> tuple[int, dict[str, str], Any]:
    """Submit the main job under an idempotency key: status, headers, body."""
    body, headers = {"flow": FLOW, "input": f"the text of {key}"}, {"Idempotency-Key": key}
    async with http.post("/api/jobs", json=body, headers=headers) as answer:
        return answer.status, dict(answer.headers), await answer.json(content_type=None)


async def log_of(client: Client, job: str) -> list[AnyEvent]:
    """The log of an ended job, judged."""
    events = [event for f in await whole.events(client, job) if isinstance(event := decode(f), AnyEvent)]
    assert verify.log(events) == []
    return events


async def test_while_the_broker_is_away_nothing_is_taken_and_when_it_is_back_everything_goes_on(
    tmp_path: Path, broker: NatsServer, eventually: Eventually
) -> None:
    admin = broker.credentials["admin"]
    async with ChatModel(SystemClock()).serve() as model:
        environ = whole.environment(model, nats_user=admin.user, nats_password=admin.password)
        data, log = tmp_path / "data", tmp_path / "up.log"
        async with (
            launched(data, "--nats", broker.url, environ=environ, log=log) as up,
            whole.client_of(up) as client,
            session(up) as http,
        ):
            sleeping = await whole.submit(client, example(FLOW), "asleep before")
            await whole.events(client, sleeping, until="suspended")
            pids = up.processes()
            broker.stop()

            began = time.monotonic()
            (status, headers, body), (read, _) = await asyncio.gather(submit(http, KEY), shown(http, sleeping))
            assert time.monotonic() - began < REFUSED_WITHIN + 1
            assert (status, read) == (503, 503)
            assert body["code"] in ("unavailable", "outcome-unknown")
            assert int(headers["Retry-After"]) >= 1
            async with http.get("/readyz") as ready:
                assert ready.status == 503
            async with http.get("/livez") as live:
                assert live.status == 200

            broker.start()
            await eventually(lambda: is_ready(http), within_seconds=30)
            status, _, job = await submit(http, KEY)  # the same key: whatever became of the first try, it is one job
            assert status == 202
            for each in (job["id"], sleeping):
                await whole.events(client, each, until="suspended")
                [request] = (await client.job(each)).requests
                await client.answer(await client.request(request.id), "approve")
                assert (await log_of(client, each))[-1].status == "completed"

            async def listed() -> bool:
                return {row.id: row.status for row in (await client.jobs()).data} == {
                    job["id"]: "completed",
                    sleeping: "completed",
                }

            await eventually(listed)
            assert up.processes() == pids
            assert len(model.calls) == 2


async def shown(http: aiohttp.ClientSession, job: str) -> tuple[int, Any]:
    """Status and body of one job."""
    async with http.get(f"/api/jobs/{job}") as answer:
        return answer.status, await answer.json(content_type=None)


async def is_ready(http: aiohttp.ClientSession) -> bool:
    """Whether the gateway may be sent work."""
    async with http.get("/readyz") as answer:
        return answer.status == 200


async def test_while_the_database_is_away_known_keys_submit_run_answer_and_follow(
    tmp_path: Path, postgres: PostgresServer, eventually: Eventually
) -> None:
    url = postgres.url()
    await asyncio.to_thread(upgrade, url)
    async with ChatModel(SystemClock()).serve() as model:
        environ = whole.environment(model)
        async with (
            launched(tmp_path / "data", "--database", url, environ=environ, log=tmp_path / "up.log") as up,
            whole.client_of(up) as client,
            session(up) as http,
        ):
            before = await whole.submit(client, example(FLOW), "before")
            await whole.events(client, before, until="suspended")
            pids = up.processes()
            postgres.kill()

            status, _, body = await submit(http, KEY)
            assert status == 202, body
            again, headers, replayed = await submit(http, KEY)
            assert (again, headers["Idempotency-Replayed"], replayed["id"]) == (202, "true", body["id"])
            for job in (body["id"], before):
                await whole.events(client, job, until="suspended")
                [request] = (await client.job(job)).requests
                await client.answer(await client.request(request.id), "approve")
                assert (await log_of(client, job))[-1].status == "completed"
            for path in ("/api/jobs", "/api/inbox", "/api/flows", "/api/keys"):
                async with http.get(path) as answer:
                    assert (answer.status, (await answer.json())["code"]) == (503, "unavailable"), path
                    assert int(answer.headers["Retry-After"]) >= 1
            async with http.get("/api/jobs", headers={"Authorization": f"Bearer {UNKNOWN}"}) as answer:
                assert answer.status == 503  # not known here, and nobody can be asked

            postgres.start()

            async def listed() -> bool:
                async with http.get("/api/jobs") as answer:
                    rows = (await answer.json())["data"] if answer.status == 200 else []
                return {row["id"]: row["status"] for row in rows} == {body["id"]: "completed", before: "completed"}

            await eventually(listed, within_seconds=30)
            assert up.processes() == pids


UNKNOWN = f"pdr_aaaaaaaa_{'a' * 43}"
