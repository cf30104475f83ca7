"""Suspension: when a pass ends without the job ending, what it leaves behind, how its code is told."""

import asyncio
import threading
from typing import Any

import pytest
import structlog

from perdure import Context, Suspended, Workflow
from perdure.core import event as ev
from perdure.core.instant import later
from perdure.engine.attempt import Pass
from perdure.errors import Interrupted
from perdure.testing.memory import MemoryJob


def flow(body: Any) -> Workflow:
    return Workflow("flow", body)


# -------------------------------------------------------------------------------------------------- sleeping


async def test_a_long_sleep_suspends_and_is_due_after_the_last_event_before_it() -> None:
    async def body(ctx: Context) -> None:
        await ctx.step("it", lambda: 1)
        await ctx.sleep(60, name="nap")
        await ctx.sleep(30, name="nap")

    job = MemoryJob()
    asleep = await job.live(flow(body))
    assert isinstance(asleep, ev.JobSuspended)
    done = next(e for e in job.log if isinstance(e, ev.StepCompleted))
    (wait,) = asleep.data.waiting
    assert (wait.kind, wait.name, wait.occurrence, wait.until) == ("timer", "nap", 1, later(done.at, 60))
    end = await job.run(flow(body))
    assert end.status == "completed"
    first, second = [e for e in job.log if isinstance(e, ev.TimerFired)]
    assert second.data.due_at == later(first.at, 30)


async def test_a_short_sleep_is_waited_out_in_the_process() -> None:
    async def body(ctx: Context) -> None:
        await ctx.sleep(1.5)
        await ctx.sleep(0)

    job = MemoryJob()
    assert (await job.live(flow(body))).status == "completed"
    assert len(job.events(ev.TimerFired)) == 2
    assert job.state.attempt == 1


async def test_now_is_the_same_in_every_pass_and_never_falls() -> None:
    seen: list[list[str]] = []

    async def body(ctx: Context) -> None:
        mine: list[str] = [ctx.now().isoformat()]
        seen.append(mine)
        await ctx.step("it", lambda: 1)
        mine.append(ctx.now().isoformat())
        await ctx.sleep(60)
        mine.append(ctx.now().isoformat())
        await ctx.ask("go", title="?")

    job = MemoryJob()
    await job.run(flow(body))
    job.answer("go", "approve")
    await job.run(flow(body))
    assert len(seen) == 3
    longest = max(seen, key=len)
    assert sorted(longest) == longest
    assert all(s == longest[: len(s)] for s in seen)


async def test_what_is_waited_for_is_sorted_and_bounded() -> None:
    async def body(ctx: Context) -> None:
        await ctx.gather(*(ctx.sleep(5000 - i, name="nap") for i in range(205)), ctx.ask("go", title="?"))

    job = MemoryJob()
    asleep = await job.live(flow(body))
    assert isinstance(asleep, ev.JobSuspended)
    untils = [w.until for w in asleep.data.waiting]
    assert len(untils) == 200
    assert untils == sorted(untils, key=str)
    assert asleep.data.more == 6
    assert asleep.data.wake_at == untils[0]
    assert asleep.data.waiting[0].path == "/1.205"


async def test_waits_with_long_names_leave_room_in_their_event() -> None:
    names = ["\U0001f980" * 100 + f"{i:03}" for i in range(200)]

    async def nest(ctx: Context, name: str, depth: int) -> None:
        if depth:
            await ctx.gather(nest(ctx, name, depth - 1))
        else:
            await ctx.sleep(5000, name=name)

    async def body(ctx: Context) -> None:
        await ctx.gather(*(nest(ctx, name, 120) for name in names))

    job = MemoryJob()
    asleep = await job.live(flow(body))
    assert isinstance(asleep, ev.JobSuspended)
    assert 0 < len(asleep.data.waiting) < 200
    assert asleep.data.more == 200 - len(asleep.data.waiting)


# -------------------------------------------------------------------------------------------------- being told


