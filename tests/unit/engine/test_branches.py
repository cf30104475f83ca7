"""Branches: how gather fails, what a closed branch hears, which calls are refused, what hangs and what does not."""

import asyncio
import contextvars
from typing import Any

import pytest

from perdure import Closed, ConcurrencyError, Context, StepFailed, Terminal, Workflow
from perdure.core import event as ev
from perdure.probe import SimulatedCrash
from perdure.testing.memory import MemoryJob


async def ended(body: Any, job: MemoryJob | None = None, **options: Any) -> MemoryJob:
    """A job that ran `body` until it ended or waits."""
    job = job or MemoryJob()
    await job.run(Workflow("flow", body), **options)
    return job


def fails(text: str = "no") -> Any:
    """A step that fails for good."""

    def fn() -> None:
        raise Terminal(text, code="no")

    return fn


# -------------------------------------------------------------------------------------------------- paths


async def test_paths_count_groups_and_branches_from_one() -> None:
    async def body(ctx: Context) -> None:
        async def inner(n: int) -> None:
            await ctx.step("x", lambda: n)
            await ctx.gather(ctx.step("y", lambda: n), ctx.step("y", lambda: n))

        await ctx.gather(inner(1), inner(2))
        await ctx.gather(ctx.step("z", lambda: 0))
        await ctx.step("x", lambda: 0)
        await ctx.step("x", lambda: 0)

    job = await ended(body)
    keys = sorted((d.path, d.step, d.occurrence) for d in job.events(ev.StepCompleted))
    assert keys == [
        ("", "x", 1),
        ("", "x", 2),
        ("/1.1", "x", 1),
        ("/1.1/1.1", "y", 1),
        ("/1.1/1.2", "y", 1),
        ("/1.2", "x", 1),
        ("/1.2/1.1", "y", 1),
        ("/1.2/1.2", "y", 1),
        ("/2.1", "z", 1),
    ]


async def test_an_empty_gather_returns_at_once() -> None:
    async def body(ctx: Context) -> list[Any]:
        return await ctx.gather()

    assert (await ended(body)).outputs == {"result": []}


async def test_context_variables_of_the_parent_reach_its_branches() -> None:
    who = contextvars.ContextVar("who", default="nobody")

    async def body(ctx: Context) -> list[Any]:
        async def read() -> str:
            return who.get()

        who.set("parent")
        return await ctx.gather(read(), read())

    assert (await ended(body)).outputs == {"result": ["parent", "parent"]}


# -------------------------------------------------------------------------------------------------- failing


async def test_the_first_failing_branch_closes_the_others_and_its_error_is_raised() -> None:
    heard: list[str] = []

    async def body(ctx: Context) -> str:
        async def waits() -> None:
            try:
                await ctx.ask("never", title="?")
            except Closed:
                heard.append("closed")
                try:
                    await ctx.step("after", lambda: 1)
                except Closed:
                    heard.append("closed again")
                raise

        async def works() -> None:
            try:
                await ctx.step("long", asyncio.Event().wait)
            finally:
                heard.append("step closed")

        try:
            await ctx.gather(waits(), works(), ctx.step("bad", fails("broken")))
        except StepFailed as exc:
            return str(await ctx.step("next", lambda text: text, f"{exc.step}: {exc.message}"))
        return "no"

    job = await ended(body)
    assert job.outputs == {"result": "bad: broken"}
    assert heard == ["closed", "closed again", "step closed"]
    assert [d.reason for d in job.events(ev.InputWithdrawn)] == ["branch_closed"]
    assert [d.step for d in job.events(ev.StepCompleted)] == ["next"]


async def test_the_failure_that_comes_first_in_the_log_counts_in_every_pass() -> None:
    both = asyncio.Event()

    async def body(ctx: Context) -> str:
        async def bad(name: str) -> None:
            await both.wait()
            raise Terminal(name)

        async def opens() -> None:
            both.set()

        try:
            await ctx.gather(*(ctx.step(name, bad, name) for name in ("one", "two")), ctx.step("open", opens))
        except StepFailed as exc:
            await ctx.ask("go", title="?")
            return exc.step
        return "none"

    flow, job = Workflow("flow", body), MemoryJob()
    await job.run(flow)
    job.answer("go", "approve")
    await job.run(flow)
    assert job.outputs == {"result": job.events(ev.StepFailed)[0].step}


async def test_return_exceptions_waits_for_all() -> None:
    async def body(ctx: Context) -> list[Any]:
        got = await ctx.gather(
            ctx.step("bad", fails()), ctx.step("good", lambda: "good"), ctx.sleep(60), return_exceptions=True
        )
        return [type(got[0]).__name__, *got[1:]]

    assert (await ended(body)).outputs == {"result": ["StepFailed", "good", None]}


async def test_a_nested_gather_is_closed_from_the_inside_out() -> None:
    heard: list[str] = []

    async def body(ctx: Context) -> str:
        async def leaf(name: str) -> None:
            try:
                await ctx.sleep(3600, name="nap")
            finally:
                heard.append(name)

        async def middle() -> None:
            try:
                await ctx.gather(leaf("one"), leaf("two"))
            finally:
                heard.append("middle")

        try:
            await ctx.gather(middle(), ctx.step("bad", fails()))
        except StepFailed:
            heard.append("root")
        return "ended"

    assert (await ended(body)).log[-1].status == "completed"
    assert heard == ["one", "two", "middle", "root"]


