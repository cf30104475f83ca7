"""Branches, waits and what else an ask node can say, run on the engine."""

import json
from typing import Any

import pytest

from perdure.core import event as ev
from perdure.core import verify
from perdure.core.graph import spec
from perdure.engine.components.registry import builtin
from perdure.engine.graph import graph_workflow
from perdure.engine.workflow import Workflow
from perdure.errors import Invalid
from perdure.testing.memory import MemoryJob

CASES = [
    {"id": "large", "when": {"at": "/amount", "above": 100}},
    {"id": "vip", "when": {"at": "/customer", "equals": "ann"}},
]


def graph(nodes: list[dict[str, Any]], *edges: str) -> dict[str, Any]:
    ends = [edge.split(" ") for edge in edges]
    return {
        "format": spec.FORMAT, "name": "n", "nodes": nodes, "edges": [{"from": a, "to": b} for a, b in ends]
    }  # fmt: skip


def flow(definition: object) -> Workflow:
    return graph_workflow(spec.parse(definition), builtin(None))


def faults(definition: object) -> set[tuple[str | None, str]]:
    with pytest.raises(Invalid) as caught:
        spec.parse(definition)
    return {(fault.pointer, fault.code) for fault in caught.value.faults}


ROUTE = graph(
    [
        {"id": "order", "component": "data_input"},
        {"id": "route", "component": "branch", "inputs": {"cases": CASES}},
        {"id": "check", "component": "data_output"},
        {"id": "fast", "component": "data_output"},
        {"id": "rest", "component": "data_output"},
    ],
    "order.data route.value",
    "route.large check.data",
    "route.vip fast.data",
    "route.default rest.data",
)


@pytest.mark.parametrize(
    ("order", "taken"),
    [
        ({"amount": 200, "customer": "ann"}, "check"),
        ({"amount": 20, "customer": "ann"}, "fast"),
        ({"amount": 20}, "rest"),
        (None, "rest"),
    ],
)
async def test_a_branch_takes_the_first_case_that_holds(order: Any, taken: str) -> None:
    job = MemoryJob(input={"order": order})
    end = await job.run(flow(ROUTE))
    assert isinstance(end, ev.JobCompleted)
    assert end.data.outputs == {taken: order}
    assert sorted(data.step for data in job.events(ev.StepSkipped)) == sorted({"check", "fast", "rest"} - {taken})
    assert verify.log(job.log) == []


async def test_a_branch_without_successors_gives_the_way_it_took() -> None:
    definition = graph([{"id": "b", "component": "branch", "inputs": {"value": {"amount": 1}, "cases": CASES}}])
    job = MemoryJob(input={})
    await job.run(flow(definition))
    assert job.outputs == {"b": {"default": {"amount": 1}}}


def test_the_cases_of_a_branch_are_its_ports() -> None:
    broken = graph(
        [
            {"id": "b", "component": "branch", "inputs": {"value": 1, "cases": [
                {"id": "default", "when": {"equals": 1}}, {"id": "a"}, {"id": "a", "when": {"is": "x"}}, 7]}},
            {"id": "out", "component": "data_output"},
        ],
        "b.other out.data",
    )  # fmt: skip
    at = "/nodes/0/inputs/cases"
    assert faults(broken) == {
        (f"{at}/0/id", "reserved-name"), (f"{at}/1/when", "missing"), (f"{at}/2/id", "duplicate"),
        (f"{at}/2/when/is", "invalid-value"), (f"{at}/3", "wrong-type"), ("/edges/0/from", "unknown-port"),
    }  # fmt: skip


def waiting(**inputs: Any) -> dict[str, Any]:
    return graph(
        [{"id": "w", "component": "wait", "inputs": inputs}, {"id": "out", "component": "data_output"}],
        "w.value out.data",
    )


