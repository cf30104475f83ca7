"""Ask nodes with the whole record: settings checked at publish, fields that flow on, the ways that an answer takes."""

import json
from typing import Any

import pytest

from perdure.core import event as ev
from perdure.core import verify
from perdure.core.graph import spec
from perdure.core.graph.catalogue import BUILTIN
from perdure.core.graph.nested import scope_of
from perdure.core.graph.ports import outputs_of
from perdure.engine.components.registry import builtin
from perdure.engine.graph import graph_workflow
from perdure.engine.workflow import Workflow
from perdure.errors import Invalid
from perdure.probe import SimulatedCrash
from perdure.testing.memory import MemoryJob

FORM = {
    "type": "object",
    "properties": {
        "note": {"type": "string"},
        "amount": {"type": "integer"},
        "approve": {"type": "boolean"},
        "payload": {"type": "string"},
        "a b": {"type": "string"},
    },
    "required": ["note"],
}
SETTINGS = {
    "title": "Refund?",
    "actions": [{"id": "approve"}, {"id": "reject", "requires": ["comment"]}],
    "response_schema": FORM,
    "editable": ["/sum"],
    "assignees": ["group:finance", "user:bob"],
    "forbid_self": True,
    "quorum": {"n": 2, "of": {"groups": ["finance"]}, "veto": ["reject"]},
    "reminders": [3600],
    "escalations": [{"after_seconds": 7200, "add": ["group:leads"]}],
    "expires_in_seconds": 86_400,
    "on_timeout": {"do": "branch"},
    "ui": {"order": ["note"]},
}
REFUND = {
    "format": spec.FORMAT,
    "name": "refund",
    "nodes": [
        {"id": "order", "component": "data_input"},
        {"id": "ask", "component": "ask", "inputs": SETTINGS},
        {"id": "paid", "component": "data_output"},
        {"id": "letter", "component": "template", "inputs": {"template": "{{note}}: {{amount}}"}},
        {"id": "refused", "component": "text_output"},
        {"id": "late", "component": "data_output"},
    ],
    "edges": [
        {"from": "order.data", "to": "ask.proposal"},
        {"from": "ask.approve", "to": "paid.data"},
        {"from": "ask.note", "to": "letter.note"},
        {"from": "ask.amount", "to": "letter.amount"},
        {"from": "ask.comment", "to": "refused.text"},
        {"from": "ask.timeout", "to": "late.data"},
    ],
}


def flow(definition: object = REFUND) -> Workflow:
    return graph_workflow(spec.parse(definition), builtin(None))


def faults(**inputs: Any) -> set[tuple[str, str]]:
    """What is wrong with an ask node, places below its inputs."""
    node = {"id": "q", "component": "ask", "inputs": {"title": "?", **inputs}}
    with pytest.raises(Invalid) as caught:
        spec.parse({"format": spec.FORMAT, "name": "n", "nodes": [node]})
    assert caught.value.code == "invalid-flow"
    return {(str(f.pointer).removeprefix("/nodes/0/inputs/"), f.code) for f in caught.value.faults}


async def test_the_settings_are_in_the_request() -> None:
    job = MemoryJob(input={"order": {"sum": 5}})
    await job.run(flow())
    asked = job.open_request("ask")
    assert asked.assignees == ev.Assignees(users=("bob",), groups=("finance",))
    assert asked.forbid_self
    assert asked.quorum == ev.Quorum(n=2, of=ev.Assignees(groups=("finance",)), veto=("reject",))
    assert (asked.reminders, asked.ui) == ((3600,), {"order": ["note"]})
    assert asked.escalations == (ev.Escalation(after_seconds=7200, add=ev.Assignees(groups=("leads",))),)
    assert (asked.on_timeout, asked.path) == (ev.OnTimeout(do="branch"), "/ask")
    assert verify.log(job.log) == []


def test_fields_are_ports_unless_their_names_are_taken() -> None:
    graph = spec.parse(REFUND)
    ports = outputs_of(BUILTIN["ask"], graph.nodes[1].inputs, scope_of(graph, BUILTIN))
    assert {name: port.type for name, port in ports.items()} == {
        "approve": "any", "reject": "any", "note": "text", "amount": "data",
        "payload": "data", "comment": "text", "timeout": "any",
    }  # fmt: skip
    assert all(port.branch for port in ports.values())


@pytest.mark.parametrize(
    ("answer", "outputs"),
    [
        (
            {"action": "approve", "payload": {"note": "ok", "amount": 3}, "proposal": {"sum": 4}},
            {"paid": {"sum": 4}, "letter": "ok: 3"},
        ),
        ({"action": "approve", "payload": {"note": "ok"}}, {"paid": {"sum": 5}}),
        ({"action": "reject", "payload": {}, "comment": "no"}, {"refused": "no"}),
    ],
)
async def test_an_answer_takes_its_branch_and_what_was_said_flows_on(
    answer: dict[str, Any], outputs: dict[str, Any]
) -> None:
    job = MemoryJob(input={"order": {"sum": 5}})
    await job.run(flow())
    job.answer("ask", **answer)
    await job.run(flow())
    assert job.outputs == outputs
    assert verify.log(job.log) == []


