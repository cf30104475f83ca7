"""The doctor on both databases: it says nothing about a healthy system, and finds and repairs what is planted."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace
from pydantic import SecretStr
from sqlalchemy import text

from perdure.bus import blob
from perdure.bus.connection import Bus
from perdure.bus.doorbell import Doorbells
from perdure.bus.eventlog import EventLog
from perdure.bus.stream import store
from perdure.bus.subject import event_subject
from perdure.bus.topology import compare, ensure_queue
from perdure.bus.wanted import has_consumer, is_armed
from perdure.clock import SystemClock
from perdure.config import SweeperSettings
from perdure.core import codec
from perdure.core import event as ev
from perdure.core.alarm import reminders_of
from perdure.core.instant import later
from perdure.db import jobs
from perdure.db.engine import Database
from perdure.ids import Digest, JobRef, Queue, Tenant, job_id_of_key
from perdure.jobs.alarms import arm
from perdure.jobs.desk import Desk
from perdure.local.server import NatsServer
from perdure.testing.factory import OWNER, Story
from perdure.testing.logs import Told
from perdure.testing.projection import mismatches
from perdure.testing.servers import connect
from perdure_sweeper.doctor import logs as doctor_logs
from perdure_sweeper.doctor.examination import Wish, examination
from perdure_sweeper.doctor.report import Finding
from perdure_sweeper.duties.retention import Keep, Retention

MAIN = Tenant("main")
QUEUE = Queue("default")
SHARDS = 8
DAY = 86_400.0
Project = Callable[[], Awaitable[None]]
Examine = Callable[..., Awaitable[list[Finding]]]


@pytest.fixture
async def own_bus(own_nats_server: NatsServer) -> AsyncIterator[Bus]:
    """Everything: tests plant faults with it."""
    async with connect(own_nats_server) as bus:
        yield bus


@pytest.fixture
def clock() -> SystemClock:
    """The doctor goes by the broker's clock, so the stories are told about today."""
    return SystemClock()


@pytest.fixture
def settings(own_nats_server: NatsServer, database_url: str) -> SweeperSettings:
    """The broker and the database of the test, with the sweeper's rights."""
    who = own_nats_server.credentials["sweeper"]
    if database_url.startswith("sqlite"):
        Path(database_url.removeprefix("sqlite:///")).chmod(0o600)  # the fixture copied it; a real one is made so
    return SweeperSettings(
        nats=(own_nats_server.url,), nats_user=who.user, nats_password=SecretStr(who.password), database=database_url
    )


@pytest.fixture
def examine(settings: SweeperSettings, monkeypatch: pytest.MonkeyPatch) -> Examine:
    """`await examine(repair=True, …)`: what is found now. Nothing else works on the system meanwhile."""
    monkeypatch.setattr(doctor_logs, "SETTLE_SECONDS", 0.0)

    async def run(**wish: object) -> list[Finding]:
        return (await examination(settings, Wish(**wish), SystemClock())).findings  # type: ignore[arg-type]

    return run


@pytest.fixture
def told(own_eventlog: EventLog, own_bus: Bus) -> Callable[..., Told]:
    """A new job of today; `key` names one whose id may come again."""

    def new(key: str | None = None, ago: float = 3600.0) -> Told:
        made = Told(own_eventlog, MAIN)
        if key is not None:
            made.ref = JobRef(MAIN, job_id_of_key(MAIN, OWNER, key))
        made.story = Story(made.ref.job, later(own_bus.clock.broker_now(), -ago))
        return made

    return new


async def healthy(told: Callable[..., Told], desk: Desk, bus: Bus, project: Project) -> dict[str, Told]:
    """One job of each kind, as a working system leaves them."""
    made = {name: told() for name in ("queued", "running", "asking", "sleeping", "ended", "cancelled")}
    for name, one in made.items():
        await one.put(one.story.submitted(deadline_seconds=30 * DAY))
        if name != "queued":
            await one.put(one.story.started())
    asked = made["asking"].story.asked(expires_at=later(bus.clock.broker_now(), 3600))
    await made["asking"].put(made["asking"].story.events[-1])
    await made["asking"].put(made["asking"].story.suspended(ev.Waiting(kind="input", name="review", request_id=asked)))
    until = later(bus.clock.broker_now(), 7200)
    await made["sleeping"].put(
        made["sleeping"].story.suspended(ev.Waiting(kind="timer", name="nap", occurrence=1, until=until))
    )
    await made["ended"].put(made["ended"].story.completed(post="text"))
    await made["cancelled"].put(made["cancelled"].story.add(ev.CancelledData(fingerprint=Digest("f" * 64))))
    for name in ("queued", "running"):
        await desk.doorbells.ring(made[name].ref, QUEUE, "normal")
    for name in ("asking", "sleeping"):
        await arm(desk.doorbells, made[name].ref, made[name].story.state, bus.clock.broker_now())
    await ensure_queue(bus, QUEUE, "normal", 10.0)
    await project()
    return made


