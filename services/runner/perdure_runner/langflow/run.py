"""One attempt at a job of a Langflow flow: passes in child processes until the job ends or sleeps.

A pass is one child: it gets what the log says, goes on from there, and what it says is written down. It is followed by
another one when somebody has answered meanwhile. A child that dies, hangs or takes too much costs this attempt: the job
is tried again after a back-off, behind what the log has by then. Children of other jobs are not concerned.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from perdure.bus.blob import Blobs
from perdure.core import event as ev
from perdure.core.alarm import decides_at, due
from perdure.core.event import AnyData, AnyEvent
from perdure.core.machine import JobState
from perdure.engine import ends
from perdure.engine.failure import failure
from perdure.errors import (
    BrokenLog,
    CodeChanged,
    Malformed,
    NotFound,
    PerdureError,
    RequestExpired,
    RequestWithdrawn,
    TooLarge,
    Unavailable,
)
from perdure.ids import Digest
from perdure_runner.langflow import asked, telling
from perdure_runner.langflow.deaths import UNKNOWN, Death, death, tried_again
from perdure_runner.langflow.ending import asleep, failed
from perdure_runner.langflow.flow import LangflowFlow, Recollect, Unseal
from perdure_runner.langflow.frames import Broken, Ended, Paused, Recall, Recalled, Start, Stop
from perdure_runner.langflow.pool import Child, Pool
from perdure_runner.langflow.recording import Recording
from perdure_runner.port import LogPort

log = structlog.get_logger(__name__)

STOP_SECONDS: Final = 1.0  # for a child that was told to end
BURY_SECONDS: Final = 5.0  # until it is known how a child died

Outcome = Ended | Paused | Broken | Death


class LangflowRun:
    """Runs `flow` for the job of `port`, whose `attempt.started` is in the log already."""

    def __init__(
        self,
        flow: LangflowFlow,
        port: LogPort,
        pool: Pool,
        blobs: Blobs,
        unseal: Unseal,
        pass_seconds: float,
        recall: Recollect,
    ) -> None:
        """`recall` tells what other jobs of the session have said."""
        self._flow, self._port, self._pool, self._blobs = flow, port, pool, blobs
        self._unseal, self._pass_seconds, self._recall = unseal, pass_seconds, recall
        self._child: Child | None = None
        self._telling: asyncio.Task[None] | None = None
        self._recording: Recording | None = None
        self._draining = self._halted = False

    async def run(self) -> AnyEvent:
        """Run until a terminal event or this attempt's own `job.suspended` is in the log; return that event.

        Raises Interrupted when the attempt is over for this runner; its child is dead then.
        """
        while True:
            end = await self._pass()
            if end is not None:
                return end

    async def close(self) -> None:
        """Nothing is left of an attempt that has run: its child has ended."""

    def drain(self) -> None:
        """Let components that run end, start no more, and hand the job on."""
        self._draining = True
        if self._child is not None:
            self._telling = asyncio.create_task(self._child.send(Stop("drain")))

    def halt(self) -> None:
        """The same, without waiting for components."""
        self._draining = self._halted = True
        if self._child is not None:
            self._child.kill()

    async def _pass(self) -> AnyEvent | None:
        """One child, and what becomes of the job behind it; None: another pass."""
        port = self._port
        if (end := await self._decided()) is not None:
            return end
        if self._draining:
            return await self._append(lambda job: ends.handed_on())
        try:
            order = await self._order()
        except (RequestExpired, RequestWithdrawn) as exc:
            error: PerdureError = exc
            return await self._append(lambda job: ends.terminal(job, None, error, port.log))
        except (Malformed, NotFound) as exc:
            return await self._fail("INVALID_FLOW_DATA", str(exc))
        if order is None:  # another runner may have the key, or this one after its next start
            return await self._elsewhere("the master key that seals the job")
        recording = self._recording = Recording(port, self._keep)
        try:
            child = self._child = await self._pool.take()
        except Unavailable as exc:
            log.error("no process to run a flow in", job_id=port.ref.job, error=str(exc))
            return await self._elsewhere("a process with lfx")
        try:
            outcome = await self._converse(child, order, recording)
        finally:
            self._child = None
            await child.close()
        return outcome if isinstance(outcome, ev.Event) else await self._settle(outcome, recording)

    async def _order(self) -> Start | None:
        """What the child is told; None when what is sealed with the job cannot be opened here."""
        port = self._port
        first = port.log[0]
        if not isinstance(first, ev.JobSubmitted):
            raise BrokenLog(f"job {port.ref.job} was never submitted")
        try:
            overrides = await self._unseal(port.ref.tenant, first.data)
        except Unavailable as exc:
            log.error("what is sealed with a job cannot be opened", job_id=port.ref.job, error=str(exc))
            return None
        saved = {
            component: msgspec.json.decode(await self._blobs.get(port.ref.tenant, digest))
            for component, digest in asked.threads(port.job).items()
        }
        return telling.start(self._flow, port.ref, port.log, port.job, overrides, saved)

    async def _keep(self, body: bytes) -> Digest:
        return await self._blobs.put(self._port.ref.tenant, body)

    async def _converse(self, child: Child, order: Start, recording: Recording) -> Outcome | AnyEvent:
        """Hear the child to its end, while the log is watched; the end of the job if somebody else has ended it."""
        await child.send(order)
        if self._draining:
            await child.send(Stop("drain"))
        if self._halted:
            child.kill()
        hearing = asyncio.create_task(self._hear(child, recording))
        watching = asyncio.create_task(self._watch(child))
        try:
            await asyncio.wait([hearing, watching], return_when=asyncio.FIRST_COMPLETED)
            if hearing.done():
                return hearing.result()
            return watching.result()
        finally:
            for task in (hearing, watching):
                task.cancel()
            await asyncio.wait([hearing, watching])

    async def _hear(self, child: Child, recording: Recording) -> Outcome:
        """Write down what the child says. It is read no faster than the log takes it."""
        try:
            async with asyncio.timeout(self._pass_seconds):
                while (frame := await child.receive()) is not None:
                    if isinstance(frame, Ended | Paused | Broken):
                        return frame
                    if isinstance(frame, Recall):
                        await child.send(Recalled(await self._recall(self._port.ref)))
                    else:
                        await recording.take(frame)
        except TimeoutError:
            return Death("timeout", f"no end within {self._pass_seconds:g} s")
        except Unavailable as exc:
            return Death("unavailable", f"something that the flow needs is away: {exc}")
        except TooLarge as exc:
            return Broken(code="too_large", message=str(exc))
        except Malformed as exc:
            return Death("child_died", f"the process of the flow said what nobody understands: {exc}")
        try:
            async with asyncio.timeout(BURY_SECONDS):
                return death(await asyncio.shield(child.status))
        except TimeoutError:
            return death(UNKNOWN)

    async def _watch(self, child: Child) -> AnyEvent:
        """End the child when the job is cancelled; append what time decides; return what ends the job meanwhile."""
        port, stopped = self._port, False
        while True:
            if (end := await self._decided(running=True)) is not None:
                return end
            if port.job.cancel is not None and not stopped:
                stopped = True
                await child.send(Stop("cancel"))
                asyncio.get_running_loop().call_later(STOP_SECONDS, child.kill)
            await port.moved(port.log[-1].seq, decides_at(port.job))

    async def _decided(self, *, running: bool = False) -> AnyEvent | None:
        """The end of the job, where somebody has appended one, or time or a cancel asks for one."""
        port = self._port
        while True:
            if port.job.terminal:
                return port.log[-1]
            if due(port.job, port.now()) is not None:
                await port.append(lambda job: due(job, port.now()))
            elif port.job.cancel is not None and not running:
                return await self._append(lambda job: ends.terminal(job, None, None, port.log))
            else:
                return None

    async def _settle(self, outcome: Outcome, recording: Recording) -> AnyEvent | None:
        """What follows a child that has ended."""
        port = self._port
        if (end := await self._decided()) is not None:
            return end
        match outcome:
            case Ended(skipped=skipped):
                for component in skipped:
                    await recording.skipped(component)
                return await self._append(self._completed)
            case Paused() if self._draining:
                return await self._append(lambda job: asleep(job) or ends.handed_on())
            case Paused():
                return await self._append(asleep)
            case Broken(code="code_changed", message=message):
                changed = CodeChanged("", message, "another version")
                return await self._append(lambda job: ends.unmatched(changed, port.log, port.now()))
            case Broken():
                return await self._broken(outcome)
            case Death() if self._halted:
                return await self._append(lambda job: ends.handed_on())
            case Death():
                return await self._died(outcome, recording)

    def _completed(self, job: JobState) -> AnyData:
        """The end. Outputs are those that the entries of terminal components show."""
        done = ends.terminal(job, None, None, self._port.log)
        shown = telling.outputs(self._port.log)
        if isinstance(done, ev.CompletedData):
            return msgspec.structs.replace(done, outputs=shown, outputs_ref={})
        return done

    async def _broken(self, broken: Broken) -> AnyEvent | None:
        details = {"error_type": broken.error_type} if broken.error_type else {}
        if broken.package:
            details["package"] = broken.package
        return await self._fail(broken.code, broken.message, broken.component, details)

    async def _elsewhere(self, lacking: str) -> AnyEvent | None:
        """Have the job wait for a runner that has what this one lacks."""
        missing = CodeChanged("", lacking, "none here")
        return await self._append(lambda job: ends.unmatched(missing, self._port.log, self._port.now()))

    async def _fail(
        self, code: str, message: str, component: str | None = None, details: dict[str, str] | None = None
    ) -> AnyEvent | None:
        error = msgspec.structs.replace(failure(code, message, False, component), details=details or {})
        return await self._append(lambda job: failed(job, error))

    async def _died(self, how: Death, recording: Recording) -> AnyEvent | None:
        """Note the failure at the components that ran, and try again later, or no more."""
        port = self._port
        failures = port.job.failures + 1
        until = tried_again(port.job, failures, port.now(), port.chance.random())
        log.warning("the process of a flow died", job_id=port.ref.job, code=how.code, again_at=until)
        ran = recording.unrecorded
        for component, began_at in (ran or {telling.LOADING: port.now()}).items():
            data = ev.StepFailedData(
                step=component,
                occurrence=1,
                error=failure(how.code, how.message, True, component),
                failures=failures,
                started_at=began_at,
                duration_seconds=0.0,
                retry_at=until,
                final=until is None,
            )
            await port.append(lambda job, data=data: data)  # type: ignore[misc]  # bound now
        if until is None:
            step = next(iter(ran), None)
            return await self._fail(how.code, how.message, step)
        wait = ev.Waiting(kind="backoff", name=next(iter(ran), None), until=until)
        return await self._append(lambda job: ev.SuspendedData(waiting=(wait,), wake_at=until))

    async def _append(self, decide: Callable[[JobState], AnyData | None]) -> AnyEvent | None:
        """Append the end of the attempt; None when it no longer fits: look again."""
        return await self._port.append(decide)