@pytest.mark.parametrize("cause", ["deadline", "no_quorum"])
async def test_nobody_in_time_and_nobody_agreed_take_the_branch_timeout(cause: Any) -> None:
    job = MemoryJob(input={"order": {"sum": 5}})
    await job.run(flow())
    if cause == "deadline":
        job.clock.advance(86_400)
    else:
        asked = job.open_request("ask")
        outcome = ev.Outcome(do="branch")
        job.append(ev.ExpiredData(request_id=asked.id, revision=asked.revision, cause=cause, outcome=outcome))
    await job.run(flow())
    assert job.outputs == {"late": {"sum": 5}}


async def test_an_ask_without_successors_gives_the_decision() -> None:
    inputs = {"title": "?", "response_schema": FORM}
    definition = {
        "format": spec.FORMAT, "name": "n", "nodes": [{"id": "q", "component": "ask", "inputs": inputs}]
    }  # fmt: skip
    job = MemoryJob(input={})
    await job.run(flow(definition))
    job.answer("q", "approve", {"note": "ok"})
    await job.run(flow(definition))
    assert job.outputs == {"q": {"action": "approve", "payload": {"note": "ok"}}}


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_crash_at_every_event_changes_nothing(when: Any) -> None:
    async def whole(**crash: Any) -> MemoryJob:
        job = MemoryJob(input={"order": {"sum": 5}})
        for _ in range(20):
            if job.state.terminal:
                return job
            try:
                await job.run(flow(), **crash)
            except SimulatedCrash:
                crash = {}
            if job.state.asked and job.state.suspension is not None:
                job.answer("ask", "approve", {"note": "ok", "amount": 3})
        raise AssertionError("no end")

    calm = await whole()
    for seq in range(2, calm.state.seq + 1):
        died = await whole(crash=when, at_seq=seq)
        assert died.outputs == calm.outputs, seq
        assert verify.log(died.log) == []


LATER = {"after_seconds": 5, "add": ["user:b"]}
CLOSED = {"properties": {}, "additionalProperties": False}


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({"assignees": ["finance"]}, {("assignees/0", "invalid-value")}),
        ({"assignees": {"users": ["a b"]}}, {("assignees/users/0", "invalid-value")}),
        ({"forbid_self": "yes"}, {("forbid_self", "wrong-type")}),
        ({"quorum": 2}, {("quorum", "wrong-type")}),
        ({"quorum": {"n": 2, "x": 1}}, {("quorum/x", "unknown-member")}),
        ({"quorum": {}}, {("quorum/n", "missing")}),
        ({"quorum": {"n": True}}, {("quorum/n", "out-of-range")}),
        ({"quorum": {"n": 2, "veto": ["nope"]}}, {("quorum/veto/0", "unknown-action")}),
        ({"quorum": {"n": 2, "of": {}}}, {("quorum/of", "too-short")}),
        ({"quorum": {"n": 3, "of": ["user:a", "user:b"]}}, {("quorum/n", "out-of-range")}),
        ({"reminders": [10, 5]}, {("reminders/1", "out-of-range")}),
        ({"reminders": {"a": 1}}, {("reminders", "wrong-type")}),
        ({"escalations": [{"after_seconds": 5}], "assignees": ["user:a"]}, {("escalations/0/add", "missing")}),
        ({"escalations": [{"after_seconds": 5, "add": ["user:a"]}]}, {("escalations", "not-allowed")}),
        (
            {"escalations": [LATER], "assignees": ["user:a"], "expires_in_seconds": 5},
            {("escalations/0/after_seconds", "out-of-range")},
        ),
        ({"on_timeout": {"do": "fail"}}, {("on_timeout", "missing")}),
        ({"ui": "wide"}, {("ui", "wrong-type")}),
        ({"defaults": [1]}, {("defaults", "wrong-type")}),
        (
            {"actions": [{"id": "a", "requires": ["x"]}], "response_schema": CLOSED},
            {("actions/0/requires/0", "unknown-member")},
        ),
    ],
    ids=lambda v: json.dumps(v)[:40] if isinstance(v, dict) else None,
)  # fmt: skip
def test_what_does_not_fit_is_told_at_publish(inputs: dict[str, Any], expected: set[tuple[str, str]]) -> None:
    assert faults(**inputs) == expected


def test_a_quorum_gives_a_time_out_of_its_own() -> None:
    node = {"title": "?", "quorum": {"n": 2}, "on_timeout": {"do": "branch"}}
    definition = {"format": spec.FORMAT, "name": "n", "nodes": [{"id": "q", "component": "ask", "inputs": node}]}
    assert spec.parse(definition).nodes[0].id == "q"


async def test_a_title_that_came_by_an_edge_and_is_none_fails_the_node() -> None:
    definition = {
        "format": spec.FORMAT,
        "name": "n",
        "nodes": [{"id": "t", "component": "text_input"}, {"id": "q", "component": "ask"}],
        "edges": [{"from": "t.text", "to": "q.title"}],
    }
    job = MemoryJob(input={"t": "x" * 501})
    await job.run(flow(definition))
    [failed] = job.events(ev.JobFailed)
    assert failed.error.code == "invalid_input"
    assert "/title" in failed.error.message
