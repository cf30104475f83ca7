"""Code that no longer fits the log: noticed by the recorded keys of each path, waited for, never guessed over."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from perdure import Context, StepFailed, Terminal, Workflow
from perdure.core import event as ev
from perdure.core.instant import seconds_between
from perdure.engine.attempt import Pass
from perdure.testing.memory import MemoryJob

Body = Callable[[Context], Awaitable[Any]]


async def recorded(ctx: Context) -> Any:
    """What the log was written by."""
    await ctx.step("one", lambda a: a, 1)
    await ctx.gather(ctx.step("left", lambda: "l"), ctx.step("right", lambda: "r"))
    await ctx.output("shown", 1)
    await ctx.ask("go", title="?")
    return await ctx.step("last", lambda: "last")


async def asleep_at_go() -> MemoryJob:
    job = MemoryJob()
    end = await job.run(Workflow("flow", recorded))
    assert isinstance(end, ev.JobSuspended)
    return job


async def met_by(body: Body, *, answered: bool = False) -> MemoryJob:
    """The recorded job, in the hands of other code."""
    job = await asleep_at_go()
    if answered:
        job.answer("go", "approve")
    await job.live(Workflow("flow", body))
    return job


async def changed(body: Body, **options: Any) -> ev.Waiting:
    job = await met_by(body, **options)
    end = job.log[-1]
    assert isinstance(end, ev.JobSuspended)
    assert end.status == "retrying"
    (wait,) = end.data.waiting
    assert wait.kind == "code"
    assert wait.until is not None
    return wait


async def test_a_renamed_step_is_noticed() -> None:
    async def body(ctx: Context) -> None:
        await ctx.step("uno", lambda a: a, 1)

    wait = await changed(body)
    assert (wait.path, wait.expected, wait.found) == ("", "step one#1", "step uno#1")


async def test_another_argument_is_noticed() -> None:
    async def body(ctx: Context) -> None:
        await ctx.step("one", lambda a: a, 2)

    wait = await changed(body)
    assert (wait.expected, wait.found) == ("step one#1", "step one#1 with other arguments")


async def test_an_argument_that_cannot_be_encoded_is_not_compared() -> None:
    async def body(ctx: Context) -> None:
        await ctx.step("one", lambda a: a, object())
        await ctx.gather(ctx.step("left", lambda: "l"), ctx.step("right", lambda: "r"))
        await ctx.output("shown", 1)
        await ctx.ask("go", title="?")

    job = await met_by(body)
    assert isinstance(job.log[-1], ev.JobSuspended)
    assert job.log[-1].status == "suspended"


async def test_another_kind_of_call_is_noticed() -> None:
    async def body(ctx: Context) -> None:
        await ctx.sleep(60, name="one")

    wait = await changed(body)
    assert (wait.expected, wait.found) == ("step one#1", "sleep one#1")


async def test_swapped_branches_are_noticed_in_their_paths() -> None:
    async def body(ctx: Context) -> None:
        await ctx.step("one", lambda a: a, 1)
        await ctx.gather(ctx.step("right", lambda: "r"), ctx.step("left", lambda: "l"))

    wait = await changed(body)
    assert wait.path in ("/1.1", "/1.2")
    assert {wait.expected, wait.found} == {"step left#1", "step right#1"}


async def test_a_branch_that_is_gone_is_noticed() -> None:
    async def body(ctx: Context) -> None:
        await ctx.step("one", lambda a: a, 1)
        await ctx.gather(ctx.step("left", lambda: "l"))
        await ctx.output("shown", 1)

    wait = await changed(body)
    assert (wait.path, wait.expected, wait.found) == ("/1.2", "step right#1", "no such branch: / is at output shown#1")


async def test_a_step_put_in_between_is_noticed_and_does_not_run() -> None:
    ran: list[str] = []

    async def body(ctx: Context) -> None:
        await ctx.step("one", lambda a: a, 1)
        await ctx.step("new", lambda: ran.append("new"))

    wait = await changed(body)
    assert wait.found == "no such branch: / is at step new#1"
    assert ran == []


async def test_code_that_stops_short_is_noticed() -> None:
    async def body(ctx: Context) -> str:
        await ctx.step("one", lambda a: a, 1)
        return "early"

    wait = await changed(body)
    assert wait.found == "no such branch: / is at its end"


async def test_code_that_fails_short_is_noticed_too() -> None:
    async def body(ctx: Context) -> str:
        raise ValueError("a bug of today")

    wait = await changed(body)
    assert (wait.expected, wait.found) == ("step one#1", "end")


async def test_a_request_that_is_gone_is_noticed() -> None:
    async def body(ctx: Context) -> Any:
        await ctx.step("one", lambda a: a, 1)
        await ctx.gather(ctx.step("left", lambda: "l"), ctx.step("right", lambda: "r"))
        await ctx.output("shown", 1)
        return await ctx.step("last", lambda: "last")

    wait = await changed(body, answered=True)
    assert (wait.expected, wait.found) == ("ask go#1", "step last#1")


async def test_steps_added_after_the_recorded_ones_are_fine() -> None:
    async def body(ctx: Context) -> Any:
        await recorded(ctx)
        return await ctx.step("added", lambda: "added")

    job = await met_by(body, answered=True)
    assert job.log[-1].status == "completed"


async def test_other_code_of_the_functions_themselves_is_fine() -> None:
    async def body(ctx: Context) -> Any:
        await ctx.step("one", lambda a: a + 100, 1)
        await ctx.gather(ctx.step("left", lambda: "other"), ctx.step("right", lambda: "other"))
        await ctx.output("shown", 1)
        await ctx.ask("go", title="Another title?")
        return await ctx.step("last", lambda: "last")

    job = await met_by(body, answered=True)
    assert job.log[-1].status == "completed"


async def test_a_branch_may_change_after_its_recorded_calls_without_touching_the_others() -> None:
    async def before(ctx: Context) -> None:
        async def left() -> None:
            await ctx.step("x", lambda: 1)
            await ctx.ask("left", title="?")

        await ctx.gather(left(), ctx.step("x", lambda: 2))

    async def after(ctx: Context) -> None:
        async def left() -> None:
            await ctx.step("x", lambda: 1)
            await ctx.ask("left", title="?")
            await ctx.step("x", lambda: 3)

        await ctx.gather(left(), ctx.step("x", lambda: 2))

    job = MemoryJob()
    await job.run(Workflow("flow", before))
    job.answer("left", "approve")
    await job.run(Workflow("flow", after))
    done = sorted((d.path, d.occurrence, d.result) for d in job.events(ev.StepCompleted))
    assert done == [("/1.1", 1, 1), ("/1.1", 2, 3), ("/1.2", 1, 2)]


async def test_a_result_that_does_not_fit_the_new_annotation_is_noticed() -> None:
    def number(a: int) -> list[int]:
        return [a]

    async def body(ctx: Context) -> None:
        await ctx.step("one", number, 1)

    wait = await changed(body)
    assert wait.expected == "step one#1"
    assert "another result type" in (wait.found or "")


async def test_the_back_off_grows_from_ten_seconds_to_ten_minutes_and_starts_over() -> None:
    async def other(ctx: Context) -> None:
        await ctx.step("other", lambda: 1)

    job = await asleep_at_go()
    waits = []
    for _ in range(9):
        end = await job.live(Workflow("flow", other))
        assert isinstance(end, ev.JobSuspended)
        waits.append(round(seconds_between(end.at, end.data.waiting[0].until or end.at)))
    assert waits == [10, 20, 40, 80, 160, 320, 600, 600, 600]
    await job.live(Workflow("flow", recorded))
    end = await job.live(Workflow("flow", other))
    assert isinstance(end, ev.JobSuspended)
    assert round(seconds_between(end.at, end.data.waiting[0].until or end.at)) == 10


async def test_the_right_code_goes_on_where_the_wrong_one_stopped() -> None:
    async def other(ctx: Context) -> None:
        await ctx.step("other", lambda: 1)

    job = await met_by(other)
    job.answer("go", "approve")
    job.clock.advance(10)
    await job.run(Workflow("flow", recorded))
    assert job.outputs == {"shown": 1}
    assert [d.step for d in job.events(ev.StepCompleted)] == ["one", "left", "right", "last"]


async def test_a_failed_step_is_an_entry_like_any_other() -> None:
    def bad() -> None:
        raise Terminal("no")

    async def before(ctx: Context) -> None:
        with pytest.raises(StepFailed):
            await ctx.step("bad", bad)
        await ctx.ask("go", title="?")

    async def after(ctx: Context) -> None:
        await ctx.ask("go", title="?")

    job = MemoryJob()
    await job.run(Workflow("flow", before))
    end = await job.live(Workflow("flow", after))
    assert isinstance(end, ev.JobSuspended)
    assert (end.data.waiting[0].expected, end.data.waiting[0].found) == ("step bad#1", "ask go#1")


async def test_a_sleep_that_was_cut_short_is_noticed() -> None:
    async def before(ctx: Context) -> None:
        await ctx.sleep(60, name="nap")
        await ctx.ask("go", title="?")

    async def after(ctx: Context) -> None:
        await ctx.ask("go", title="?")

    job = MemoryJob()
    await job.run(Workflow("flow", before))
    end = await job.live(Workflow("flow", after))
    assert isinstance(end, ev.JobSuspended)
    assert end.data.waiting[0].expected == "sleep nap#1"


async def test_a_cancel_still_ends_a_job_whose_code_changed() -> None:
    job = await asleep_at_go()
    port = job.port()
    job.cancel(grace_seconds=5)

    async def other(ctx: Context) -> None:
        await ctx.step("other", lambda: 1)

    end = await Pass(Workflow("flow", other), port).run()
    assert end.status == "retrying"
    job.clock.advance(6)
    end = await job.run(Workflow("flow", other))
    assert isinstance(end, ev.JobCancelled)
