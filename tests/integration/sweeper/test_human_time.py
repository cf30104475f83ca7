"""What time does to requests when nobody else sees to it: escalations, reminders and expiry by the sweeper, on both
databases and a real broker; and what of it is told and recorded.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from nats.aio.msg import Msg

from perdure import probe
from perdure.bus import doorbell, inbox
from perdure.bus.audit import Record
from perdure.bus.connection import Bus
from perdure.bus.eventlog import EventLog
from perdure.bus.inbox import News
from perdure.bus.stream import Ask, direct_batch, leader_get
from perdure.bus.subject import WORK, alarm_subject, shard_of, work_subject
from perdure.core import event as ev
from perdure.core import verify
from perdure.core.comment import SIGNAL
from perdure.core.event import Status, type_of
from perdure.core.instant import later
from perdure.core.machine import JobState, fold
from perdure.core.standing import Standing
from perdure.core.vote import content_digest
from perdure.db import inbox as lists
from perdure.db.engine import Database
from perdure.db.inbox import InboxFilter
from perdure.errors import Unavailable
from perdure.ids import JobRef, Principal, Queue, RequestId, StreamSeq, Tenant
from perdure.jobs.desk import Desk
from perdure.jobs.human import delegate
from perdure.local.server import NatsServer
from perdure.probe import SimulatedCrash
from perdure.testing.clock import FakeClock
from perdure.testing.factory import BEGIN, FINGERPRINT
from perdure.testing.logs import Told
from perdure.testing.servers import connect
from perdure_sweeper.doctor.rebuild import rebuild
from perdure_sweeper.doctor.report import Pace
from perdure_sweeper.duties.overdue import Overdue
from perdure_sweeper.duties.reminders import Reminders
from perdure_sweeper.projector import Projector

SHARDS = 8
MAIN = Tenant("main")
QUEUE = Queue("default")
LEADS = ev.Assignees(groups=("leads",))
CHIEFS = ev.Assignees(groups=("chiefs",))

Project = Callable[[], Awaitable[None]]
MakeProjector = Callable[[int], Projector]
Eventually = Callable[..., Awaitable[None]]
MakeReminders = Callable[[], Reminders]


@pytest.fixture
def overdue(database: Database, desk: Desk) -> Overdue:
    """The duty `overdue`; the broker's time is known."""
    return Overdue(database, desk, lambda: True)


@pytest.fixture
def reminders(database: Database, desk: Desk, own_bus: Bus) -> MakeReminders:
    """The duty `reminders` of a sweeper that has just started."""
    return lambda: Reminders(database, desk, partial(inbox.tell, own_bus), lambda: True)


@pytest.fixture
async def heard(own_nats_server: NatsServer) -> AsyncIterator[list[News]]:
    """What is told of requests, in order."""
    found: list[News] = []

    async def hear(message: Msg) -> None:
        found.append(msgspec.json.decode(message.data, type=News))

    async with connect(own_nats_server) as bus:
        await bus.subscribe("inbox.main.request", hear)
        await bus.flush()
        yield found


async def asking(eventlog: EventLog, *, asleep: bool = True, **members: Any) -> tuple[Told, RequestId]:
    """A job that asks one request, 2 s after BEGIN, and sleeps on it."""
    told = await Told(eventlog, MAIN).begin()
    story = told.story
    request_id = story.asked()
    story.events.pop()
    plain = story.state.asked[request_id]
    story.state = fold(story.events)
    story.at = story.events[-1].at
    await told.put(story.add(ev.RequestedData(request=replace(plain, **members))))
    if asleep:
        await told.put(story.suspended(ev.Waiting(kind="input", name="review", request_id=request_id)))
    return told, request_id


async def state_of(eventlog: EventLog, ref: JobRef) -> JobState:
    events = [stored.event for stored in await eventlog.read(ref)]
    assert verify.log(events) == []
    return fold(events)


