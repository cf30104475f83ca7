"""The engine's port on JetStream: an attempt's view of its job, written while its lease is believed."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Final, NoReturn

import msgspec
import structlog

from perdure import probe
from perdure.bus import callbodies as said
from perdure.bus.belief import Lease
from perdure.bus.call import Calls
from perdure.bus.delta import Deltas
from perdure.bus.entry import Stored
from perdure.clock import Chance, Clock
from perdure.core import bounds, codec
from perdure.core import event as ev
from perdure.core.event import AnyData, AnyEvent
from perdure.core.instant import Instant, seconds_between
from perdure.core.key import Key
from perdure.core.machine import JobState
from perdure.engine.port import Decide
from perdure.errors import Interrupted, Malformed, NotFound, StreamFull, Unavailable
from perdure.ids import Digest, EventId, JobId, JobRef, Queue, StreamSeq
from perdure.jobs.joblog import JobLog
from perdure_runner.speech import Speech

log = structlog.get_logger(__name__)

AWAY_SECONDS: Final = 0.1  # between two tries to read a blob

_BEFORE = {
    ev.SuspendedData: "suspend.before_append",
    **dict.fromkeys((ev.CompletedData, ev.FailedData, ev.CancelledData), "terminal.before_append"),
}
_AFTER = {
    ev.SuspendedData: "suspend.after_append",
    ev.StepCompletedData: "step.after_append",
    **dict.fromkeys((ev.CompletedData, ev.FailedData, ev.CancelledData), "terminal.after_append"),
}


class LogPort:
    """One attempt's port. Appends wait their turn behind one lock: the attempt has a single writer.

    `log` grows together with the JobLog's fold: by own appends, and by `look`, which the runner calls on news, at each
    heartbeat and after a reconnect. Whoever waits in `moved` is woken by both.
    """

    def __init__(
        self,
        log: JobLog,
        attempt_id: EventId,
        lease: Lease,
        deltas: Deltas,
        clock: Clock,
        chance: Chance,
        calls: Calls,
    ) -> None:
        self.ref: JobRef = log.ref
        self.attempt_id = attempt_id
        self.chance = chance
        self._log = log
        self._lease = lease
        self._clock = clock
        self._calls = calls
        self._turn = asyncio.Lock()
        self._grown = asyncio.Event()
        self._interrupted: Interrupted | None = None
        self._speech = Speech(log.ref, deltas, clock, lambda: (log.state.attempt, log.state.seq))
        self._events: list[AnyEvent] = []
        self._warned = bounds.warned(log.events)
        self.lost: AnyEvent | None = None
        """The job's failure, where a value that it needs was gone from the blobs."""

    @property
    def log(self) -> Sequence[AnyEvent]:
        return self._events

    @property
    def tail(self) -> StreamSeq:
        """Where the last event lies that is known here."""
        return self._log.tail

    @property
    def job(self) -> JobState:
        return self._log.state

    def now(self) -> Instant:
        return self._clock.broker_now()

    async def open(self) -> None:
        """Read what lies in blobs, so that `log` is whole. Raises Interrupted like `append`."""
        async with self._turn:
            await self._catch_up()

    async def append(self, decide: Decide, refs: Iterable[Digest] = ()) -> AnyEvent | None:
        async with self._turn:
            self._speech.flush()  # what was said before an event goes out before it

            def decided(job: JobState) -> AnyData | None:
                data = decide(job)
                if data is not None:
                    if isinstance(data, ev.StepData):
                        self._speech.settle((data.path, data.step, data.occurrence))
                    data = bounds.fitting(job, data, self._log.size_bytes)
                    probe.hit(_BEFORE.get(type(data), ""))
                return data

            try:
                stored = await self._append(decided, refs)
            except Interrupted as exc:
                self.interrupt(str(exc))
                raise
            finally:
                await self._catch_up()
            if stored is not None:
                await self._warn()
                probe.hit(_AFTER.get(type(stored.event.data), ""))
            return stored.event if stored is not None else None

    async def _append(self, decide: Decide, refs: Iterable[Digest]) -> Stored | None:
        """Append within the belief in the lease. A stream that is full is waited for as long as the belief is renewed:
        a job that runs is not failed by it, and new ones are refused meanwhile.
        """
        refs = tuple(refs)
        while True:
            budget = self._believed_seconds()
            try:
                return await self._log.append(decide, attempt=self.attempt_id, refs=refs, budget_seconds=budget)
            except StreamFull as exc:
                log.warning("the log's stream is full: the job waits", job_id=self.ref.job, error=str(exc))

    async def moved(self, seq: int, until: Instant | None = None) -> None:
        while True:
            self._believed_seconds()
            if len(self._events) and self._events[-1].seq > seq:
                return
            wait = None if until is None else seconds_between(self.now(), until)
            if wait is not None and wait <= 0:
                return
            self._grown.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._grown.wait()
            except TimeoutError:
                continue  # the broker's clock decides, not this timer

    async def look(self, upto: StreamSeq | None = None) -> None:
        """Fold what others have appended; end the attempt if one of those events fences it. Raises Unavailable.

        Nothing is read when the last event that was announced, `upto`, is known here: own appends are announced too.
        """
        async with self._turn:
            if upto is not None and upto <= self._log.tail:
                return
            self._speech.flush()
            await self._log.refresh()
            await self._catch_up()
        if self._log.state.attempt_id != self.attempt_id:
            self.interrupt(f"job {self.ref.job}: another attempt has taken over")

    def delta(self, kind: str, data: dict[str, Any]) -> None:
        self._speech.say(kind, data)

    def close(self) -> None:
        """The attempt is over: what was said goes out, nothing more is."""
        self._speech.close()

    async def submit_child(
        self,
        key: Key,
        flow: str,
        given: Any,
        *,
        detached: bool = False,
        queue: str | None = None,
        priority: said.Priority | None = None,
        deadline_seconds: float | None = None,
        max_failures: int | None = None,
        tags: dict[str, str] | None = None,
    ) -> JobId:
        self._believed_seconds()
        parent = said.ParentCall(
            tenant=self.ref.tenant,
            job=self.ref.job,
            step=key.name,
            occurrence=key.occurrence,
            path=key.path,
            detached=detached,
        )
        request = said.Submit(
            parent=parent,
            flow=flow,
            input=msgspec.Raw(codec.encode_value(given)),
            queue=None if queue is None else Queue(queue),
            priority=priority,
            deadline_seconds=deadline_seconds,
            max_failures=max_failures,
            tags=tags or {},
        )
        reply = await self._calls.ask(said.SUBMIT, request, said.Submitted)
        self._believed_seconds()
        return reply.job_id

    def interrupt(self, why: str) -> None:
        """End the attempt for this runner: every append and wait raises Interrupted, also those that wait now."""
        if self._interrupted is None:
            self._interrupted = Interrupted(why)
        self._grown.set()

    def _believed_seconds(self) -> float:
        """How long the lease is still believed in. Raises Interrupted when the attempt is over for this runner."""
        if self._interrupted is not None:
            raise Interrupted(*self._interrupted.args)
        left = self._lease.believed_until - self._clock.monotonic()
        if left <= 0:
            self.interrupt(f"job {self.ref.job}: the lease is in doubt")
            raise Interrupted(f"job {self.ref.job}: the lease is in doubt")
        return left

    async def _warn(self) -> None:
        """Say once in the log that it is getting full."""
        if self._warned or bounds.warning(self.job, self._log.size_bytes) is None:
            return
        self._warned = True
        log.warning("the log is getting full", job_id=self.ref.job, events=self.job.seq, bytes=self._log.size_bytes)
        await self._log.append(
            lambda job: bounds.warning(job, self._log.size_bytes),
            attempt=self.attempt_id,
            budget_seconds=self._believed_seconds(),
        )
        await self._catch_up()

    async def _catch_up(self) -> None:
        """Bring `log` to where the fold is, with the values that lie in blobs.

        Raises Interrupted when the lease runs out meanwhile, or when a value is gone: then the job has failed.
        """
        events: list[AnyEvent] | None = None
        while events is None:
            try:
                events = await self._log.resolve()
            except (NotFound, Malformed) as exc:
                await self._lose(exc)
            except Unavailable:
                self._believed_seconds()
                await self._clock.sleep(AWAY_SECONDS)
        if len(events) > len(self._events):
            self._events.extend(events[len(self._events) :])
            self._grown.set()

    async def _lose(self, why: NotFound | Malformed) -> NoReturn:
        """End the job: nobody can run it any more without the value. The others of this runner are not concerned."""
        code = "blob_missing" if isinstance(why, NotFound) else "blob_damaged"
        log.error("a value of the job is gone", job_id=self.ref.job, code=code, error=str(why))

        def failed(job: JobState) -> AnyData | None:
            assert job.fingerprint is not None, "a job that runs was submitted"
            error = ev.Failure(code=code, message=str(why), retryable=False)
            return ev.FailedData(error=error, failures=job.failures, fingerprint=job.fingerprint)

        stored = await self._log.append(failed, attempt=self.attempt_id, budget_seconds=self._believed_seconds())
        self.lost = stored.event if stored is not None else None
        self.interrupt(str(why))
        raise Interrupted(str(why))
