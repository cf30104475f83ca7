"""Retention on both databases: only what is terminal, projected, announced, archived and old goes, step by step."""

from collections.abc import Awaitable, Callable

import pytest

from perdure import probe
from perdure.bus.connection import Bus
from perdure.bus.eventlog import EventLog
from perdure.core import codec
from perdure.core import event as ev
from perdure.core.event import AnyEvent
from perdure.core.instant import later
from perdure.core.machine import EMPTY, fold
from perdure.core.retention import Kept, kept
from perdure.db import archive, jobs
from perdure.db.engine import Database
from perdure.db.jobs import JobRow
from perdure.db.schema import jobs as jobs_table
from perdure.errors import TailMoved
from perdure.ids import JobRef, Principal, StreamSeq, Tenant, job_id_of_key
from perdure.jobs.desk import Desk
from perdure.jobs.joblog import JobLog
from perdure.jobs.submit import Submission, submit
from perdure.probe import SimulatedCrash
from perdure.testing.clock import FakeClock
from perdure.testing.factory import FINGERPRINT, FLOW, Story
from perdure.testing.logs import Told
from perdure_sweeper.duties.retention import Keep, Retention

MAIN = Tenant("main")
ANN = Principal("user:ann")
SHARDS = 8
DAY = 86_400.0
Project = Callable[[], Awaitable[None]]


@pytest.fixture
def retention(database: Database, desk: Desk, own_bus: Bus) -> Retention:
    """The duty, with its usual times."""
    return Retention(database, desk, own_bus, SHARDS, Keep())


def of_key(eventlog: EventLog, key: str) -> Told:
    """A job whose id an idempotency key made."""
    told = Told(eventlog, MAIN)
    told.ref = JobRef(MAIN, job_id_of_key(MAIN, ANN, key))
    told.story = Story(told.ref.job)
    return told


async def ended(told: Told) -> Told:
    await told.begin(steps=3)
    await told.put(told.story.completed(post="text"))
    return told


async def log_of(eventlog: EventLog, ref: JobRef) -> list[AnyEvent]:
    return [stored.event for stored in await eventlog.read(ref)]


async def archived(database: Database, ref: JobRef) -> list[AnyEvent] | None:
    async with database.read() as conn:
        bodies = await archive.events_of(conn, ref)
    return None if bodies is None else [codec.decode(body) for body in bodies]


async def row_of(database: Database, ref: JobRef) -> JobRow | None:
    async with database.read() as conn:
        return await jobs.get_row(conn, ref)


async def test_an_old_log_goes_to_the_archive_and_leaves_a_tombstone_where_its_id_may_come_again(
    database: Database, own_eventlog: EventLog, project: Project, retention: Retention, clock: FakeClock
) -> None:
    keyed, random = await ended(of_key(own_eventlog, "k")), await ended(Told(own_eventlog, MAIN))
    await project()
    clock.advance(6.9 * DAY)
    assert await retention.run_once() == 0
    assert len(await log_of(own_eventlog, keyed.ref)) == 6
    clock.advance(0.2 * DAY)
    assert await retention.run_once() == 2
    assert await log_of(own_eventlog, keyed.ref) == keyed.story.events[-1:]
    assert await log_of(own_eventlog, random.ref) == []
    for told in (keyed, random):
        assert await archived(database, told.ref) == told.story.events
    assert await retention.run_once() == 0
    row = await row_of(database, keyed.ref)
    assert row is not None
    assert (row.status, row.outputs) == ("completed", {"post": "text"})


async def test_what_is_open_or_not_projected_stays(
    own_eventlog: EventLog, project: Project, retention: Retention, clock: FakeClock
) -> None:
    opened = await Told(own_eventlog, MAIN).begin(steps=1)
    await project()
    late = await ended(Told(own_eventlog, MAIN))  # no row says that it is there
    clock.advance(400 * DAY)
    assert await retention.run_once() == 0
    assert len(await log_of(own_eventlog, opened.ref)) == 3
    assert len(await log_of(own_eventlog, late.ref)) == 6


