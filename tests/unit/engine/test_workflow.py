"""Workflows: how they are declared and found, what they are given, what their end amounts to."""

import asyncio
import subprocess
import sys
import types
from typing import Any

import msgspec
import pydantic
import pytest

import perdure
from perdure import Context, Named, Workflow, workflow
from perdure.core import event as ev
from perdure.engine.workflow import load
from perdure.errors import Malformed
from perdure.testing.memory import MemoryJob


async def ended(body: Any, given: Any = None) -> MemoryJob:
    job = MemoryJob(given)
    await job.run(Workflow("flow", body))
    return job


# -------------------------------------------------------------------------------------------------- declaring


async def test_the_decorator_makes_a_workflow_with_and_without_a_name() -> None:
    @workflow
    async def plain(ctx: Context) -> None: ...

    @workflow(name="other.name")
    async def named(ctx: Context) -> None: ...

    assert (plain.name, named.name) == ("plain", "other.name")


def test_a_workflow_is_async_and_has_a_flow_name() -> None:
    with pytest.raises(TypeError):
        workflow(lambda ctx: None)  # type: ignore[arg-type, return-value]  # that is the fault
    with pytest.raises(Malformed):

        @workflow(name="Not A Name")
        async def flow(ctx: Context) -> None: ...


def test_a_module_is_searched_for_its_workflows(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fn(ctx: Context) -> None: ...

    one, two = Workflow("one", fn), Workflow("two", fn)
    module = types.ModuleType("their_app")
    vars(module).update(a=one, again=one, b=two, c=3)
    monkeypatch.setitem(sys.modules, "their_app", module)
    assert load("their_app") == {"one": one, "two": two}
    vars(module).update(d=Workflow("one", ended))
    with pytest.raises(Malformed):
        load("their_app")


def test_every_public_name_is_there_and_importing_perdure_loads_little() -> None:
    for name in perdure.__all__:
        assert getattr(perdure, name) is not None
    assert set(perdure.__all__) <= set(dir(perdure))
    with pytest.raises(AttributeError):
        _ = perdure.nothing
    code = "import sys, perdure; print([m for m in ('msgspec', 'asyncio', 'pydantic', 'nats') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.strip() == "[]"
    )


# -------------------------------------------------------------------------------------------------- input


class Point(msgspec.Struct):
    x: int


class Model(pydantic.BaseModel):
    x: int


async def test_the_input_is_converted_to_its_annotation() -> None:
    async def struct(ctx: Context, given: Point) -> int:
        return given.x

    async def model(ctx: Context, given: Model) -> int:
        return given.x

    async def raw(ctx: Context, given: Any) -> Any:
        return [given, ctx.input]

    async def none(ctx: Context) -> Any:
        return ctx.input["x"]

    assert [(await ended(body, {"x": 3})).outputs["result"] for body in (struct, model, none)] == [3, 3, 3]
    assert (await ended(raw, {"x": 3})).outputs["result"] == [{"x": 3}, {"x": 3}]


async def test_an_input_that_does_not_fit_fails_the_job() -> None:
    async def body(ctx: Context, given: Point) -> None: ...

    job = await ended(body, {"x": "three"})
    assert "does not fit Point" in job.events(ev.JobFailed)[0].error.message


# -------------------------------------------------------------------------------------------------- the end


async def test_a_returned_value_is_the_output_result() -> None:
    async def body(ctx: Context) -> list[int]:
        return [1]

    assert (await ended(body)).outputs == {"result": [1]}


async def test_nothing_returned_is_no_output() -> None:
    async def body(ctx: Context) -> None: ...

    job = await ended(body)
    assert job.outputs == {}
    assert job.log[-1].status == "completed"


async def test_named_outputs_replace_the_returned_value() -> None:
    async def body(ctx: Context) -> str:
        await ctx.output("post", "text")
        await ctx.output("post", "better text")
        await ctx.output("data", {"a": 1})
        await ctx.step("marked", lambda: "m", output=Named(name="marked", kind="text"))
        return "dropped"

    job = await ended(body)
    assert job.outputs == {"post": "better text", "data": {"a": 1}, "marked": "m"}
    assert [(o.name, o.occurrence, o.kind) for o in job.events(ev.Output)] == [
        ("post", 1, "text"),
        ("post", 2, "text"),
        ("data", 1, "data"),
    ]
    assert job.events(ev.JobCompleted)[0].outputs == job.outputs


