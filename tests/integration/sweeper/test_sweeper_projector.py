"""The projection on both databases and a real broker: rows are folds, whatever dies, races or goes away in between."""

import asyncio
import random
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from nats.aio.msg import Msg
from sqlalchemy import text

from perdure import probe
from perdure.bus.connection import Bus
from perdure.bus.doorbell import Doorbells
from perdure.bus.eventlog import EventLog
from perdure.bus.inbox import News
from perdure.bus.subject import event_subject, shard_of
from perdure.bus.topology import Topology, declare
from perdure.core import event as ev
from perdure.core.event import Status
from perdure.core.instant import later
from perdure.core.machine import fold
from perdure.db import inbox, jobs, positions
from perdure.db.engine import Database, open_database
from perdure.db.inbox import InboxFilter
from perdure.db.jobs import JobRow
from perdure.db.migrate import upgrade
from perdure.db.positions import Position
from perdure.errors import BrokenLog, Unavailable
from perdure.ids import JobRef, Principal, StreamSeq, Tenant, new_event_id
from perdure.jobs.desk import Desk
from perdure.local.server import NatsServer
from perdure.probe import SimulatedCrash
from perdure.testing.clock import FakeClock
from perdure.testing.factory import BEGIN, FINGERPRINT
from perdure.testing.logs import Told
from perdure.testing.postgres import PostgresServer
from perdure.testing.projection import mismatches
from perdure.testing.servers import connect
from perdure_sweeper.projector import Projector

SHARDS = 8
MAIN = Tenant("main")
POINTS = ("project.after_read", "project.before_commit", "project.after_commit", "project.after_announce")

MakeProjector = Callable[[int], Projector]
Project = Callable[[], Awaitable[None]]
Eventually = Callable[..., Awaitable[None]]


async def wander(told: Told, chance: random.Random) -> None:
    """Append something that may follow, at random."""
    story = told.story
    if not story.state.exists:
        await told.put(story.submitted())
        return
    asked = list(story.state.asked)
    choices: list[Callable[[], object]] = [
        lambda: story.started("rung"),
        lambda: story.step(f"s{story.state.seq}", result="x" * chance.randrange(200)),
        lambda: story.failed_step(f"f{story.state.seq}"),
        lambda: story.asked(f"q{story.state.seq}"),
        lambda: story.suspended(*(ev.Waiting(kind="input", request_id=r) for r in asked)),
    ]
    if asked:
        first = asked[0]
        again = msgspec.structs.replace(story.state.asked[first], revision=story.state.asked[first].revision + 1)
        choices += [
            lambda: story.answered(first),
            lambda: story.add(ev.WithdrawnData(request_id=first, reason="no", by=Principal("user:ann"))),
            lambda: story.add(ev.RequestedData(request=again)),
        ]
    if story.state.seq > 6:
        choices += [lambda: story.completed(post="text"), lambda: story.add(ev.CancelledData(fingerprint=FINGERPRINT))]
    before = story.state.seq
    while story.state.seq == before:
        if story.state.terminal:
            return
        made = chance.choice(choices)
        try:
            made()
        except BrokenLog:  # it cannot follow; another one can
            continue
    await told.put(story.events[-1])


async def row_of(database: Database, ref: JobRef) -> JobRow:
    async with database.read() as conn:
        row = await jobs.get_row(conn, ref)
    assert row is not None
    return row


async def position_of(database: Database, shard: int) -> Position:
    async with database.read() as conn:
        position = await positions.get(conn, shard)
    assert position is not None
    return position


async def step_and_look(one: Projector, database: Database, upto: StreamSeq) -> bool:
    """One step, and whether everything up to `upto` is told by then."""
    await one.step()
    return (await position_of(database, one.shard)).announced == upto


async def settle(make: MakeProjector, shard: int) -> None:
    one = make(shard)
    while await one.step():
        pass