async def test_the_end_of_a_child_stays_until_it_was_announced(
    database: Database, own_eventlog: EventLog, project: Project, retention: Retention, clock: FakeClock
) -> None:
    told = await ended(Told(own_eventlog, MAIN))
    await project()
    async with database.transaction() as conn:
        await conn.exec_driver_sql("UPDATE positions SET announced = 0")
    clock.advance(8 * DAY)
    assert await retention.run_once() == 0
    assert len(await log_of(own_eventlog, told.ref)) == 6


@pytest.mark.parametrize("point", ["retention.after_scan", "retention.after_archive", "retention.before_purge"])
async def test_a_sweeper_that_dies_in_the_middle_is_followed_by_one_that_ends_it(
    database: Database, own_eventlog: EventLog, project: Project, retention: Retention, clock: FakeClock, point: str
) -> None:
    told = await ended(of_key(own_eventlog, "k"))
    await project()
    clock.advance(8 * DAY)
    probe.arm(f"{point}=raise")
    with pytest.raises(SimulatedCrash):
        await retention.run_once()
    probe.arm("")
    assert len(await log_of(own_eventlog, told.ref)) == 6  # nothing is purged that the archive does not have
    assert await retention.run_once() == 1
    assert await log_of(own_eventlog, told.ref) == told.story.events[-1:]
    assert await archived(database, told.ref) == told.story.events


async def test_a_purge_whose_sweeper_died_before_it_said_so_is_done_once_more_without_harm(
    database: Database, own_eventlog: EventLog, project: Project, retention: Retention, clock: FakeClock
) -> None:
    keyed, random = await ended(of_key(own_eventlog, "k")), await ended(Told(own_eventlog, MAIN))
    await project()
    clock.advance(8 * DAY)
    await retention.run_once()
    async with database.transaction() as conn:
        await conn.execute(jobs_table.update().values(purged_at=None))
    assert await retention.run_once() == 2
    for told in (keyed, random):
        assert await archived(database, told.ref) == told.story.events


async def test_a_tombstone_holds_its_id_and_knows_its_body(
    own_eventlog: EventLog, project: Project, retention: Retention, clock: FakeClock, desk: Desk
) -> None:
    told = await ended(of_key(own_eventlog, "k"))
    await project()
    clock.advance(8 * DAY)
    await retention.run_once()
    with pytest.raises(TailMoved):
        await own_eventlog.append(told.ref, Story(told.ref.job).submitted(), StreamSeq(0))
    again = Submission(tenant=MAIN, owner=ANN, flow=FLOW, input="hello", fingerprint=FINGERPRINT, idempotency_key="k")
    accepted = await submit(desk, again)
    assert (accepted.replayed, accepted.state.status, accepted.ref) == (True, "completed", told.ref)
    assert await log_of(own_eventlog, told.ref) == told.story.events[-1:]


async def test_after_the_archive_s_days_an_id_is_free_and_its_next_life_is_projected(
    database: Database, own_eventlog: EventLog, project: Project, retention: Retention, clock: FakeClock
) -> None:
    told = await ended(of_key(own_eventlog, "k"))
    await project()
    clock.advance(89 * DAY)
    await retention.run_once()
    assert await archived(database, told.ref) is not None
    clock.advance(1.1 * DAY)
    assert await retention.run_once() == 1
    assert await log_of(own_eventlog, told.ref) == []
    assert await archived(database, told.ref) is None
    assert await row_of(database, told.ref) is None
    again = of_key(own_eventlog, "k")
    await again.put(again.story.submitted())
    await project()
    row = await row_of(database, again.ref)
    assert row is not None
    assert (row.seq, row.status) == (1, "queued")