async def test_a_job_has_a_hundred_outputs_at_most() -> None:
    async def body(ctx: Context) -> None:
        for i in range(101):
            await ctx.output(f"o{i}", i)

    job = await ended(body)
    assert "at most 100 outputs" in job.events(ev.JobFailed)[0].error.message


async def test_outputs_that_are_too_large_together_lie_in_blobs() -> None:
    async def body(ctx: Context) -> None:
        for i in range(3):
            await ctx.output(f"o{i}", f"{i}" * 100_000)

    job = await ended(body)
    done = job.events(ev.JobCompleted)[0]
    assert len(done.outputs) == 1
    assert len(done.outputs_ref) == 2
    assert job.outputs == {f"o{i}": f"{i}" * 100_000 for i in range(3)}


async def test_a_returned_value_that_cannot_be_stored_fails_the_job() -> None:
    async def body(ctx: Context) -> object:
        return object()

    assert (await ended(body)).events(ev.JobFailed)[0].error.code == "not_serialisable"


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        SystemExit(1),
        KeyboardInterrupt(),
        GeneratorExit(),
        asyncio.CancelledError(),
        RecursionError("deep"),
    ],
    ids=lambda e: type(e).__name__,
)
async def test_whatever_leaves_the_body_fails_the_job_at_once(error: BaseException) -> None:
    async def body(ctx: Context) -> None:
        await ctx.step("it", lambda: 1)
        raise error

    job = await ended(body)
    (failed,) = job.events(ev.JobFailed)
    assert failed.error.code == "workflow_failed"
    assert failed.error.message.startswith(type(error).__name__)
    assert failed.error.retryable is False
    assert job.state.attempt == 1


async def test_progress_in_the_body_is_recorded() -> None:
    async def body(ctx: Context) -> None:
        await ctx.progress(1, 4, "one", data={"a": 1})
        await ctx.progress(2, 4, name="second")

    said = (await ended(body)).events(ev.Progress)
    assert [(p.name, p.occurrence, p.done, p.text, p.data) for p in said] == [
        ("progress", 1, 1, "one", {"a": 1}),
        ("second", 1, 2, None, None),
    ]


# -------------------------------------------------------------------------------------------------- derived and shown


async def test_random_and_uuid_are_the_same_in_every_pass_and_differ_by_call_and_branch() -> None:
    passes: list[list[Any]] = []

    async def body(ctx: Context) -> None:
        async def one() -> list[Any]:
            return [ctx.random(), ctx.uuid()]

        drawn = [ctx.random(), ctx.random(), ctx.uuid(), ctx.uuid(), await ctx.gather(one(), one())]
        passes.append(drawn)
        await ctx.ask("go", title="?")

    job = MemoryJob()
    await job.run(Workflow("flow", body))
    job.answer("go", "approve")
    await job.run(Workflow("flow", body))
    assert passes[0] == passes[1]
    a, b, c, d, ((e, f), (g, h)) = passes[0]
    assert len({a, b, e, g}) == len({c, d, f, h}) == 4
    assert all(0 <= n < 1 for n in (a, b, e, g))


async def test_the_body_shows_nothing_while_recorded_events_remain() -> None:
    async def body(ctx: Context) -> None:
        ctx.delta("before ")
        ctx.log("before")
        await ctx.step("it", lambda: 1)
        ctx.delta("between ")
        await ctx.ask("go", title="?")
        ctx.delta("after")
        ctx.log("after", level="warning")

    job = MemoryJob()
    await job.run(Workflow("flow", body))
    job.deltas.clear()
    job.answer("go", "approve")
    await job.run(Workflow("flow", body))
    assert job.deltas == [
        ("delta.text", {"channel": "m-1", "pos": 0, "text": "after"}),
        ("delta.log", {"level": "warning", "text": "after"}),
    ]


async def test_deltas_of_a_branch_name_its_path() -> None:
    async def body(ctx: Context) -> None:
        async def one() -> None:
            ctx.delta("x")
            await ctx.step("it", lambda: 1)

        await ctx.gather(one(), one())

    job = await ended(body)
    assert [(kind, d["path"]) for kind, d in job.deltas] == [
        ("delta.text", "/1.1"),
        ("delta.text", "/1.2"),
        ("delta.step", "/1.1"),
        ("delta.step", "/1.2"),
    ]
