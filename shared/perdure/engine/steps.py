"""Steps: running a function once, what its end becomes in the log, when it is tried again."""

import asyncio
import contextvars
import inspect
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import structlog
from msgspec import Struct

from perdure import probe
from perdure.core import event as ev
from perdure.core import retry
from perdure.core.cause import RETRY_NOW
from perdure.core.event import AnyEvent
from perdure.core.instant import Instant, later, seconds_between
from perdure.core.journal import Entry, changed
from perdure.core.key import Key
from perdure.core.retry import RetryPolicy
from perdure.engine.branches import Branch
from perdure.engine.calls import Call
from perdure.engine.driving import Driven
from perdure.engine.failure import UNKNOWN, step_failure, value_failure
from perdure.engine.failure import failure as record
from perdure.engine.result import Result
from perdure.engine.scope import RUN
from perdure.engine.values import Shape, plain, shaped
from perdure.errors import Malformed, Retryable, StepFailed

if TYPE_CHECKING:
    from perdure.engine.bench import Bench

log: Final = structlog.get_logger(__name__)


class Work(Struct, frozen=True, kw_only=True):
    """What a step does: the function, and how."""

    fn: Callable[..., object]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    policy: RetryPolicy
    shape: Shape
    timeout_seconds: float | None = None
    output: ev.Named | None = None
    component: str | None = None


class Run:
    """One try of a step: what code inside it reaches through its context variable."""

    def __init__(self, call: "StepCall", key: Key) -> None:
        self.call = call
        self.key = key
        self.positions: Counter[str] = Counter()  # channel -> code points so far


class _Ended(Struct, frozen=True):
    """How a try ended: with a value, or with an error."""

    value: Any = None
    error: BaseException | None = None
    timed_out: bool = False