async def test_a_deleted_job_is_purged_whole_at_once_and_its_row_keeps_no_user_s_word(
    database: Database, own_eventlog: EventLog, project: Project, retention: Retention, clock: FakeClock
) -> None:
    told = await of_key(own_eventlog, "k").begin()
    request = told.story.asked()
    await told.put(told.story.events[-1])
    await told.put(told.story.answered(request))
    await told.put(told.story.completed(post="secret words"))
    await project()
    at = clock.broker_now()
    async with database.transaction() as conn:
        await conn.execute(jobs_table.update().values(deleted_at=at))
    assert await retention.run_once() == 1
    assert await log_of(own_eventlog, told.ref) == []
    row = await row_of(database, told.ref)
    assert row is not None
    assert (row.deleted_at, row.fingerprint, row.outputs, row.status) == (at, FINGERPRINT, None, "completed")
    async with database.read() as conn:
        for table in ("jobs", "requests", "archive"):
            found = (await conn.exec_driver_sql(f"SELECT * FROM {table}")).all()
            assert "secret" not in str(found)
            assert "Publish this" not in str(found)
        assert await archive.holds(conn, told.ref)
    assert await retention.run_once() == 0
    clock.advance(91 * DAY)
    assert await retention.run_once() == 1
    assert await row_of(database, told.ref) is None


async def test_a_job_that_is_deleted_after_it_was_archived_leaves_the_archive_too(
    database: Database, own_eventlog: EventLog, project: Project, retention: Retention, clock: FakeClock
) -> None:
    told = await ended(of_key(own_eventlog, "k"))
    await project()
    clock.advance(8 * DAY)
    await retention.run_once()
    async with database.transaction() as conn:
        await conn.execute(jobs_table.update().values(deleted_at=clock.broker_now()))
    assert await retention.run_once() == 1
    assert await archived(database, told.ref) is None
    assert await log_of(own_eventlog, told.ref) == []
    assert await retention.run_once() == 0


async def test_a_projection_from_the_beginning_leaves_archived_rows_alone(
    database: Database, own_eventlog: EventLog, project: Project, retention: Retention, clock: FakeClock
) -> None:
    told = await ended(of_key(own_eventlog, "k"))
    await project()
    before = await row_of(database, told.ref)
    clock.advance(8 * DAY)
    await retention.run_once()
    async with database.transaction() as conn:
        await conn.exec_driver_sql("UPDATE positions SET stream_created_at = 'another'")
    await project()
    assert await row_of(database, told.ref) == before
    clock.advance(90 * DAY)
    assert await retention.run_once() == 1  # also in the next epoch


async def test_many_logs_are_retired_page_by_page(
    database: Database,
    own_eventlog: EventLog,
    project: Project,
    retention: Retention,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("perdure_sweeper.duties.retention.ROWS", 3)
    stories = [await ended(Told(own_eventlog, MAIN)) for _ in range(8)]
    await project()
    clock.advance(8 * DAY)
    assert await retention.run_once() == 8
    for told in stories:
        assert await archived(database, told.ref) == told.story.events


async def test_a_writer_meets_the_tombstone_as_an_end(
    own_eventlog: EventLog, project: Project, retention: Retention, clock: FakeClock
) -> None:
    told = await ended(of_key(own_eventlog, "k"))
    await project()
    clock.advance(8 * DAY)
    await retention.run_once()
    log = await JobLog.load(own_eventlog, told.ref, clock)
    assert log.state.terminal
    assert await log.append(lambda job: ev.CancelledData(fingerprint=FINGERPRINT)) is None


def test_how_much_of_a_log_is_there() -> None:
    story = Story()
    story.submitted()
    story.started()
    story.completed()
    events = story.events
    assert kept(events, 3) is Kept.WHOLE
    assert kept(events[-1:], 3) is Kept.TOMBSTONE
    assert kept([], 3) is Kept.GONE
    assert kept(events[:2], 2) is Kept.OTHER  # open
    assert kept(events, 2) is Kept.OTHER  # further than its row
    assert kept(events[1:], 3) is Kept.OTHER  # neither whole nor a tombstone
    assert fold(events, EMPTY).terminal
    assert later(story.at, 1.0) > story.at
