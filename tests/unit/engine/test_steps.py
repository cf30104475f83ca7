"""Steps: what is recorded of a function's end, when it is tried again, what its caller gets."""

import asyncio
import contextvars
import threading
from collections import Counter
from datetime import date
from functools import partial
from typing import Any

import msgspec
import pydantic
import pytest

from perdure import (
    Closed,
    ConcurrencyError,
    Context,
    Named,
    Result,
    Retryable,
    RetryPolicy,
    StepFailed,
    Terminal,
    Usage,
    Workflow,
)
from perdure.core import event as ev
from perdure.core.codec import MAX_VALUE_BYTES
from perdure.core.instant import seconds_between
from perdure.testing.clock import FixedChance
from perdure.testing.memory import MemoryJob

TWICE = RetryPolicy(max_failures=2)


async def ended(body: Any, job: MemoryJob | None = None, **options: Any) -> MemoryJob:
    """A job that ran `body` to its end."""
    job = job or MemoryJob()
    await job.run(Workflow("flow", body), **options)
    return job


async def step_alone(fn: Any, **options: Any) -> MemoryJob:
    """A job of the one step `it`."""

    async def body(ctx: Context) -> Any:
        return await ctx.step("it", fn, **options)

    return await ended(body)


# -------------------------------------------------------------------------------------------------- what a step may be


async def test_a_step_is_an_async_function_in_a_task_of_its_own() -> None:
    tasks = []

    async def fn() -> str:
        tasks.append(asyncio.current_task())
        return "done"

    async def body(ctx: Context) -> str:
        tasks.append(asyncio.current_task())
        return str(await ctx.step("it", fn))

    job = await ended(body)
    assert job.outputs == {"result": "done"}
    assert tasks[0] is not tasks[1]


async def test_a_synchronous_step_runs_in_a_thread() -> None:
    def fn(a: int, *, b: int) -> list[Any]:
        return [a + b, threading.current_thread() is threading.main_thread()]

    async def body(ctx: Context) -> list[Any]:
        return [await ctx.step("it", fn, 1, b=2), await ctx.step("part", partial(fn, 3), b=4)]

    assert (await ended(body)).outputs == {"result": [[3, False], [7, False]]}


async def test_a_lambda_around_an_async_function_is_a_step() -> None:
    async def fn() -> int:
        return 7

    assert (await step_alone(lambda: fn())).outputs == {"result": 7}


async def test_an_object_with_an_async_call_is_a_step() -> None:
    class Adder:
        async def __call__(self, a: int) -> int:
            return a + 1

    async def body(ctx: Context) -> Any:
        return await ctx.step("it", Adder(), 1)

    assert (await ended(body)).outputs == {"result": 2}


async def test_a_step_inherits_the_context_variables_of_its_branch() -> None:
    who = contextvars.ContextVar("who", default="nobody")

    async def later(fn: Any) -> Any:
        return fn()

    async def both(ctx: Context) -> list[str]:
        who.set("me")
        return [await ctx.step("thread", lambda: who.get()), await ctx.step("task", later, who.get)]

    assert (await ended(both)).outputs == {"result": ["me", "me"]}


# -------------------------------------------------------------------------------------------------- what is recorded


async def test_the_event_carries_what_the_step_was_and_cost() -> None:
    async def fn(text: str) -> Result[str]:
        return Result(text.upper(), usage=Usage(input_tokens=3, output_tokens=5, model="m"))

    async def body(ctx: Context) -> None:
        got = await ctx.step("draft", fn, "a", component="chat_model", output=Named(name="post", kind="text"))
        assert got == "A"

    job = await ended(body)
    (done,) = job.events(ev.StepCompleted)
    assert (done.step, done.occurrence, done.path, done.result) == ("draft", 1, "", "A")
    assert (done.component, done.output.name, done.usage.output_tokens) == ("chat_model", "post", 5)
    assert len(done.args_digest) == 16
    assert job.outputs == {"post": "A"}
    assert job.events(ev.JobCompleted)[0].usage == Usage(input_tokens=3, output_tokens=5, model="m")