async def bells(bus: Bus, ref: JobRef) -> list[str | None]:
    """The doorbells of a job in WORK: each the name of its alarm, None where somebody rang."""
    found: list[str | None] = []
    at, subject = StreamSeq(0), work_subject(QUEUE, "normal", ref.job)
    while (read := await leader_get(bus, WORK, Ask(seq=at + 1, next_by_subj=subject))) is not None:
        found, at = [*found, doorbell.decode(read.body).alarm], read.seq
    return found


async def rung(bus: Bus, ref: JobRef) -> bool:
    """Whether somebody rang. An alarm is none of it: the stories lie in the past, so the broker rings it at once."""
    return None in await bells(bus, ref)


async def armed(bus: Bus, ref: JobRef, name: str) -> bool:
    """Whether the broker will ring that alarm, or has done so."""
    waits = await leader_get(bus, WORK, Ask(last_by_subj=alarm_subject(ref.job, name)))
    return waits is not None or name in await bells(bus, ref)


async def audited(bus: Bus) -> list[Record]:
    found = await direct_batch(bus, "AUDIT", "audit.main", 0)
    return [msgspec.json.decode(read.body, type=Record) for read in found]


# ------------------------------------------------------------------------------------------------ escalations


async def test_escalations_act_in_their_order_and_wake_nobody(
    own_bus: Bus, own_eventlog: EventLog, project: Project, overdue: Overdue, clock: FakeClock, database: Database
) -> None:
    chain = (ev.Escalation(after_seconds=60, add=LEADS), ev.Escalation(after_seconds=600, add=CHIEFS))
    users = ev.Assignees(users=("bob",))
    told, request = await asking(own_eventlog, assignees=users, escalations=chain, expires_at=later(BEGIN, 3000))
    await project()
    clock.advance(61)
    assert await overdue.run_once() == 0
    clock.advance(1)  # asked at 2 s
    assert await overdue.run_once() == 1
    job = await state_of(own_eventlog, told.ref)
    asked = job.asked[request]
    assert (asked.revision, asked.escalated, asked.assignees) == (2, 1, replace(users, groups=("leads",)))
    assert job.status is Status.SUSPENDED
    assert not await rung(own_bus, told.ref)
    assert await armed(own_bus, told.ref, "q3-e2")
    assert await armed(own_bus, told.ref, "q3")
    assert await overdue.run_once() == 0  # the row is behind
    await project()
    assert await overdue.run_once() == 0
    clock.advance(540)
    assert await overdue.run_once() == 1
    await project()
    async with database.read() as conn:
        found = await lists.list_requests(conn, MAIN, InboxFilter(assignees=["group:chiefs"]))
    assert [(row.request_id, row.revision) for row in found.rows] == [(request, 3)]
    assert not await rung(own_bus, told.ref)


async def test_a_chain_that_nobody_saw_to_is_written_whole_before_the_expiry(
    own_bus: Bus, own_eventlog: EventLog, project: Project, overdue: Overdue, clock: FakeClock
) -> None:
    chain = (ev.Escalation(after_seconds=60, add=LEADS), ev.Escalation(after_seconds=120, add=CHIEFS))
    told, _ = await asking(own_eventlog, escalations=chain, expires_at=later(BEGIN, 300))
    await project()
    clock.advance(3000)
    assert await overdue.run_once() == 1
    events = [stored.event for stored in await own_eventlog.read(told.ref)]
    assert [type_of(event) for event in events[4:]] == ["input.requested", "input.requested", "input.expired"]
    assert verify.log(events) == []
    assert await rung(own_bus, told.ref)  # the expiry is a cause


async def test_two_sweepers_at_once_escalate_once(
    database: Database, own_eventlog: EventLog, project: Project, desk: Desk, clock: FakeClock
) -> None:
    chain = (ev.Escalation(after_seconds=60, add=LEADS),)
    asked = [await asking(own_eventlog, escalations=chain) for _ in range(6)]
    await project()
    clock.advance(62)
    done = await asyncio.gather(*(Overdue(database, desk, lambda: True).run_once() for _ in range(2)))
    assert sum(done) == 6
    for told, request in asked:
        assert (await state_of(own_eventlog, told.ref)).asked[request].revision == 2


