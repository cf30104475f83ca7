"""Blobs that nothing names are collected after a day, those that anything names and those that come meanwhile stay."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from perdure.bus import blob, inventory
from perdure.bus.connection import Bus
from perdure.bus.eventlog import EventLog
from perdure.bus.inventory import Name, mentioned, references
from perdure.bus.purge import purge_canaries
from perdure.bus.stream import Ask, leader_get, store
from perdure.bus.subject import BLOB, CANARY_BLOB, CANARY_WORK, WORK, canary_event, event_stream
from perdure.clock import SystemClock
from perdure.core.instant import Instant, later
from perdure.core.machine import EMPTY, stamp
from perdure.db import duties
from perdure.db.engine import Database
from perdure.db.flows import put_flow
from perdure.db.principals import ensure_tenant
from perdure.errors import NotFound
from perdure.ids import Digest, Principal, Tenant, new_event_id
from perdure.jobs.desk import Desk
from perdure.local.server import NatsServer
from perdure.testing.clock import FakeClock
from perdure.testing.factory import BEGIN, Story
from perdure.testing.logs import Told
from perdure.testing.servers import connect
from perdure_sweeper.duties.blobs import UnnamedBlobs
from perdure_sweeper.duties.retention import Keep, Retention

MAIN, OTHER = Tenant("main"), Tenant("other")
SHARDS = 8
DAY = 86_400.0
Project = Callable[[], Awaitable[None]]


@pytest.fixture
async def own_bus(own_nats_server: NatsServer) -> AsyncIterator[Bus]:
    """Everything: the tests put what a runner would."""
    async with connect(own_nats_server) as bus:
        yield bus


@pytest.fixture
def clock(own_bus: Bus) -> FakeClock:
    """The broker's time, which stamps the chunks."""
    return FakeClock(own_bus.clock.broker_now())


@pytest.fixture
def unnamed(database: Database, own_bus: Bus, clock: FakeClock) -> UnnamedBlobs:
    """The duty `blobs`."""
    return UnnamedBlobs(database, own_bus, clock, SHARDS)


async def submitted_with(eventlog: EventLog, *refs: Digest, at: Instant = BEGIN) -> Told:
    """A job whose first event names `refs`."""
    told = Told(eventlog, MAIN)
    told.story = Story(told.ref.job, at)
    event = told.story.submitted()
    named = stamp(EMPTY, new_event_id(), at, event.data, refs)
    told.story.events[0] = named
    await told.put(named)
    return told


async def there(bus: Bus, tenant: Tenant, digest: Digest) -> bool:
    try:
        await blob.get(bus, tenant, digest)
    except NotFound:
        return False
    return True


async def test_only_what_nothing_names_and_what_is_a_day_old_goes(
    database: Database, own_bus: Bus, own_eventlog: EventLog, unnamed: UnnamedBlobs, clock: FakeClock
) -> None:
    large = b"x" * (blob.CHUNK_BYTES * 2 + 5)
    logged = await blob.put(own_bus, MAIN, b"named by a log")
    flow = await blob.put(own_bus, MAIN, b"named by a flow")
    inner = await blob.put(own_bus, MAIN, b"named inside a flow")
    nobody = [await blob.put(own_bus, MAIN, body) for body in (b"small", large)]
    foreign = await blob.put(own_bus, OTHER, b"named by a log")  # of another tenant
    await submitted_with(own_eventlog, logged)
    async with database.transaction() as conn:
        await ensure_tenant(conn, MAIN, now=BEGIN)
        definition = f'{{"flow": "inner@{inner}"}}'
        await put_flow(conn, MAIN, Principal("user:ann"), "f", "graph", definition, flow, outputs=(), now=BEGIN)
    assert await unnamed.collect() == 0  # too young
    clock.advance(DAY + 60)
    assert await unnamed.collect() == 3
    for digest in (logged, flow, inner):
        assert await there(own_bus, MAIN, digest)
    for digest in nobody:
        assert not await there(own_bus, MAIN, digest)
    assert not await there(own_bus, OTHER, foreign)
    assert await unnamed.collect() == 0


async def test_what_an_archived_log_names_stays_until_the_archive_forgets_it(
    database: Database,
    own_bus: Bus,
    own_eventlog: EventLog,
    unnamed: UnnamedBlobs,
    clock: FakeClock,
    desk: Desk,
    project: Project,
) -> None:
    digest = await blob.put(own_bus, MAIN, b"large value")
    told = await submitted_with(own_eventlog, digest, at=clock.broker_now())
    await told.put(told.story.started())
    await told.put(told.story.completed())
    await project()
    retention = Retention(database, desk, own_bus, SHARDS, Keep())
    clock.advance(8 * DAY)
    assert await retention.run_once() == 1
    assert await own_eventlog.read(told.ref) == []
    assert await unnamed.collect() == 0
    clock.advance(83 * DAY)
    assert await retention.run_once() == 1
    assert await unnamed.collect() == 1
    assert not await there(own_bus, MAIN, digest)