async def test_the_caller_gets_the_decoded_value_in_the_first_pass_too() -> None:
    given = {"day": date(2026, 1, 2), "pair": (1, 2)}

    async def body(ctx: Context) -> bool:
        got = await ctx.step("it", lambda: given)
        assert got == {"day": "2026-01-02", "pair": [1, 2]}
        got["day"] = "changed"  # its own copy: the log stays as it is
        return True

    job = await ended(body)
    assert job.events(ev.StepCompleted)[0].result["day"] == "2026-01-02"


class Point(msgspec.Struct):
    x: int
    at: date


class Model(pydantic.BaseModel):
    x: int
    at: date


async def test_a_result_is_converted_to_the_return_annotation_or_to_returns() -> None:
    def point() -> Point:
        return Point(1, date(2026, 1, 2))

    async def models() -> list[Model]:
        return [Model(x=2, at=date(2026, 1, 3))]

    async def with_usage() -> Result[Point]:
        return Result(Point(3, date(2026, 1, 4)))

    async def body(ctx: Context) -> bool:
        assert await ctx.step("struct", point) == Point(1, date(2026, 1, 2))
        assert await ctx.step("models", models) == [Model(x=2, at=date(2026, 1, 3))]
        assert await ctx.step("usage", with_usage) == Point(3, date(2026, 1, 4))
        assert await ctx.step("returns", lambda: {"x": 4, "at": "2026-01-05"}, returns=Point) == Point(
            4, date(2026, 1, 5)
        )
        assert await ctx.step("keys", lambda: {1: "a"}, returns=dict[int, str]) == {1: "a"}
        return True

    job = await ended(body)
    assert job.state.status == "completed", job.log[-1]


@pytest.mark.parametrize(
    ("value", "code"),
    [(object(), "not_serialisable"), ({1: object()}, "not_serialisable"), ("x" * (MAX_VALUE_BYTES + 1), "too_large")],
)
async def test_a_result_that_cannot_be_recorded_fails_for_good(value: object, code: str) -> None:
    job = await step_alone(lambda: value)
    (failed,) = job.events(ev.StepFailed)
    assert (failed.error.code, failed.final, failed.error.retryable) == (code, True, False)
    assert job.log[-1].status == "failed"


async def test_a_result_that_does_not_fit_its_annotation_fails_for_good() -> None:
    def wrong() -> int:
        return "x"  # type: ignore[return-value]  # that is the fault

    job = await step_alone(wrong)
    assert job.events(ev.StepFailed)[0].error.code == "not_serialisable"


# -------------------------------------------------------------------------------------------------- failures


async def test_failures_are_counted_by_the_log_and_the_fifth_is_final() -> None:
    tries: Counter[str] = Counter()

    def fn() -> None:
        tries["it"] += 1
        raise ValueError(f"no {tries['it']}")

    job = await step_alone(fn)
    failed = job.events(ev.StepFailed)
    assert [f.failures for f in failed] == [1, 2, 3, 4, 5]
    assert [f.final for f in failed] == [False] * 4 + [True]
    assert tries["it"] == 5
    assert [f.retry_at is None for f in failed] == [False] * 4 + [True]
    (end,) = job.events(ev.JobFailed)
    assert end.error == ev.Failure(code="step_failed", message="ValueError: no 5", retryable=True, step="it")
    assert end.failures == 5


async def test_delays_double_with_full_jitter() -> None:
    job = MemoryJob(chance=FixedChance([0.25, 0.25, 1.0, 0.5]))

    async def body(ctx: Context) -> None:
        await ctx.step("it", lambda: 1 / 0, retry=RetryPolicy(max_failures=5, first_seconds=1, most_seconds=3))

    await ended(body, job)
    at = [e for e in job.log if isinstance(e, ev.StepFailed)]
    waits = [seconds_between(e.at, e.data.retry_at) for e in at if e.data.retry_at]
    assert [round(w, 2) for w in waits] == [0.25, 0.5, 3.0, 1.5]