async def test_it_says_nothing_about_a_healthy_system(
    told: Callable[..., Told], desk: Desk, own_bus: Bus, project: Project, examine: Examine
) -> None:
    await healthy(told, desk, own_bus, project)
    assert await examine() == []
    assert await examine(repair=True) == []


async def test_rows_that_are_not_what_their_logs_say_are_found_and_made_anew(
    database: Database, own_eventlog: EventLog, told: Callable[..., Told], desk: Desk, own_bus: Bus, project: Project,
    examine: Examine,
) -> None:  # fmt: skip
    made = await healthy(told, desk, own_bus, project)
    planted = {
        "queued": "UPDATE jobs SET seq = 7 WHERE job_id = :job",  # ahead
        "running": "UPDATE jobs SET seq = 1, status = 'queued' WHERE job_id = :job",  # behind
        "ended": 'UPDATE jobs SET outputs = \'{"post":"other"}\', deleted_at = NULL WHERE job_id = :job',
        "cancelled": "DELETE FROM jobs WHERE job_id = :job",
        "asking": "UPDATE requests SET status = 'answered' WHERE job_id = :job",
        "sleeping": "UPDATE jobs SET next_due_at = NULL WHERE job_id = :job",
    }
    async with database.transaction() as conn:
        for name, statement in planted.items():
            await conn.execute(text(statement), {"job": made[name].ref.job})
    found = await examine()
    assert {f.job_id for f in found if f.invariant == "I11"} == {one.ref.job for one in made.values()}
    assert not any(f.repaired for f in found)
    assert await mismatches(database, own_eventlog, SHARDS) != []
    repaired = await examine(repair=True)
    assert {f.job_id for f in repaired if f.repaired} == {one.ref.job for one in made.values()}
    assert await mismatches(database, own_eventlog, SHARDS) == []
    assert await examine() == []
    await made["running"].put(made["running"].story.step("s"))  # and a sweeper goes on with them
    await project()
    assert await mismatches(database, own_eventlog, SHARDS) == []


WRONG_ROWS = [
    ('UPDATE requests SET tags = \'{"team":"b"}\'', "request tags"),
    ("UPDATE requests SET title = 'Other'", "request title"),
    ("UPDATE requests SET votes = 7", "request votes"),
    ("UPDATE requests SET overdue_at = NULL", "request overdue_at"),
    ("UPDATE requests SET remind_at = NULL", "request remind_at"),
    ("UPDATE requests SET remind_at = '2020-01-01T00:00:00.000Z'", "request remind_at"),
    ("UPDATE requests SET remind_at = expires_at", "request remind_at"),
    ("DELETE FROM request_assignees WHERE who = 'user:bob'", "request assignees"),
    ("UPDATE request_assignees SET who = 'user:eve' WHERE who = 'user:bob'", "request assignees"),
    ("UPDATE request_assignees SET status = 'answered'", "request assignees"),
    ("DELETE FROM requests", "requests"),
]