async def test_a_wait_sleeps_and_hands_its_value_on() -> None:
    job = MemoryJob(input={})
    asleep = await job.live(flow(waiting(seconds=3600, value={"a": 1})))
    assert isinstance(asleep, ev.JobSuspended)
    assert [(w.kind, w.path, w.name) for w in asleep.data.waiting] == [("timer", "/w", "w")]
    await job.run(flow(waiting(seconds=3600, value={"a": 1})))
    assert job.outputs == {"out": {"a": 1}}
    assert [(data.path, data.name) for data in job.events(ev.TimerFired)] == [("/w", "w")]


async def test_a_wait_until_an_instant_is_due_exactly_then() -> None:
    job = MemoryJob(input={})
    until = job.clock.broker_now()[:11] + "23:59:59.125Z"
    await job.run(flow(waiting(until=until, value=1)))
    assert [data.due_at for data in job.events(ev.TimerFired)] == [until]
    late = MemoryJob(input={})
    await late.run(flow(waiting(until="2001-01-01T00:00:00+02:00", value=1)))
    assert late.outputs == {"out": 1}


async def test_a_wait_may_take_its_duration_from_an_edge_and_refuses_what_is_none() -> None:
    definition = graph(
        [
            {"id": "i", "component": "data_input"},
            {"id": "w", "component": "wait", "inputs": {"value": "x"}},
        ],
        "i.data w.seconds",
    )
    job = MemoryJob(input={"i": 30})
    await job.run(flow(definition))
    assert job.outputs == {"w": "x"}
    for wrong in (-1, "soon", None, 1e12):
        end = await MemoryJob(input={"i": wrong}).run(flow(definition))
        assert isinstance(end, ev.JobFailed)
        assert end.data.error.code == "invalid_input"


async def test_an_instant_without_an_offset_is_refused_in_the_definition_and_on_an_edge() -> None:
    assert faults(waiting(until="2026-01-01T00:00:00", value=1)) == {("/nodes/0/inputs/until", "invalid-value")}
    assert faults(waiting(until=7, value=1)) == {("/nodes/0/inputs/until", "invalid-value")}
    definition = graph([{"id": "i", "component": "text_input"}, {"id": "w", "component": "wait"}], "i.text w.until")
    for wrong in ("2026-01-01T00:00:00", "tomorrow"):
        end = await MemoryJob(input=wrong).run(flow(definition))
        assert isinstance(end, ev.JobFailed)
        assert end.data.error.code == "invalid_input"


def test_a_wait_is_told_once_how_long() -> None:
    assert faults(waiting(value=1)) == {("/nodes/0/inputs", "missing")}
    both = waiting(value=1, seconds=1, until="2026-01-01T00:00:00Z")
    assert faults(both) == {("/nodes/0/inputs", "ambiguous")}
    timed = waiting(seconds=1)
    timed["nodes"][0]["timeout_seconds"] = 5
    assert faults(timed) == {("/nodes/0/timeout_seconds", "not-allowed")}


AMOUNT = {"type": "object", "properties": {"amount": {"type": "number"}}, "required": ["amount"]}
FORM = {
    "title": "Which one?",
    "kind": "input",
    "response_schema": {"type": "object", "properties": {"note": {"type": "string"}}, "required": ["note"]},
    "defaults": {"note": ""},
    "assignees": {"users": ["bob"], "groups": ["support"]},
    "proposal": {"amount": 1},
    "proposal_schema": {"type": "object"},
    "editable": ["/amount"],
}


