"""What the tests of Langflow flows share: jobs of flow files on the run's real broker, and a runner that executes them.

The process that forks children is one for the whole run: lfx takes seconds to import.
"""

import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import msgspec

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
from perdure.core import verify
from perdure.core.event import AnyData, AnyEvent, FlowRef, Status
from perdure.core.fit import Answer
from perdure.core.instant import later
from perdure.core.langflow.entry import Finished, journal, outputs
from perdure.core.langflow.overrides import Overrides
from perdure.core.machine import JobState
from perdure.core.request import settle
from perdure.core.standing import Standing
from perdure.ids import JobRef, Queue, Tenant, new_job_id, new_runner_id
from perdure.jobs.desk import Desk, ring
from perdure.jobs.joblog import JobLog
from perdure.local.server import NatsServer
from perdure.testing.factory import FINGERPRINT, OWNER
from perdure_runner.attempt import Executor
from perdure_runner.flows import Flows
from perdure_runner.intake import Intake
from perdure_runner.langflow.flow import LangflowFlow
from perdure_runner.langflow.pool import Pool
from perdure_runner.langflow.run import LangflowRun
from perdure_runner.port import LogPort

LEASE_SECONDS: Final = 2.0
WITHIN_SECONDS: Final = 60.0
SHARDS: Final = 8
MOST_CUTS: Final = 7
Watch = Callable[[LangflowRun, AnyEvent], None]
"""Called with each event that a run has appended, and with the run."""