async def test_a_request_that_lists_would_find_wrongly_is_found(
    database: Database, told: Callable[..., Told], own_bus: Bus, desk: Desk, project: Project, examine: Examine
) -> None:
    one, now = told(), own_bus.clock.broker_now()
    await one.put(one.story.submitted(deadline_seconds=30 * DAY))
    await one.put(one.story.started())
    asked = one.story.asked(expires_at=later(now, 7 * DAY))
    await one.put(one.story.events[-1])
    whole = replace(one.story.state.asked[asked], reminders=(60.0, DAY), assignees=ev.Assignees(users=("bob", "cy")))
    await one.put(one.story.add(ev.RequestedData(request=replace(whole, revision=2))))
    await one.put(one.story.suspended(ev.Waiting(kind="input", name="review", request_id=asked)))
    await arm(desk.doorbells, one.ref, one.story.state, now)
    await ensure_queue(own_bus, QUEUE, "normal", 10.0)
    await project()
    async with database.transaction() as conn:  # the first reminder was told
        await conn.execute(
            text("UPDATE requests SET remind_at = :then"), {"then": reminders_of(one.story.state.asked[asked])[1].at}
        )
    assert await examine() == []
    for planted, wrong in WRONG_ROWS:
        async with database.transaction() as conn:
            await conn.execute(text(planted))
        (found,) = await examine()
        assert (found.area, found.text) == ("row", f"the row says otherwise than its log: {wrong}"), planted
        assert [f.repaired for f in await examine(repair=True)] == [True]
        assert await examine() == []


async def test_what_the_release_before_left_to_be_completed_is_no_finding(
    database: Database, told: Callable[..., Told], own_bus: Bus, desk: Desk, project: Project, examine: Examine
) -> None:
    await healthy(told, desk, own_bus, project)
    async with database.transaction() as conn:
        await conn.execute(text("UPDATE requests SET tags = NULL, overdue_at = NULL"))
        await conn.execute(text("DELETE FROM request_assignees"))
    assert await examine() == []


async def test_a_lost_doorbell_and_a_lost_alarm_are_found_and_come_back(
    told: Callable[..., Told], desk: Desk, own_bus: Bus, project: Project, examine: Examine
) -> None:
    made = await healthy(told, desk, own_bus, project)
    await own_bus.request("$JS.API.STREAM.PURGE.WORK", b"")
    found = await examine()
    assert {(f.area, f.job_id) for f in found} == {
        *(("doorbell", made[name].ref.job) for name in ("queued", "running")),
        *(("alarm", made[name].ref.job) for name in ("asking", "sleeping")),
    }
    assert all(f.repaired for f in await examine(repair=True))
    assert await Doorbells(own_bus).exists(made["running"].ref, QUEUE, "normal")
    assert await is_armed(own_bus, made["sleeping"].ref.job, "wake")
    assert await examine() == []


async def test_a_lost_consumer_and_a_lost_stream_are_declared_again(
    told: Callable[..., Told], desk: Desk, own_bus: Bus, project: Project, examine: Examine
) -> None:
    await healthy(told, desk, own_bus, project)
    await own_bus.request("$JS.API.CONSUMER.DELETE.WORK.default_normal", b"")
    [found] = await examine()
    assert (found.area, found.repaired) == ("broker", False)
    [found] = await examine(repair=True)
    assert found.repaired
    assert await has_consumer(own_bus, QUEUE, "normal")
    await own_bus.request("$JS.API.STREAM.DELETE.LIVE", b"")
    [found] = await examine()
    assert "LIVE" in found.text
    [found] = await examine(repair=True)
    assert found.repaired
    await compare(own_bus)
    assert await examine() == []


async def test_a_gap_in_a_log_is_found_its_row_quarantined_and_the_log_left_alone(
    database: Database, own_eventlog: EventLog, told: Callable[..., Told], desk: Desk, own_bus: Bus, project: Project,
    examine: Examine,
) -> None:  # fmt: skip
    made = await healthy(told, desk, own_bus, project)
    one = made["running"]
    skipped = msgspec.structs.replace(one.story.step("s"), seq=9)
    await store(own_bus, event_subject(SHARDS, one.ref), codec.encode(skipped))
    before = [stored.body for stored in await own_eventlog.read(one.ref)]
    found = await examine()
    assert {(f.area, f.job_id) for f in found} == {("log", one.ref.job), ("row", one.ref.job)}
    assert {f.invariant for f in found if f.area == "log"} == {"I3"}
    await examine(repair=True)
    async with database.read() as conn:
        row = await jobs.get_row(conn, one.ref)
    assert row is not None
    assert row.quarantined == "broken"
    left = await examine()
    assert {f.area for f in left} == {"log"}  # a log is never written
    assert [stored.body for stored in await own_eventlog.read(one.ref)] == before