class StepCall(Call):
    """`ctx.step`: tried until it succeeds or fails for good."""

    def __init__(self, bench: "Bench", branch: Branch, entry: Entry, work: Work) -> None:
        super().__init__(bench, branch, entry)
        self._entry = entry
        self._work = work
        self._context = contextvars.copy_context()  # made inside the call: a step inherits its branch's variables
        self._failures = 0
        self._retry_at: Instant | None = None
        self._task: asyncio.Task[_Ended] | None = None
        self._driven: Driven | None = None

    # ------------------------------------------------------------------------------------------ what it waits for

    def ready(self, now: Instant) -> bool:
        return self._retry_at is None or self._retry_at <= now

    @property
    def due(self) -> Instant | None:
        return self._retry_at

    def waiting(self) -> ev.Waiting | None:
        path, name, occurrence = self._entry.key
        return ev.Waiting(kind="backoff", path=path, name=name, occurrence=occurrence, until=self._retry_at)

    def hear(self, event: AnyEvent) -> None:
        match event:
            case ev.StepCompleted(data=done):
                try:
                    self.resolve(shaped(done.result, self._work.shape))
                except Malformed as exc:
                    raise changed(self._entry, f"it with another result type ({exc})") from exc
            case ev.StepFailed(data=failed) if failed.final:
                error = failed.error
                self.fail(StepFailed(self._entry.key.name, error.code, error.message, error.retryable is True))
            case ev.StepFailed(data=failed):
                self._failures, self._retry_at = failed.failures, failed.retry_at
            case ev.SignalReceived(data=signal) if signal.name == RETRY_NOW:
                self._retry_at = None

    def abandon(self) -> None:
        super().abandon()
        self.stop()

    def stop(self) -> None:
        """Cancel the function if it runs; a thread runs out unheard."""
        if self._task is not None:
            self._task.cancel()

    def give_up(self) -> None:
        if self._driven is not None:
            self._driven.given_up = True
        self.stop()

    # ------------------------------------------------------------------------------------------ what it does

    async def perform(self) -> None:
        key, port = self._entry.key, self.bench.port
        started_at = port.now()
        self.bench.live.started(key)
        probe.hit("step.before_run")
        name = f"step {key} of job {port.ref.job}"  # what a warning says when it holds up the loop
        self._task = asyncio.create_task(self._run(Run(self, key)), name=name, context=self._context.copy())
        try:
            await asyncio.wait({self._task})
            ended = _Ended(error=asyncio.CancelledError()) if self._task.cancelled() else self._task.result()
        finally:
            self._task = None
        if self.abandoned or self.bench.halted:
            return
        probe.hit("step.after_run")
        data = self._judged(ended, started_at, seconds_between(started_at, port.now()))
        try:
            await self.bench.append(lambda job: data, self)
        except Malformed as exc:  # too large, or of types that an event does not have
            data = self._failed(value_failure(exc), started_at, seconds_between(started_at, port.now()))
            await self.bench.append(lambda job: data, self)

    async def _run(self, run: Run) -> _Ended:
        RUN.set(run)
        limit = asyncio.timeout(self._work.timeout_seconds)
        try:
            async with limit:
                return await self._invoke()
        except BaseException as exc:  # noqa: BLE001  # SystemExit in a task would end every job of this runner
            return _Ended(error=exc, timed_out=limit.expired())

    async def _invoke(self) -> _Ended:
        fn, args, kwargs = self._work.fn, self._work.args, self._work.kwargs
        if is_async(fn):
            return _Ended(await self._awaited(fn(*args, **kwargs)))
        inside = contextvars.copy_context()
        ended: _Ended = await self.bench.threads.call(inside.run, _called, fn, args, kwargs)
        if inspect.isawaitable(ended.value):  # a lambda around an async function
            return _Ended(await self._awaited(ended.value))
        return ended

    async def _awaited(self, value: Any) -> Any:  # an awaitable of the author's, and what it gives
        if not inspect.iscoroutine(value):
            return await value
        self._driven = Driven(value)
        return await self._driven.run()

    # ------------------------------------------------------------------------------------------ what came of it

    def _judged(self, ended: _Ended, started_at: Instant, seconds: float) -> ev.StepCompletedData | ev.StepFailedData:
        try:
            return self._judge(ended, started_at, seconds)
        except BaseException as exc:  # noqa: BLE001  # users' code again, in what they returned or raised
            text = f"the end of the step cannot be told: {type(exc).__name__}"
            return self._failed(record(UNKNOWN, text, False), started_at, seconds)

    def _judge(self, ended: _Ended, started_at: Instant, seconds: float) -> ev.StepCompletedData | ev.StepFailedData:
        if ended.error is not None:
            log.info("step raised", step=self._entry.key.name, error=type(ended.error).__name__)
            limit = self._work.timeout_seconds if ended.timed_out else None
            after = ended.error.after_seconds if isinstance(ended.error, Retryable) else None
            return self._failed(step_failure(ended.error, limit), started_at, seconds, after)
        given = ended.value if isinstance(ended.value, Result) else Result(ended.value)
        try:
            result = plain(given.value)
            shaped(result, self._work.shape)
        except Malformed as exc:
            return self._failed(value_failure(exc), started_at, seconds)
        path, name, occurrence = self._entry.key
        return ev.StepCompletedData(
            step=name,
            occurrence=occurrence,
            path=path,
            result=result,
            started_at=started_at,
            duration_seconds=seconds,
            args_digest=self._entry.args_digest,
            component=self._work.component,
            output=self._work.output,
            usage=given.usage,
        )

    def _failed(
        self, failure: ev.Failure, started_at: Instant, seconds: float, after_seconds: float | None = None
    ) -> ev.StepFailedData:
        path, name, occurrence = self._entry.key
        failures = self._failures + 1
        wait = None
        if failure.retryable:
            wait = retry.delay(self._work.policy, failures, self.bench.port.chance.random(), after_seconds)
        return ev.StepFailedData(
            step=name,
            occurrence=occurrence,
            path=path,
            error=failure,
            failures=failures,
            started_at=started_at,
            duration_seconds=seconds,
            args_digest=self._entry.args_digest,
            component=self._work.component,
            retry_at=None if wait is None else later(self.bench.port.now(), wait),
            final=wait is None,
        )


def is_async(fn: Callable[..., object]) -> bool:
    """Whether calling `fn` gives a coroutine."""
    while hasattr(fn, "func") and not inspect.isroutine(fn):  # functools.partial
        fn = fn.func
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004  # not whether, but what


def _called(fn: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Ended:
    """In the thread: an exception travels as a value, for some (StopIteration) cannot pass a future."""
    try:
        return _Ended(fn(*args, **kwargs))
    except BaseException as exc:  # noqa: BLE001  # it is the step's failure
        return _Ended(error=exc)
