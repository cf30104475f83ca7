"""A broker, a database and a projector of the test's own."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from perdure import probe
from perdure.bus.connection import Bus
from perdure.bus.doorbell import Doorbells
from perdure.bus.eventlog import EventLog
from perdure.db.engine import Database
from perdure.jobs.desk import Desk
from perdure.local.server import NatsServer
from perdure.testing.clock import FakeClock
from perdure.testing.servers import connect
from perdure_sweeper.projector import Projector

SHARDS = 8


@pytest.fixture
async def own_bus(own_nats_server: NatsServer) -> AsyncIterator[Bus]:
    """A connection to the test's own broker, with the sweeper's rights."""
    async with connect(own_nats_server, "sweeper") as bus:
        yield bus


@pytest.fixture
def own_eventlog(own_bus: Bus) -> EventLog:
    """The logs of the test's own broker."""
    return EventLog(own_bus, SHARDS)


@pytest.fixture
def clock() -> FakeClock:
    """The duties' clock: it stands still at the factory's first instant."""
    return FakeClock()


@pytest.fixture
def desk(own_bus: Bus, own_eventlog: EventLog, clock: FakeClock) -> Desk:
    """What the duties get."""
    return Desk(own_eventlog, Doorbells(own_bus), clock)


@pytest.fixture
def projector(database: Database, own_bus: Bus, desk: Desk) -> Callable[[int], Projector]:
    """`projector(shard)`: a new one, as after a restart."""
    return lambda shard: Projector(database, desk, own_bus, shard, SHARDS)


@pytest.fixture
def project(projector: Callable[[int], Projector]) -> Callable[[], Awaitable[None]]:
    """Bring the rows of all shards up to the logs' ends, by a sweeper that has just started."""

    async def all_shards() -> None:
        for shard in range(SHARDS):
            one = projector(shard)
            while await one.step():
                pass

    return all_shards


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    probe.arm("")