class Ahead(SystemClock):
    """The clock of the collector's days."""

    def broker_now(self) -> Instant:
        return later(super().broker_now(), 2 * DAY)


async def test_a_copy_that_is_written_while_the_collector_looks_survives(
    own_nats_server: NatsServer, own_bus: Bus, unnamed: UnnamedBlobs, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = b"y" * (blob.CHUNK_BYTES + 5)
    digest = await blob.put(own_bus, MAIN, body)
    clock.advance(2 * DAY)
    looked: list[Name] = []
    seen = inventory.newest

    async def newest(bus: Bus, name: Name, highest: int) -> object:
        found = await seen(bus, name, highest)
        async with connect(own_nats_server, clock=Ahead()) as writer:  # it finds the blob old: it writes all again
            assert await blob.put(writer, MAIN, body) == digest
        looked.append(name)
        return found

    monkeypatch.setattr("perdure.bus.inventory.newest", newest)
    assert await unnamed.collect() == 1
    assert looked == [(MAIN, digest)]
    assert await blob.get(own_bus, MAIN, digest) == body
    stream = await leader_get(own_bus, BLOB, Ask(seq=1))
    assert stream is None  # the old copy is gone


async def test_a_put_whose_writer_died_before_its_first_chunk_is_collected_too(
    own_bus: Bus, unnamed: UnnamedBlobs, clock: FakeClock
) -> None:
    digest = blob.digest_of(b"half")
    await store(own_bus, f"blob.main.{digest}.3", b"half")
    clock.advance(2 * DAY)
    assert await unnamed.collect() == 1
    assert await leader_get(own_bus, BLOB, Ask(last_by_subj=f"blob.main.{digest}.3")) is None


async def test_what_a_newer_version_names_is_named(
    own_bus: Bus, own_eventlog: EventLog, unnamed: UnnamedBlobs, clock: FakeClock
) -> None:
    digest = await blob.put(own_bus, MAIN, b"of the future")
    told = Told(own_eventlog, MAIN)
    await store(
        own_bus,
        f"ev.{int(told.ref.job[-1], 16) % SHARDS}.main.{told.ref.job}",
        b'{"v":9,"links":["%s"]' % digest.encode(),
    )
    clock.advance(2 * DAY)
    assert await unnamed.collect() == 0


async def test_it_is_done_once_a_day_however_many_sweepers_there_are(
    database: Database, own_bus: Bus, clock: FakeClock
) -> None:
    sweepers = [UnnamedBlobs(database, own_bus, clock, SHARDS) for _ in range(3)]
    for number in range(3):
        await blob.put(own_bus, MAIN, b"%d" % number)
    clock.advance(2 * DAY)
    assert sorted([await sweeper.run_once() for sweeper in sweepers]) == [0, 0, 3]
    await blob.put(own_bus, MAIN, b"another")
    clock.advance(DAY - 60)
    assert await sweepers[0].run_once() == 0
    clock.advance(120)
    assert sorted([await sweeper.run_once() for sweeper in sweepers]) == [0, 0, 1]


async def test_a_duty_whose_sweeper_died_is_taken_up_an_hour_later(database: Database, clock: FakeClock) -> None:
    async with database.transaction() as conn:
        assert await duties.begin(conn, "d", clock.broker_now(), DAY)  # and dies
    clock.advance(3500)
    async with database.transaction() as conn:
        assert not await duties.begin(conn, "d", clock.broker_now(), DAY)
    clock.advance(200)
    began = clock.broker_now()
    async with database.transaction() as conn:
        assert await duties.begin(conn, "d", began, DAY)
        await duties.end(conn, "d", began, began)
        assert await duties.last(conn, "d") == (began, began)
    clock.advance(7200)
    async with database.transaction() as conn:
        assert not await duties.begin(conn, "d", clock.broker_now(), DAY)


async def test_canaries_are_purged_down_to_the_last_of_each_kind_and_are_nobody_s_blob(
    own_bus: Bus, unnamed: UnnamedBlobs, clock: FakeClock
) -> None:
    for _ in range(3):
        for subject in (canary_event(0), canary_event(5), CANARY_WORK, CANARY_BLOB):
            await store(own_bus, subject, b"{}")
    assert await purge_canaries(own_bus, SHARDS) == 8
    assert await purge_canaries(own_bus, SHARDS) == 0
    for stream, subject in ((event_stream(5), canary_event(5)), (WORK, CANARY_WORK), (BLOB, CANARY_BLOB)):
        assert await leader_get(own_bus, stream, Ask(last_by_subj=subject)) is not None
    clock.advance(2 * DAY)
    assert await unnamed.collect() == 0


def test_references_are_read_as_written_and_guessed_where_nothing_can_be_read() -> None:
    digest = "ab" * 32
    assert list(references(b'{"refs": ["%s"], "other": "%s"}' % (digest.encode(), b"cd" * 32))) == [digest]
    assert list(references(b'{"refs": "%s"' % digest.encode())) == [digest]
    assert list(mentioned(b"x" + b"ab" * 33)) == []