async def test_branches_are_told_with_suspended_and_their_finally_runs() -> None:
    heard: list[str] = []

    async def body(ctx: Context) -> None:
        async def one(name: str) -> None:
            try:
                await ctx.ask(name, title="?")
            except Exception:  # noqa: BLE001  # does not stop Suspended: that is the point
                heard.append("never")
            finally:
                await asyncio.sleep(0)
                heard.append(name)

        try:
            await ctx.gather(one("a"), one("b"))
        except Suspended:
            heard.append("root")
            raise

    job = MemoryJob()
    await job.live(flow(body))
    assert heard == ["a", "b", "root"]
    assert job.log[-1].status == "suspended"


async def test_calls_after_suspended_raise_it_three_times_and_then_never_return() -> None:
    raised: list[str] = []

    async def body(ctx: Context) -> str:
        while True:
            try:
                await ctx.ask("go", title="?")
            except BaseException as exc:  # noqa: BLE001  # code that will not stop
                raised.append(type(exc).__name__)

    job = MemoryJob()
    with structlog.testing.capture_logs() as logs:
        await job.live(flow(body), close_seconds=0.02)
    assert raised == ["Suspended"] * 4 + ["CancelledError"]  # where it waited, three more calls, given up
    (warning,) = [entry for entry in logs if entry["log_level"] == "warning"]
    assert warning["path"] == ""
    assert "branches.py" in warning["at"] or "test_suspension.py" in warning["at"]
    assert len(job.log) == 4


async def test_what_a_body_returns_after_suspended_is_dropped() -> None:
    async def body(ctx: Context) -> str:
        try:
            await ctx.ask("go", title="?")
        except BaseException:  # noqa: BLE001  # code that will not stop
            return "made up"
        return "answered"

    job = MemoryJob()
    await job.live(flow(body))
    assert job.log[-1].status == "suspended"
    job.answer("go", "approve")
    await job.run(flow(body))
    assert job.outputs == {"result": "answered"}


# -------------------------------------------------------------------------------------------------- news


async def test_news_before_the_suspension_is_delivered_and_the_pass_goes_on() -> None:
    async def body(ctx: Context) -> list[Any]:
        async def person(name: str) -> str:
            answer = await ctx.ask(name, title="?")
            return str(await ctx.step(name, lambda: f"{name} {answer.action}"))

        return await ctx.gather(person("a"), person("b"))

    job = MemoryJob()
    port = job.port()
    answers = ["b", "a"]

    def news(data: Any) -> None:
        if isinstance(data, ev.SuspendedData) and answers:
            job.answer(answers.pop(0), "approve")

    port.before_append = news
    end = await Pass(flow(body), port).run()
    assert end.status == "completed"
    assert job.outputs == {"result": ["a approve", "b approve"]}
    assert job.events(ev.JobSuspended) == []


async def test_a_terminal_event_of_somebody_else_ends_the_pass() -> None:
    started = asyncio.Event()
    stopped = []

    async def body(ctx: Context) -> None:
        async def long() -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                stopped.append(True)

        await ctx.step("long", long)

    job = MemoryJob()
    one = Pass(flow(body), job.port())
    task = asyncio.create_task(one.run())
    await started.wait()
    job.append(ev.CancelledData(fingerprint=job.state.fingerprint, reason="parent_ended"))  # type: ignore[arg-type]  # submitted
    end = await task
    await one.close()
    assert isinstance(end, ev.JobCancelled)
    assert stopped == [True]


async def test_the_attempt_ends_a_job_whose_deadline_passes() -> None:
    job = MemoryJob(deadline_seconds=100)

    async def body(ctx: Context) -> None:
        async def slow() -> None:
            job.clock.advance(200)
            await asyncio.Event().wait()

        await ctx.step("slow", slow)

    end = await job.live(flow(body))
    assert isinstance(end, ev.JobTimedOut)


# -------------------------------------------------------------------------------------------------- drain, halt