class Bench:
    """A tenant and a queue of the test's own."""

    def __init__(self, bus: Bus, server: NatsServer, pool: Pool) -> None:
        self.bus, self.server, self.pool = bus, server, pool
        self.tenant = Tenant(f"t{uuid.uuid4().hex[:20]}")
        self.queue = Queue(f"q{uuid.uuid4().hex[:16]}")
        self.clock = SystemClock()
        self.eventlog, self.doorbells = EventLog(bus, SHARDS), Doorbells(bus)
        self.desk = Desk(self.eventlog, self.doorbells, self.clock)
        self.overrides = Overrides()
        self.pass_seconds = 60.0
        self.memory: list[dict[str, Any]] = []
        self.watch: Watch = lambda run, event: None

    @asynccontextmanager
    async def runner(self) -> AsyncIterator[Executor]:
        """A runner of Langflow flows, pulling."""
        who = self.server.credentials["admin"]
        async with Heartbeats(
            [self.server.url],
            user=who.user,
            password=who.password,
            name="test heartbeats",
            clock=self.clock,
            inbox_prefix=who.inbox_prefix,
        ) as heartbeats:
            executor = Executor(
                Deltas(self.bus), partial(news, self.bus), self.desk, SystemChance(), Calls(self.bus), self._run
            )
            intake = Intake(
                runner=new_runner_id(),
                eventlog=self.eventlog,
                doorbells=self.doorbells,
                heartbeats=heartbeats,
                flows=Flows(self.bus, None, langflow=True),
                execute=executor.execute,
                clock=self.clock,
                chance=SystemChance(),
                tell=partial(tell, self.bus),
            )
            pull = Pull(self.bus, [(self.queue, "normal")], 8, intake.handle, lease_seconds=LEASE_SECONDS)
            pulling = asyncio.create_task(pull.run())
            try:
                yield executor
            finally:
                pull.stop()
                executor.halt()
                await pulling

    def _run(self, flow: LangflowFlow, port: LogPort) -> LangflowRun:
        run = LangflowRun(flow, port, self.pool, self.eventlog.blobs, self._unseal, self.pass_seconds, self._others)
        append = port.append

        async def watched(decide: Any, refs: Any = ()) -> AnyEvent | None:
            event = await append(decide, refs)
            if event is not None:
                self.watch(run, event)
            return event

        port.append = watched  # type: ignore[method-assign]  # a test looks on
        return run

    async def _others(self, ref: JobRef) -> list[dict[str, Any]]:
        """What other jobs of the session have said: as the bench says."""
        return self.memory

    async def _unseal(self, tenant: Tenant, submitted: ev.SubmittedData) -> Overrides:
        """Of the bench, or the job's own: sealed by nobody here."""
        return self.overrides if submitted.sealed is None else msgspec.convert(submitted.sealed, Overrides)

    async def submit(
        self,
        flow: Mapping[str, Any],
        given: Any = "hello",
        cut: tuple[dict[JobRef, int], int] | None = None,
        **more: Any,
    ) -> JobRef:
        """Store the flow, submit a job of it, ring. `cut`: where to note the job before anybody runs it, and what."""
        ref = JobRef(self.tenant, new_job_id())
        if cut is not None:
            cut[0][ref] = cut[1]
        digest = await self.eventlog.blobs.put(self.tenant, json.dumps(flow).encode())
        log = JobLog(self.eventlog, ref, self.clock)
        submitted = ev.SubmittedData(
            flow=FlowRef(
                id=str(uuid.uuid5(uuid.NAMESPACE_URL, digest)), name="f", version=1, kind="langflow", digest=digest
            ),
            input=given,
            owner=OWNER,
            queue=self.queue,
            priority="normal",
            deadline_at=later(self.clock.broker_now(), 600.0),
            fingerprint=FINGERPRINT,
            **more,
        )
        assert await log.append(lambda job: submitted, refs=[digest]) is not None
        await ring(self.desk, ref, log.state)
        return ref

    async def log(self, ref: JobRef) -> JobLog:
        return await JobLog.load(self.eventlog, ref, self.clock)

    async def reached(self, ref: JobRef, *statuses: Status, within_seconds: float = WITHIN_SECONDS) -> list[AnyEvent]:
        """The log, judged, with its values, once the job is where it is to get."""
        wanted = statuses or (Status.COMPLETED,)
        async with asyncio.timeout(within_seconds), news(self.bus, ref) as changed:
            while True:
                changed.clear()
                log = await self.log(ref)
                if log.state.status in wanted:
                    events = await log.resolve()
                    findings = verify.log(events)
                    assert findings == [], findings
                    return events
                assert not log.state.terminal, f"{log.state.status}: {log.state.end}"
                await changed.wait()

    @asynccontextmanager
    async def deltas(self) -> AsyncIterator[list[dict[str, Any]]]:
        """What followers of the tenant's jobs hear, as it comes."""
        heard: list[dict[str, Any]] = []
        subscription = await self.bus.listen(
            f"job.{self.tenant}.*.delta", lambda message: heard.append(json.loads(message.data))
        )
        try:
            await self.bus.flush()
            yield heard
        finally:
            await self.bus.unsubscribe(subscription)

    async def heard(self, ref: JobRef, what: Callable[[AnyEvent], bool]) -> AnyEvent:
        """The first event of the log that is so, once it is there."""
        async with asyncio.timeout(WITHIN_SECONDS), news(self.bus, ref) as changed:
            while True:
                changed.clear()
                found = next((event for event in (await self.log(ref)).events if what(event)), None)
                if found is not None:
                    return found
                await changed.wait()

    async def emptied(self, ref: JobRef) -> None:
        """Until no doorbell of the job is left."""
        async with asyncio.timeout(WITHIN_SECONDS):
            while await self.doorbells.exists(ref, self.queue, "normal"):
                await self.clock.sleep(0.01)

    async def play(self, ref: JobRef, actions: Mapping[str, str], within_seconds: float = 120.0) -> list[AnyEvent]:
        """Answer whatever is asked, by the end of a component's id, until the job has completed. Its log."""
        async with asyncio.timeout(within_seconds), news(self.bus, ref) as changed:
            while True:
                changed.clear()
                job = (await self.log(ref)).state
                if job.terminal:
                    return await self.reached(ref)
                if job.status is Status.SUSPENDED and job.asked:
                    names = [r.name.partition("-")[2] for r in job.asked.values()]
                    await self.answer(ref, **{name: actions[name] for name in names})
                    continue
                await changed.wait()

    async def answer(self, ref: JobRef, **actions: str) -> None:
        """Answer open requests: the last part of a component's id -> action."""
        for component, action in actions.items():
            log = await self.log(ref)
            request = next(r for r in log.state.asked.values() if r.name.endswith(component))
            who = Standing(principal=OWNER, rights=frozenset({"execute", "answer", "read"}))
            said = Answer(action=action, proposal_digest=request.proposal_digest)
            via, now = ev.Via(channel="api"), self.clock.broker_now()

            def decide(job: JobState, request: ev.Request = request, said: Answer = said) -> AnyData | None:
                found = settle(job, request, who, via, said, now)  # noqa: B023  # asked before the loop goes on
                return found if isinstance(found, ev.AnsweredData) else None

            stored = await log.append(decide)
            assert stored is not None
            await ring(self.desk, ref, log.state)


def cut_places(whole: list[AnyEvent]) -> list[int]:
    """After which events children are killed: after every one where LANGFLOW_EVERY_CUT is set, else after MOST_CUTS of
    them, spread over the log.
    """
    places = [event.seq for event in whole[2:-1]]
    if os.environ.get("LANGFLOW_EVERY_CUT") or len(places) <= MOST_CUTS:
        return places
    return sorted({places[n * (len(places) - 1) // (MOST_CUTS - 1)] for n in range(MOST_CUTS)})


def contents(events: list[AnyEvent]) -> dict[str, Any]:
    """What the terminal components gave, by the end of their id."""
    return {name.partition("-")[2]: shown["content"] for name, shown in outputs(journal(events)).items()}


def finished(events: list[AnyEvent]) -> list[Finished]:
    """The job's journal."""
    return journal(events)


def kill(run: LangflowRun) -> bool:
    """SIGKILL for the child that runs now; whether one did."""
    if run._child is None:
        return False
    run._child.kill()
    return True
