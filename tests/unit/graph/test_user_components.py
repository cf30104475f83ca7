"""Components of users: what a typed function becomes, how it runs, what is refused when it is declared."""

import json
import sys
import threading
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

from perdure.core import event as ev
from perdure.core.graph import spec
from perdure.core.graph.catalogue import BUILTIN, extended, from_entries
from perdure.core.graph.ports import ComponentSpec, InputPort, OutputPort
from perdure.engine.components.contract import Component, ComponentContext
from perdure.engine.components.registry import builtin
from perdure.engine.components.user import component, from_function, load
from perdure.engine.graph import graph_workflow
from perdure.engine.result import Result
from perdure.errors import Invalid, Malformed, Retryable
from perdure.testing.memory import MemoryJob


class Order(BaseModel):
    amount: int


@dataclass
class Line:
    text: str
    times: int = 1


def shorten(text: str, limit: int = 5, mark: str | None = None) -> str:
    """Cuts a text."""
    return text[:limit] + (mark or "")


async def sort(context: ComponentContext, amount: float) -> dict[str, Any]:
    context.log("sorting")
    return {"large": amount} if amount > 100 else {"small": "only a little"}


def run(definition: dict[str, Any], *components: Component) -> Any:
    catalogue = from_entries([json.loads(json.dumps(each.catalogue_entry())) for each in components])
    graph = spec.parse(definition, catalogue)
    return graph_workflow(graph, {**builtin(None), **{each.spec.name: each for each in components}}, catalogue)


def alone(name: str, **inputs: Any) -> dict[str, Any]:
    return {
        "format": spec.FORMAT, "name": "n", "nodes": [{"id": "a", "component": name, "inputs": inputs}]
    }  # fmt: skip


async def outcome(made: Component, **inputs: Any) -> Any:
    """The output of a flow of this one node, or the code of its failure."""
    job = MemoryJob(input={})
    end = await job.run(run(alone(made.spec.name, **inputs), made))
    return job.outputs["a"] if isinstance(end, ev.JobCompleted) else end.data.error.code  # type: ignore[union-attr]  # else it failed


def test_a_function_is_its_parameters_and_its_result() -> None:
    made = component(shorten)
    assert made.spec == ComponentSpec(
        name="shorten",
        inputs=(
            InputPort(name="text", type="text", literal="text", required=True),
            InputPort(name="limit", type="data", literal="integer"),
            InputPort(name="mark", type="text", literal="json"),
        ),
        outputs=(OutputPort(name="text", type="text"),),
        description="Cuts a text.",
    )
    assert made.threaded
    assert made("long enough", limit=4) == "long"
    ways = component(name="ways", outputs={"large": float, "small": str})(sort)
    assert [(port.name, port.type, port.branch) for port in ways.spec.outputs] == [
        ("large", "data", True), ("small", "text", True)
    ]  # fmt: skip
    assert [port.name for port in ways.spec.inputs] == ["amount"]
    assert not ways.threaded


def test_the_entry_of_a_catalogue_is_plain_data_and_comes_back_as_it_was() -> None:
    made = component(shorten)
    entry = json.loads(json.dumps(made.catalogue_entry()))
    assert entry == {
        "name": "shorten",
        "description": "Cuts a text.",
        "inputs": [
            {"name": "text", "type": "text", "literal": "text", "required": True},
            {"name": "limit", "type": "data", "literal": "integer"},
            {"name": "mark", "type": "text", "literal": "json"},
        ],
        "outputs": [{"name": "text", "type": "text"}],
    }
    assert from_entries([entry]) == {**BUILTIN, "shorten": made.spec}


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"name": "a"},
        {"name": "A", "outputs": []},
        {"name": "chat_model", "outputs": []},
        {"name": "a", "outputs": [], "role": "ask"},
        {"name": "a", "outputs": [], "dynamic": "each"},
        {"name": "a", "outputs": [{"name": "x.y", "type": "text"}]},
        {"name": "a", "outputs": [{"name": "x", "type": "text"}] * 2},
        {"name": "a", "outputs": [{"name": "x", "type": "picture"}]},
        {"name": "a", "outputs": [], "inputs": [{"name": "t", "type": "text", "literal": "template"}]},
        {"name": "a", "outputs": [{"name": f"p{i}", "type": "any"} for i in range(101)]},
    ],
)  # fmt: skip
def test_an_entry_that_is_none_is_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        from_entries([entry])


def test_two_components_of_one_name_are_refused() -> None:
    with pytest.raises(Malformed):
        extended([component(shorten).spec, component(shorten).spec])


async def test_a_component_runs_as_a_step_with_its_defaults() -> None:
    made = component(shorten)
    assert await outcome(made, text="long enough") == "long "
    assert await outcome(made, text="long enough", limit=2, mark="…") == "lo…"
    job = MemoryJob(input={})
    await job.run(run(alone("shorten", text="x"), made))
    assert [(data.step, data.component) for data in job.events(ev.StepCompleted)] == [("a", "shorten")]