async def test_bytes_that_are_no_event_and_a_second_end_are_found(
    told: Callable[..., Told], desk: Desk, own_bus: Bus, project: Project, examine: Examine
) -> None:
    made = await healthy(told, desk, own_bus, project)
    await store(own_bus, event_subject(SHARDS, made["queued"].ref), b"garbage")
    end = made["ended"].story.events[-1]
    await store(own_bus, event_subject(SHARDS, made["ended"].ref), codec.encode(msgspec.structs.replace(end, seq=4)))
    found = {(f.job_id, f.invariant) for f in await examine() if f.area == "log"}
    assert (made["queued"].ref.job, "I3") in found
    assert (made["ended"].ref.job, "I2") in found


async def test_a_damaged_blob_and_a_missing_one_are_found_and_a_definition_is_put_back(
    database: Database, told: Callable[..., Told], desk: Desk, own_bus: Bus, project: Project, examine: Examine
) -> None:
    await healthy(told, desk, own_bus, project)
    definition = '{"format":"perdure.graph/1"}'
    flow = await blob.put(own_bus, MAIN, definition.encode())
    value = await blob.put(own_bus, MAIN, b'"a large value"')
    async with database.transaction() as conn:
        await conn.execute(text("INSERT INTO tenants (tenant, created_at) VALUES ('main', '2026')"))
        await conn.execute(text(
            "INSERT INTO flows (id, tenant, name, kind, owner, head, created_at, updated_at) "
            "VALUES ('f', 'main', 'f', 'graph', 'user:ann', 1, '2026', '2026')"
        ))  # fmt: skip
        await conn.execute(text(  # the digest of a Python flow is that of its source: no blob
            "INSERT INTO flows (id, tenant, name, kind, owner, head, created_at, updated_at) "
            "VALUES ('p', 'main', 'p', 'python', 'user:ann', 1, '2026', '2026')"
        ))  # fmt: skip
        await conn.execute(text(
            "INSERT INTO flow_versions (flow_id, version, digest, definition, outputs, created_at, created_by) "
            f"VALUES ('p', 1, '{'9' * 64}', '{{}}', '[]', '2026', 'user:ann')"
        ))  # fmt: skip
        await conn.execute(
            text(
                "INSERT INTO flow_versions (flow_id, version, digest, definition, outputs, created_at, created_by) "
                "VALUES ('f', 1, :digest, :definition, '[]', '2026', 'user:ann')"
            ),
            {"digest": flow, "definition": definition},
        )
    missing = Digest("c" * 64)
    one = told()
    event = msgspec.structs.replace(one.story.submitted(deadline_seconds=30 * DAY), refs=(value, missing))
    await one.put(event)
    await desk.doorbells.ring(one.ref, QUEUE, "normal")
    await project()
    [found] = await examine()
    assert missing in found.text
    for digest in (flow, value):
        await store(own_bus, f"blob.main.{digest}.0", b"other bytes", {blob.CHUNKS: "1"})
    found_all = {f.text.split()[0]: f.repaired for f in await examine(repair=True)}
    assert found_all == {flow: True, value: False, missing: False}
    assert await blob.get(own_bus, MAIN, flow) == definition.encode()


async def test_a_row_without_a_log_is_found_and_rung_by_nobody_any_more(
    database: Database, told: Callable[..., Told], desk: Desk, own_bus: Bus, project: Project, examine: Examine
) -> None:
    made = await healthy(told, desk, own_bus, project)
    subject = event_subject(SHARDS, made["queued"].ref)
    stream = f"EV_{subject.split('.')[1]}"
    await own_bus.request(f"$JS.API.STREAM.PURGE.{stream}", msgspec.json.encode({"filter": subject}))
    [found] = await examine(repair=True)
    assert (found.job_id, found.invariant, found.repaired) == (made["queued"].ref.job, "I1", True)
    async with database.read() as conn:
        row = await jobs.get_row(conn, made["queued"].ref)
    assert row is not None
    assert row.quarantined == "broken"


