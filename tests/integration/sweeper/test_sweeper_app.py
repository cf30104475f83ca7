"""The sweeper whole, with its own rights: from a broker without streams and a database without tables to a stop."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr

from perdure.bus.connection import Bus
from perdure.bus.doorbell import Doorbells
from perdure.bus.eventlog import EventLog
from perdure.bus.topology import compare
from perdure.config import SweeperSettings
from perdure.db import jobs
from perdure.db.engine import open_database
from perdure.db.migrate import upgrade
from perdure.errors import Unavailable
from perdure.ids import Queue, Tenant
from perdure.local.server import NatsServer
from perdure.service import Service
from perdure.testing.logs import Told
from perdure.testing.servers import connect, nats_server_at
from perdure_sweeper import sweep
from perdure_sweeper.app import serve

MAIN = Tenant("main")
Eventually = Callable[..., Awaitable[None]]


@pytest.fixture
def bare_server(tmp_path: Path) -> Iterator[NatsServer]:
    """A nats-server of the test's own, without streams."""
    with nats_server_at(tmp_path / "nats", None) as server:
        yield server


@asynccontextmanager
async def sweeping(server: NatsServer, database_url: str) -> AsyncIterator[Service]:
    """A sweeper that runs until the block ends, and then ends well."""
    who = server.credentials["sweeper"]
    settings = SweeperSettings(
        nats=(server.url,), nats_user=who.user, nats_password=SecretStr(who.password), database=database_url
    )
    service = Service("sweeper")
    running = asyncio.create_task(serve(settings, service))
    try:
        yield service
    finally:
        service.stop()
        await running


async def declared(bus: Bus) -> bool:
    try:
        await compare(bus)
    except Unavailable:
        return False
    return True


async def seq_of(url: str, told: Told) -> int:
    async with open_database(url) as database, database.read() as conn:
        row = await jobs.get_row(conn, told.ref)
    return 0 if row is None else row.seq


async def test_a_sweeper_makes_what_is_missing_waits_for_the_tables_and_keeps_both_true(
    bare_server: NatsServer, empty_database_url: str, eventually: Eventually
) -> None:
    url = empty_database_url
    async with connect(bare_server) as bus, sweeping(bare_server, url) as service:
        await eventually(lambda: declared(bus))
        assert not service.ready
        await asyncio.to_thread(upgrade, url)
        await eventually(lambda: service.ready)

        eventlog, doorbells = EventLog(bus, 8), Doorbells(bus)
        told = Told(eventlog, MAIN)
        await told.put(told.story.submitted(deadline_seconds=10 * 365 * 86_400))  # and nobody rings
        await eventually(lambda: is_at(url, told, 1))
        await eventually(lambda: doorbells.exists(told.ref, Queue("default"), "normal"))

        await bus.request("$JS.API.STREAM.DELETE.WORK", b"")
        await eventually(lambda: declared(bus))
        await eventually(lambda: doorbells.exists(told.ref, Queue("default"), "normal"))

        bare_server.kill()
        await eventually(lambda: not service.ready)
        bare_server.start()
        await eventually(lambda: service.ready)
        await eventually(lambda: bus.connected)
        await told.put(told.story.started())
        await eventually(lambda: is_at(url, told, 2))
    assert not service.ready


async def is_at(url: str, told: Told, seq: int) -> bool:
    return await seq_of(url, told) == seq


async def test_an_event_is_in_sql_by_its_own_news_not_by_the_next_look(
    bare_server: NatsServer, database_url: str, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "PERIOD_SECONDS", 3600.0)  # nobody looks by himself
    async with connect(bare_server) as bus, sweeping(bare_server, database_url) as service:
        await eventually(lambda: service.ready)
        told = Told(EventLog(bus, 8), MAIN)
        await told.put(told.story.submitted())
        await told.put(told.story.started())
        for number in range(20):
            await told.put(told.story.step(f"s{number}"))
            await eventually(lambda: is_at(database_url, told, told.story.state.seq))


async def test_a_stop_while_it_still_waits_is_a_stop(bare_server: NatsServer, empty_database_url: str) -> None:
    async with connect(bare_server) as bus, sweeping(bare_server, empty_database_url) as service:
        assert not service.ready
        await bus.flush()