async def test_a_delegation_arms_what_is_to_come_and_wakes_nobody(
    own_bus: Bus, own_eventlog: EventLog, desk: Desk
) -> None:
    chain = (ev.Escalation(after_seconds=600, add=LEADS),)
    bobs = ev.Assignees(users=("bob",))
    told, request = await asking(own_eventlog, assignees=bobs, escalations=chain, expires_at=later(BEGIN, 3000))
    bob, carol = (Standing(Principal(f"user:{name}"), rights=frozenset({"answer"})) for name in ("bob", "carol"))
    await delegate(desk, MAIN, request, bob, carol, None, ev.Via(channel="api"))
    assert await armed(own_bus, told.ref, "q3-e1")
    assert await armed(own_bus, told.ref, "q3")
    assert not await rung(own_bus, told.ref)


async def test_an_escalation_whose_alarm_died_with_the_broker_still_comes(
    own_nats_server: NatsServer,
    own_bus: Bus,
    own_eventlog: EventLog,
    project: Project,
    projector: MakeProjector,
    overdue: Overdue,
    clock: FakeClock,
    desk: Desk,
    eventually: Eventually,
) -> None:
    told, request = await asking(own_eventlog, escalations=(ev.Escalation(after_seconds=60, add=LEADS),))
    await project()
    own_nats_server.kill()
    own_nats_server.start()

    async def back() -> bool:
        try:
            await own_bus.flush()
        except Unavailable:
            return False
        return True

    await eventually(back)
    await own_bus.request(f"$JS.API.STREAM.PURGE.{WORK}", b"")  # whatever of it the broker had kept
    await project()
    clock.advance(62)
    assert await overdue.run_once() == 1
    assert (await state_of(own_eventlog, told.ref)).asked[request].escalated == 1


# ------------------------------------------------------------------------------------------------ reminders


async def test_reminders_are_told_once_each_under_an_id_of_their_own(
    own_eventlog: EventLog,
    project: Project,
    reminders: MakeReminders,
    clock: FakeClock,
    heard: list[News],
    eventually: Eventually,
) -> None:
    told, request = await asking(own_eventlog, reminders=(60.0, 120.0, 600.0), expires_at=later(BEGIN, 500))
    await project()
    await eventually(lambda: heard)
    heard.clear()
    sweeper = reminders()
    clock.advance(61)
    assert await sweeper.run_once() == 0
    clock.advance(1)
    assert await sweeper.run_once() == 1
    assert await sweeper.run_once() == 0
    clock.advance(100)
    assert await reminders().run_once() == 1  # another sweeper, after a restart
    clock.advance(3000)  # the third would come after the end
    assert await reminders().run_once() == 0
    await eventually(lambda: len(heard) == 2)
    assert [(n.kind, n.id, n.at, n.seq) for n in heard] == [
        ("reminded", f"{request}:remind:1", later(BEGIN, 62), 4),
        ("reminded", f"{request}:remind:2", later(BEGIN, 122), 4),
    ]
    assert (await state_of(own_eventlog, told.ref)).seq == 4  # no event, nobody woken


async def test_all_that_came_due_while_nobody_swept_is_told_in_order(
    own_eventlog: EventLog,
    project: Project,
    reminders: MakeReminders,
    clock: FakeClock,
    heard: list[News],
    eventually: Eventually,
) -> None:
    _, request = await asking(own_eventlog, reminders=(120.0, 60.0))
    await project()
    await eventually(lambda: heard)
    heard.clear()
    clock.advance(200)
    assert await reminders().run_once() == 1
    await eventually(lambda: len(heard) == 2)
    assert [n.id for n in heard] == [f"{request}:remind:2", f"{request}:remind:1"]


