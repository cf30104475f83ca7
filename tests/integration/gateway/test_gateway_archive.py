"""Jobs whose logs retention has purged: they read as before, and their keys start nothing new, also without SQL."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from perdure.bus.doorbell import Doorbells
from perdure.bus.eventlog import EventLog
from perdure.core.event import JobCompleted
from perdure.db.engine import Database, open_database
from perdure.db.migrate import upgrade
from perdure.db.principals import create_key, ensure_tenant
from perdure.ids import Principal, Tenant
from perdure.jobs.desk import Desk
from perdure.local.server import NatsServer
from perdure.testing.clock import FakeClock
from perdure.testing.postgres import PostgresServer
from perdure.testing.servers import connect
from perdure_sweeper.duties.retention import Keep, Retention
from perdure_sweeper.projector import Projector

Gateway = Any  # the conftest's
Start = Callable[..., Awaitable[Gateway]]
DAY = 86_400.0
SUBMIT = {"flow": "echo", "input": "hello"}
ECHO: dict[str, Any] = {
    "format": "perdure.graph/1",
    "name": "echo",
    "nodes": [{"id": "brief", "component": "chat_input"}, {"id": "out", "component": "text_output"}],
    "edges": [{"from": "brief.text", "to": "out.text"}],
}


async def retire(server: NatsServer, database: Database, days: float = 8.0) -> int:
    """Project everything, then do what retention does so many days from now; how many logs it purged."""
    async with connect(server, "sweeper") as bus:
        clock = FakeClock(bus.clock.broker_now())
        desk = Desk(EventLog(bus, 8), Doorbells(bus), clock)
        for shard in range(8):
            projector = Projector(database, desk, bus, shard, 8)
            while await projector.step():
                pass
        clock.advance(days * DAY)
        return await Retention(database, desk, bus, 8, Keep()).run_once()


async def finished(gateway: Gateway, key: str | None) -> Gateway:
    """A job that asked, was answered and completed; its runner by hand."""
    made = await gateway.client.post("/api/jobs", SUBMIT, idempotency_key=key or "")
    assert made.status == 202, made.raw
    hand = gateway.hand(made.body["id"])
    await hand.start()
    asked = await hand.ask()
    assert (await gateway.client.post(f"/api/inbox/{asked}/answer", {"action": "approve"})).status == 200
    await hand.complete(out="hello")
    return hand


async def with_flow(gateway: Gateway) -> Gateway:
    made = await gateway.client.post("/api/flows", {"name": "echo", "definition": ECHO})
    assert made.status == 201, made.raw
    return gateway


@pytest.mark.parametrize("with_key", ["k", None], ids=["with a key", "with a random id"])
async def test_a_purged_job_reads_as_before(
    start_gateway: Start, own_nats_server: NatsServer, database: Database, with_key: str | None
) -> None:
    gateway = await with_flow(await start_gateway(server=own_nats_server))
    client = gateway.client
    job = (await finished(gateway, with_key)).ref.job
    paths = [f"/api/jobs/{job}", f"/api/jobs/{job}/requests", f"/api/jobs/{job}/events?after=2&limit=2"]
    before = [(await client.get(path)).body for path in paths]
    frames = [frame async for frame in client.stream(f"/api/jobs/{job}/events?deltas=false")]
    assert await retire(own_nats_server, database) == 1
    async with connect(own_nats_server) as bus:
        left = await EventLog(bus, 8).read(gateway.hand(job).ref)
    assert len(left) == (1 if with_key else 0)
    assert [(await client.get(path)).body for path in paths] == before
    assert [frame async for frame in client.stream(f"/api/jobs/{job}/events?deltas=false")] == frames
    middle = [frame async for frame in client.stream(f"/api/jobs/{job}/events?deltas=false", Last_Event_ID="3")]
    assert middle == frames[3:]
    asked = before[1]["data"][0]["id"]
    assert (await client.post(f"/api/inbox/{asked}/answer", {"action": "approve"})).status == 200  # the same again
    assert (await client.post(f"/api/inbox/{asked}/answer", {"action": "reject", "comment": "no"})).status == 409
    assert (await client.post(f"/api/jobs/{job}/cancel")).body["status"] == "completed"
    assert (await client.get(f"/api/jobs/{job.replace(job[:8], '00000000')}")).status == 404


async def test_a_key_replayed_after_the_purge_answers_with_its_job(
    start_gateway: Start, own_nats_server: NatsServer, database: Database
) -> None:
    gateway = await with_flow(await start_gateway(server=own_nats_server))
    hand = await finished(gateway, "k")
    before = (await gateway.client.get(f"/api/jobs/{hand.ref.job}")).body
    await retire(own_nats_server, database)
    again = await gateway.client.post("/api/jobs", SUBMIT, idempotency_key="k")
    assert (again.status, again.headers["Idempotency-Replayed"], again.body) == (200, "true", before)
    other = await gateway.client.post("/api/jobs", SUBMIT | {"input": "other"}, idempotency_key="k")
    assert (other.status, other.body["code"]) == (422, "idempotency-key-reused")


@pytest.fixture
async def own_database(own_postgres: PostgresServer, tenant: Tenant, key: str) -> AsyncIterator[Database]:
    """A database that a test may stop; it knows the key."""
    await asyncio.to_thread(upgrade, own_postgres.url())
    async with open_database(own_postgres.url()) as database:
        now = FakeClock().broker_now()
        async with database.transaction() as conn:
            await ensure_tenant(conn, tenant, now=now)
            await create_key(conn, tenant, Principal("user:ann"), key, now=now)
        yield database


@pytest.mark.parametrize("dialect", ["sqlite"])
@pytest.mark.parametrize("flow", ["echo", "gone"])
async def test_without_sql_a_key_whose_job_was_purged_runs_nothing_again(
    start_gateway: Start, own_nats_server: NatsServer, own_database: Database, own_postgres: PostgresServer, flow: str
) -> None:
    gateway = await with_flow(await start_gateway(server=own_nats_server, on=own_database))
    hand = await finished(gateway, "k")
    await retire(own_nats_server, own_database)
    if flow == "gone":  # a gateway that has just started knows the key of its caller, and no flow
        gateway = await start_gateway(server=own_nats_server, on=own_database)
        assert (await gateway.client.get("/api/whoami")).status == 200
    own_postgres.stop()
    try:
        again = await gateway.client.post("/api/jobs", SUBMIT, idempotency_key="k")
        assert again.status == 200, again.raw
        assert (again.body["id"], again.body["status"]) == (hand.ref.job, "completed")
        other = await gateway.client.post("/api/jobs", SUBMIT | {"input": "other"}, idempotency_key="k")
        assert (other.status, other.body["code"]) == (422, "idempotency-key-reused")
        assert (await gateway.client.get(f"/api/jobs/{hand.ref.job}")).status == 503  # what it was, only SQL knows
    finally:
        own_postgres.start()
    async with connect(own_nats_server) as bus:
        [tombstone] = await EventLog(bus, 8).read(hand.ref)
        assert isinstance(tombstone.event, JobCompleted)
    assert (await gateway.client.get("/api/jobs")).status == 200  # it is back
    assert (await gateway.client.get(f"/api/jobs/{hand.ref.job}")).status == 200