@pytest.mark.parametrize("seed", range(3))
async def test_rows_are_folds_although_the_sweeper_dies_at_every_point(
    database: Database, own_eventlog: EventLog, projector: MakeProjector, project: Project, seed: int
) -> None:
    chance = random.Random(seed)
    stories = [Told(own_eventlog, MAIN) for _ in range(6)]
    alive = {shard: projector(shard) for shard in range(SHARDS)}
    died = dict.fromkeys(POINTS, 0)
    for turn in range(60):
        at = chance.randrange(len(stories))
        if stories[at].story.state.terminal:
            stories.append(Told(own_eventlog, MAIN))
            at = len(stories) - 1
        for told in (stories[at], chance.choice(stories)):
            await wander(told, chance)
        point = POINTS[turn % len(POINTS)]
        probe.arm(f"{point}=raise" if chance.random() < 0.7 else "")
        shard = shard_of(stories[at].ref.job, SHARDS)
        try:
            await alive[shard].step()
        except SimulatedCrash:
            died[point] += 1
            alive[shard] = projector(shard)  # a new process: it knows nothing
    probe.arm("")
    await project()
    assert await mismatches(database, own_eventlog, SHARDS) == []
    assert all(died[point] for point in POINTS[:3]), died  # the last one needs a request in the batch


async def test_two_sweepers_at_once_leave_the_same_rows_as_one(
    database: Database, own_eventlog: EventLog, projector: MakeProjector, project: Project
) -> None:
    chance = random.Random(5)
    stories = [Told(own_eventlog, MAIN) for _ in range(6)]
    done = asyncio.Event()

    async def sweep() -> None:
        alive = [projector(shard) for shard in range(SHARDS)]
        while not done.is_set():
            for one in alive:
                await one.step()

    async def write() -> None:
        for _ in range(80):
            await wander(chance.choice(stories), chance)
        done.set()

    await asyncio.gather(sweep(), sweep(), write())
    await project()
    assert await mismatches(database, own_eventlog, SHARDS) == []


async def test_a_sweeper_goes_on_where_the_last_one_was(
    database: Database, own_eventlog: EventLog, projector: MakeProjector
) -> None:
    told = await Told(own_eventlog, MAIN).begin(steps=3)
    shard = shard_of(told.ref.job, SHARDS)
    first = projector(shard)
    assert await first.step() == 5
    assert await first.step() == 0
    before = await position_of(database, shard)
    assert (before.applied, before.event_id, before.epoch) == (told.last, told.story.events[-1].id, 1)
    second = projector(shard)
    assert await second.step() == 0
    await told.put(told.story.step("more"))
    assert await second.step() == 1
    assert (await row_of(database, told.ref)).seq == 6
    assert await first.step() == 1  # it read the same event, and met the other's position
    assert await first.step() == 0


async def test_a_sweeper_at_the_end_reads_no_stream_until_there_is_more(
    database: Database, own_eventlog: EventLog, own_nats_server: NatsServer, projector: MakeProjector
) -> None:
    """Reads keep blocks in the broker's memory."""
    told = await Told(own_eventlog, MAIN).begin(steps=3)
    one = projector(shard_of(told.ref.job, SHARDS))
    assert [await one.step() for _ in range(3)] == [5, 0, 0]
    reads: list[str] = []
    async with connect(own_nats_server, "admin") as bus:
        await bus.listen("$JS.API.DIRECT.GET.>", lambda message: reads.append(message.subject))
        assert [await one.step() for _ in range(3)] == [0, 0, 0]
        assert reads == []
        await told.put(told.story.step("more"))
        assert await one.step() == 1
        assert reads != []


