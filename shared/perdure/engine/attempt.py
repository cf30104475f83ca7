"""One pass over a job: from the top of its workflow to a terminal event or a suspension.

The loop has one order. Events are delivered one at a time, each when the branches are still. At the end of the log:
has the body ended, then append how; append what time has decided; withdraw what closed branches still ask; start what
the parked calls need done. Then wait for the next event, or, when every branch waits and nothing runs, suspend.
`job.suspended` is only appended behind exactly the events that were delivered: whatever came in between is news,
delivered in this pass.
"""

import asyncio
from typing import Final

import structlog

from perdure import probe
from perdure.core import event as ev
from perdure.core.alarm import decides_at, due
from perdure.core.event import TERMINAL, AnyEvent
from perdure.core.instant import Instant, seconds_between
from perdure.core.key import ROOT, Key
from perdure.engine import ends
from perdure.engine.bench import Bench
from perdure.engine.branches import Told
from perdure.engine.calls import Call
from perdure.engine.context import Context
from perdure.engine.delivery import deliver, hung
from perdure.engine.port import Decide, Port
from perdure.engine.steps import StepCall
from perdure.engine.threads import Threads
from perdure.engine.trace import place
from perdure.engine.watch import Watch
from perdure.engine.workflow import Workflow
from perdure.errors import BrokenLog, CodeChanged, ConcurrencyError, Interrupted, Malformed, Suspended

log: Final = structlog.get_logger(__name__)

SHORT_WAIT_SECONDS: Final = 2.0  # waited out in the process: a suspension and a claim cost more
HANG_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 5.0
_threads: Final = Threads(64)  # of this process


