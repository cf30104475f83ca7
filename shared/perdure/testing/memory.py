"""A job in a list: the engine's port without a broker, with crashes, other writers and time at the test's command.

    job = MemoryJob(input="hello")
    asleep = await job.run(flow)                 # passes until it ends or waits for somebody; time is moved over timers
    job.answer("review", "approve")
    done = await job.run(flow)
    assert job.outputs == {...}

`run` claims like a runner does (`core.claim`). `live` is one single pass; `port` is what a pass gets, with places to
die in. Events are stored as bytes, so what does not survive the log does not survive here either.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal

from perdure.clock import Chance
from perdure.core import claim, codec
from perdure.core import event as ev
from perdure.core.event import TERMINAL, AnyData, AnyEvent
from perdure.core.instant import Instant, later, seconds_between
from perdure.core.machine import EMPTY, JobState, apply, stamp
from perdure.engine.attempt import Pass
from perdure.engine.port import Decide
from perdure.engine.workflow import Workflow
from perdure.errors import Interrupted
from perdure.ids import Digest, EventId, JobId, JobRef, Principal, Queue, RequestId, RunnerId, Tenant
from perdure.probe import SimulatedCrash
from perdure.testing.clock import FakeClock, FixedChance

JOB: Final = JobId("01990000-0000-7000-8000-000000000001")
OWNER: Final = Principal("user:ann")
RUNNER: Final = RunnerId("01990000-0000-7000-8000-0000000000aa")
FINGERPRINT: Final = Digest("f" * 64)
MAX_PASSES: Final = 200
IDLE_TURNS: Final = 30  # turns of the loop without an event: nothing else can happen
SHORT_SECONDS: Final = 2.0  # waits up to this the engine spends in the process: the clock is moved over them

Crash = Literal["before", "after", "interrupt"]


class MemoryJob:
    """One job: its log, its clock, what was said live, and everybody who may write to it."""

    def __init__(
        self,
        input: Any = None,  # any JSON
        *,
        name: str = "flow",
        job: JobId = JOB,
        max_failures: int | None = None,
        deadline_seconds: float = 90 * 86400.0,
        session_id: str | None = None,
        clock: FakeClock | None = None,
        chance: Chance | None = None,
    ) -> None:
        self.ref = JobRef(Tenant("acme"), job)
        self.clock = clock or FakeClock()
        self.chance: Chance = chance or FixedChance()
        self.log: list[AnyEvent] = []
        self.state: JobState = EMPTY
        self.deltas: list[tuple[str, dict[str, Any]]] = []
        self._news: list[Callable[[], None]] = []
        self.append(
            ev.SubmittedData(
                flow=ev.FlowRef(id="f", name=name, version=1, kind="python", digest=Digest("d" * 64)),
                input=input,
                owner=OWNER,
                queue=Queue("default"),
                priority="normal",
                deadline_at=later(self.clock.broker_now(), deadline_seconds),
                fingerprint=FINGERPRINT,
                max_failures=max_failures,
                session_id=session_id,
            )
        )

    # ------------------------------------------------------------------------------------------ the log

    def append(self, data: AnyData) -> AnyEvent:
        """Append as somebody else, behind whatever is there. Raises BrokenLog when it cannot follow."""
        event = stamp(self.state, EventId(f"{self.state.seq + 1:08x}-0000-7000-8000-000000000000"), self._now(), data)
        return self._store(event)

    def _store(self, event: AnyEvent) -> AnyEvent:
        stored = codec.decode(codec.encode(event))
        self.state = apply(self.state, stored)
        self.log.append(stored)
        self.clock.advance(0.001)
        news, self._news = self._news, []
        for tell in news:
            tell()
        return stored

    def on_news(self, tell: Callable[[], None]) -> None:
        """Call `tell` once, at the next event."""
        self._news.append(tell)

    def _now(self) -> Instant:
        return self.clock.broker_now()

    @property
    def outputs(self) -> dict[str, Any]:
        """The outputs so far."""
        return self.state.outputs

    def events(self, kind: type[AnyEvent]) -> list[Any]:
        """The data of all events of one type."""
        return [event.data for event in self.log if isinstance(event, kind)]

    # ------------------------------------------------------------------------------------------ somebody else acts

    def open_request(self, name: str) -> ev.Request:
        """The open request of that name; the first one of several."""
        return next(r for r in self.state.asked.values() if r.name == name)

    def answer(
        self,
        request: str,
        action: str,
        payload: Any = None,  # any JSON
        *,
        proposal: Any = None,  # any JSON; given means edited
        comment: str | None = None,
    ) -> AnyEvent:
        """Answer the open request with this name, or with this id."""
        asked = self.state.asked.get(RequestId(request)) or self.open_request(request)
        return self.append(
            ev.AnsweredData(
                request_id=asked.id,
                revision=asked.revision,
                action=action,
                payload=payload,
                by=Principal("user:bob"),
                via=ev.Via(channel="api"),
                proposal=asked.proposal if proposal is None else proposal,
                proposal_digest=asked.proposal_digest,
                edited=proposal is not None,
                comment=comment,
            )
        )

    def withdraw(self, name: str, reason: str = "not needed") -> AnyEvent:
        """Withdraw the open request of that name."""
        return self.append(ev.WithdrawnData(request_id=self.open_request(name).id, reason=reason))

    def signal(self, name: str, payload: Any = None) -> AnyEvent:  # any JSON
        """Send a signal."""
        signal_id = f"signal-{self.state.seq}"
        return self.append(ev.SignalData(signal_id=signal_id, name=name, payload=payload, by=OWNER))

    def cancel(self, grace_seconds: float = 30.0) -> AnyEvent:
        """Ask a running job to end."""
        return self.append(ev.CancelData(by=OWNER, grace_seconds=grace_seconds))

    # ------------------------------------------------------------------------------------------ runners

    def port(
        self,
        *,
        reason: Literal["first", "retry", "resumed", "lease_lost", "rung"] = "first",
        crash: Crash | None = None,
        at_seq: int | None = None,
    ) -> "MemoryPort":
        """A new attempt, which fences the one before. It dies `before` or `after` it appends the event `at_seq`, or is
        interrupted in place of appending it.
        """
        bell = ev.Bell(seq=self.state.seq, ring=f"ring-{self.state.seq}")
        started = self.append(ev.AttemptData(runner=RUNNER, doorbell=bell, reason=reason))
        return MemoryPort(self, started.id, crash, at_seq)

    async def live(
        self, workflow: Workflow, *, crash: Crash | None = None, at_seq: int | None = None, **options: Any
    ) -> AnyEvent:
        """One pass to its end, closed. `options` are those of Pass. Raises SimulatedCrash or Interrupted as told."""
        one = Pass(workflow, self.port(crash=crash, at_seq=at_seq), **options)
        end = await one.run()
        await one.close()
        return end

    async def run(self, workflow: Workflow, **options: Any) -> AnyEvent:
        """Passes until the job ends or waits for somebody (or for other code); time is moved over timers and back-offs.

        Returns the last event. Raises AssertionError when it does not come to rest within MAX_PASSES.
        """
        for _ in range(MAX_PASSES):
            bell = ev.Bell(seq=self.state.seq, ring=f"ring-{self.state.seq}")
            match claim.claim(self.state, self._now(), bell):
                case claim.Decided(data=data):
                    self.append(data)
                case claim.Ended():
                    return self.log[-1]
                case claim.Asleep():
                    if (wake := self._wakes()) is None:
                        return self.log[-1]
                    self.clock.move_to(wake)
                case claim.Held() | claim.Start():
                    await self.live(workflow, **options)
        raise AssertionError(f"no end after {MAX_PASSES} passes, the last event is {self.log[-1]}")

    def _wakes(self) -> Instant | None:
        """When a job that waits only for time goes on."""
        if self.state.suspension is None or self.log[-1].status in TERMINAL:
            return None
        waits = self.state.suspension.data.waiting
        if any(w.kind not in ("timer", "backoff", "runner") for w in waits):
            return None
        return min((w.until for w in waits if w.until is not None), default=None)


class MemoryPort:
    """One attempt's port on a MemoryJob."""

    def __init__(self, job: MemoryJob, attempt_id: EventId, crash: Crash | None, at_seq: int | None) -> None:
        self._job = job
        self._turn = asyncio.Lock()
        self._crash = crash
        self._at_seq = at_seq
        self.attempt_id = attempt_id
        self.before_append: Callable[[AnyData], None] = lambda data: None
        """Called with what is about to be appended; may append as somebody else, which makes it a lost race."""
        self.interrupted = False

    @property
    def ref(self) -> JobRef:
        return self._job.ref

    @property
    def log(self) -> Sequence[AnyEvent]:
        return self._job.log

    @property
    def job(self) -> JobState:
        return self._job.state

    @property
    def chance(self) -> Chance:
        return self._job.chance

    def now(self) -> Instant:
        return self._job.clock.broker_now()

    async def append(self, decide: Decide, refs: Iterable[Digest] = ()) -> AnyEvent | None:
        async with self._turn:
            await asyncio.sleep(0)  # as an append takes time: others run meanwhile
            while True:
                self._believe()
                job = self.job
                data = decide(job)
                if data is None:
                    return None
                self.before_append(data)
                if job.seq == self.job.seq:
                    break  # nobody was faster
            event = stamp(job, EventId(f"{job.seq + 1:08x}-0000-7000-8000-000000000000"), self.now(), data, refs)
            if self._at_seq == event.seq and self._crash == "interrupt":
                self.interrupted = True
                self._believe()
            if self._at_seq == event.seq and self._crash == "before":
                raise SimulatedCrash(f"before {event.seq}")
            codec.encode(event)
            stored = self._job._store(event)
            if self._at_seq == event.seq and self._crash == "after":
                raise SimulatedCrash(f"after {event.seq}")
            await asyncio.sleep(0)
            return stored

    async def moved(self, seq: int, until: Instant | None = None) -> None:
        idle = 0
        while True:
            self._believe()
            if self.log[-1].seq > seq or (until is not None and self.now() >= until):
                return
            if until is not None and seconds_between(self.now(), until) <= SHORT_SECONDS:
                if idle >= IDLE_TURNS:
                    self._job.clock.move_to(until)
                idle += 1
                await asyncio.sleep(0)
                continue
            moved = asyncio.get_running_loop().create_future()

            def tell(moved: asyncio.Future[None] = moved) -> None:
                if not moved.done():
                    moved.set_result(None)

            self._job.on_news(tell)
            self._job.clock.on_move(tell)
            await moved

    def delta(self, kind: str, data: dict[str, Any]) -> None:
        self._job.deltas.append((kind, data))

    def interrupt(self) -> None:
        """End the attempt for this runner."""
        self.interrupted = True
        self._job.clock.advance(0)  # wakes whoever waits

    def _believe(self) -> None:
        if self.interrupted or self.job.attempt_id != self.attempt_id:
            raise Interrupted(f"job {self.ref.job}: this attempt is over")