async def test_a_sweeper_that_dies_behind_the_telling_tells_again_under_the_same_id(
    own_eventlog: EventLog,
    project: Project,
    reminders: MakeReminders,
    clock: FakeClock,
    heard: list[News],
    eventually: Eventually,
) -> None:
    _, request = await asking(own_eventlog, reminders=(60.0,))
    await project()
    await eventually(lambda: heard)
    heard.clear()
    clock.advance(62)
    probe.arm("remind.after_tell=raise")
    with pytest.raises(SimulatedCrash):
        await reminders().run_once()
    probe.arm("")
    assert await reminders().run_once() == 1
    assert await reminders().run_once() == 0
    await eventually(lambda: len(heard) == 2)
    assert {n.id for n in heard} == {f"{request}:remind:1"}


@pytest.mark.parametrize("settled", ["in the row", "in the log alone"])
async def test_a_settled_request_is_not_reminded_of(
    own_eventlog: EventLog,
    own_bus: Bus,
    project: Project,
    reminders: MakeReminders,
    clock: FakeClock,
    heard: list[News],
    eventually: Eventually,
    settled: str,
) -> None:
    told, request = await asking(own_eventlog, reminders=(60.0,))
    await project()
    await told.put(told.story.answered(request))
    if settled == "in the row":
        await project()
    await eventually(lambda: len(heard) == (2 if settled == "in the row" else 1))
    heard.clear()
    clock.advance(62)
    assert await reminders().run_once() == 0
    await own_bus.flush()
    assert heard == []


async def test_a_restatement_and_a_rebuild_remember_what_was_told(
    database: Database,
    own_bus: Bus,
    own_eventlog: EventLog,
    project: Project,
    reminders: MakeReminders,
    clock: FakeClock,
) -> None:
    told, request = await asking(own_eventlog, reminders=(60.0, 600.0))
    await project()
    clock.advance(62)
    assert await reminders().run_once() == 1
    again = replace(told.story.state.asked[request], revision=2)
    await told.put(told.story.add(ev.RequestedData(request=again)))
    await project()
    assert await reminders().run_once() == 0
    await rebuild(database, own_eventlog, own_bus, SHARDS, Pace(clock, 1e9))
    assert await reminders().run_once() == 0
    clock.advance(600)
    assert await reminders().run_once() == 1
    async with database.read() as conn:
        found = await lists.list_requests(conn, MAIN, InboxFilter(assignees=["anyone"]))
    assert [row.request_id for row in found.rows] == [request]


async def test_nobody_is_reminded_while_the_broker_s_time_is_not_known(
    database: Database, own_bus: Bus, own_eventlog: EventLog, project: Project, desk: Desk, clock: FakeClock
) -> None:
    await asking(own_eventlog, reminders=(60.0,))
    await project()
    clock.advance(62)
    assert await Reminders(database, desk, partial(inbox.tell, own_bus), lambda: False).run_once() == 0


# ------------------------------------------------------------------------------------------------ told, recorded


def vote(request: RequestId, by: str) -> ev.VotedData:
    return ev.VotedData(
        request_id=request,
        revision=1,
        action="approve",
        payload=None,
        payload_digest=content_digest("approve", None, None, None),
        by=Principal(by),
        via=ev.Via(channel="console", key_id="k1"),
    )


async def life(eventlog: EventLog) -> tuple[Told, list[RequestId]]:
    """A job whose requests come to every end."""
    told, first = await asking(eventlog, asleep=False, quorum=ev.Quorum(n=2))
    story = told.story

    async def put(data: ev.AnyData) -> None:
        await told.put(story.add(data))

    await put(vote(first, "user:bob"))
    by_link = ev.Via(channel="link", link="x", link_by=Principal("user:ann"))
    hop = ev.Delegation(by=Principal("user:carol"), to=Principal("user:dan"), at=BEGIN, via=by_link)
    await put(ev.RequestedData(request=replace(story.state.asked[first], revision=2, delegations=(hop,))))
    said = {"request_id": first, "text": "hurry"}
    await put(ev.SignalData(signal_id="c", name=SIGNAL, payload=said, by=Principal("user:ann")))
    await told.put(story.answered(first))
    others = []
    for name in ("expires", "withdrawn", "open"):
        others.append(story.asked(name))
        await told.put(story.events[-1])
    outcome = ev.Outcome(do="answer", action="reject")
    await put(ev.ExpiredData(request_id=others[0], revision=1, cause="deadline", outcome=outcome))
    await put(ev.WithdrawnData(request_id=others[1], reason="not needed", by=Principal("user:ann")))
    await put(ev.CancelledData(fingerprint=FINGERPRINT, by=Principal("user:ann")))
    return told, [first, *others]