async def test_a_slow_sweeper_never_takes_a_position_back(
    database: Database, own_eventlog: EventLog, projector: MakeProjector, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = await Told(own_eventlog, MAIN).begin()
    shard = shard_of(told.ref.job, SHARDS)
    slow, quick = projector(shard), projector(shard)
    await slow.step()
    await told.put(told.story.step("a"))
    await told.put(told.story.step("b"))
    await quick.step()
    monkeypatch.setattr("perdure_sweeper.projector.BATCH", 1)  # the slow one has read as far as the first step only
    await slow.step()
    assert (await position_of(database, shard)).applied == told.last
    assert await slow.step() == 0


async def test_a_job_that_two_sweepers_share_is_folded_from_the_log_where_memory_has_a_hole(
    database: Database, own_eventlog: EventLog, projector: MakeProjector
) -> None:
    told = await Told(own_eventlog, MAIN).begin()
    shard = shard_of(told.ref.job, SHARDS)
    one, other = projector(shard), projector(shard)
    await one.step()
    await told.put(told.story.step("a"))
    await other.step()  # `one` does not know the step
    await told.put(told.story.step("b"))
    while await one.step():
        pass
    assert (await row_of(database, told.ref)).seq == 4
    assert await mismatches(database, own_eventlog, SHARDS) == []


async def test_a_log_with_a_hole_is_quarantined_and_nobody_else_suffers(
    database: Database, own_eventlog: EventLog, projector: MakeProjector
) -> None:
    broken = await Told(own_eventlog, MAIN).begin()
    shard = shard_of(broken.ref.job, SHARDS)
    sound = Told(own_eventlog, MAIN)
    while shard_of(sound.ref.job, SHARDS) != shard:
        sound = Told(own_eventlog, MAIN)
    broken.story.step("lost")  # told, never appended
    await broken.put(broken.story.step("after"))
    await sound.begin(steps=2)
    await settle(projector, shard)
    assert (await row_of(database, broken.ref)).quarantined == "broken"
    assert (await row_of(database, sound.ref)).seq == 4
    await broken.put(broken.story.step("more"))
    await settle(projector, shard)
    assert (await row_of(database, broken.ref)).quarantined == "broken"
    assert (await position_of(database, shard)).applied == broken.last


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"v":99,"type":"job.submitted"}', "unsupported"),
        (b'{"v":1,"type":"job.dreamt"}', "unsupported"),
        (b"\xff", "broken"),
    ],
)
async def test_a_log_that_cannot_be_read_is_quarantined(
    database: Database, own_bus: Bus, own_eventlog: EventLog, projector: MakeProjector, body: bytes, why: str
) -> None:
    told = await Told(own_eventlog, MAIN).begin()
    shard = shard_of(told.ref.job, SHARDS)
    await own_bus.request(event_subject(SHARDS, told.ref), body)
    await settle(projector, shard)
    assert (await row_of(database, told.ref)).quarantined == why


async def test_a_version_that_can_read_it_takes_a_log_out_of_quarantine(
    database: Database, own_eventlog: EventLog, projector: MakeProjector
) -> None:
    told = await Told(own_eventlog, MAIN).begin()
    shard = shard_of(told.ref.job, SHARDS)
    one = projector(shard)
    await one.step()
    await told.put(told.story.step("new"))
    async with database.transaction() as conn:  # as an older version leaves it: behind, and the position past it
        await jobs.quarantine(conn, told.ref, "unsupported", told.story.at, told.last)
        here = await positions.get(conn, shard)
        assert here is not None
        await positions.put(conn, msgspec.structs.replace(here, applied=told.last))
    await settle(projector, shard)
    row = await row_of(database, told.ref)
    assert (row.quarantined, row.seq) == (None, 3)


async def test_the_canary_and_garbage_leave_no_row(
    database: Database, own_nats_server: NatsServer, own_eventlog: EventLog, projector: MakeProjector
) -> None:
    told = Told(own_eventlog, MAIN)
    shard = shard_of(told.ref.job, SHARDS)
    async with connect(own_nats_server) as bus:
        for subject in (f"ev.{shard}.canary.canary", event_subject(SHARDS, JobRef(Tenant("canary"), told.ref.job))):
            await bus.request(subject, b"chirp")
        await bus.request(f"ev.{shard}.main.nonsense", b"{}")
    await told.begin()
    await settle(projector, shard)
    async with database.read() as conn:
        found = (await conn.execute(text("SELECT tenant, job_id FROM jobs"))).all()
    assert [tuple(row) for row in found] == [told.ref]


async def test_a_title_that_postgres_refuses_stops_nothing(
    database: Database, own_eventlog: EventLog, projector: MakeProjector
) -> None:
    told = await Told(own_eventlog, MAIN).begin()
    request = told.story.asked("na\0me")
    await told.put(told.story.events[-1])
    await settle(projector, shard_of(told.ref.job, SHARDS))
    async with database.read() as conn:
        stored = await inbox.get_request(conn, MAIN, request)
    assert stored is not None
    assert stored.name == "na\ufffdme"
    assert stored.record.name == "na\0me"


