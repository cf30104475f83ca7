"""The claim on a real broker: which doorbells start an attempt, are acked, are left; and what is written."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from perdure.bus.connection import Bus
from perdure.bus.doorbell import Doorbells
from perdure.bus.eventlog import EventLog
from perdure.bus.heartbeat import Heartbeats
from perdure.bus.pull import Pull
from perdure.bus.stream import Ask, leader_get
from perdure.bus.subject import WORK, alarm_subject
from perdure.clock import SystemChance, SystemClock
from perdure.core import event as ev
from perdure.core.event import AnyData, FlowRef, Status
from perdure.core.instant import Instant, later
from perdure.engine.workflow import Workflow
from perdure.errors import Interrupted, UnsupportedVersion
from perdure.ids import JobRef, Principal, Queue, RequestId, Tenant, new_job_id, new_runner_id, request_id
from perdure.jobs.joblog import JobLog
from perdure.local.server import NatsServer
from perdure.testing.factory import FINGERPRINT, FLOW, OWNER, RUNNER
from perdure_runner.flows import Flows
from perdure_runner.intake import Claimed, Intake

Eventually = Callable[..., Awaitable[None]]
LEASE_SECONDS = 2.0
BOB = Principal("user:bob")


async def _body(ctx: object, given: object) -> None:
    raise AssertionError("the intake does not run workflows")


class OneFlow(Flows):
    """Knows one workflow, or none."""

    def __init__(self) -> None:
        self.known = True
        self.refused = asyncio.Event()

    async def workflow(self, tenant: Tenant, flow: FlowRef) -> Workflow:
        if not self.known:
            self.refused.set()
            raise UnsupportedVersion("not here")
        return Workflow(name=flow.name, fn=_body)


class Runner:
    """An intake with a pull of its own; attempts that it starts are put into `started` and wait for `release`."""

    def __init__(self, bench: "Bench", heartbeats: Heartbeats) -> None:
        self.flows = OneFlow()
        self.started: asyncio.Queue[Claimed] = asyncio.Queue()
        self.release = asyncio.Event()
        self.dies = False
        self.intake = Intake(
            runner=new_runner_id(),
            eventlog=bench.eventlog,
            doorbells=bench.doorbells,
            heartbeats=heartbeats,
            flows=self.flows,
            execute=self.execute,
            clock=bench.clock,
            chance=SystemChance(),
        )
        self.pull = Pull(bench.bus, [(bench.queue, "normal")], 8, self.intake.handle, lease_seconds=LEASE_SECONDS)

    async def execute(self, claimed: Claimed) -> None:
        await self.started.put(claimed)
        if self.dies:
            raise Interrupted("the runner died")
        await self.release.wait()
        await claimed.delivery.ack()


class Bench:
    """A queue of its own, jobs in it, and runners that serve it."""

    def __init__(self, bus: Bus, eventlog: EventLog, tenant: Tenant, server: NatsServer) -> None:
        self.bus, self.eventlog, self.tenant, self.server = bus, eventlog, tenant, server
        self.doorbells = Doorbells(bus)
        self.clock = SystemClock()
        self.queue = Queue(f"q{uuid.uuid4().hex[:16]}")
        self.ref = JobRef(tenant, new_job_id())

    @asynccontextmanager
    async def runner(self) -> AsyncIterator[Runner]:
        who = self.server.credentials["admin"]
        async with Heartbeats(
            [self.server.url],
            user=who.user,
            password=who.password,
            name="test heartbeats",
            clock=self.clock,
            inbox_prefix=who.inbox_prefix,
        ) as heartbeats:
            runner = Runner(self, heartbeats)
            pulling = asyncio.create_task(runner.pull.run())
            try:
                yield runner
            finally:
                runner.release.set()
                runner.pull.stop()
                await pulling

    def now(self) -> Instant:
        return self.clock.broker_now()

    async def log(self) -> JobLog:
        return await JobLog.load(self.eventlog, self.ref, self.clock)

    async def append(self, *datas: AnyData) -> None:
        log = await self.log()
        for data in datas:
            stored = await log.append(lambda job, data=data: data)  # type: ignore[misc]  # bound now
            assert stored is not None

    async def submit(self, deadline_seconds: float = 3600.0) -> None:
        await self.append(
            ev.SubmittedData(
                flow=FLOW,
                input="hi",
                owner=OWNER,
                queue=self.queue,
                priority="normal",
                deadline_at=later(self.now(), deadline_seconds),
                fingerprint=FINGERPRINT,
            )
        )

    async def ring(self) -> None:
        await self.doorbells.ring(self.ref, self.queue, "normal")

    async def empty(self) -> bool:
        return not await self.doorbells.exists(self.ref, self.queue, "normal")

    async def asleep(self, expires_in: float | None = None, on_timeout: ev.OnTimeout | None = None) -> RequestId:
        """Submit a job and take it to where it waits for a person."""
        await self.submit()
        await self.append(ev.AttemptData(runner=RUNNER, doorbell=ev.Bell(seq=1, ring="gone"), reason="first"))
        asked = request_id(self.ref.job, 3)
        request = ev.Request(
            id=asked,
            job_id=self.ref.job,
            name="review",
            occurrence=1,
            revision=1,
            kind="approval",
            title="?",
            asked_at=self.now(),
            asked_for=OWNER,
            actions=(ev.Action(id="approve"),),
            expires_at=later(self.now(), expires_in) if expires_in is not None else None,
            on_timeout=on_timeout,
        )
        waiting = ev.Waiting(kind="input", name="review", occurrence=1, request_id=asked, until=request.expires_at)
        await self.append(ev.RequestedData(request=request), ev.SuspendedData(waiting=(waiting,)))
        return asked


@pytest.fixture
def bench(bus: Bus, eventlog: EventLog, tenant: Tenant, nats_server: NatsServer) -> Bench:
    return Bench(bus, eventlog, tenant, nats_server)


async def test_a_new_job_is_claimed_under_its_doorbell(bench: Bench) -> None:
    await bench.submit()
    async with bench.runner() as runner:
        await bench.ring()
        claimed = await runner.started.get()
        job = (await bench.log()).state
        assert job.status is Status.RUNNING
        assert job.attempt_id == claimed.attempt_id
        assert job.attempt_data is not None
        assert job.attempt_data.reason == "first"
        assert job.attempt_data.doorbell == claimed.delivery.bell


async def test_a_stale_copy_of_the_first_event_in_the_doorbell_starts_nothing_twice(
    bench: Bench, eventually: Eventually
) -> None:
    await bench.submit()
    first = (await bench.log()).entries[0]
    await bench.append(ev.CancelledData(fingerprint=FINGERPRINT))
    async with bench.runner() as runner:
        await bench.doorbells.ring(bench.ref, bench.queue, "normal", submitted=first)
        await eventually(bench.empty)
        assert runner.started.empty()
    assert (await bench.log()).state.seq == 2


async def test_a_doorbell_of_nobodys_job_is_acked(bench: Bench, eventually: Eventually) -> None:
    async with bench.runner() as runner:
        await bench.ring()
        await eventually(bench.empty)
        assert runner.started.empty()
    assert (await bench.log()).state.seq == 0


async def test_a_sleeping_job_is_not_woken_by_a_doorbell_and_its_alarm_is_armed(
    bench: Bench, eventually: Eventually
) -> None:
    asked = await bench.asleep(expires_in=600.0)
    async with bench.runner() as runner:
        await bench.ring()
        await eventually(bench.empty)
        assert runner.started.empty()
    log = await bench.log()
    assert log.state.status is Status.SUSPENDED
    assert asked in log.state.asked
    alarm = alarm_subject(bench.ref.job, "q3")
    assert await leader_get(bench.bus, WORK, Ask(last_by_subj=alarm)) is not None


async def test_a_recorded_answer_resumes_and_is_named_as_the_cause(bench: Bench) -> None:
    asked = await bench.asleep()
    via = ev.Via(channel="api")
    await bench.append(ev.AnsweredData(request_id=asked, revision=1, action="approve", payload=None, by=BOB, via=via))
    async with bench.runner() as runner:
        await bench.ring()
        claimed = await runner.started.get()
        data = claimed.joblog.state.attempt_data
        assert data is not None
        assert (data.reason, data.cause, data.because_seq) == ("resumed", "answer", 5)


async def test_a_second_doorbell_of_a_running_job_is_acked_and_starts_nothing(
    bench: Bench, eventually: Eventually
) -> None:
    await bench.submit()
    async with bench.runner() as first, bench.runner() as second:
        await bench.ring()
        await bench.ring()
        await bench.ring()
        running = asyncio.ensure_future(first.started.get()), asyncio.ensure_future(second.started.get())
        done, pending = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        held = next(iter(done)).result()

        async def one_left() -> bool:
            read = await leader_get(bench.bus, WORK, Ask(last_by_subj=f"work.{bench.queue}.normal.{bench.ref.job}"))
            return read is not None and read.seq == held.delivery.bell.seq

        await eventually(one_left)
        for task in pending:
            task.cancel()
        assert first.started.empty()
        assert second.started.empty()
    assert (await bench.log()).state.attempt == 1


async def test_a_job_whose_doorbell_is_gone_is_taken_over_by_another(bench: Bench) -> None:
    await bench.submit()
    gone = ev.Bell(seq=1, ring=str(uuid.uuid4()))
    await bench.append(ev.AttemptData(runner=RUNNER, doorbell=gone, reason="first"))
    async with bench.runner() as runner:
        await bench.ring()
        claimed = await runner.started.get()
        data = claimed.joblog.state.attempt_data
        assert data is not None
        assert (data.reason, claimed.joblog.state.attempt) == ("lease_lost", 2)


async def test_a_dead_runners_job_is_redelivered_and_taken_over(bench: Bench) -> None:
    await bench.submit()
    async with bench.runner() as first:
        first.dies = True
        await bench.ring()
        before = await first.started.get()
        first.dies = False
        after = await first.started.get()
        assert after.delivery.bell == before.delivery.bell
        assert after.joblog.state.attempt == 2
        assert after.joblog.state.crashes == 1


async def test_a_job_that_crashes_every_runner_ends_at_the_fifth(bench: Bench, eventually: Eventually) -> None:
    await bench.submit()
    for number in range(5):
        reason = "first" if number == 0 else "lease_lost"
        bell = ev.Bell(seq=number + 1, ring="gone")
        await bench.append(ev.AttemptData(runner=RUNNER, doorbell=bell, reason=reason))  # type: ignore[arg-type]  # one of two literals
    async with bench.runner() as runner:
        await bench.ring()
        await eventually(bench.empty)
        assert runner.started.empty()
    job = (await bench.log()).state
    assert job.status is Status.FAILED
    assert isinstance(job.end, ev.FailedData)
    assert job.end.error.code == "runner_crashed"
    assert job.attempt == 5


async def test_a_flow_that_this_runner_lacks_is_handed_back_and_nothing_is_written(bench: Bench) -> None:
    await bench.submit()
    async with bench.runner() as lacking:
        lacking.flows.known = False
        await bench.ring()
        await lacking.flows.refused.wait()
        assert (await bench.log()).state.seq == 1
        lacking.flows.known = True  # learns it, and gets the same doorbell again
        claimed = await lacking.started.get()
        assert claimed.delivery.times > 1
        assert claimed.joblog.state.attempt == 1


async def test_what_time_has_decided_is_written_by_whoever_looks(bench: Bench, eventually: Eventually) -> None:
    await bench.submit(deadline_seconds=-1.0)
    async with bench.runner() as runner:
        await bench.ring()
        await eventually(bench.empty)
        assert runner.started.empty()
    assert (await bench.log()).state.status is Status.TIMED_OUT


async def test_an_expired_request_resumes_the_job_with_the_expiry_as_cause(bench: Bench) -> None:
    asked = await bench.asleep(expires_in=-1.0, on_timeout=ev.OnTimeout(do="answer", action="approve"))
    async with bench.runner() as runner:
        await bench.ring()
        claimed = await runner.started.get()
        job = claimed.joblog.state
        assert job.attempt_data is not None
        assert (job.attempt_data.reason, job.attempt_data.cause) == ("resumed", "expiry")
        settled = job.settled[asked].data
        assert isinstance(settled, ev.ExpiredData)
        assert settled.outcome.action == "approve"


async def test_a_runner_that_stops_hands_its_doorbells_back(bench: Bench) -> None:
    await bench.submit()
    async with bench.runner() as leaving:
        leaving.intake.stopping = True
        async with bench.runner() as staying:
            await bench.ring()
            claimed = await staying.started.get()
            assert claimed.joblog.state.attempt == 1
        assert leaving.started.empty()
