"""Cancelling a running job: who hears of it, what cleanup may do, how it ends whatever the code says."""

import asyncio
import threading
from typing import Any

import pytest

from perdure import Cancelled, Context, StepFailed, Terminal, Workflow
from perdure.core import event as ev
from perdure.engine.attempt import Pass
from perdure.testing.memory import MemoryJob


async def cancelled(body: Any, started: asyncio.Event, job: MemoryJob | None = None) -> MemoryJob:
    """A job that was asked to end once `started` was set, and its end."""
    job = job or MemoryJob()
    one = Pass(Workflow("flow", body), job.port())
    task = asyncio.create_task(one.run())
    await started.wait()
    job.cancel()
    end = await task
    await one.close()
    assert isinstance(end, ev.JobCancelled)
    assert end.data.by == "user:ann"
    return job


def running(started: asyncio.Event, heard: list[str]) -> Any:
    """A step that never ends by itself."""

    async def long() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            heard.append("step")
            raise

    return long


async def test_the_branch_hears_it_where_it_waits_and_the_step_is_cancelled() -> None:
    started, heard = asyncio.Event(), list[str]()

    async def body(ctx: Context) -> None:
        assert not ctx.cancelled
        try:
            await ctx.step("long", running(started, heard))
        except Cancelled:
            heard.append("body")
            assert ctx.cancelled
            raise

    job = await cancelled(body, started)
    assert sorted(heard) == ["body", "step"]
    assert job.events(ev.StepFailed) == []


async def test_cleanup_steps_work_and_what_the_body_returns_does_not_matter() -> None:
    started, heard = asyncio.Event(), list[str]()

    async def body(ctx: Context) -> str:
        try:
            await ctx.step("charge", running(started, heard))
        except Cancelled:
            await ctx.step("refund", lambda: heard.append("refunded"))
        return "all is well"

    job = await cancelled(body, started)
    assert [d.step for d in job.events(ev.StepCompleted)] == ["refund"]
    assert job.outputs == {}


async def test_an_error_after_a_cancel_is_cancelled_too() -> None:
    started, heard = asyncio.Event(), list[str]()

    async def body(ctx: Context) -> None:
        try:
            await ctx.step("charge", running(started, heard))
        except Cancelled as exc:
            raise ValueError("in the cleanup") from exc

    await cancelled(body, started)


async def test_every_branch_hears_it_once_and_gather_waits_for_all() -> None:
    started, heard = asyncio.Event(), list[str]()

    async def body(ctx: Context) -> None:
        async def one(name: str, step: Any) -> None:
            try:
                await ctx.step(name, step)
            except Cancelled:
                heard.append(name)
                await ctx.gather(ctx.step("undo", lambda: name), ctx.sleep(1))

        async def asks() -> None:
            try:
                await ctx.ask("never", title="?")
            except Cancelled:
                heard.append("asks")
                raise

        try:
            await ctx.gather(one("a", running(started, [])), one("b", asyncio.Event().wait), asks())
        except Cancelled:
            heard.append("root")
            raise

    job = await cancelled(body, started)
    assert heard == ["a", "b", "asks", "root"]
    assert sorted(d.result for d in job.events(ev.StepCompleted)) == ["a", "b"]
    assert len(job.events(ev.TimerFired)) == 2


async def test_a_failing_branch_closes_nobody_while_the_job_is_being_cancelled() -> None:
    started, heard = asyncio.Event(), list[str]()

    async def body(ctx: Context) -> None:
        async def fails() -> None:
            await ctx.step("a", running(started, []))

        async def cleans() -> None:
            try:
                await ctx.sleep(60)
            except Cancelled:
                await ctx.step("undo", lambda: "undone")
                heard.append("undone")

        await ctx.gather(fails(), cleans())

    await cancelled(body, started)
    assert heard == ["undone"]


