"""The duties on both databases and a real broker: lost doorbells, and what is overdue without anybody to do it."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from nats.aio.msg import Msg

from perdure import probe
from perdure.bus.connection import Bus
from perdure.bus.eventlog import EventLog
from perdure.bus.stream import Ask, leader_get
from perdure.bus.subject import WORK, work_subject
from perdure.bus.topology import ensure_queue
from perdure.core import event as ev
from perdure.core.event import AnyEvent, Status
from perdure.core.instant import later
from perdure.core.machine import fold
from perdure.db.engine import Database
from perdure.ids import JobRef, Principal, Queue, Tenant
from perdure.jobs.desk import Desk
from perdure.probe import SimulatedCrash
from perdure.testing.clock import FakeClock
from perdure.testing.factory import BEGIN
from perdure.testing.logs import Told
from perdure_sweeper.duties.doorbells import LostDoorbells
from perdure_sweeper.duties.overdue import Overdue

MAIN = Tenant("main")
QUEUE = Queue("default")

Project = Callable[[], Awaitable[None]]


@pytest.fixture
def lost(database: Database, desk: Desk) -> LostDoorbells:
    """The duty `doorbells`."""
    return LostDoorbells(database, desk)


@pytest.fixture
def overdue(database: Database, desk: Desk) -> Overdue:
    """The duty `overdue`; the broker's time is known."""
    return Overdue(database, desk, lambda: True)


async def log_of(eventlog: EventLog, ref: JobRef) -> list[AnyEvent]:
    return [stored.event for stored in await eventlog.read(ref)]


async def bells(bus: Bus, ref: JobRef) -> int:
    """How many doorbells of a job are in WORK."""
    found, at = 0, 0
    while read := await leader_get(bus, WORK, Ask(seq=at + 1, next_by_subj=work_subject(QUEUE, "normal", ref.job))):
        found, at = found + 1, read.seq
    return found


# ------------------------------------------------------------------------------------------------ doorbells


async def test_a_job_whose_submitter_died_before_ringing_is_rung_once(
    own_bus: Bus, own_eventlog: EventLog, project: Project, lost: LostDoorbells
) -> None:
    told = Told(own_eventlog, MAIN)
    await told.put(told.story.submitted())
    assert await lost.run_once() == 0  # not in the rows yet
    await project()
    assert await lost.run_once() == 1
    assert await bells(own_bus, told.ref) == 1
    assert await lost.run_once() == 0
    assert await bells(own_bus, told.ref) == 1


async def test_a_job_that_has_just_become_runnable_is_left_to_whoever_made_it_so(
    database: Database, own_eventlog: EventLog, project: Project, desk: Desk, clock: FakeClock
) -> None:
    told = Told(own_eventlog, MAIN)
    await told.put(told.story.submitted())
    await project()
    patient = LostDoorbells(database, desk, grace_seconds=1.0)
    assert await patient.run_once() == 0
    clock.advance(2)
    assert await patient.run_once() == 1


async def test_a_job_that_has_its_doorbell_is_left_alone(
    own_bus: Bus, own_eventlog: EventLog, project: Project, lost: LostDoorbells, desk: Desk
) -> None:
    told = Told(own_eventlog, MAIN)
    await told.put(told.story.submitted())
    await desk.doorbells.ring(told.ref, QUEUE, "normal")
    await project()
    assert await lost.run_once() == 0
    assert await bells(own_bus, told.ref) == 1


async def test_a_running_job_without_a_doorbell_is_rung(
    own_bus: Bus, own_eventlog: EventLog, project: Project, lost: LostDoorbells
) -> None:
    told = await Told(own_eventlog, MAIN).begin(steps=1)
    await project()
    assert await lost.run_once() == 1
    assert await bells(own_bus, told.ref) == 1