# ------------------------------------------------------------------------------------------------ what is told


@pytest.mark.parametrize("point", ["project.after_commit", "project.after_announce", None])
async def test_what_becomes_of_requests_is_told_although_the_sweeper_dies(
    database: Database,
    own_nats_server: NatsServer,
    own_eventlog: EventLog,
    projector: MakeProjector,
    eventually: Eventually,
    point: str | None,
) -> None:
    told = await Told(own_eventlog, MAIN).begin()
    shard = shard_of(told.ref.job, SHARDS)
    heard: list[News] = []

    async def hear(message: Msg) -> None:
        heard.append(msgspec.json.decode(message.data, type=News))

    async with connect(own_nats_server) as bus:
        await bus.subscribe("inbox.main.request", hear)
        await bus.flush()
        request = told.story.asked("one")
        other = told.story.asked("two")
        for event in told.story.events[2:]:
            await told.put(event)
        await told.put(told.story.answered(request))
        await told.put(told.story.completed())
        one = projector(shard)
        if point is not None:
            probe.arm(f"{point}=raise:n1")
            with pytest.raises(SimulatedCrash):
                await one.step()
            probe.arm("")
            one = projector(shard)
        await eventually(lambda: step_and_look(one, database, told.last))
        await eventually(lambda: len(heard) >= (8 if point == "project.after_announce" else 4))
    ids = [(n.kind, n.id, n.seq, n.request.name) for n in heard]
    wanted = [
        ("asked", told.story.events[2].id, 3, "one"),
        ("asked", told.story.events[3].id, 4, "two"),
        ("answered", told.story.events[4].id, 5, "one"),
        ("withdrawn", f"{other}:withdrawn", 6, "two"),
    ]
    assert list(dict.fromkeys(ids)) == wanted
    assert len(ids) == (4 if point != "project.after_announce" else 8)


