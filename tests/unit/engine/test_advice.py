"""What an author is told who did what cannot be: each message says what went wrong, where, and the cure."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest
import structlog

from perdure import ConcurrencyError, Context, Workflow
from perdure.core import event as ev
from perdure.testing.memory import MemoryJob

Body = Callable[[Context], Awaitable[Any]]


async def inside_a_step(ctx: Context) -> None:
    async def fn() -> None:
        await ctx.sleep(1)

    await ctx.step("it", fn)


async def from_a_task_of_its_own(ctx: Context) -> None:
    await asyncio.create_task(ctx.step("it", lambda: 1))


async def from_a_thread(ctx: Context) -> None:
    await asyncio.to_thread(ctx.now)


async def with_wait_for(ctx: Context) -> None:
    await asyncio.wait_for(ctx.step("it", asyncio.Event().wait), 0.01)


async def with_a_timeout_around(ctx: Context) -> None:
    async with asyncio.timeout(0.01):
        await ctx.step("it", asyncio.Event().wait)


async def with_the_key_in_the_body(ctx: Context) -> None:
    _ = ctx.idempotency_key


async def with_input_and_output_in_the_body(ctx: Context) -> None:
    await asyncio.Event().wait()


async def with_a_loop_that_never_calls(ctx: Context) -> None:
    while True:  # noqa: ASYNC110  # what no author should do
        await asyncio.sleep(0)


async def with_one_path_twice(ctx: Context) -> None:
    async def one() -> None:
        await ctx.sleep(1)

    nodes = ctx._nodes()
    nodes.start("/one", one())
    second = one()
    try:
        nodes.start("/one", second)
    finally:
        second.close()


CURES: Final[list[tuple[Body, list[str]]]] = [
    (inside_a_step, ["step it", "in the workflow, before or after the step"]),
    (from_a_task_of_its_own, ["with ctx.gather, not with asyncio tasks"]),
    (from_a_thread, ["task or thread", "ctx.gather"]),
    (with_wait_for, ["timeout="]),  # before Python 3.12 it makes a task, then a timeout
    (with_a_timeout_around, ["step it#1", "timeout=", "not with asyncio.timeout or wait_for"]),
    (with_the_key_in_the_body, ["read it inside the step's function"]),
    (with_input_and_output_in_the_body, ["branch /", "test_advice.py:", "belong into a step"]),
    (with_a_loop_that_never_calls, ["branch /", "without a call", "belong into a step"]),
    (with_one_path_twice, ["/one", "a path of its own"]),
]


@pytest.mark.parametrize(("body", "parts"), CURES, ids=[body.__name__ for body, _ in CURES])
async def test_the_message_of_a_misuse_names_its_cure(
    body: Body, parts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.engine.branches.MOST_TURNS", 1_000)
    raised: list[str] = []

    async def noted(ctx: Context) -> None:
        try:
            await body(ctx)
        except ConcurrencyError as exc:
            raised.append(str(exc))
            raise

    job = MemoryJob()
    await job.run(Workflow("flow", noted), hang_seconds=0.05)
    error = job.events(ev.JobFailed)[0].error
    assert error.code == "concurrency_error"
    for part in parts:
        assert part in error.message
    assert raised in ([], [error.message])


async def test_code_that_no_longer_fits_is_told_with_what_to_do() -> None:
    async def first(ctx: Context) -> None:
        await ctx.step("one", lambda: 1)
        await ctx.sleep(3600)

    async def second(ctx: Context) -> None:
        await ctx.step("zero", lambda: 0)
        await ctx.step("one", lambda: 1)
        await ctx.sleep(3600)

    job = MemoryJob()
    await job.live(Workflow("flow", first))
    with structlog.testing.capture_logs() as lines:
        await job.live(Workflow("flow", second))
    (wait,) = job.events(ev.JobSuspended)[-1].waiting
    assert (wait.kind, wait.expected, wait.found) == ("code", "step one#1", "step zero#1")
    told = next(line["error"] for line in lines if line["event"] == "code does not fit the log")
    assert "branch /: the log recorded step one#1, the code now calls step zero#1" in told
    assert "run the job with the code it was started with" in told
    assert "add new calls only after the recorded ones" in told
