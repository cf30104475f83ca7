"""What the runner's tests share: a queue of its own, jobs in it, runners that serve it on the run's real broker."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from perdure.bus.call import Calls
from perdure.bus.connection import Bus
from perdure.bus.delta import Deltas
from perdure.bus.doorbell import Doorbells
from perdure.bus.eventlog import EventLog
from perdure.bus.heartbeat import Heartbeats
from perdure.bus.inbox import tell
from perdure.bus.news import news
from perdure.bus.pull import Pull
from perdure.clock import SystemChance, SystemClock
from perdure.core import event as ev
from perdure.core.event import AnyData, FlowRef
from perdure.core.instant import Instant, later
from perdure.engine.workflow import Workflow
from perdure.errors import Interrupted, UnsupportedVersion
from perdure.ids import JobRef, Principal, Queue, RequestId, Tenant, new_job_id, new_runner_id, request_id
from perdure.jobs.desk import Desk
from perdure.jobs.joblog import JobLog
from perdure.local.server import NatsServer
from perdure.testing.factory import FINGERPRINT, FLOW, OWNER, RUNNER
from perdure_runner.attempt import Executor
from perdure_runner.flows import Flows
from perdure_runner.intake import Claimed, Intake

Eventually = Callable[..., Awaitable[None]]
LEASE_SECONDS = 2.0
BOB = Principal("user:bob")


async def _body(ctx: object, given: object) -> None:
    raise AssertionError("the intake does not run workflows")


class OneFlow(Flows):
    """Knows one workflow, or none."""

    def __init__(self, workflow: Workflow | None) -> None:
        self.known = True
        self.refused = asyncio.Event()
        self._workflow = workflow

    async def workflow(self, tenant: Tenant, flow: FlowRef, submitted: ev.SubmittedData | None = None) -> Workflow:
        if not self.known:
            self.refused.set()
            raise UnsupportedVersion("not here")
        return self._workflow or Workflow(name=flow.name, fn=_body)


class Runner:
    """An intake with a pull of its own.

    Attempts that it starts are put into `started`; without a workflow they then wait for `release`, with one they run.
    """

    def __init__(self, bench: "Bench", heartbeats: Heartbeats, workflow: Workflow | None) -> None:
        self.flows = OneFlow(workflow)
        desk = Desk(bench.eventlog, bench.doorbells, bench.clock)
        calls = Calls(bench.runner_bus or bench.bus)
        self.executor = Executor(Deltas(bench.bus), partial(news, bench.bus), desk, SystemChance(), calls)
        self._runs = workflow is not None
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
            tell=partial(tell, bench.bus),
        )
        self.pull = Pull(bench.bus, [(bench.queue, "normal")], 8, self.intake.handle, lease_seconds=LEASE_SECONDS)

    async def execute(self, claimed: Claimed) -> None:
        await self.started.put(claimed)
        if self.dies:
            raise Interrupted("the runner died")
        if self._runs:
            await self.executor.execute(claimed)
            return
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
        self.runner_bus: Bus | None = None  # whose inboxes gateways answer to, where a test needs answers

    @asynccontextmanager
    async def runner(self, workflow: Workflow | None = None) -> AsyncIterator[Runner]:
        who = self.server.credentials["admin"]
        async with Heartbeats(
            [self.server.url],
            user=who.user,
            password=who.password,
            name="test heartbeats",
            clock=self.clock,
            inbox_prefix=who.inbox_prefix,
        ) as heartbeats:
            runner = Runner(self, heartbeats, workflow)
            pulling = asyncio.create_task(runner.pull.run())
            try:
                yield runner
            finally:
                runner.release.set()
                runner.pull.stop()
                await pulling

    def renew(self) -> None:
        """From now on another job, of an id of its own."""
        self.ref = JobRef(self.tenant, new_job_id())

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
