"""The author's face of the engine: what a workflow, and what the code inside a step, may call.

All calls that wait are `async def`; nothing happens before the await. Values that derive from the log (`now`,
`random`, `uuid`) are plain methods. Inside a step exactly `delta`, `progress`, `log`, `idempotency_key`, `cancelled`
and `attempt` work, from any task and any thread that carries the step's context variables.
"""

from collections.abc import Awaitable, Callable, Coroutine, Generator
from datetime import timedelta
from typing import Any, Literal

from msgspec.structs import replace

from perdure.core import event as ev
from perdure.core import key as keys
from perdure.core import retry as retrying
from perdure.core.instant import later
from perdure.core.retry import RetryPolicy
from perdure.engine.asking import seconds
from perdure.engine.calls import RecordCall, SleepCall
from perdure.engine.children import STARTING, Child, ChildCall, Priority
from perdure.engine.groups import Gather, NodeGroup, Race
from perdure.engine.people import People
from perdure.engine.scope import branch_here, run_here
from perdure.engine.signals import SignalCall
from perdure.engine.steps import StepCall, Work
from perdure.engine.values import UNSHAPED, Shape, plain, shape_of, shaped
from perdure.errors import Malformed

MAX_OUTPUTS = 100

OutputKind = Literal["text", "data", "table", "message"]