async def test_a_short_back_off_is_waited_out_and_a_long_one_suspends() -> None:
    async def body(ctx: Context) -> None:
        await ctx.step("it", lambda: 1 / 0, retry=RetryPolicy(max_failures=4, first_seconds=2, most_seconds=60))

    job = await ended(body, MemoryJob(chance=FixedChance([0.9])))  # 1.8, 3.6, 7.2 seconds
    asleep = job.events(ev.JobSuspended)
    assert [[w.kind for w in s.waiting] for s in asleep] == [["backoff"], ["backoff"]]
    assert [e.status for e in job.log if isinstance(e, ev.JobSuspended)] == ["retrying", "retrying"]
    assert asleep[0].waiting[0].name == "it"
    assert job.state.attempt == 3


async def test_other_branches_go_on_during_a_back_off() -> None:
    tries: Counter[str] = Counter()

    async def sometimes() -> str:
        tries["it"] += 1
        if tries["it"] == 1:
            raise Retryable("not yet", code="busy")
        return "it"

    async def body(ctx: Context) -> list[Any]:
        return await ctx.gather(ctx.step("it", sometimes), ctx.step("other", lambda: "other"))

    job = await ended(body, MemoryJob(chance=FixedChance([0.99])))
    names = [type(e).__name__ for e in job.log[2:]]
    assert names == ["StepFailed", "StepCompleted", "StepCompleted", "JobCompleted"]
    assert job.events(ev.StepFailed)[0].error.code == "busy"


async def test_retry_now_ends_a_back_off() -> None:
    tries: Counter[str] = Counter()

    async def body(ctx: Context) -> str:
        def fn() -> str:
            tries["it"] += 1
            if tries["it"] == 1:
                raise Retryable("no")
            return "yes"

        return str(await ctx.step("it", fn, retry=RetryPolicy(first_seconds=300)))

    job = MemoryJob(chance=FixedChance([0.9]))
    asleep = await job.live(Workflow("flow", body))
    assert asleep.status == "retrying"
    job.signal("$retry_now")
    end = await job.live(Workflow("flow", body))
    assert end.status == "completed"
    assert tries["it"] == 2


async def test_terminal_ends_a_step_at_once_and_can_be_caught() -> None:
    def fn() -> None:
        raise Terminal("bad card", code="card_refused")

    async def body(ctx: Context) -> str:
        try:
            await ctx.step("pay", fn)
        except StepFailed as exc:
            return f"{exc.step} {exc.code} {exc.message} {exc.retryable}"
        return "paid"

    assert (await ended(body)).outputs == {"result": "pay card_refused bad card False"}


async def test_max_failures_of_the_job_replaces_the_default_but_no_policy() -> None:
    async def body(ctx: Context) -> None:
        with pytest.raises(StepFailed):
            await ctx.step("default", lambda: 1 / 0)
        with pytest.raises(StepFailed):
            await ctx.step("own", lambda: 1 / 0, retry=RetryPolicy(max_failures=3, first_seconds=0))

    job = await ended(body, MemoryJob(max_failures=2))
    assert Counter(f.step for f in job.events(ev.StepFailed)) == {"default": 2, "own": 3}
    assert job.log[-1].status == "completed"


async def test_a_step_that_takes_too_long_fails_and_is_tried_again() -> None:
    started: list[str] = []

    async def fn() -> str:
        started.append("")
        if len(started) == 1:
            await asyncio.Event().wait()
        return "in time"

    job = await step_alone(fn, timeout=0.01, retry=TWICE)
    assert job.outputs == {"result": "in time"}
    (failed,) = job.events(ev.StepFailed)
    assert (failed.error.code, failed.error.message) == ("timeout", "no result within 0.01 s")


async def test_a_thread_that_takes_too_long_is_not_waited_for() -> None:
    done = threading.Event()
    job = await step_alone(lambda: done.wait(30), timeout=0.01, retry=RetryPolicy(max_failures=1))
    done.set()
    assert job.events(ev.StepFailed)[0].error.code == "timeout"


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError(), StopIteration(), Closed()]
)
@pytest.mark.parametrize("where", ["task", "thread"])
async def test_no_exception_of_a_step_leaves_it(error: BaseException, where: str) -> None:
    async def task() -> None:
        raise error

    def thread() -> None:
        raise error

    job = await step_alone(task if where == "task" else thread, retry=RetryPolicy(max_failures=1))
    (failed,) = job.events(ev.StepFailed)
    assert failed.error.code == "step_failed"
    expected = "RuntimeError" if isinstance(error, StopIteration) and where == "task" else type(error).__name__
    assert failed.error.message.startswith(expected.replace("Closed", "CancelledError"))
    assert job.log[-1].status == "failed"


