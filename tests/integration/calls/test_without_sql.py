"""Registering while SQL is away: the runner waits and takes nothing; afterwards what it knows is known, once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from msgspec import Struct
from tests.integration.calls.conftest import Fleet
from tests.integration.calls.test_python_flows import BAKERY, outcome, submitted
from tests.integration.gateway.conftest import StartGateway

from perdure.bus.call import answering
from perdure.bus.callbodies import REGISTER
from perdure.db.engine import Database, open_database
from perdure.db.migrate import upgrade
from perdure.db.principals import create_key, ensure_tenant
from perdure.ids import Principal, Tenant
from perdure.testing.factory import BEGIN
from perdure.testing.postgres import PostgresServer
from perdure_gateway.calls import handlers
from perdure_gateway.keys import BUS

Eventually = Callable[..., Awaitable[None]]


@pytest.fixture
def dialect() -> str:
    """What the tests do not stop is SQLite."""
    return "sqlite"


@pytest.fixture
async def own_database(own_postgres: PostgresServer, tenant: Tenant, key: str) -> AsyncIterator[Database]:
    """A database that a test may stop; it knows the key."""
    await asyncio.to_thread(upgrade, own_postgres.url())
    async with open_database(own_postgres.url()) as database:
        async with database.transaction() as conn:
            await ensure_tenant(conn, tenant, now=BEGIN)
            await create_key(conn, tenant, Principal("user:ann"), key, now=BEGIN)
        yield database


@pytest.fixture
async def shaky(start_gateway: StartGateway, own_database: Database) -> AsyncIterator[Any]:
    """A gateway that answers calls, over a database that a test may stop."""
    gateway: Any = await start_gateway(on=own_database)
    answer = handlers(gateway.app)
    registrations = 0

    async def register(body: bytes) -> Struct:
        nonlocal registrations
        registrations += 1
        return await answer[REGISTER](body)

    gateway.registrations = lambda: registrations  # what the tests watch
    async with answering(gateway.app[BUS], {**answer, REGISTER: register}):
        await gateway.app[BUS].flush()
        yield gateway


async def test_a_runner_waits_for_sql_and_takes_nothing_until_its_flows_are_known(
    shaky: Any, own_postgres: PostgresServer, fleet: Fleet, eventually: Eventually
) -> None:
    name = fleet.module(BAKERY)
    async with fleet.runner(name):
        pass
    job = await submitted(shaky, fleet, "bake")
    own_postgres.stop()
    async with fleet.starting(name) as service:
        before = shaky.registrations()
        await eventually(lambda: shaky.registrations() >= before + 3)  # twice refused for certain
        assert not service.ready
        log = await shaky.desk.eventlog.read(shaky.hand(job).ref)
        assert len(log) == 1
        own_postgres.start()
        await eventually(lambda: service.ready, within_seconds=40)
        assert (await outcome(shaky, eventually, job))["outputs"] == {"result": "bread"}
        assert (await shaky.client.get("/api/flows/bake")).body["version"] == 1


async def test_a_runner_that_is_known_works_on_while_sql_is_away(
    shaky: Any,
    own_postgres: PostgresServer,
    fleet: Fleet,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("perdure_runner.register.EVERY_SECONDS", 0.1)
    async with fleet.runner(fleet.module(BAKERY)) as service:
        await submitted(shaky, fleet, "bake")  # the key and the flow are in the gateway's memory now
        before = shaky.registrations()
        await eventually(lambda: shaky.registrations() >= before + 2)  # and are not forgotten for nothing
        own_postgres.stop()
        before = shaky.registrations()
        await eventually(lambda: shaky.registrations() >= before + 2)
        job = await submitted(shaky, fleet, "bake")
        assert (await outcome(shaky, eventually, job))["status"] == "completed"
        assert service.ready
        own_postgres.start()