async def test_a_sleeping_job_is_rung_when_its_answer_is_there_and_not_before(
    own_bus: Bus, own_eventlog: EventLog, project: Project, lost: LostDoorbells
) -> None:
    told = await Told(own_eventlog, MAIN).begin()
    request = told.story.asked()
    await told.put(told.story.events[-1])
    await told.put(told.story.suspended(ev.Waiting(kind="input", name="review", request_id=request)))
    await project()
    assert await lost.run_once() == 0
    assert await bells(own_bus, told.ref) == 0
    await told.put(told.story.answered(request))  # and whoever answered died before the ring
    await project()
    assert await lost.run_once() == 1
    assert await bells(own_bus, told.ref) == 1


@pytest.mark.parametrize(
    ("wait", "rung"),
    [
        (ev.Waiting(kind="runner"), 1),
        (ev.Waiting(kind="backoff", until=later(BEGIN, 60)), 0),
        (ev.Waiting(kind="code", until=later(BEGIN, -60)), 1),
        (ev.Waiting(kind="signal", name="go"), 0),
    ],
    ids=["drained", "backing off", "code may fit again", "waits for a signal"],
)
async def test_other_sleepers_are_rung_when_their_wait_is_over(
    own_eventlog: EventLog, project: Project, lost: LostDoorbells, wait: ev.Waiting, rung: int
) -> None:
    told = await Told(own_eventlog, MAIN).begin()
    await told.put(told.story.suspended(wait))
    await project()
    assert await lost.run_once() == rung


async def test_a_back_off_whose_alarm_was_lost_is_rung_when_its_instant_has_come(
    own_eventlog: EventLog, project: Project, lost: LostDoorbells, clock: FakeClock
) -> None:
    told = await Told(own_eventlog, MAIN).begin()
    await told.put(told.story.suspended(ev.Waiting(kind="backoff", until=later(BEGIN, 60))))
    await project()
    clock.advance(59)
    assert await lost.run_once() == 0
    clock.advance(1)
    assert await lost.run_once() == 1


async def test_a_job_that_is_not_to_start_yet_is_not_rung(
    own_eventlog: EventLog, project: Project, lost: LostDoorbells, clock: FakeClock
) -> None:
    told = Told(own_eventlog, MAIN)
    await told.put(told.story.submitted(not_before=later(BEGIN, 60)))
    await project()
    assert await lost.run_once() == 0
    clock.advance(60)
    assert await lost.run_once() == 1


async def test_a_row_that_is_behind_its_log_rings_nobody(
    own_bus: Bus, own_eventlog: EventLog, project: Project, lost: LostDoorbells
) -> None:
    told = await Told(own_eventlog, MAIN).begin()
    await project()
    await told.put(told.story.completed())  # not projected
    assert await lost.run_once() == 0
    assert await bells(own_bus, told.ref) == 0


async def test_two_sweepers_at_once_ring_and_then_both_are_quiet(
    database: Database, own_bus: Bus, own_eventlog: EventLog, project: Project, desk: Desk
) -> None:
    stories = [Told(own_eventlog, MAIN) for _ in range(10)]
    for told in stories:
        await told.put(told.story.submitted())
    await project()
    one, other = LostDoorbells(database, desk), LostDoorbells(database, desk)
    await asyncio.gather(one.run_once(), other.run_once())
    counts = [await bells(own_bus, told.ref) for told in stories]
    assert set(counts) <= {1, 2}
    assert [await one.run_once(), await other.run_once()] == [0, 0]
    assert [await bells(own_bus, told.ref) for told in stories] == counts


async def test_a_sweeper_that_dies_in_the_middle_leaves_the_rest_to_the_next(
    database: Database, own_bus: Bus, own_eventlog: EventLog, project: Project, desk: Desk
) -> None:
    stories = [Told(own_eventlog, MAIN) for _ in range(5)]
    for told in stories:
        await told.put(told.story.submitted())
    await project()
    probe.arm("sweep.after_ring=raise:n1")
    with pytest.raises(SimulatedCrash):
        await LostDoorbells(database, desk).run_once()
    probe.arm("")
    await LostDoorbells(database, desk).run_once()
    assert min([await bells(own_bus, told.ref) for told in stories]) == 1