async def test_the_archive_is_held_against_retention(
    database: Database, told: Callable[..., Told], desk: Desk, own_bus: Bus, project: Project, examine: Examine
) -> None:
    old, late = told("k", ago=10 * DAY), told("l", ago=10 * DAY)
    for one in (old, late):
        await one.begin()
        await one.put(one.story.completed())
    await project()
    assert {f.job_id for f in await examine()} == {old.ref.job, late.ref.job}  # nobody sweeps here
    await Retention(database, desk, own_bus, SHARDS, Keep()).run_once()
    assert await examine() == []
    async with database.transaction() as conn:
        await conn.execute(text("DELETE FROM archive WHERE job_id = :job"), {"job": old.ref.job})
        await conn.execute(text("DELETE FROM jobs WHERE job_id = :job"), {"job": late.ref.job})
    found = {(f.area, f.job_id) for f in await examine()}
    assert ("archive", old.ref.job) in found
    assert ("archive", late.ref.job) in found


async def test_a_rebuilt_projection_equals_the_logs_and_keeps_what_only_sql_knows(
    database: Database, own_eventlog: EventLog, told: Callable[..., Told], desk: Desk, own_bus: Bus, project: Project,
    examine: Examine,
) -> None:  # fmt: skip
    made = await healthy(told, desk, own_bus, project)
    archived = told("k", ago=10 * DAY)
    await archived.begin()
    await archived.put(archived.story.completed(post="old"))
    await project()
    await Retention(database, desk, own_bus, SHARDS, Keep()).run_once()
    deleted_at = own_bus.clock.broker_now()
    async with database.transaction() as conn:
        kept = await jobs.get_row(conn, archived.ref)
        statement = text("UPDATE jobs SET deleted_at = :at WHERE job_id = :job")
        await conn.execute(statement, {"at": deleted_at, "job": made["ended"].ref.job})
        await conn.execute(text("UPDATE jobs SET status = 'failed', seq = 99 WHERE purged_at IS NULL"))
        await conn.execute(text("DELETE FROM requests"))
    assert await examine(rebuild=True) == []
    assert [m for m in await mismatches(database, own_eventlog, SHARDS) if archived.ref.job not in m] == []
    async with database.read() as conn:
        assert await jobs.get_row(conn, archived.ref) == kept
        ended = await jobs.get_row(conn, made["ended"].ref)
    assert ended is not None
    assert ended.deleted_at == deleted_at
    await made["running"].put(made["running"].story.step("s"))
    await project()
    assert await examine() == []
    assert await examine(rebuild=True) == []  # and once more


async def test_one_job_or_the_latest_ones_alone(
    database: Database, told: Callable[..., Told], desk: Desk, own_bus: Bus, project: Project, examine: Examine
) -> None:
    made = await healthy(told, desk, own_bus, project)
    async with database.transaction() as conn:
        await conn.execute(text("UPDATE jobs SET status = 'failed'"))
    [found] = await examine(job=made["queued"].ref.job)
    assert found.job_id == made["queued"].ref.job
    now = own_bus.clock.broker_now()
    assert await examine(since=later(now, 60)) == []
    assert len(await examine(since=later(now, -7200))) == len(made)


async def perdure(settings: SweeperSettings, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """`perdure doctor` as a process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
    command = [sys.executable, "-P", "-m", "perdure.cli.app", "doctor", *arguments]
    return await asyncio.to_thread(
        subprocess.run, command, env=kept | settings.environ(), capture_output=True, text=True, timeout=120
    )


async def test_the_command_line_says_it_in_words_and_in_json_and_by_its_exit_code(
    database: Database, told: Callable[..., Told], desk: Desk, own_bus: Bus, project: Project,
    settings: SweeperSettings, tmp_path: Path,
) -> None:  # fmt: skip
    made = await healthy(told, desk, own_bus, project)
    well = await perdure(settings, "--data", str(tmp_path / "none"))
    assert (well.returncode, well.stdout) == (0, "nothing is wrong\n"), well.stderr
    async with database.transaction() as conn:
        await conn.execute(text("UPDATE jobs SET seq = 99 WHERE job_id = :job"), {"job": made["queued"].ref.job})
    ill = await perdure(settings, "--json", "--data", str(tmp_path / "none"))
    assert ill.returncode == 1, ill.stderr
    said = msgspec.json.decode(ill.stdout)
    assert said["healthy"] is False
    assert [(f["area"], f["job_id"]) for f in said["findings"]] == [("row", made["queued"].ref.job)]
    assert said["looked"]["jobs"] == len(made)
    assert (await perdure(settings, "--job", "nonsense")).returncode == 2
    assert (await perdure(settings, "--since", "yesterday")).returncode == 2