async def test_a_drain_lets_running_steps_end_and_hands_the_job_on() -> None:
    started, go = asyncio.Event(), asyncio.Event()
    ran: list[str] = []

    async def body(ctx: Context) -> list[Any]:
        async def slow() -> str:
            started.set()
            await go.wait()
            return "slow"

        async def both() -> str:
            first = await ctx.step("slow", slow)
            ran.append("before next")
            return str(await ctx.step("next", lambda: f"{first} next"))

        return await ctx.gather(both(), ctx.ask("go", title="?"))

    job = MemoryJob()
    one = Pass(flow(body), job.port())
    task = asyncio.create_task(one.run())
    await started.wait()
    one.drain()
    go.set()
    end = await task
    await one.close()
    assert isinstance(end, ev.JobSuspended)
    assert [w.kind for w in end.data.waiting] == ["runner"]
    assert end.status == "retrying"
    assert [d.step for d in job.events(ev.StepCompleted)] == ["slow"]
    await job.run(flow(body))
    assert [d.step for d in job.events(ev.StepCompleted)] == ["slow", "next"]
    assert job.state.crashes == 0


async def test_a_drain_of_a_job_that_waits_anyway_suspends_it_as_ever() -> None:
    async def body(ctx: Context) -> None:
        await ctx.sleep(1)

    job = MemoryJob()
    one = Pass(flow(body), job.port())
    one.drain()
    end = await one.run()
    assert isinstance(end, ev.JobSuspended)
    assert [w.kind for w in end.data.waiting] == ["timer"]


async def test_a_drained_pass_that_has_ended_says_so() -> None:
    async def body(ctx: Context) -> str:
        return "done"

    job = MemoryJob()
    one = Pass(flow(body), job.port())
    one.drain()
    assert (await one.run()).status == "completed"


@pytest.mark.parametrize("where", ["task", "thread"])
async def test_a_halt_does_not_wait_for_steps(where: str) -> None:
    started, never = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    async def task() -> None:
        started.set()
        await asyncio.Event().wait()

    def thread() -> None:
        loop.call_soon_threadsafe(started.set)
        never.wait(30)

    async def body(ctx: Context) -> None:
        await ctx.step("long", task if where == "task" else thread)

    job = MemoryJob()
    one = Pass(flow(body), job.port())
    running = asyncio.create_task(one.run())
    await started.wait()
    one.halt()
    end = await running
    await one.close()
    never.set()
    assert isinstance(end, ev.JobSuspended)
    assert [w.kind for w in end.data.waiting] == ["runner"]
    assert job.events(ev.StepCompleted) == job.events(ev.StepFailed) == []


# -------------------------------------------------------------------------------------------------- interrupted


async def test_an_interrupted_attempt_stops_its_steps_and_writes_nothing() -> None:
    started, stopped = asyncio.Event(), []

    async def body(ctx: Context) -> None:
        async def long() -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                stopped.append("step")

        try:
            await ctx.step("long", long)
        finally:
            stopped.append("body")

    job = MemoryJob()
    port = job.port()
    task = asyncio.create_task(Pass(flow(body), port).run())
    await started.wait()
    seq = job.state.seq
    port.interrupt()
    with pytest.raises(Interrupted):
        await task
    assert sorted(stopped) == ["body", "step"]
    assert job.state.seq == seq


async def test_a_takeover_fences_the_attempt_before() -> None:
    started, go = asyncio.Event(), asyncio.Event()

    async def body(ctx: Context) -> str:
        async def long() -> str:
            started.set()
            await go.wait()
            return "done"

        return str(await ctx.step("long", long))

    job = MemoryJob()
    old = asyncio.create_task(Pass(flow(body), job.port()).run())
    await started.wait()
    started.clear()
    new = asyncio.create_task(Pass(flow(body), job.port(reason="lease_lost")).run())
    await started.wait()
    go.set()
    with pytest.raises(Interrupted):
        await old
    assert (await new).status == "completed"
    assert len(job.events(ev.StepCompleted)) == 1


async def test_a_pass_that_its_runner_cancels_stops_everything() -> None:
    started, stopped = asyncio.Event(), []

    async def body(ctx: Context) -> None:
        async def long() -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                stopped.append(True)

        await ctx.step("long", long)

    job = MemoryJob()
    task = asyncio.create_task(Pass(flow(body), job.port()).run())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stopped == [True]
