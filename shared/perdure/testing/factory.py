"""Logs told event by event, for tests of folds, judges and adapters. Ids and instants are the same each time."""

from typing import Any, Final, Literal

from perdure.core import event as ev
from perdure.core.event import AnyData, AnyEvent
from perdure.core.instant import Instant, later
from perdure.core.machine import EMPTY, JobState, apply, stamp
from perdure.ids import Digest, EventId, JobId, Principal, Queue, RequestId, RunnerId, request_id

BEGIN: Final = Instant("2026-01-01T00:00:00.000Z")
JOB: Final = JobId("01990000-0000-7000-8000-000000000001")
OWNER: Final = Principal("user:ann")
RUNNER: Final = RunnerId("01990000-0000-7000-8000-0000000000aa")
FLOW: Final = ev.FlowRef(
    id="01990000-0000-7000-8000-0000000000f1", name="story", version=1, kind="graph", digest=Digest("d" * 64)
)
FINGERPRINT: Final = Digest("f" * 64)


def event_id(number: int) -> EventId:
    """The id of the `number`-th event of a story."""
    return EventId(f"{number:08x}-0000-7000-8000-000000000000")


class Story:
    """The log of one job, a second between events unless told otherwise."""

    def __init__(self, job: JobId = JOB, begin: Instant = BEGIN) -> None:
        self.job = job
        self.at = begin
        self.events: list[AnyEvent] = []
        self.state: JobState = EMPTY

    def add(self, data: AnyData, *, after_seconds: float = 1.0) -> AnyEvent:
        """Put `data` behind the log. Raises BrokenLog when it cannot follow."""
        if self.events:
            self.at = later(self.at, after_seconds)
        event = stamp(self.state, event_id(self.state.seq + 1), self.at, data)
        self.state = apply(self.state, event)
        self.events.append(event)
        return event

    def submitted(self, *, deadline_seconds: float = 3600.0, not_before: Instant | None = None) -> AnyEvent:
        """`job.submitted`, the input is "hello"."""
        return self.add(
            ev.SubmittedData(
                flow=FLOW,
                input="hello",
                owner=OWNER,
                queue=Queue("default"),
                priority="normal",
                deadline_at=later(self.at, deadline_seconds),
                not_before=not_before,
                fingerprint=FINGERPRINT,
            )
        )

    def started(
        self,
        reason: Literal["first", "retry", "resumed", "lease_lost", "rung"] = "first",
        *,
        bell: int = 1,
        because_seq: int | None = None,
        cause: Literal["answer", "expiry", "withdrawal", "signal", "timer", "child"] | None = None,
    ) -> AnyEvent:
        """`attempt.started` by the doorbell number `bell`."""
        doorbell = ev.Bell(seq=bell, ring=f"ring-{bell}")
        return self.add(
            ev.AttemptData(runner=RUNNER, doorbell=doorbell, reason=reason, because_seq=because_seq, cause=cause)
        )

    def step(self, name: str, result: Any = None, *, path: str = "", output: ev.Named | None = None) -> AnyEvent:
        """`step.completed` of its first occurrence."""
        return self.add(
            ev.StepCompletedData(
                step=name,
                occurrence=1,
                path=path,
                result=result,
                started_at=self.at,
                duration_seconds=0.5,
                output=output,
            )
        )

    def failed_step(self, name: str, *, retry_at: Instant | None = None, final: bool = False) -> AnyEvent:
        """`step.failed` of its first occurrence."""
        return self.add(
            ev.StepFailedData(
                step=name,
                occurrence=1,
                error=ev.Failure(code="step_failed", message="no"),
                failures=self.state.failures + 1,
                started_at=self.at,
                duration_seconds=0.5,
                retry_at=retry_at,
                final=final,
            )
        )

    def asked(
        self, name: str = "review", *, expires_at: Instant | None = None, on_timeout: ev.OnTimeout | None = None
    ) -> RequestId:
        """`input.requested`; the id of the request."""
        request = ev.Request(
            id=request_id(self.job, self.state.seq + 1),
            job_id=self.job,
            name=name,
            occurrence=1,
            revision=1,
            kind="approval",
            title="Publish this?",
            asked_at=later(self.at, 1.0),
            asked_for=OWNER,
            actions=(ev.Action(id="approve"), ev.Action(id="reject")),
            expires_at=expires_at,
            on_timeout=on_timeout,
        )
        self.add(ev.RequestedData(request=request))
        return request.id

    def suspended(self, *waiting: ev.Waiting, more: int = 0, resume: Literal["any", "all"] = "any") -> AnyEvent:
        """`job.suspended`."""
        return self.add(ev.SuspendedData(waiting=waiting, more=more, resume=resume))

    def answered(self, request: RequestId, action: str = "approve") -> AnyEvent:
        """`input.answered` by bob."""
        return self.add(
            ev.AnsweredData(
                request_id=request,
                revision=1,
                action=action,
                payload=None,
                by=Principal("user:bob"),
                via=ev.Via(channel="api"),
            )
        )

    def completed(self, **outputs: Any) -> AnyEvent:
        """`job.completed`."""
        return self.add(ev.CompletedData(outputs=outputs, fingerprint=FINGERPRINT))