async def test_a_branch_that_hangs_on_a_lock_is_closed_too() -> None:
    heard: list[str] = []

    async def body(ctx: Context) -> str:
        lock = asyncio.Lock()

        async def holds() -> None:
            async with lock:
                await ctx.ask("never", title="?")

        async def hangs() -> None:
            try:
                async with lock:
                    heard.append("got it")
            except Closed:
                heard.append("closed")
                raise

        async def breaks() -> None:
            await ctx.sleep(1)
            await ctx.step("bad", fails())

        try:
            await ctx.gather(holds(), hangs(), breaks())
        except StepFailed:
            return "failed"
        return "no"

    job = await ended(body)
    assert job.outputs == {"result": "failed"}
    assert heard == ["closed"] or heard == ["got it"]  # the lock may come free first: the same in each pass


async def test_a_branch_closed_before_its_first_step_never_runs() -> None:
    ran: list[str] = []

    async def body(ctx: Context) -> str:
        async def breaks() -> None:
            raise ValueError("at once")

        async def never() -> None:
            ran.append("ran")

        try:
            await ctx.gather(breaks(), never())
        except ValueError:
            return "failed"
        return "no"

    assert (await ended(body)).outputs == {"result": "failed"}
    assert ran == []


async def test_the_event_of_a_closed_branch_counts_when_it_was_sent_and_is_dropped_when_not() -> None:
    release = asyncio.Event()
    good = [f"good {i}" for i in range(20)]

    async def body(ctx: Context) -> str:
        async def twin(name: str) -> str:
            await release.wait()  # all end in the same turn: some events are on their way, some still queue
            if name == "bad":
                raise Terminal("no")
            return name

        async def opens() -> None:
            release.set()

        try:
            await ctx.gather(*(ctx.step(name, twin, name) for name in ("bad", *good)), ctx.step("open", opens))
        except StepFailed:
            return str(await ctx.step("next", lambda: "next"))
        return "no"

    flow, job = Workflow("flow", body), MemoryJob()
    await job.run(flow)
    assert job.outputs == {"result": "next"}
    sent = [d.step for d in job.events(ev.StepCompleted) if d.step in good]
    assert 0 < len(sent) < len(good)
    again = job.copy(job.state.seq - 1)
    await again.live(flow)
    assert again.outputs == {"result": "next"}
    assert len(again.log) == len(job.log) + 1


async def test_a_request_of_a_closed_branch_is_withdrawn_by_the_next_pass_when_this_one_died() -> None:
    async def body(ctx: Context) -> str:
        try:
            await ctx.gather(ctx.ask("never", title="?"), ctx.step("bad", fails()))
        except StepFailed:
            await ctx.ask("go", title="?")
        return "done"

    calm = await ended(body)
    withdrawn_at = next(e.seq for e in calm.log if isinstance(e, ev.InputWithdrawn))
    flow, job = Workflow("flow", body), MemoryJob()
    with pytest.raises(SimulatedCrash):
        await job.live(flow, crash="before", at_seq=withdrawn_at)
    await job.run(flow)
    assert [r.name for r in job.state.asked.values()] == ["go"]


async def test_an_error_that_is_no_exception_fails_the_group_and_the_job() -> None:
    async def body(ctx: Context) -> None:
        async def leaves() -> None:
            raise SystemExit(3)

        await ctx.gather(leaves(), ctx.sleep(60))

    job = await ended(body)
    (failed,) = job.events(ev.JobFailed)
    assert failed.error.message == "SystemExit: 3"


# -------------------------------------------------------------------------------------------------- misuse


async def misused(body: Any, **options: Any) -> str:
    job = await ended(body, **options)
    (failed,) = job.events(ev.JobFailed)
    assert failed.error.code == "concurrency_error", failed
    return str(failed.error.message)


async def test_a_call_from_a_task_that_gather_did_not_start_is_refused() -> None:
    async def body(ctx: Context) -> None:
        await asyncio.create_task(ctx.step("it", lambda: 1))

    assert "ctx.gather" in await misused(body)


async def test_a_call_under_wait_for_is_refused() -> None:
    async def body(ctx: Context) -> None:
        await asyncio.wait_for(ctx.step("it", asyncio.Event().wait), 0.01)

    assert "timeout=" in await misused(body)


async def test_a_call_under_a_timeout_of_asyncio_is_refused() -> None:
    async def body(ctx: Context) -> None:
        async with asyncio.timeout(0.01):
            await ctx.step("it", asyncio.Event().wait)

    assert "timeout=" in await misused(body)


async def test_a_body_that_reads_and_writes_by_itself_is_told_where() -> None:
    async def body(ctx: Context) -> None:
        await asyncio.Event().wait()

    message = await misused(body, hang_seconds=0.02)
    assert "belong into a step" in message
    assert "test_branches.py:" in message  # where it hangs: the author's line, not the library's