async def test_everything_that_becomes_of_requests_is_told(
    own_eventlog: EventLog, own_bus: Bus, project: Project, heard: list[News], eventually: Eventually
) -> None:
    told, (first, expires, withdrawn, left) = await life(own_eventlog)
    await project()
    await eventually(lambda: len(heard) == 11)
    assert [(n.kind, n.request.id) for n in heard] == [
        ("asked", first), ("voted", first), ("restated", first), ("commented", first), ("answered", first),
        ("asked", expires), ("asked", withdrawn), ("asked", left),
        ("expired", expires), ("withdrawn", withdrawn), ("withdrawn", left),
    ]  # fmt: skip
    ids = [n.id for n in heard]
    events = [event.id for event in told.story.events]
    assert ids[:-1] == events[2:-1]
    assert ids[-1] == f"{left}:withdrawn"


async def test_what_the_log_says_of_requests_is_recorded_under_the_events_ids(
    own_eventlog: EventLog, own_bus: Bus, project: Project
) -> None:
    told, (first, expires, withdrawn, left) = await life(own_eventlog)
    await project()
    found = await audited(own_bus)
    ids = {event.seq: event.id for event in told.story.events}
    assert [(r.what, r.object, r.principal, r.id) for r in found] == [
        ("request.voted", first, "user:bob", ids[4]),
        ("request.delegated", first, "user:carol", ids[5]),
        ("request.answered", first, "user:bob", ids[7]),
        ("request.expired", expires, "service:perdure", ids[11]),
        ("request.withdrawn", withdrawn, "user:ann", ids[12]),
        ("request.withdrawn", left, "service:perdure", f"{left}:withdrawn"),
    ]
    assert {(r.tenant, r.result, r.v, r.address) for r in found} == {("main", "done", 1, None)}
    voted, delegated, answered, expired, *_ = found
    assert (voted.key_id, voted.channel, voted.facts) == (
        "k1",
        "console",
        {"seq": 4, "revision": 1, "action": "approve"},
    )
    by_link = {"link": "x", "link_by": "user:ann"}
    assert (delegated.channel, delegated.facts) == ("link", {"seq": 5, "revision": 2, "to": "user:dan"} | by_link)
    assert answered.facts == {"seq": 7, "revision": 1, "action": "approve"}
    assert expired.facts == {"seq": 11, "revision": 1, "cause": "deadline", "do": "answer", "action": "reject"}
    assert all(r.at == told.story.events[r.facts["seq"] - 1].at for r in found)


@pytest.mark.parametrize("point", ["project.after_commit", "project.after_announce"])
async def test_a_sweeper_that_dies_beside_its_announcement_leaves_each_record_once(
    own_eventlog: EventLog, own_bus: Bus, projector: MakeProjector, point: str
) -> None:
    told, _ = await life(own_eventlog)
    shard = shard_of(told.ref.job, SHARDS)
    probe.arm(f"{point}=raise")
    with pytest.raises(SimulatedCrash):
        await projector(shard).step()
    probe.arm("")
    after = projector(shard)
    for _ in range(3):  # the first look leaves it to whoever may be telling just now
        await after.step()
    found = await audited(own_bus)
    assert len(found) == 6
    assert len({record.id for record in found}) == 6