async def test_a_thread_sees_it() -> None:
    started, seen = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    async def body(ctx: Context) -> None:
        def thread() -> None:
            loop.call_soon_threadsafe(started.set)
            while not ctx.cancelled:
                threading.Event().wait(0.001)
            seen.set()

        await ctx.step("thread", thread)

    await cancelled(body, started)
    assert seen.wait(10)


async def test_code_that_never_waits_hears_it_at_its_next_call() -> None:
    started, heard = asyncio.Event(), list[str]()

    async def body(ctx: Context) -> None:
        lock = asyncio.Lock()
        await lock.acquire()

        async def hangs() -> None:
            await lock.acquire()
            try:
                await ctx.sleep(60)
            except Cancelled:
                heard.append("at the next call")
                raise

        async def holds() -> None:
            try:
                await ctx.step("long", running(started, []))
            finally:
                lock.release()

        await ctx.gather(hangs(), holds())

    job = await cancelled(body, started)
    assert heard == ["at the next call"]
    assert job.events(ev.TimerFired) == []


async def test_when_the_grace_is_over_the_job_ends_whatever_its_cleanup_does() -> None:
    started = asyncio.Event()
    job = MemoryJob()

    async def body(ctx: Context) -> None:
        try:
            await ctx.step("long", running(started, []))
        except Cancelled:

            async def slow() -> None:
                job.clock.advance(31)
                await asyncio.Event().wait()

            await ctx.step("slow cleanup", slow)

    await cancelled(body, started, job)
    assert job.events(ev.StepCompleted) == []


async def test_a_cancel_takes_the_same_way_in_a_later_pass() -> None:
    """The runner dies in the cleanup; whoever takes the job over hears the cancel at the same place."""
    started, ways = asyncio.Event(), list[list[str]]()

    async def body(ctx: Context) -> None:
        way: list[str] = []
        ways.append(way)
        try:
            await ctx.step("first", lambda: way.append("ran first"))
            way.append("first")
            await ctx.step("long", running(started, []))
        except Cancelled:
            way.append("cancelled")
            await ctx.step("undo", lambda: "one")
            way.append("undone")
            await ctx.step("undo", lambda: "two")

    job = MemoryJob()
    flow = Workflow("flow", body)
    one = asyncio.create_task(Pass(flow, job.port()).run())
    await started.wait()
    job.cancel()
    end = await one
    assert isinstance(end, ev.JobCancelled)
    for seq in range(4, job.state.seq):
        again = job.copy(seq)
        if again.state.cancel is None:
            continue
        last = await again.live(flow)
        assert isinstance(last, ev.JobCancelled)
        assert [d.result for d in again.events(ev.StepCompleted)] == [None, "one", "two"]
    assert all(way[-3:] == ["first", "cancelled", "undone"] for way in ways)
    assert len(ways) > 2


async def test_a_cancel_just_before_the_end_counts() -> None:
    async def body(ctx: Context) -> str:
        return "done"

    job = MemoryJob()
    port = job.port()
    port.before_append = lambda data: None if job.state.cancel else (job.cancel(), None)[1]
    end = await Pass(Workflow("flow", body), port).run()
    assert isinstance(end, ev.JobCancelled)


async def test_cancelled_raised_by_the_author_alone_is_a_failure() -> None:
    async def body(ctx: Context) -> None:
        raise Cancelled("made up")

    job = MemoryJob()
    await job.run(Workflow("flow", body))
    assert job.events(ev.JobFailed)[0].error.message == "Cancelled: made up"


async def test_a_step_that_fails_in_the_cleanup_can_be_caught() -> None:
    started, heard = asyncio.Event(), list[str]()

    def bad() -> None:
        raise Terminal("no")

    async def body(ctx: Context) -> None:
        try:
            await ctx.step("long", running(started, []))
        except Cancelled:
            with pytest.raises(StepFailed):
                await ctx.step("undo", bad)
            heard.append("caught")

    await cancelled(body, started)
    assert heard == ["caught"]