async def test_an_event_whose_caller_hangs_waits_for_it() -> None:
    passes: list[int] = []

    async def body(ctx: Context) -> Any:
        passes.append(1)
        if len(passes) > 1:  # slower than the first time, but it comes
            await asyncio.get_running_loop().run_in_executor(None, lambda: None)
        got = await ctx.step("it", lambda: "it")
        await ctx.ask("go", title="?")
        return got

    flow, job = Workflow("flow", body), MemoryJob()
    await job.run(flow)
    job.answer("go", "approve")
    await job.run(flow)
    assert job.outputs == {"result": "it"}


async def test_an_event_whose_caller_never_comes_fails_the_job() -> None:
    passes: list[int] = []

    async def body(ctx: Context) -> None:
        passes.append(1)
        if len(passes) > 1:
            await asyncio.Event().wait()
        await ctx.step("it", lambda: "it")
        await ctx.ask("go", title="?")

    flow, job = Workflow("flow", body), MemoryJob()
    await job.run(flow)
    job.answer("go", "approve")
    await job.run(flow, hang_seconds=0.02)
    (failed,) = job.events(ev.JobFailed)
    assert failed.error.code == "concurrency_error"
    assert "the recorded step it#1" in failed.error.message


async def test_a_branch_that_waits_for_a_lock_of_a_sleeping_one_does_not_keep_the_job_awake() -> None:
    async def body(ctx: Context) -> list[Any]:
        lock = asyncio.Lock()

        async def person(name: str) -> str | None:
            async with lock:
                return (await ctx.ask(name, title="?")).action

        return await ctx.gather(person("one"), person("two"))

    flow, job = Workflow("flow", body), MemoryJob()
    asleep = await job.run(flow, hang_seconds=0.02)
    assert isinstance(asleep, ev.JobSuspended)
    assert [w.name for w in asleep.data.waiting] == ["one"]
    job.answer("one", "approve")
    await job.run(flow, hang_seconds=0.02)
    job.answer("two", "reject")
    await job.run(flow)
    assert job.outputs == {"result": ["approve", "reject"]}


async def test_a_name_must_be_printable_and_short() -> None:
    async def body(ctx: Context) -> None:
        await ctx.step("", lambda: 1)

    job = await ended(body)
    assert job.events(ev.JobFailed)[0].error.code == "workflow_failed"


# -------------------------------------------------------------------------------------------------- node groups


async def test_nodes_run_under_their_own_paths_and_end_in_order() -> None:
    async def body(ctx: Context) -> list[Any]:
        nodes = ctx._nodes()
        nodes.start("/a", ctx.step("a", lambda: 1))
        nodes.start("/b", ctx.sleep(60, name="b"))
        order: list[Any] = [await nodes.next_ended()]
        nodes.start("/c", ctx._skip("c", "no live edge", component="text_output"))
        while nodes.running:
            order.append(await nodes.next_ended())
        with pytest.raises(RuntimeError):
            await nodes.next_ended()
        return order

    job = await ended(body)
    assert job.outputs == {"result": [["/a", 1], ["/c", None], ["/b", None]]}
    assert [(d.path, d.step, d.reason) for d in job.events(ev.StepSkipped)] == [("/c", "c", "no live edge")]


async def test_a_failed_node_closes_the_others() -> None:
    async def body(ctx: Context) -> None:
        nodes = ctx._nodes()
        nodes.start("/ask", ctx.ask("ask", title="?"))
        nodes.start("/bad", ctx.step("bad", fails()))
        await nodes.next_ended()

    job = await ended(body)
    assert job.events(ev.JobFailed)[0].error.step == "bad"


async def test_nodes_that_were_not_waited_for_are_closed_with_the_body() -> None:
    heard: list[str] = []

    async def body(ctx: Context) -> str:
        async def naps() -> None:
            try:
                await ctx.sleep(60)
            except Closed:
                heard.append("closed")
                raise

        nodes = ctx._nodes()
        nodes.start("/nap", naps())
        await ctx.step("it", lambda: 1)
        return "done"

    assert (await ended(body)).outputs == {"result": "done"}
    assert heard == ["closed"]


async def test_a_path_is_given_once() -> None:
    async def body(ctx: Context) -> None:
        nodes = ctx._nodes()
        nodes.start("/a", ctx.step("a", lambda: 1))
        second = ctx.step("a", lambda: 2)
        try:
            nodes.start("/a", second)
        finally:
            second.close()

    job = await ended(body)
    assert job.events(ev.JobFailed)[0].error.code == "concurrency_error"


async def test_a_concurrency_error_can_be_seen_where_it_happens() -> None:
    async def body(ctx: Context) -> str:
        with pytest.raises(ConcurrencyError):
            await asyncio.create_task(ctx.sleep(1))
        return "told"

    assert (await ended(body)).outputs == {"result": "told"}


async def test_code_that_spins_without_a_call_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.engine.branches.MOST_TURNS", 200)

    async def body(ctx: Context) -> None:
        while True:  # noqa: ASYNC110  # that is the fault
            await asyncio.sleep(0)

    assert "on and on" in await misused(body, close_seconds=0.02)