async def test_its_ports_are_ways_when_it_names_several() -> None:
    ways = component(name="ways", outputs={"large": float, "small": str})(sort)
    definition = {
        "format": spec.FORMAT,
        "name": "n",
        "nodes": [
            {"id": "in", "component": "data_input"},
            {"id": "a", "component": "ways"},
            {"id": "big", "component": "data_output"},
            {"id": "little", "component": "text_output"},
        ],
        "edges": [
            {"from": "in.data", "to": "a.amount"},
            {"from": "a.large", "to": "big.data"},
            {"from": "a.small", "to": "little.text"},
        ],
    }
    for amount, outputs in ((200, {"big": 200.0}), (2, {"little": "only a little"})):
        job = MemoryJob(input={"in": amount})
        await job.run(run(definition, ways))
        assert job.outputs == outputs


async def test_values_come_in_the_types_that_the_function_declares() -> None:
    seen: list[Any] = []

    def take(order: Order, lines: list[Line], when: dict[str, int]) -> None:
        seen.append((order, lines, when))

    inputs = {"order": {"amount": 3}, "lines": [{"text": "a"}, {"text": "b", "times": 2}], "when": {"x": 1}}
    assert await outcome(from_function(take), **inputs) is None
    assert seen == [(Order(amount=3), [Line("a"), Line("b", 2)], {"x": 1})]
    assert from_function(take).spec.outputs == ()
    for wrong in ({"order": {"amount": "canary"}}, {"lines": [1]}, {"when": {"x": "y"}}):
        job = MemoryJob(input={})
        end = await job.run(run(alone("take", **{**inputs, **wrong}), from_function(take)))
        assert isinstance(end, ev.JobFailed)
        assert end.data.error.code == "invalid_input"
        assert "canary" not in end.data.error.message


async def test_what_it_returns_is_encoded_and_a_result_may_say_what_it_cost() -> None:
    def make() -> Result[list[Order]]:
        return Result([Order(amount=1)], usage=ev.Usage(input_tokens=7))

    made = from_function(make)
    assert [(port.name, port.type) for port in made.spec.outputs] == [("data", "data")]
    job = MemoryJob(input={})
    await job.run(run(alone("make"), made))
    assert job.outputs == {"a": [{"amount": 1}]}
    assert job.events(ev.StepCompleted)[0].usage == ev.Usage(input_tokens=7)


async def test_a_plain_function_runs_in_a_thread_and_an_async_one_does_not() -> None:
    threads: list[bool] = []

    def plain() -> str:
        threads.append(threading.current_thread() is threading.main_thread())
        return ""

    async def asynchronous() -> str:
        threads.append(threading.current_thread() is threading.main_thread())
        return ""

    await outcome(from_function(plain))
    await outcome(from_function(asynchronous))
    assert threads == [False, True]


async def test_it_fails_and_is_tried_again_like_any_step_under_one_key() -> None:
    keys: list[str] = []

    def shy(context: ComponentContext) -> str:
        keys.append(context.idempotency_key)
        if len(keys) < 3:
            raise Retryable("not yet", code="shy")
        return "done"

    assert await outcome(from_function(shy)) == "done"
    assert (len(keys), len(set(keys))) == (3, 1)


@pytest.mark.parametrize("value", [{"other": 1}, "text", None])
async def test_a_port_that_it_does_not_have_fails_the_step(value: Any) -> None:
    def wrong() -> Any:
        return value

    assert await outcome(from_function(wrong, outputs={"x": str})) == "malformed"


def _star(*texts: str) -> None: ...


def _many(**texts: str) -> None: ...


def _only(text: str, /) -> None: ...


def _forward(text: "NoSuchType") -> None: ...  # type: ignore[name-defined]  # noqa: F821  # that is the point


def _default(text: object = object()) -> None: ...  # that is the point


def Capital() -> None: ...  # noqa: N802, RUF100


@pytest.mark.parametrize("fn", [_star, _many, _only, _forward, _default, Capital, lambda: 1, 7])
def test_what_makes_no_component_is_refused_when_it_is_declared(fn: Any) -> None:
    with pytest.raises(Malformed):
        from_function(fn, name=None if fn is Capital or not callable(fn) else getattr(fn, "__name__", "").strip("_"))


def test_a_built_in_name_is_taken() -> None:
    with pytest.raises(Malformed):
        component(name="template")(shorten)


def test_a_module_s_components_are_found_and_the_built_in_ones_in_it_left_out() -> None:
    module = ModuleType("users_components")
    made = component(shorten)
    vars(module).update(first=made, again=made, other=builtin(None)["template"], word="x")
    sys.modules["users_components"] = module
    try:
        assert load("users_components") == {"shorten": made}
        vars(module)["second"] = component(name="shorten")(sort)
        with pytest.raises(Malformed):
            load("users_components")
    finally:
        del sys.modules["users_components"]


def test_a_definition_is_checked_against_the_entry_alone() -> None:
    catalogue = from_entries([component(shorten).catalogue_entry()])
    with pytest.raises(Invalid) as caught:
        spec.parse(alone("shorten", limit=1.5, size=3), catalogue)
    assert {(fault.pointer, fault.code) for fault in caught.value.faults} == {
        ("/nodes/0/inputs/limit", "wrong-type"),
        ("/nodes/0/inputs/size", "unknown-input"),
        ("/nodes/0/inputs/text", "missing"),
    }
    with pytest.raises(Invalid):
        spec.parse(alone("shorten", text="x"))  # where it was not announced
    assert msgspec.to_builtins(catalogue["shorten"]) == component(shorten).catalogue_entry()
