"""Executes claimed attempts: the engine's pass over the log, what others append meanwhile, and the end, acked last."""

import asyncio
from collections.abc import Callable, Set
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

import structlog

from perdure import probe
from perdure.bus.call import Calls
from perdure.bus.delta import Deltas
from perdure.bus.news import News
from perdure.clock import Chance
from perdure.core import event as ev
from perdure.core.event import TERMINAL, AnyEvent, Status
from perdure.engine.attempt import Pass
from perdure.errors import BrokenLog, Interrupted, Malformed, Unavailable, UnsupportedVersion
from perdure.ids import EventId, JobRef, RequestId, StreamSeq
from perdure.jobs.alarms import arm
from perdure.jobs.desk import Desk
from perdure.jobs.parent import tell_parent
from perdure_runner.intake import Claimed
from perdure_runner.langflow.flow import LangflowFlow
from perdure_runner.port import LogPort

log = structlog.get_logger(__name__)

QUIET_SECONDS: Final = 0.05  # an attempt that is shorter never subscribes to its news: compare-and-set finds them
LEASE_PARTS: Final = 3  # news are looked for this often in a lease, whatever the subscription says


class Run(Protocol):
    """What carries an attempt out: `engine.attempt.Pass` for code and graphs, `langflow.run.LangflowRun`."""

    async def run(self) -> AnyEvent: ...

    async def close(self) -> None: ...

    def drain(self) -> None: ...

    def halt(self) -> None: ...


StartLangflow = Callable[[LangflowFlow, LogPort], Run]
Follow = Callable[[JobRef, Callable[[], StreamSeq]], AbstractAsyncContextManager[News]]


class Executor:
    """Runs attempts, any number side by side. `drain` and `halt` end them early without losing anything."""

    def __init__(
        self,
        deltas: Deltas,
        news: Follow,
        desk: Desk,
        chance: Chance,
        calls: Calls,
        langflow: StartLangflow | None = None,
    ) -> None:
        """`langflow` makes the runs of Langflow flows, where this runner executes them."""
        self._deltas = deltas
        self._news = news
        self._desk = desk
        self._clock = desk.clock
        self._chance = chance
        self._calls = calls
        self._langflow = langflow
        self._running: dict[EventId, Run] = {}
        self._draining = False

    @property
    def running(self) -> int:
        """How many attempts run now."""
        return len(self._running)

    async def execute(self, claimed: Claimed) -> None:
        """Run one attempt to its end and settle its doorbell.

        Raises Interrupted when the attempt is fenced or the lease is in doubt: then nothing more is written or acked.
        """
        port = LogPort(
            claimed.joblog, claimed.attempt_id, claimed.lease, self._deltas, self._clock, self._chance, self._calls
        )
        try:
            end, run = await self._run(claimed, port)
        except Interrupted:
            if port.lost is None:
                raise
            end, run = port.lost, None
        try:
            await self._settle(claimed, end)
        finally:
            if run is not None:
                await run.close()

    async def _run(self, claimed: Claimed, port: LogPort) -> tuple[AnyEvent, Run]:
        await port.open()
        run = self._run_of(claimed, port)
        self._running[claimed.attempt_id] = run
        if self._draining:
            run.drain()
        watcher = asyncio.create_task(self._watch(claimed, port))
        try:
            return await run.run(), run
        finally:
            port.close()
            del self._running[claimed.attempt_id]
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)

    def _run_of(self, claimed: Claimed, port: LogPort) -> Run:
        if isinstance(claimed.workflow, LangflowFlow):
            if self._langflow is None:
                raise Interrupted("this runner executes no Langflow flows")
            return self._langflow(claimed.workflow, port)
        return Pass(claimed.workflow, port)

    def drain(self) -> None:
        """Let running steps end and every attempt hand its job on; nothing new is started in them."""
        self._draining = True
        for run in self._running.values():
            run.drain()

    def halt(self) -> None:
        """The grace is over: cancel running steps too, and hand the jobs on."""
        for run in list(self._running.values()):
            run.halt()

    async def _settle(self, claimed: Claimed, end: AnyEvent) -> None:
        """The parent, or the alarms; then the ack: a crash before it is a redelivery, which sees to both again.

        A doorbell whose lease is over may be in somebody else's hands: a late ack would take it from under them, a late
        nak start the job a second time beside them. It is left alone. Raises Interrupted then.
        """
        delivery = claimed.delivery
        if end.status in TERMINAL:
            await tell_parent(self._desk, delivery.ref, claimed.joblog.state)
            _believe(claimed)
            await delivery.ack()
            probe.hit("terminal.after_ack")
            tell = log.debug if end.status is Status.COMPLETED else log.info
            tell("job ended", attempt=end.attempt, status=str(end.status))
            return
        if isinstance(end.data, ev.SuspendedData) and any(w.kind == "runner" for w in end.data.waiting):
            probe.hit("drain.after_suspend")
            probe.hit("drain.before_nak")
            _believe(claimed)
            await delivery.nak(0)
            log.info("job handed on", attempt=end.attempt)
            return
        await arm(self._desk.doorbells, delivery.ref, claimed.joblog.state, self._clock.broker_now())
        probe.hit("suspend.after_arm")
        _believe(claimed)
        await delivery.ack()

    async def _watch(self, claimed: Claimed, port: LogPort) -> None:
        """End the attempt when its lease is in doubt; look for what others do to it when it is no short one."""
        lost = claimed.lease.lost
        try:
            async with asyncio.timeout(QUIET_SECONDS):
                await lost.wait()
        except TimeoutError:
            following = asyncio.create_task(self._follow(port, claimed.lease.lease_seconds / LEASE_PARTS))
            try:
                await lost.wait()
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
        port.interrupt(f"job {port.ref.job}: the lease is in doubt")

    async def _follow(self, port: LogPort, look_seconds: float) -> None:
        """Fold what others append while the attempt runs, and have time watch over what it asks meanwhile: other
        branches may work for hours beside a request that expires.
        """
        armed: Set[RequestId] = frozenset()

        def known() -> StreamSeq:
            """Where own appends are no news: a request that nothing watches over yet is."""
            return port.tail if port.job.asked.keys() <= armed else StreamSeq(0)

        async with self._news(port.ref, known) as changed:
            while True:
                changed.clear()
                try:
                    await port.look(changed.take())
                    if not port.job.asked.keys() <= armed:
                        armed = frozenset(port.job.asked)
                        await arm(self._desk.doorbells, port.ref, port.job, self._clock.broker_now())
                except Unavailable as exc:
                    log.warning("no news while the broker is away", error=str(exc))
                except (BrokenLog, Malformed, UnsupportedVersion) as exc:  # the claim that follows says what it is
                    port.interrupt(f"job {port.ref.job}: its log can no longer be read: {exc}")
                    return
                try:
                    async with asyncio.timeout(look_seconds):
                        await changed.wait()
                except TimeoutError:
                    changed.doubt()


def _believe(claimed: Claimed) -> None:
    if not claimed.lease.believed:
        raise Interrupted("the lease is in doubt: the doorbell is left alone")