async def test_a_form_asks_named_people_and_its_fields_flow_on() -> None:
    definition = graph(
        [
            {"id": "q", "component": "ask", "inputs": FORM},
            {"id": "t", "component": "template", "inputs": {"template": "{{form.note}}!"}},
        ],
        "q.payload t.form",
    )
    job = MemoryJob(input={})
    await job.run(flow(definition))
    asked = job.open_request("q")
    assert (asked.response_schema, asked.defaults) == (FORM["response_schema"], FORM["defaults"])
    assert asked.proposal_schema == {"type": "object"}
    assert asked.assignees == ev.Assignees(users=("bob",), groups=("support",))
    job.answer("q", "submit", {"note": "tea"})
    await job.run(flow(definition))
    assert job.outputs == {"t": "tea!"}


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({"response_schema": {"type": "objekt"}}, {("/nodes/0/inputs/response_schema", "invalid-schema")}),
        ({"response_schema": []}, {("/nodes/0/inputs/response_schema", "wrong-type")}),
        ({"response_schema": {"$ref": "http://x/y"}}, {("/nodes/0/inputs/response_schema/$ref", "remote-reference")}),
        ({"assignees": {"user": ["bob"]}}, {("/nodes/0/inputs/assignees/user", "unknown-member")}),
        ({"assignees": {"users": "bob"}}, {("/nodes/0/inputs/assignees/users", "wrong-type")}),
        ({"assignees": {"anyone_with": "read"}}, {("/nodes/0/inputs/assignees/anyone_with", "invalid-value")}),
        ({"assignees": ["bob"]}, {("/nodes/0/inputs/assignees/0", "invalid-value")}),
        (
            {"response_schema": {"properties": {"word": {"type": "string", "format": "password"}}}},
            {("/nodes/0/inputs/response_schema/properties/word/format", "not-allowed")},
        ),
        (
            {"response_schema": {"allOf": [{"properties": {"word": {"writeOnly": True}}}]}},
            {("/nodes/0/inputs/response_schema/allOf/0/properties/word/writeOnly", "not-allowed")},
        ),
        ({"response_schema": {"description": "x" * 70_000}}, {("/nodes/0/inputs/response_schema", "too-large")}),
        (
            {"response_schema": json.loads('{"not":' * 17 + "{}" + "}" * 17)},
            {("/nodes/0/inputs/response_schema", "too-large")},
        ),
        ({"proposal": {"amount": "x"}, "proposal_schema": AMOUNT}, {("/nodes/0/inputs/proposal/amount", "type")}),
        (
            {"expires_in_seconds": 9, "on_timeout": {"do": "answer", "action": "reject"}, "response_schema": AMOUNT},
            {("/nodes/0/inputs/on_timeout/payload/amount", "required")},
        ),
        (
            {
                "expires_in_seconds": 9,
                "on_timeout": {"do": "answer", "action": "reject", "payload": {"amount": "x"}},
                "actions": [{"id": "reject", "requires": ["comment"]}],
                "response_schema": AMOUNT,
            },
            {("/nodes/0/inputs/on_timeout/payload/amount", "type")},
        ),
    ],
)
def test_what_an_ask_node_may_not_say(inputs: dict[str, Any], expected: set[tuple[str, str]]) -> None:
    assert faults(graph([{"id": "q", "component": "ask", "inputs": {"title": "?", **inputs}}])) == expected


def test_an_action_s_own_requirements_stand_in_for_those_of_the_schema() -> None:
    late = {"do": "answer", "action": "reject"}
    inputs = {"title": "?", "expires_in_seconds": 9, "on_timeout": late, "response_schema": AMOUNT,
              "actions": [{"id": "reject", "requires": ["comment"]}]}  # fmt: skip
    assert spec.parse(graph([{"id": "q", "component": "ask", "inputs": inputs}])).nodes[0].id == "q"


async def test_a_data_input_takes_any_json_and_its_default() -> None:
    definition = graph([{"id": "d", "component": "data_input", "inputs": {"default": None}}])
    for given, value in (({}, None), ({"d": {"a": [1]}}, {"a": [1]}), ("bare", "bare"), ({"d": None}, None)):
        job = MemoryJob(input=given)
        await job.run(flow(definition))
        assert job.outputs == {"d": value}
    assert spec.input_schema(spec.parse(definition)) == {
        "anyOf": [
            {"type": "string"},
            {"type": "object", "properties": {"d": {"default": None}}, "additionalProperties": False},
        ]
    }