async def test_more_jobs_than_a_query_takes_are_all_looked_at(
    database: Database, own_eventlog: EventLog, project: Project, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure_sweeper.duties.look.ROWS", 2)
    for _ in range(7):
        told = Told(own_eventlog, MAIN)
        await told.put(told.story.submitted())
    await project()
    assert await LostDoorbells(database, desk).run_once() == 7


async def test_more_requests_than_a_query_takes_are_all_expired(
    own_eventlog: EventLog, project: Project, overdue: Overdue, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure_sweeper.duties.look.ROWS", 2)
    for _ in range(5):
        told = await Told(own_eventlog, MAIN).begin()
        told.story.asked(expires_at=later(BEGIN, 60))
        await told.put(told.story.events[-1])
    await project()
    clock.advance(120.0)
    assert await overdue.run_once() == 5


async def test_a_doorbell_that_a_runner_holds_is_there(
    own_bus: Bus, own_eventlog: EventLog, project: Project, lost: LostDoorbells, desk: Desk
) -> None:
    """Delivered and not acknowledged: its lease runs, nobody rings beside it."""
    told = Told(own_eventlog, MAIN)
    await told.put(told.story.submitted())
    await desk.doorbells.ring(told.ref, QUEUE, "normal")
    await ensure_queue(own_bus, QUEUE, "normal", 10.0)
    held = asyncio.Event()

    async def hold(message: Msg) -> None:
        if message.subject == work_subject(QUEUE, "normal", told.ref.job):
            held.set()

    inbox = own_bus.nc.new_inbox()
    await own_bus.subscribe(inbox, hold)
    await own_bus.publish("$JS.API.CONSUMER.MSG.NEXT.WORK.default_normal", b'{"batch":1}', reply=inbox)
    await held.wait()
    await project()
    assert await lost.run_once() == 0


# ------------------------------------------------------------------------------------------------ overdue


async def test_a_request_expires_although_there_is_no_runner(
    own_bus: Bus, own_eventlog: EventLog, project: Project, overdue: Overdue, clock: FakeClock
) -> None:
    told = await Told(own_eventlog, MAIN).begin()
    request = told.story.asked(expires_at=later(BEGIN, 60), on_timeout=ev.OnTimeout(do="answer", action="reject"))
    await told.put(told.story.events[-1])
    await told.put(told.story.suspended(ev.Waiting(kind="input", name="review", request_id=request)))
    await project()
    clock.advance(59)
    assert await overdue.run_once() == 0
    assert len(await log_of(own_eventlog, told.ref)) == 4
    clock.advance(1)
    assert await overdue.run_once() == 1
    *_, last = await log_of(own_eventlog, told.ref)
    assert isinstance(last, ev.InputExpired)
    assert (last.data.request_id, last.data.cause, last.data.outcome.action) == (request, "deadline", "reject")
    assert await bells(own_bus, told.ref) == 1  # so that a runner goes on with it
    assert await overdue.run_once() == 0  # the row is behind: the log says that it is done
    await project()
    assert await overdue.run_once() == 0


async def test_a_job_whose_alarm_has_rung_meanwhile_is_not_rung_again(
    own_bus: Bus, own_eventlog: EventLog, project: Project, overdue: Overdue, desk: Desk, clock: FakeClock
) -> None:
    told = await Told(own_eventlog, MAIN).begin()
    told.story.asked(expires_at=later(BEGIN, 60))
    await told.put(told.story.events[-1])
    await project()
    clock.advance(60)
    await desk.doorbells.ring(told.ref, QUEUE, "normal")
    assert await overdue.run_once() == 1
    assert await bells(own_bus, told.ref) == 1


async def test_a_job_whose_deadline_passed_is_timed_out_and_not_rung(
    own_bus: Bus, own_eventlog: EventLog, project: Project, overdue: Overdue, clock: FakeClock
) -> None:
    told = Told(own_eventlog, MAIN)
    await told.put(told.story.submitted(deadline_seconds=60))
    await project()
    clock.advance(60)
    assert await overdue.run_once() == 1
    assert fold(await log_of(own_eventlog, told.ref)).status is Status.TIMED_OUT
    assert await bells(own_bus, told.ref) == 0


async def test_everything_that_is_due_is_done_at_once(
    own_eventlog: EventLog, project: Project, overdue: Overdue, clock: FakeClock
) -> None:
    told = await Told(own_eventlog, MAIN).begin()
    for name in ("a", "b"):
        told.story.asked(name, expires_at=later(BEGIN, 60))
        await told.put(told.story.events[-1])
    wait = ev.Waiting(kind="timer", name="nap", occurrence=1, until=later(BEGIN, 30))
    await told.put(told.story.suspended(wait))
    await project()
    clock.advance(61)
    assert await overdue.run_once() == 1
    types = [ev.type_of(event) for event in (await log_of(own_eventlog, told.ref))[5:]]
    assert types == ["timer.fired", "input.expired", "input.expired"]


async def test_a_cancel_whose_grace_is_over_ends_the_job(
    own_eventlog: EventLog, project: Project, overdue: Overdue, clock: FakeClock
) -> None:
    told = await Told(own_eventlog, MAIN).begin()
    await told.put(told.story.add(ev.CancelData(by=Principal("user:ann"), grace_seconds=30)))
    await project()
    assert await overdue.run_once() == 0
    clock.advance(40)
    assert await overdue.run_once() == 1
    assert fold(await log_of(own_eventlog, told.ref)).status is Status.CANCELLED


async def test_two_sweepers_at_once_expire_a_request_once(
    database: Database, own_eventlog: EventLog, project: Project, desk: Desk, clock: FakeClock
) -> None:
    stories = []
    for _ in range(5):
        told = await Told(own_eventlog, MAIN).begin()
        told.story.asked(expires_at=later(BEGIN, 60))
        await told.put(told.story.events[-1])
        stories.append(told)
    await project()
    clock.advance(60)
    done = await asyncio.gather(*(Overdue(database, desk, lambda: True).run_once() for _ in range(2)))
    assert sum(done) == 5
    for told in stories:
        expired = [e for e in await log_of(own_eventlog, told.ref) if isinstance(e, ev.InputExpired)]
        assert len(expired) == 1


async def test_what_is_due_is_left_to_its_alarm_for_a_moment(
    database: Database, own_eventlog: EventLog, project: Project, desk: Desk, clock: FakeClock
) -> None:
    told = Told(own_eventlog, MAIN)
    await told.put(told.story.submitted(deadline_seconds=60))
    await project()
    patient = Overdue(database, desk, lambda: True, grace_seconds=1.0)
    clock.advance(60.5)
    assert await patient.run_once() == 0
    clock.advance(1)
    assert await patient.run_once() == 1
    assert fold(await log_of(own_eventlog, told.ref)).status is Status.TIMED_OUT


async def test_nothing_is_due_while_the_broker_s_time_is_not_known(
    database: Database, own_eventlog: EventLog, project: Project, desk: Desk, clock: FakeClock
) -> None:
    told = Told(own_eventlog, MAIN)
    await told.put(told.story.submitted(deadline_seconds=60))
    await project()
    clock.advance(3600)
    assert await Overdue(database, desk, lambda: False).run_once() == 0
    assert len(await log_of(own_eventlog, told.ref)) == 1


async def test_a_log_that_cannot_be_folded_stops_no_duty(
    own_eventlog: EventLog, project: Project, lost: LostDoorbells, overdue: Overdue, clock: FakeClock
) -> None:
    broken, sound = Told(own_eventlog, MAIN), Told(own_eventlog, MAIN)
    for told in (broken, sound):
        await told.put(told.story.submitted(deadline_seconds=60))
    await project()
    broken.story.started()  # told, never appended
    await broken.put(broken.story.step("after"))  # the row does not know yet
    assert await lost.run_once() == 1
    clock.advance(60)
    assert await overdue.run_once() == 1
    assert fold(await log_of(own_eventlog, sound.ref)).status is Status.TIMED_OUT