class Context(People):
    """One pass's context. It belongs to one attempt: never keep it."""

    # ------------------------------------------------------------------------------------------ calls that wait

    async def step(
        self,
        name: str,
        fn: Callable[..., Any],  # what it takes and returns is the author's
        *args: Any,
        retry: RetryPolicy | None = None,
        timeout: float | timedelta | None = None,  # noqa: ASYNC109  # of each try, not of the wait: that may take days
        returns: Shape = None,
        output: ev.Named | None = None,
        component: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run `fn(*args, **kwargs)` once and remember its result, over crashes and suspensions.

        A failed try is repeated by `retry` (default 5 tries, or the job's `max_failures`). Returns the result as it is
        recorded, converted to `returns` or to the return annotation of `fn`. Raises StepFailed when it failed for good.
        """
        branch = await self._bench.branches.enter()
        entry = self._entry(branch, "step", name, keys.args_digest(args, kwargs))
        policy = retry or _policy(self._bench.submitted.max_failures)
        work = Work(
            fn=fn,
            args=args,
            kwargs=kwargs,
            policy=policy,
            shape=shape_of(fn, returns),
            timeout_seconds=None if timeout is None else seconds(timeout),
            output=output,
            component=component,
        )
        return await self._bench.branches.wait(StepCall(self._bench, branch, entry, work))

    async def sleep(self, duration: float | timedelta, *, name: str = "sleep") -> None:
        """Wait until `duration` (seconds, or a timedelta) after `now()`; the job holds nothing meanwhile."""
        branch = await self._bench.branches.enter()
        due_at = later(self._bench.journal.now, max(0.0, seconds(duration)))
        await self._bench.branches.wait(SleepCall(self._bench, branch, self._entry(branch, "sleep", name), due_at))

    async def gather(self, *coroutines: Coroutine[Any, Any, Any], return_exceptions: bool = False) -> list[Any]:
        """Run coroutines side by side, each as a branch of its own; return what they returned, in the order given.

        The first that fails closes the others, and its error is raised when they have ended; with `return_exceptions`
        all are waited for and exceptions are returned in place.
        """
        try:
            branch = await self._bench.branches.enter()
        except BaseException:
            for coroutine in coroutines:
                coroutine.close()  # else Python warns that nobody awaited it
            raise
        return await Gather(self._bench, branch, coroutines, return_exceptions).results()

    async def race(self, *coroutines: Coroutine[Any, Any, Any]) -> tuple[int, Any]:
        """Run coroutines side by side until one ends; return its place (from 0) and what it returned.

        The others are closed and have ended then. An error of the first is raised. At least one coroutine is needed.
        """
        try:
            branch = await self._bench.branches.enter()
            if not coroutines:
                raise Malformed("a race of nobody has no winner")
        except BaseException:
            for coroutine in coroutines:
                coroutine.close()  # else Python warns that nobody awaited it
            raise
        return await Race(self._bench, branch, coroutines).winner()

    async def signal(self, name: str, *, timeout: float | timedelta | None = None) -> Any:  # noqa: ASYNC109
        """The payload of the next signal of that name that this path has not read, come already or still to come.

        Raises TimeoutError when none comes within `timeout` after `now()`; the next call may still read it.
        """
        branch = await self._bench.branches.enter()
        entry = self._entry(branch, "signal", name)
        come = self._bench.signals.get(name, [])
        if len(come) > branch.heard[name]:
            branch.heard[name] += 1
            return shaped(come[branch.heard[name] - 1], UNSHAPED)
        due_at = None if timeout is None else later(self._bench.journal.now, max(0.0, seconds(timeout)))
        return await self._bench.branches.wait(SignalCall(self._bench, branch, entry, due_at))

    async def child(
        self,
        name: str,
        flow: str,
        input: Any = None,  # any JSON
        *,
        detached: bool = False,
        timeout: float | timedelta | None = None,  # noqa: ASYNC109  # recorded: it outlives this process
        returns: Shape = None,
        retry: RetryPolicy | None = None,
        queue: str | None = None,
        priority: Priority | None = None,
        deadline_seconds: float | None = None,
        max_failures: int | None = None,
        tags: dict[str, str] | None = None,
    ) -> Any:
        """Run `flow` (a name or id, "@n" for a version) as a job of its own and wait for its end, once and remembered.

        Returns its outputs by name, or the value that a Python workflow returned, converted to `returns`. With
        `detached` nobody waits: returns the job's id. `retry` is for starting it, where no gateway answers.

        Raises ChildFailed when the child ended without completing, StepFailed when it could not be started,
        TimeoutError when it has not ended within `timeout` after `now()`: it goes on, until this job ends.
        """
        branch = await self._bench.branches.enter()
        given = plain(input)
        entry = self._entry(branch, "child", name, keys.args_digest(("$child", flow, given, detached), {}))
        what = Child(
            flow=flow,
            given=given,
            detached=detached,
            policy=retry or STARTING,
            shape=UNSHAPED if returns is None else returns,
            queue=queue,
            priority=priority,
            deadline_seconds=deadline_seconds,
            max_failures=max_failures,
            tags=tags,
        )
        due_at = None if timeout is None else later(self._bench.journal.now, max(0.0, seconds(timeout)))
        return await self._bench.branches.wait(ChildCall(self._bench, branch, entry, what, due_at))

    async def output(self, name: str, value: Any, *, kind: OutputKind | None = None) -> None:  # any JSON
        """Give out `value` under `name`: one of the job's outputs. Raises Malformed for what cannot be stored."""
        branch = await self._bench.branches.enter()
        stored = plain(value)
        if name not in self._bench.outputs and len(self._bench.outputs) >= MAX_OUTPUTS:
            raise Malformed(f"a job has at most {MAX_OUTPUTS} outputs")
        entry = self._entry(branch, "output", name)
        data = ev.OutputData(
            name=name,
            occurrence=entry.key.occurrence,
            path=branch.path,
            kind=kind or ("text" if isinstance(stored, str) else "data"),
            value=stored,
        )
        await self._bench.branches.wait(RecordCall(self._bench, branch, entry, data))

    def progress(
        self,
        done: float | None = None,
        total: float | None = None,
        text: str | None = None,
        *,
        name: str = "progress",
        data: Any = None,  # any JSON
    ) -> Awaitable[None]:
        """Say how far the work is. In the workflow await it: it is recorded. Inside a step it is shown, at once."""
        run = run_here(self._bench.branches)
        if run is None:
            return self._progress(name, done, total, text, data)
        self._bench.live.progress(run, done, total, text)
        return _Done()

    async def _progress(self, name: str, done: float | None, total: float | None, text: str | None, data: Any) -> None:
        branch = await self._bench.branches.enter()
        text, stored = plain([text, data])
        entry = self._entry(branch, "progress", name)
        said = ev.ProgressData(
            name=name,
            occurrence=entry.key.occurrence,
            path=branch.path,
            done=done,
            total=total,
            text=text,
            data=stored,
        )
        await self._bench.branches.wait(RecordCall(self._bench, branch, entry, said))

    # ------------------------------------------------------------------------------------------ for graphs

    def _nodes(self) -> NodeGroup:
        """A group of branches with paths of their own, started one by one."""
        return NodeGroup(self._bench, branch_here(self._bench.branches))

    async def _skip(self, name: str, reason: str, component: str | None = None) -> None:
        """Record that the node `name` does not run."""
        branch = await self._bench.branches.enter()
        entry = self._entry(branch, "skip", name)
        data = ev.StepSkippedData(
            step=name, occurrence=entry.key.occurrence, path=branch.path, reason=reason, component=component
        )
        await self._bench.branches.wait(RecordCall(self._bench, branch, entry, data))


class _Done:
    """An awaitable that has nothing to wait for."""

    def __await__(self) -> Generator[None]:
        return
        yield


def _policy(max_failures: int | None) -> RetryPolicy:
    return retrying.DEFAULT if max_failures is None else replace(retrying.DEFAULT, max_failures=max_failures)
