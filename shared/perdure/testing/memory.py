"""A job in a list: the engine's port without a broker, with crashes, other writers and time at the test's command.

    job = MemoryJob(input="hello")
    asleep = await job.run(flow)                 # passes until it ends or waits for somebody; time is moved over timers
    job.answer("review", "approve")
    done = await job.run(flow)
    assert job.outputs == {...}

`run` claims like a runner does (`core.claim`). `live` is one single pass; `port` is what a pass gets, with places to
die in. Events are stored as bytes, so what does not survive the log does not survive here either.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final, Literal

from msgspec import Struct

from perdure.clock import Chance
from perdure.core import blob, claim, codec
from perdure.core import event as ev
from perdure.core.event import TERMINAL, AnyData, AnyEvent, Status
from perdure.core.instant import Instant, later
from perdure.core.key import Key
from perdure.core.machine import EMPTY, JobState, apply, fold, stamp
from perdure.engine.attempt import Pass
from perdure.engine.workflow import Workflow
from perdure.ids import (
    Digest,
    EventId,
    JobId,
    JobRef,
    Principal,
    Queue,
    RequestId,
    RunnerId,
    Tenant,
    child_job_id,
)
from perdure.testing.clock import FakeClock, FixedChance
from perdure.testing.port import Crash, MemoryPort

JOB: Final = JobId("01990000-0000-7000-8000-000000000001")
OWNER: Final = Principal("user:ann")
RUNNER: Final = RunnerId("01990000-0000-7000-8000-0000000000aa")
FINGERPRINT: Final = Digest("f" * 64)
MAX_PASSES: Final = 200


class MemoryChild(Struct, frozen=True, kw_only=True):
    """A job that a call of another has started. `options` are those that were given."""

    key: Key
    flow: str
    given: Any  # any JSON
    detached: bool
    options: dict[str, Any]


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
        self.whole: list[AnyEvent] = []  # the log with the values that lie in blobs: what a pass reads
        self.blobs: dict[Digest, bytes] = {}
        self.state: JobState = EMPTY
        self.deltas: list[tuple[str, dict[str, Any]]] = []
        self.children: dict[JobId, MemoryChild] = {}
        self.submitting: Callable[[Key, Literal["before", "after"]], None] = lambda key, when: None
        """Called before and after a child is submitted; may raise what a gateway would, or die."""
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
        return self.store(self.stamped(data))

    def stamped(self, data: AnyData, refs: Iterable[Digest] = ()) -> AnyEvent:
        """The next event with `data`, its large values put as blobs. Raises BrokenLog, TooLarge."""
        event_id = EventId(f"{self.state.seq + 1:08x}-0000-7000-8000-000000000000")
        event = stamp(self.state, event_id, self._now(), data, (*refs, *blob.refs(data)))
        if (size := len(codec.unbounded(event))) > codec.INLINE_VALUE_BYTES:
            left = blob.offload(data, size)
            event = stamp(self.state, event_id, self._now(), left.data, (*refs, *blob.refs(left.data)))
            codec.encode(event)
            self.blobs |= left.blobs
        return event

    def store(self, event: AnyEvent) -> AnyEvent:
        """Put the event behind the log, as bytes would. Raises TooLarge."""
        stored = codec.decode(codec.encode(event))
        self.state = apply(self.state, stored)
        self.log.append(stored)
        self.whole.append(blob.resolve(stored, self.blobs))
        self.clock.advance(0.001)
        news, self._news = self._news, []
        for tell in news:
            tell()
        return stored

    def copy(self, seq: int) -> "MemoryJob":
        """Another job with the first `seq` events of this one, as far as its log is concerned the same."""
        other = MemoryJob.__new__(MemoryJob)
        other.ref, other.chance = self.ref, self.chance
        other.clock = FakeClock(self.log[seq - 1].at)
        other.log, other.deltas, other._news = list(self.log[:seq]), [], []
        other.whole, other.blobs = list(self.whole[:seq]), dict(self.blobs)
        other.children, other.submitting = dict(self.children), lambda key, when: None
        other.state = fold(other.log)
        return other

    def on_news(self, tell: Callable[[], None]) -> None:
        """Call `tell` once, at the next event."""
        self._news.append(tell)

    def _now(self) -> Instant:
        return self.clock.broker_now()

    @property
    def outputs(self) -> dict[str, Any]:
        """The outputs so far, with the values that lie in blobs."""
        refs = self.state.outputs_ref
        return self.state.outputs | {n: codec.decode_value(self.blobs[ref.sha256]) for n, ref in refs.items()}

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
                proposal_ref=asked.proposal_ref if proposal is None else None,
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

    def submit_child(self, key: Key, flow: str, given: Any, detached: bool, options: dict[str, Any]) -> JobId:
        """Start the job that the call `key` is about, unless it was before. Its id."""
        child = child_job_id(self.ref.job, *key)
        made = MemoryChild(key=key, flow=flow, given=given, detached=detached, options=options)
        self.children.setdefault(child, made)
        return child

    def end_child(
        self,
        name: str,
        outputs: dict[str, Any] | None = None,
        *,
        path: str = "",
        occurrence: int = 1,
        status: Status = Status.COMPLETED,
        error: ev.Failure | None = None,
    ) -> AnyEvent:
        """Tell this job that the child of that call has ended."""
        child = child_job_id(self.ref.job, path, name, occurrence)
        assert not self.children[child].detached, "nobody is told of a detached child's end"
        return self.append(
            ev.ChildData(
                step=name,
                occurrence=occurrence,
                job_id=child,
                status=status,
                path=path,
                outputs=outputs,
                error=error,
            )
        )

    # ------------------------------------------------------------------------------------------ runners

    def port(
        self,
        *,
        reason: Literal["first", "retry", "resumed", "lease_lost", "rung"] | None = None,
        crash: Crash | None = None,
        at_seq: int | None = None,
    ) -> MemoryPort:
        """A new attempt, which fences the one before: for the reason that a claim finds, or for `reason`.

        It dies `before` or `after` it appends the event `at_seq`, or is interrupted in place of appending it.
        """
        bell = ev.Bell(seq=self.state.seq, ring=f"ring-{self.state.seq}")
        match claim.claim(self.state, self._now(), bell):
            case claim.Start() as start if reason is None:
                pass
            case claim.Held(start=start) if reason is None:
                pass
            case _:
                start = claim.Start(reason or "rung")
        started = self.append(
            ev.AttemptData(
                runner=RUNNER, doorbell=bell, reason=start.reason, because_seq=start.because_seq, cause=start.cause
            )
        )
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
