"""Code that hands in what no event can hold: its job ends with a reason, the log stays readable, no attempt is lost."""

import asyncio
from typing import Any

import pydantic
import pytest

from perdure import Context, Named, Result, Retryable, RetryPolicy, Usage, Workflow
from perdure.core import event as ev
from perdure.core.instant import END
from perdure.testing.memory import MemoryJob

ONCE = RetryPolicy(max_failures=1)


class Mute(Exception):
    """Cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Undumpable:
    """Looks like a model and is none."""

    def model_dump(self, mode: str) -> object:
        raise SystemExit(mode)


class Choosy(pydantic.BaseModel):
    a: int

    @pydantic.field_validator("a")
    @classmethod
    def _never(cls, value: int) -> int:
        raise KeyError("a mistake in a validator")


def raising(error: BaseException) -> Any:
    def fn() -> None:
        raise error

    return fn


async def ended(body: Any) -> ev.Failure:
    """How the job of `body` failed: in its first attempt, not by a runner's death."""
    job = MemoryJob()
    async with asyncio.timeout(20):
        end = await job.run(Workflow("flow", body))
    assert isinstance(end, ev.JobFailed)
    assert job.state.attempt == 1
    return end.data.error


@pytest.mark.parametrize(
    ("fn", "options", "code"),
    [
        (raising(Mute()), {}, "step_failed"),
        (raising(Retryable("x", code=5)), {}, "step_failed"),  # type: ignore[arg-type]
        (raising(Retryable("x", code="\ud800")), {}, "step_failed"),
        (raising(Retryable("x", after_seconds="5")), {}, "step_failed"),  # type: ignore[arg-type]
        (lambda: Undumpable(), {}, "not_serialisable"),
        (lambda: {"a": 1}, {"returns": Choosy}, "not_serialisable"),
        (lambda: 1, {"output": Named(name="\ud800", kind="data")}, "not_serialisable"),
        (lambda: Result(1, Usage(input_tokens="many", output_tokens=1)), {}, "not_serialisable"),  # type: ignore[arg-type]
    ],
)
async def test_a_step_whose_end_no_event_can_hold_fails(fn: Any, options: dict[str, Any], code: str) -> None:
    async def body(ctx: Context) -> None:
        await ctx.step("it", fn, retry=ONCE, **options)

    error = await ended(body)
    assert (error.code, error.step) == (code, "it")


@pytest.mark.parametrize(
    "call",
    [
        lambda ctx: ctx.ask("a", title=5),
        lambda ctx: ctx.ask("a", title="?", assignees=["bob"]),
        lambda ctx: ctx.ask("a", title="?", actions=[ev.Action(id="a", label="\ud800")]),
        lambda ctx: ctx.ask("a", title="?", proposal=1, editable=[5]),
        lambda ctx: ctx.ask("a", title="?", expires_in=float("nan")),
        lambda ctx: ctx.output("o", 1, kind="weird"),
        lambda ctx: ctx.progress("half"),
    ],
)
async def test_a_call_whose_arguments_make_no_event_is_told_so(call: Any) -> None:
    async def body(ctx: Context) -> None:
        await call(ctx)

    error = await ended(body)
    assert error.code == "workflow_failed"
    assert error.message.startswith(("Malformed: ", "Invalid: /"))


@pytest.mark.parametrize("raised", [Mute(), Retryable("x", code=5)])  # type: ignore[arg-type]
async def test_a_body_that_ends_with_an_error_without_words_fails(raised: Exception) -> None:
    async def body(ctx: Context) -> None:
        raise raised

    assert (await ended(body)).code in ("workflow_failed", "step_failed")


async def test_a_result_that_cannot_be_dumped_fails_the_job() -> None:
    async def body(ctx: Context) -> Undumpable:
        return Undumpable()

    assert (await ended(body)).code == "not_serialisable"


@pytest.mark.parametrize("seconds", [1e12, float("inf")])
async def test_a_wait_beyond_the_calendar_lasts_until_the_deadline(seconds: float) -> None:
    async def body(ctx: Context) -> None:
        async def step() -> None:
            forever = RetryPolicy(max_failures=2, first_seconds=seconds, most_seconds=seconds)
            await ctx.step("it", raising(ValueError()), retry=forever)

        await ctx.gather(ctx.ask("a", title="?", expires_in=seconds), ctx.sleep(seconds), step())

    job = MemoryJob()
    asleep = await job.live(Workflow("flow", body))
    assert isinstance(asleep, ev.JobSuspended)
    assert {(w.kind, w.until) for w in asleep.data.waiting} == {("input", END), ("timer", END), ("backoff", END)}


@pytest.mark.parametrize("where", ["response_schema", "proposal_schema"])
async def test_a_request_whose_schema_no_answer_could_fit_is_not_asked(where: str) -> None:
    async def body(ctx: Context) -> None:
        await ctx.ask("a", title="?", proposal=1, **{where: {"type": "nonsense"}})  # type: ignore[call-overload]

    assert (await ended(body)).code == "workflow_failed"
