"""Children: a job that a call of this one starts, and whose end it waits for.

The child's id derives from the call's key, so every pass asks for the same job and a second one starts nothing. Nothing
is written for the start: `child.ended` is all that the log ever says, or a `step.completed` with the job id when nobody
waits (`detached`). A submit that does not come about is a failed try of the call, like one of a step. A time-out is a
`timer.fired` under the call's key; whichever comes first in the log counts, the other one is nobody's.
"""

from typing import TYPE_CHECKING, Any, Final, Literal

from msgspec import Struct

from perdure.core import event as ev
from perdure.core import retry
from perdure.core.cause import RETRY_NOW
from perdure.core.event import AnyEvent
from perdure.core.instant import Instant, later, seconds_between
from perdure.core.journal import Entry, changed
from perdure.core.retry import RetryPolicy
from perdure.engine.branches import Branch
from perdure.engine.calls import Call
from perdure.engine.ends import RESULT
from perdure.engine.failure import failure
from perdure.engine.values import Shape, shaped
from perdure.errors import (
    ChildFailed,
    Conflict,
    Expired,
    Forbidden,
    Invalid,
    Malformed,
    NotFound,
    OutcomeUnknown,
    PerdureError,
    StepFailed,
    TooLarge,
    Unavailable,
    UnsupportedVersion,
)
from perdure.ids import JobId, child_job_id

if TYPE_CHECKING:
    from perdure.engine.bench import Bench

Priority = Literal["low", "normal", "high"]
STARTING: Final = RetryPolicy(max_failures=30, most_seconds=60.0)  # half an hour without a gateway is not the author's
_LATER: Final = (Unavailable, OutcomeUnknown, UnsupportedVersion)  # an older gateway goes away
_NEVER: Final = (NotFound, Invalid, Forbidden, Malformed, Conflict, Expired)


class Child(Struct, frozen=True, kw_only=True):
    """What is to be started, and how; `given` is plain."""

    flow: str
    given: Any  # any JSON
    detached: bool
    policy: RetryPolicy
    shape: Shape
    queue: str | None
    priority: Priority | None
    deadline_seconds: float | None
    max_failures: int | None
    tags: dict[str, str] | None


class ChildCall(Call):
    """`ctx.child`: submits, again in each pass that does not know of an end, and resolves by that."""

    def __init__(self, bench: "Bench", branch: Branch, entry: Entry, child: Child, due_at: Instant | None) -> None:
        super().__init__(bench, branch, entry)
        self._entry = entry
        self._child = child
        self._due_at = due_at
        self._job_id = child_job_id(bench.port.ref.job, *entry.key)
        self._submitted = False
        self._failures = 0
        self._retry_at: Instant | None = None

    def ready(self, now: Instant) -> bool:
        if self._due_at is not None and self._due_at <= now:
            return True
        return not self._submitted and (self._retry_at is None or self._retry_at <= now)

    @property
    def due(self) -> Instant | None:
        retry_at = None if self._submitted else self._retry_at
        return min((at for at in (self._due_at, retry_at) if at is not None), default=None)

    def waiting(self) -> ev.Waiting | None:
        path, name, occurrence = self._entry.key
        if self._retry_at is not None and not self._submitted:
            return ev.Waiting(kind="backoff", path=path, name=name, occurrence=occurrence, until=self.due)
        return ev.Waiting(
            kind="child", path=path, name=name, occurrence=occurrence, job_id=self._job_id, until=self._due_at
        )

    def hear(self, event: AnyEvent) -> None:
        match event:
            case ev.ChildEnded(data=end) if not self._child.detached:
                self.abandon()  # a time-out that is on its way is delivered to nobody
                self._ended(end)
            case ev.StepCompleted(data=done) if self._child.detached:
                self.resolve(done.result)
            case ev.TimerFired():
                self.abandon()  # and so is an end that comes too late
                self.fail(TimeoutError(f"child {self._entry.key.name} had not ended by {self._due_at}"))
            case ev.StepFailed(data=failed) if failed.final:
                error = failed.error
                self.fail(StepFailed(self._entry.key.name, error.code, error.message, error.retryable is True))
            case ev.StepFailed(data=failed):
                self._failures, self._retry_at = failed.failures, failed.retry_at
            case ev.SignalReceived(data=signal) if signal.name == RETRY_NOW:
                self._retry_at = None
            case _:
                raise changed(self._entry, f"{self._entry}, {'detached' if self._child.detached else 'waited for'}")

    def _ended(self, end: ev.ChildData) -> None:
        name = self._entry.key.name
        if end.status is not ev.Status.COMPLETED:
            error = end.error or ev.Failure(code=str(end.status), message=f"the job ended as {end.status}")
            self.fail(ChildFailed(name, error.code, error.message, job_id=end.job_id, status=end.status))
            return
        try:
            self.resolve(shaped(given_out(end.outputs), self._child.shape))
        except Malformed as exc:
            self.fail(Malformed(f"child {name}: {exc}"))

    # ------------------------------------------------------------------------------------------ what it does

    async def perform(self) -> None:
        path, name, occurrence = self._entry.key
        started_at = self.bench.port.now()
        if self._due_at is not None and self._due_at <= started_at:
            data = ev.TimerData(name=name, occurrence=occurrence, due_at=self._due_at, path=path)
            await self.bench.append(lambda job: None if (path, name, occurrence) in job.fired else data, self)
            return
        try:
            job_id = await self._submit()
        except (*_LATER, *_NEVER) as exc:
            failed = self._failed(exc, started_at)
            await self.bench.append(lambda job: failed, self)
            return
        self._submitted = True
        if self._child.detached:
            done = ev.StepCompletedData(
                step=name,
                occurrence=occurrence,
                path=path,
                result=job_id,
                started_at=started_at,
                duration_seconds=seconds_between(started_at, self.bench.port.now()),
                args_digest=self._entry.args_digest,
            )
            await self.bench.append(lambda job: done, self)

    async def _submit(self) -> JobId:
        child = self._child
        return await self.bench.port.submit_child(
            self._entry.key,
            child.flow,
            child.given,
            detached=child.detached,
            queue=child.queue,
            priority=child.priority,
            deadline_seconds=child.deadline_seconds,
            max_failures=child.max_failures,
            tags=child.tags,
        )

    def _failed(self, error: PerdureError, started_at: Instant) -> ev.StepFailedData:
        path, name, occurrence = self._entry.key
        now, failures = self.bench.port.now(), self._failures + 1
        wait = None
        if again := isinstance(error, _LATER):
            wait = retry.delay(self._child.policy, failures, self.bench.port.chance.random(), None)
        return ev.StepFailedData(
            step=name,
            occurrence=occurrence,
            path=path,
            error=failure(_code(error), str(error), again),
            failures=failures,
            started_at=started_at,
            duration_seconds=seconds_between(started_at, now),
            args_digest=self._entry.args_digest,
            retry_at=None if wait is None else later(now, wait),
            final=wait is None,
        )


def given_out(outputs: dict[str, Any] | None) -> Any:  # any JSON
    """What a parent gets of a child's outputs: all by name; a returned value as it is; None when there are none."""
    if not outputs:
        return None
    return outputs[RESULT] if list(outputs) == [RESULT] else outputs


def _code(error: PerdureError) -> str:
    match error:
        case NotFound():
            return "flow_not_found"
        case Invalid(code=code) | Forbidden(code=code) | Conflict(code=code) | Expired(code=code):
            return code.replace("-", "_")
        case TooLarge():
            return "too_large"
        case Malformed():
            return "not_serialisable"
        case _:
            return "unavailable"