async def test_nothing_is_told_twice_while_nobody_dies(
    database: Database,
    own_nats_server: NatsServer,
    own_eventlog: EventLog,
    projector: MakeProjector,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not even by sweepers that take turns, one event each, so that each has to read the log again."""
    monkeypatch.setattr("perdure_sweeper.projector.BATCH", 1)
    told = await Told(own_eventlog, MAIN).begin()
    shard = shard_of(told.ref.job, SHARDS)
    heard: list[str] = []

    async def hear(message: Msg) -> None:
        heard.append(msgspec.json.decode(message.data, type=News).request.name)

    async with connect(own_nats_server) as bus:
        await bus.subscribe("inbox.main.request", hear)
        await bus.flush()
        for name in ("a", "b", "c"):
            told.story.asked(name)
            await told.put(told.story.events[-1])
        while await projector(shard).step():
            pass
        assert (await position_of(database, shard)).announced == told.last
        await eventually(lambda: "c" in heard)
    assert heard == ["a", "b", "c"]


async def test_whoever_is_told_of_a_request_finds_it_in_sql(
    database: Database,
    own_nats_server: NatsServer,
    own_eventlog: EventLog,
    projector: MakeProjector,
    eventually: Eventually,
) -> None:
    told = await Told(own_eventlog, MAIN).begin()
    found: list[bool] = []

    async def look(message: Msg) -> None:
        news = msgspec.json.decode(message.data, type=News)
        async with database.read() as conn:
            found.append(await inbox.get_request(conn, MAIN, news.request.id) is not None)

    async with connect(own_nats_server) as bus:
        await bus.subscribe("inbox.main.request", look)
        await bus.flush()
        told.story.asked("one")
        await told.put(told.story.events[-1])
        await settle(projector, shard_of(told.ref.job, SHARDS))
        await eventually(lambda: found)
    assert found == [True]


async def test_open_requests_are_listed_by_urgency(
    database: Database, own_eventlog: EventLog, project: Project
) -> None:
    for name, expires_at in (("never", None), ("later", later(BEGIN, 600)), ("soon", later(BEGIN, 60))):
        told = await Told(own_eventlog, MAIN).begin()
        told.story.asked(name, expires_at=expires_at)
        await told.put(told.story.events[-1])
    await project()
    async with database.read() as conn:
        page = await inbox.list_requests(conn, MAIN, limit=2)
        rest = await inbox.list_requests(conn, MAIN, limit=2, after=page.next)
        answered = await inbox.list_requests(conn, MAIN, InboxFilter(statuses=("answered",)))
        others = await inbox.list_requests(conn, Tenant("other"))
    assert [r.name for r in (*page.rows, *rest.rows)] == ["soon", "later", "never"]
    assert (rest.next, answered.rows, others.rows) == (None, (), ())


# ------------------------------------------------------------------------------------------------ another stream


@pytest.mark.parametrize("steps", [0, 1, 3], ids=["shorter", "as long, with the same events", "longer"])
async def test_a_stream_that_was_made_anew_is_projected_from_its_beginning(
    database: Database, own_nats_server: NatsServer, own_eventlog: EventLog, projector: MakeProjector, steps: int
) -> None:
    old = await Told(own_eventlog, MAIN).begin(steps=1)
    shard = shard_of(old.ref.job, SHARDS)
    await settle(projector, shard)
    async with connect(own_nats_server) as bus:
        await bus.request(f"$JS.API.STREAM.DELETE.EV_{shard}", b"")
        await declare(bus, Topology(shards=SHARDS))
    again = Told(own_eventlog, MAIN)
    again.ref, again.story.job = old.ref, old.ref.job
    await again.begin(steps)
    await settle(projector, shard)
    row, position = await row_of(database, old.ref), await position_of(database, shard)
    assert (row.seq, row.status) == (2 + steps, Status.RUNNING)
    assert (position.epoch, position.applied) == (2, StreamSeq(2 + steps))


async def test_a_batch_from_before_the_shard_was_projected_anew_is_dropped(
    database: Database, own_eventlog: EventLog, projector: MakeProjector
) -> None:
    told = await Told(own_eventlog, MAIN).begin()
    shard = shard_of(told.ref.job, SHARDS)
    one = projector(shard)
    await one.step()
    async with database.transaction() as conn:  # another sweeper starts again, and has come as far by chance
        here = await positions.get(conn, shard)
        assert here is not None
        await positions.put(conn, msgspec.structs.replace(here, epoch=2))
    await told.put(told.story.step("a"))
    await one.step()
    assert (await position_of(database, shard)).applied == here.applied
    await one.step()
    assert (await position_of(database, shard)).applied == told.last


@pytest.mark.parametrize("grown", [0, 9], ids=["shorter", "grown past the position"])
async def test_a_restored_older_backup_of_the_broker_is_followed(
    database: Database, own_nats_server: NatsServer, tmp_path: Path, grown: int
) -> None:
    server, store = own_nats_server, tmp_path / "nats"
    async with connect(server) as bus:
        eventlog = EventLog(bus, SHARDS)
        told = await Told(eventlog, MAIN).begin()
        shard = shard_of(told.ref.job, SHARDS)
        request = told.story.asked("kept")
        await told.put(told.story.events[-1])
        kept = list(told.at)
        await settle(lambda s: Projector(database, Desk(eventlog, Doorbells(bus), FakeClock()), bus, s, SHARDS), shard)
    server.stop()
    shutil.copytree(store, tmp_path / "backup")
    server.start()
    async with connect(server) as bus:
        eventlog = EventLog(bus, SHARDS)
        lost = Told(eventlog, MAIN)
        lost.ref, lost.story, lost.at = told.ref, told.story, list(kept)
        for _ in range(4):
            await lost.put(lost.story.step(f"lost{lost.story.state.seq}"))
        await lost.put(lost.story.answered(request))
        lost.story.asked("lost")
        await lost.put(lost.story.events[-1])
        await settle(lambda s: Projector(database, Desk(eventlog, Doorbells(bus), FakeClock()), bus, s, SHARDS), shard)
    assert (await row_of(database, told.ref)).seq == 9
    server.stop()
    shutil.rmtree(store)
    shutil.copytree(tmp_path / "backup", store)
    server.start()
    async with connect(server) as bus:
        eventlog = EventLog(bus, SHARDS)
        back = Told(eventlog, MAIN)
        back.ref, back.at, back.story.job = told.ref, kept, told.ref.job
        back.story.events = told.story.events[:3]
        back.story.state = fold(back.story.events)
        for n in range(grown):
            event = back.story.step(f"new{n}")
            await back.put(msgspec.structs.replace(event, id=new_event_id()))
        await settle(lambda s: Projector(database, Desk(eventlog, Doorbells(bus), FakeClock()), bus, s, SHARDS), shard)
        row = await row_of(database, told.ref)
        assert (row.seq, row.epoch) == (3 + grown, 2)
        assert await mismatches(database, eventlog, SHARDS) == []


async def test_a_restored_older_backup_of_sql_catches_up(
    database: Database, own_eventlog: EventLog, projector: MakeProjector
) -> None:
    told = await Told(own_eventlog, MAIN).begin(steps=4)
    shard = shard_of(told.ref.job, SHARDS)
    one = projector(shard)
    await one.step()
    async with database.transaction() as conn:  # as it was after the second event
        for statement in ("DELETE FROM jobs", "DELETE FROM requests"):
            await conn.execute(text(statement))
        here = await positions.get(conn, shard)
        assert here is not None
        await positions.put(
            conn,
            msgspec.structs.replace(here, applied=told.at[1], event_id=told.story.events[1].id, announced=told.at[1]),
        )
    await settle(projector, shard)
    assert await mismatches(database, own_eventlog, SHARDS) == []
    assert (await position_of(database, shard)).epoch == 1


async def test_a_purged_log_is_no_sign_of_another_stream(
    database: Database, own_nats_server: NatsServer, own_eventlog: EventLog, projector: MakeProjector
) -> None:
    told = await Told(own_eventlog, MAIN).begin()
    shard = shard_of(told.ref.job, SHARDS)
    await settle(projector, shard)
    async with connect(own_nats_server) as bus:
        purge = msgspec.json.encode({"filter": event_subject(SHARDS, told.ref)})
        await bus.request(f"$JS.API.STREAM.PURGE.EV_{shard}", purge)
    await settle(projector, shard)
    assert (await position_of(database, shard)).epoch == 1
    assert (await row_of(database, told.ref)).seq == 2


# ------------------------------------------------------------------------------------------------ SQL away


async def test_postgres_that_goes_away_delays_the_projection_and_loses_nothing(
    own_postgres: PostgresServer, own_bus: Bus, own_eventlog: EventLog
) -> None:
    await asyncio.to_thread(upgrade, own_postgres.url())
    told = await Told(own_eventlog, MAIN).begin()
    shard = shard_of(told.ref.job, SHARDS)
    async with open_database(own_postgres.url()) as database:
        one = Projector(database, Desk(own_eventlog, Doorbells(own_bus), FakeClock()), own_bus, shard, SHARDS)
        await one.step()
        assert one.healthy
        await asyncio.to_thread(own_postgres.kill)
        await told.put(told.story.step("meanwhile"))
        for _ in range(2):
            with pytest.raises(Unavailable):
                await one.step()
        assert not one.healthy
        await asyncio.to_thread(own_postgres.start)
        while await one.step():
            pass
        assert one.healthy
        assert await mismatches(database, own_eventlog, SHARDS) == []


async def test_a_broker_that_goes_away_delays_the_projection_and_loses_nothing(
    database: Database, own_nats_server: NatsServer, own_bus: Bus, own_eventlog: EventLog, eventually: Eventually
) -> None:
    told = await Told(own_eventlog, MAIN).begin()
    shard = shard_of(told.ref.job, SHARDS)
    one = Projector(database, Desk(own_eventlog, Doorbells(own_bus), FakeClock()), own_bus, shard, SHARDS)
    await one.step()
    own_nats_server.kill()
    with pytest.raises(Unavailable):
        await one.step()
    own_nats_server.start()
    await eventually(lambda: own_bus.connected)
    await told.put(told.story.step("after"))
    while await one.step():
        pass
    assert await mismatches(database, own_eventlog, SHARDS) == []