class Pass:
    """Runs `workflow` once over the job of `port`, whose `attempt.started` is in the log already."""

    def __init__(
        self,
        workflow: Workflow,
        port: Port,
        *,
        threads: Threads | None = None,
        hang_seconds: float = HANG_SECONDS,
        close_seconds: float = CLOSE_SECONDS,
    ) -> None:
        self._workflow = workflow
        self._port = port
        self._hang_seconds = hang_seconds
        self._close_seconds = close_seconds
        self._watch = Watch(port)
        self._bench = Bench(port, threads or _threads, self._watch.nudge)
        self._woken = False  # something that the loop must look at has happened since it last looked
        self._broken: BaseException | None = None  # what a call's append raised: the end of the attempt
        self._draining = False
        self._calls: dict[asyncio.Task[None], Call] = {}  # what runs for calls, abandoned ones too

    async def run(self) -> AnyEvent:
        """Run until a terminal event or this pass's own `job.suspended` is in the log; return that event.

        Raises what the port raises when the attempt is over (Interrupted), after it has stopped everything.
        """
        try:
            return await self._drive()
        except BaseException:
            await self._end(Interrupted)
            raise
        finally:
            self._watch.stop()

    async def close(self) -> None:
        """End the branches of a pass that has run, with Suspended; their `finally` have `close_seconds`."""
        await self._end(Suspended)

    def drain(self) -> None:
        """Start nothing new; when the steps that run have ended the pass hands the job on."""
        self._draining = True
        self._wake()

    def halt(self) -> None:
        """Drain without waiting for running steps: their functions are cancelled and leave no event."""
        self._bench.halted = True
        for call in self._running():
            if isinstance(call, StepCall):
                call.stop()
        self.drain()

    # ------------------------------------------------------------------------------------------ the loop

    async def _drive(self) -> AnyEvent:
        bench, port = self._bench, self._port
        branches, journal = bench.branches, bench.journal
        context = Context(bench)
        root = branches.start(ROOT, self._workflow.body(context, bench.submitted.input), None, Told.NOT)
        while True:
            self._woken = False
            spinning = not await branches.still()
            moves = branches.moves
            if self._broken is not None:
                raise self._broken
            if spinning:
                return await self._fail(hung(branches.hanging(), "for code runs on and on without a call"))
            if not journal.at_end:
                if (end := await self._deliver()) is not None:
                    return end
                continue
            if branches.all_done:
                end = await bench.append(lambda job: ends.terminal(job, root.value, root.error, port.log))
                if end is None and journal.at_end:
                    raise BrokenLog(f"job {port.ref.job} cannot end at {port.job.status}")
            elif self._draining and not self._running():
                end = await self._suspend(drained=True)
            elif await self._decided_by_time() or await self._withdraw() or not journal.at_end:
                continue  # the last: news came in place of what was to be appended; no step starts before it is told
            else:
                self._start_ready()
                end = await self._wait(moves)
            if end is not None:
                return end

    async def _deliver(self) -> AnyEvent | None:
        """Deliver the next event; the end of the pass if this is it, or if the code does not fit the log."""
        try:
            event = await deliver(self._bench, self._hang_seconds)
        except CodeChanged as exc:
            changed = exc
            log.warning("code does not fit the log", error=str(exc), expected=exc.expected, found=exc.found)
            return await self._give_up(lambda job: ends.unmatched(changed, self._port.log, self._port.now()))
        except ConcurrencyError as exc:
            return await self._fail(exc)
        return event if event.status in TERMINAL else None

    async def _give_up(self, decide: Decide) -> AnyEvent:
        """End the pass here, however much of the log is still to be delivered."""
        end = await self._bench.append(decide)
        if end is None:  # somebody else has ended the job
            end = self._port.log[-1]
        return end

    async def _fail(self, error: ConcurrencyError) -> AnyEvent:
        """End the job with an author's mistake that no branch can be told of."""
        return await self._give_up(lambda job: ends.terminal(job, None, error, self._port.log))

    async def _decided_by_time(self) -> bool:
        """Append what time has decided about the job: an expiry, the end of a grace, its deadline."""
        port = self._port
        if due(port.job, port.now()) is None:
            return False
        stored = await self._bench.append(lambda job: due(job, port.now()))
        if isinstance(stored, ev.JobCancelled):
            probe.hit("cancel.after_grace")
        return stored is not None

    async def _withdraw(self) -> bool:
        """Withdraw a request that a closed branch has left open; every pass that finds one does so."""
        asked, left = self._port.job.asked.values(), self._bench.abandoned
        request = next((r for r in asked if Key(r.path, r.name, r.occurrence) in left), None)
        if request is None:
            return False
        data = ev.WithdrawnData(request_id=request.id, reason="branch_closed")
        probe.hit("close.before_withdraw")
        return await self._bench.append(lambda job: data) is not None

    def _start_ready(self) -> None:
        """Start what the parked calls need done, in the order in which they were made."""
        if self._draining:
            return
        now = self._port.now()
        for call in self._bench.branches.parked():
            if call.handler is None and call.ready(now):
                call.handler = asyncio.create_task(self._handle(call), name=f"perdure call {call}")
                self._calls[call.handler] = call

    async def _handle(self, call: Call) -> None:
        try:
            await call.perform()
        except Malformed as exc:  # the author's to see: its arguments make no event, or one too large, in every pass
            if call.branch.call is call:
                call.fail(exc)
        except BaseException as exc:  # noqa: BLE001  # the loop raises it: the attempt is over
            self._broken = self._broken or exc
        finally:
            if call.handler is not None:
                del self._calls[call.handler]
                call.handler = None
            if call.branch.call is call or self._broken is not None:  # else the event that it appended says it all
                self._wake()

    def _running(self) -> list[Call]:
        """The parked calls for which something runs."""
        halted = self._bench.halted
        return [
            call
            for call in self._bench.branches.parked()
            if call.handler is not None and not (halted and isinstance(call, StepCall))
        ]

    # ------------------------------------------------------------------------------------------ waiting

    async def _wait(self, moves: int) -> AnyEvent | None:
        """Until something may have changed; or the suspension, when every branch waits for something far away.

        `moves` is how often code had moved when the branches were still.
        """
        if self._running():
            await self._changed(self._next_instant(), moves)
            return None
        calls = self._bench.branches.parked()
        hanging = self._bench.branches.hanging()
        wake_at = min((call.due for call in calls if call.due is not None), default=None)
        short = wake_at is not None and seconds_between(self._port.now(), wake_at) <= SHORT_WAIT_SECONDS
        if hanging:
            if await self._changed(wake_at if short else None, moves, hanging=True):
                return None
            if not any(call.waiting() for call in calls):
                return await self._fail(hung(hanging, "and no event can change that"))
            log.warning("suspending while code hangs", at=[place(b.driven.coroutine) for b in hanging[:3]])
        elif short and not self._draining:
            await self._changed(wake_at, moves)
            return None
        return await self._suspend(drained=False)

    async def _suspend(self, drained: bool) -> AnyEvent | None:
        """Append the suspension, unless there is news."""
        calls = self._bench.branches.parked()
        now = self._port.now()
        data = ends.asleep(calls)
        if drained and (self._bench.branches.hanging() or any(call.ready(now) for call in calls)):
            data = ends.handed_on()  # there is something to do at once
        seq = self._bench.journal.seq
        return await self._bench.append(lambda job: data if job.seq == seq else None)

    def _next_instant(self) -> Instant | None:
        """When time next changes something: for a call, or for the job as a whole."""
        job = self._port.job
        instants = [call.due for call in self._bench.branches.parked() if call.handler is None]
        return min((at for at in [*instants, decides_at(job)] if at is not None), default=None)

    async def _changed(self, until: Instant | None, moves: int, hanging: bool = False) -> bool:
        """Until an event, a move, a handler's end, a drain, or `until`; False when code hung for long."""
        if self._woken or self._bench.branches.moves != moves:  # code that hung moves by itself
            return True
        return await self._watch.changed(self._bench.journal.seq, until, self._hang_seconds if hanging else None)

    def _wake(self) -> None:
        self._woken = True
        self._watch.nudge()

    # ------------------------------------------------------------------------------------------ the end

    async def _end(self, kind: type[BaseException]) -> None:
        """Tell all code that the pass is over; what does not end in time is given up, with a warning saying where."""
        bench = self._bench
        bench.live.over = True
        bench.branches.close_all(kind)
        tasks = {branch.task: branch for branch in bench.branches}
        if not tasks and not self._calls:
            return
        _, left = await asyncio.wait([*tasks, *self._calls], timeout=self._close_seconds)
        for task in left:
            if task in tasks:
                driven = tasks[task].driven
                path, at = tasks[task].path, place(driven.coroutine)
                log.warning("a branch did not end and is given up", path=path, at=at)
                driven.given_up = True
                task.cancel()
            elif (call := self._calls.get(task)) is not None:
                log.warning("a step did not end and is given up", step=str(call))
                call.give_up()
        if left:
            await asyncio.wait(left, timeout=self._close_seconds)