async def test_a_long_message_is_cut() -> None:
    def fn() -> None:
        raise Terminal("x" * 100_000)

    job = await step_alone(fn)
    assert 2000 <= len(job.events(ev.StepFailed)[0].error.message) < 2010


# -------------------------------------------------------------------------------------------------- inside a step


async def test_inside_a_step_the_context_shows_and_tells_but_starts_nothing() -> None:
    keys = []

    async def body(ctx: Context) -> None:
        async def fn() -> None:
            ctx.delta("Hel")
            ctx.delta("lö ")
            ctx.delta("other", channel="m-2")
            ctx.delta("there")
            ctx.log("looking", level="debug", size=3)
            await ctx.progress(1, 2, "half")
            keys.append(ctx.idempotency_key)
            assert (ctx.cancelled, ctx.attempt) == (False, 1)

        await ctx.step("it", fn)

    job = await ended(body)
    text = [(d["channel"], d["pos"], d["text"]) for kind, d in job.deltas if kind == "delta.text"]
    assert text == [("m-1", 0, "Hel"), ("m-1", 3, "lö "), ("m-2", 0, "other"), ("m-1", 6, "there")]
    assert all((d["step"], d["occurrence"], "path" in d) == ("it", 1, False) for _, d in job.deltas)
    assert [kind for kind, _ in job.deltas] == ["delta.step", *["delta.text"] * 4, "delta.log", "delta.progress"]
    assert job.deltas[0][1]["kind"] == "started"
    assert job.deltas[-1][1]["done"] == 1
    assert job.events(ev.Progress) == []


async def test_a_thread_of_a_step_may_show_too() -> None:
    async def body(ctx: Context) -> None:
        def fn() -> None:
            ctx.delta("a")
            _ = ctx.progress(1)
            ctx.delta("b")

        await ctx.step("it", fn)

    job = await ended(body)
    assert [d.get("pos") for kind, d in job.deltas if kind == "delta.text"] == [0, 1]


async def test_the_idempotency_key_is_the_same_at_each_try_and_another_for_each_step() -> None:
    keys: dict[str, list[str]] = {"a": [], "b": []}

    async def body(ctx: Context) -> None:
        def fn(name: str) -> None:
            keys[name].append(ctx.idempotency_key)
            if len(keys[name]) < 3:
                raise Retryable("again")

        await ctx.step("a", fn, "a")
        await ctx.step("b", fn, "b")

    await ended(body)
    assert len(set(keys["a"])) == len(set(keys["b"])) == 1
    assert keys["a"][0] != keys["b"][0]


@pytest.mark.parametrize("call", ["step", "ask", "sleep", "gather", "output", "now", "uuid"])
async def test_every_other_member_is_refused_inside_a_step(call: str) -> None:
    async def body(ctx: Context) -> None:
        async def fn() -> None:
            match call:
                case "step":
                    await ctx.step("inner", lambda: 1)
                case "ask":
                    await ctx.ask("inner", title="?")
                case "sleep":
                    await ctx.sleep(1)
                case "gather":
                    await ctx.gather(fn())
                case "output":
                    await ctx.output("x", 1)
                case "now":
                    ctx.now()
                case _:
                    ctx.uuid()

        await ctx.step("it", fn)

    job = await ended(body)
    (failed,) = job.events(ev.StepFailed)
    assert (failed.error.code, failed.final) == ("concurrency_error", True)
    assert "inside a step" in failed.error.message


async def test_the_key_of_a_step_is_refused_in_the_body() -> None:
    async def body(ctx: Context) -> None:
        with pytest.raises(ConcurrencyError, match="inside the step"):
            _ = ctx.idempotency_key

    assert (await ended(body)).log[-1].status == "completed"


async def test_a_message_that_is_no_text_is_recorded_all_the_same() -> None:
    def fn() -> None:
        raise Terminal("bad \udc80 byte")

    job = await step_alone(fn)
    assert job.events(ev.StepFailed)[0].error.message == "bad ? byte"
