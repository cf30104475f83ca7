"""Definitions: everything that is wrong is found, with a pointer; what is right is understood."""

import contextlib
import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.core.event import Named
from perdure.core.graph import spec
from perdure.core.graph.catalogue import BUILTIN
from perdure.core.graph.ports import ComponentSpec, InputPort, OutputPort
from perdure.core.retry import RetryPolicy
from perdure.errors import Invalid

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.json"))
APPROVAL: dict[str, Any] = {
    "format": "perdure.graph/1",
    "name": "content_approval",
    "nodes": [
        {"id": "brief", "component": "chat_input"},
        {"id": "draft", "component": "chat_model", "inputs": {"system": "Short."}, "timeout_seconds": 60},
        {
            "id": "review",
            "component": "ask",
            "inputs": {"title": "Publish this?", "actions": [{"id": "approve"}, {"id": "reject"}]},
        },
        {"id": "post", "component": "chat_output"},
        {"id": "bin", "component": "text_output"},
    ],
    "edges": [
        {"from": "brief.text", "to": "draft.prompt"},
        {"from": "draft.text", "to": "review.proposal"},
        {"from": "review.approve", "to": "post.text"},
        {"from": "review.reject", "to": "bin.text"},
    ],
}
DRAFT, REVIEW, POST, BIN = 1, 2, 3, 4  # places in the list of nodes


def faults(definition: object) -> set[tuple[str | None, str]]:
    """(pointer, code) of everything that is wrong."""
    with pytest.raises(Invalid) as caught:
        spec.parse(definition)
    assert caught.value.code == "invalid-flow"
    return {(fault.pointer, fault.code) for fault in caught.value.faults}


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    definition = deepcopy(APPROVAL)
    change(definition)
    return definition


def node(index: int, **members: Any) -> dict[str, Any]:
    return changed(lambda d: d["nodes"][index].update(members))


def literals(index: int, **inputs: Any) -> dict[str, Any]:
    return changed(lambda d: d["nodes"][index].setdefault("inputs", {}).update(inputs))


def edge(source: str, target: str) -> dict[str, Any]:
    return changed(lambda d: d["edges"].append({"from": source, "to": target}))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_a_definition_that_bears_its_file_name(path: Path) -> None:
    graph = spec.parse(json.loads(path.read_text()))
    assert graph.name == path.stem
    assert spec.outputs(graph)


def test_the_example_of_the_documents_is_understood() -> None:
    graph = spec.parse(APPROVAL)
    assert [n.id for n in graph.nodes] == ["brief", "draft", "review", "post", "bin"]
    assert [(str(e.source), str(e.target)) for e in graph.edges][2] == ("review.approve", "post.text")
    assert graph.nodes[DRAFT].timeout_seconds == 60
    assert spec.outputs(graph) == (Named(name="post", kind="message"), Named(name="bin", kind="text"))


def test_the_digest_is_of_the_content_and_not_of_the_order_of_members() -> None:
    turned = {key: APPROVAL[key] for key in reversed(APPROVAL)}
    assert spec.parse(turned).digest == spec.parse(APPROVAL).digest
    assert spec.parse(literals(DRAFT, system="Long.")).digest != spec.parse(APPROVAL).digest


def test_a_node_may_name_its_retry_policy() -> None:
    graph = spec.parse(node(DRAFT, retry={"max_failures": 3, "first_seconds": 0.5}))
    assert graph.nodes[DRAFT].retry == RetryPolicy(max_failures=3, first_seconds=0.5)


def alone(member: dict[str, Any]) -> dict[str, Any]:
    return {"format": spec.FORMAT, "name": "n", "nodes": [member]}


CASES: list[tuple[str, dict[str, Any], set[tuple[str, str]]]] = [
    ("another format", changed(lambda d: d.update(format="perdure.graph/2")), {("/format", "invalid-value")}),
    ("no format", changed(lambda d: d.pop("format")), {("/format", "missing")}),
    ("a name with capitals", changed(lambda d: d.update(name="Post")), {("/name", "invalid-value")}),
    ("an unknown member", changed(lambda d: d.update({"a/b": 1})), {("/a~1b", "unknown-member")}),
    ("a long description", changed(lambda d: d.update(description="x" * 2001)), {("/description", "wrong-type")}),
    ("no nodes", {"format": spec.FORMAT, "name": "n", "nodes": []}, {("/nodes", "too-short")}),
    ("nodes missing", {"format": spec.FORMAT, "name": "n"}, {("/nodes", "missing")}),
    ("nodes not a list", {"format": spec.FORMAT, "name": "n", "nodes": {}}, {("/nodes", "wrong-type")}),
    (
        "too many nodes",
        {"format": spec.FORMAT, "name": "n", "nodes": [{"id": f"n{i}", "component": "chat_input"} for i in range(501)]},
        {("/nodes", "too-long")},
    ),
    (
        "too many outputs",
        {"format": spec.FORMAT, "name": "n", "nodes": [{"id": f"n{i}", "component": "chat_input"} for i in range(101)]},
        {("/nodes", "too-many-outputs")},
    ),
    ("too many edges", changed(lambda d: d.update(edges=d["edges"] * 501)), {("/edges", "too-long")}),
    ("a node that is no object", changed(lambda d: d["nodes"].append("x")), {("/nodes/5", "wrong-type")}),
    ("an unknown member of a node", node(DRAFT, label="x"), {("/nodes/1/label", "unknown-member")}),
    ("a node id with a dot", node(DRAFT, id="a.b"), {("/nodes/1/id", "invalid-id"), ("/edges/0/to", "unknown-node"),
                                                     ("/edges/1/from", "unknown-node")}),
    ("a duplicate id", node(BIN, id="post"), {("/nodes/4/id", "duplicate"), ("/edges/3/to", "unknown-node")}),
    ("an unknown component", node(DRAFT, component="chat_modl"), {("/nodes/1/component", "unknown-component")}),
    ("a missing component", changed(lambda d: d["nodes"][DRAFT].pop("component")),
     {("/nodes/1/component", "missing")}),
    ("an empty component", node(DRAFT, component=""), {("/nodes/1/component", "wrong-type")}),
    ("inputs that are no object", node(POST, inputs=[]), {("/nodes/3/inputs", "wrong-type")}),
    ("an unknown input", literals(DRAFT, sytem="x"), {("/nodes/1/inputs/sytem", "unknown-input")}),
    ("a literal of the wrong type", literals(DRAFT, system=7), {("/nodes/1/inputs/system", "wrong-type")}),
    ("a text beyond its bound", literals(DRAFT, system="x" * 100_001), {("/nodes/1/inputs/system", "too-long")}),
    ("an empty title", literals(REVIEW, title=""), {("/nodes/2/inputs/title", "too-short")}),
    ("a temperature that is true", literals(DRAFT, temperature=True), {("/nodes/1/inputs/temperature", "wrong-type")}),
    ("a temperature too high", literals(DRAFT, temperature=2.5), {("/nodes/1/inputs/temperature", "out-of-range")}),
    ("a temperature that is no number", literals(DRAFT, temperature=float("nan")),
     {("/nodes/1/inputs/temperature", "out-of-range")}),
    ("half a token", literals(DRAFT, max_tokens=1.5), {("/nodes/1/inputs/max_tokens", "wrong-type")}),
    ("a missing required input", changed(lambda d: d["edges"].pop(0)), {("/nodes/1/inputs/prompt", "missing")}),
    ("a literal and an edge", literals(DRAFT, prompt="x"), {("/nodes/1/inputs/prompt", "ambiguous")}),
    ("an edge from nowhere", edge("nobody.text", "post.text"), {("/edges/4/from", "unknown-node")}),
    ("an edge to nowhere", edge("draft.text", "nobody.text"), {("/edges/4/to", "unknown-node")}),
    ("an edge from an unknown port", edge("draft.txt", "post.text"), {("/edges/4/from", "unknown-port")}),
    ("an edge from an unknown action", edge("review.maybe", "post.text"), {("/edges/4/from", "unknown-port")}),
    ("an edge to an unknown port", edge("draft.text", "post.txt"), {("/edges/4/to", "unknown-port")}),
    ("an edge to a setting", edge("review.payload", "draft.temperature"), {("/edges/4/to", "not-allowed")}),
    ("an edge without a dot", edge("draft", "post.text"), {("/edges/4/from", "invalid-value")}),
    ("an edge that is no object", changed(lambda d: d["edges"].append(1)), {("/edges/4", "wrong-type")}),
    ("an unknown member of an edge", changed(lambda d: d["edges"][0].update(when="x")),
     {("/edges/0/when", "unknown-member")}),
    ("an edge without an end", changed(lambda d: d["edges"].append({"from": "draft.text"})),
     {("/edges/4/to", "missing")}),
    ("types that do not join", edge("review.payload", "post.text"), {("/edges/4", "wrong-type")}),
    ("a cycle", edge("review.reject", "draft.system"), {("/nodes/1/inputs/system", "ambiguous"), ("/edges", "cycle")}),
    ("a node that leads to itself", edge("draft.text", "draft.model"), {("/edges", "cycle")}),
    ("a time-out of zero", node(DRAFT, timeout_seconds=0), {("/nodes/1/timeout_seconds", "out-of-range")}),
    ("a time-out of null", node(DRAFT, timeout_seconds=None), {("/nodes/1/timeout_seconds", "out-of-range")}),
    ("a retry without max_failures", node(DRAFT, retry={}), {("/nodes/1/retry/max_failures", "missing")}),
    ("half a failure", node(DRAFT, retry={"max_failures": 1.5}), {("/nodes/1/retry/max_failures", "out-of-range")}),
    ("a retry with a typing error", node(DRAFT, retry={"max_failures": 2, "delay": 1}),
     {("/nodes/1/retry/delay", "unknown-member")}),
    ("a time-out of an ask", node(REVIEW, timeout_seconds=5), {("/nodes/2/timeout_seconds", "not-allowed")}),
    ("a retry of an ask", node(REVIEW, retry={"max_failures": 2}), {("/nodes/2/retry", "not-allowed")}),
    ("no actions", literals(POST, text="x") | {"edges": []} | {"nodes": [
        {"id": "q", "component": "ask", "inputs": {"title": "?", "actions": []}}]},
     {("/nodes/0/inputs/actions", "wrong-type")}),
    ("an action called like a port", literals(REVIEW, actions=[{"id": "approve"}, {"id": "reject"}, {"id": "payload"}]),
     {("/nodes/2/inputs/actions/2/id", "reserved-name")}),
    ("a doubled action", literals(REVIEW, actions=[{"id": "approve"}, {"id": "reject"}, {"id": "reject"}]),
     {("/nodes/2/inputs/actions/2/id", "duplicate")}),
    ("an action with too much", literals(REVIEW, actions=[{"id": "approve", "x": 1, "label": "", "style": "red",
                                                          "requires": "comment"}, {"id": "reject"}]),
     {("/nodes/2/inputs/actions/0/x", "unknown-member"), ("/nodes/2/inputs/actions/0/label", "wrong-type"),
      ("/nodes/2/inputs/actions/0/style", "invalid-value"), ("/nodes/2/inputs/actions/0/requires", "wrong-type")}),
    ("an unknown kind", literals(REVIEW, kind="vote"), {("/nodes/2/inputs/kind", "invalid-value")}),
    ("a pointer that is none", literals(REVIEW, editable=["amount"]),
     {("/nodes/2/inputs/editable/0", "invalid-value")}),
    ("a time-out without an instant", literals(REVIEW, on_timeout={"do": "fail"}),
     {("/nodes/2/inputs/on_timeout", "missing")}),
    ("a time-out with an unknown action",
     literals(REVIEW, expires_in_seconds=5, on_timeout={"do": "answer", "action": "maybe"}),
     {("/nodes/2/inputs/on_timeout/action", "unknown-action")}),
    ("a choice without actions",
     alone({"id": "q", "component": "ask", "inputs": {"title": "?", "kind": "choice"}}),
     {("/nodes/0/inputs/actions", "missing")}),
    ("a template with a typing error",
     alone({"id": "t", "component": "template", "inputs": {"template": "{{a"}}),
     {("/nodes/0/inputs/template", "invalid-template")}),
    ("a template variable without a value",
     alone({"id": "t", "component": "template", "inputs": {"template": "{{a}}"}}),
     {("/nodes/0/inputs/a", "missing")}),
    ("a template variable called template",
     alone({"id": "t", "component": "template", "inputs": {"template": "{{template}}"}}),
     {("/nodes/0/inputs/template", "reserved-name")}),
]  # fmt: skip


@pytest.mark.parametrize(("definition", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_definition_that_does_not_fit_is_refused_at_the_place(
    definition: dict[str, Any], expected: set[tuple[str, str]]
) -> None:
    assert faults(definition) == expected


def test_all_faults_are_found_at_once() -> None:
    definition = changed(
        lambda d: (d.update(name="", extra=1), d["nodes"][POST].update(component="x"), d["edges"].append(7))
    )
    assert faults(definition) == {
        ("/name", "invalid-value"),
        ("/extra", "unknown-member"),
        ("/nodes/3/component", "unknown-component"),
        ("/edges/4", "wrong-type"),
    }


def test_a_cycle_names_the_nodes_on_it_and_no_others() -> None:
    definition = changed(
        lambda d: (d["nodes"][DRAFT].pop("inputs"), d["edges"].append({"from": "review.reject", "to": "draft.system"}))
    )
    with pytest.raises(Invalid) as caught:
        spec.parse(definition)
    assert [fault.detail for fault in caught.value.faults] == ["these nodes wait for each other: draft, review"]


def test_the_faults_of_an_answer_are_bounded() -> None:
    with pytest.raises(Invalid) as caught:
        spec.parse({f"x{i}": 1 for i in range(5000)})
    assert len(caught.value.faults) == 101
    assert caught.value.faults[-1].code == "more"


def test_a_refused_value_is_not_repeated() -> None:
    secret = "hunter2"
    for definition in (
        literals(DRAFT, system=[secret], temperature=secret),
        node(DRAFT, component=secret),
        changed(lambda d: d.update(name=f" {secret}", format=secret)),
        literals(REVIEW, actions=[{"id": f"{secret} "}], kind=secret),
        edge(f"{secret}", f"{secret}.x"),
    ):
        with pytest.raises(Invalid) as caught:
            spec.parse(definition)
        assert secret not in str(caught.value)


@pytest.mark.parametrize("definition", [None, 1, "x", [], [[]], {"nodes": [None]}, {"a": object()}, {"a": {1: set()}}])
def test_what_is_no_definition_is_invalid_and_no_accident(definition: object) -> None:
    assert faults(definition)


def test_a_definition_nested_beyond_reason_is_invalid() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert faults({"nodes": deep}) == {("", "wrong-type")}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
MEMBER = st.sampled_from(
    ["format", "name", "nodes", "edges", "id", "component", "inputs", "retry", "timeout_seconds", "from", "to", "title"]
)


@given(st.data())
def test_no_json_is_an_accident(data: st.DataObject) -> None:
    definition = deepcopy(APPROVAL)
    definition["nodes"][data.draw(st.integers(0, 4))][data.draw(MEMBER)] = data.draw(JSON)
    definition["nodes"][REVIEW].setdefault("inputs", {})
    if isinstance(definition["nodes"][REVIEW]["inputs"], dict):
        port = data.draw(st.sampled_from(["actions", "editable", "on_timeout", "kind", "proposal", "title"]))
        definition["nodes"][REVIEW]["inputs"][port] = data.draw(JSON)
    definition["edges"][data.draw(st.integers(0, 3))][data.draw(MEMBER)] = data.draw(JSON)
    definition[data.draw(MEMBER)] = data.draw(JSON | st.just(APPROVAL["nodes"]))
    with contextlib.suppress(Invalid):
        spec.parse(definition)


def test_only_equal_types_and_any_join() -> None:
    catalogue = {
        f"{kind}_{way}": ComponentSpec(
            name=f"{kind}_{way}",
            outputs=(OutputPort(name="o", type=kind),) if way == "out" else (),
            inputs=(InputPort(name="i", type=kind, literal="json"),) if way == "in" else (),
        )
        for kind in ("text", "data", "message", "any")
        for way in ("out", "in")
    }
    joined = set()
    for source in ("text", "data", "message", "any"):
        for target in ("text", "data", "message", "any"):
            nodes = [{"id": "a", "component": f"{source}_out"}, {"id": "b", "component": f"{target}_in"}]
            definition = {"format": spec.FORMAT, "name": "n", "nodes": nodes, "edges": [{"from": "a.o", "to": "b.i"}]}
            try:
                spec.parse(definition, catalogue)
            except Invalid:
                continue
            joined.add((source, target))
    assert joined == {
        ("text", "text"), ("data", "data"), ("message", "message"), ("any", "any"),
        ("text", "any"), ("data", "any"), ("message", "any"),
        ("any", "text"), ("any", "data"), ("any", "message"),
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------- a job's input

TWO = spec.parse(
    {
        "format": spec.FORMAT,
        "name": "two",
        "nodes": [
            {"id": "a", "component": "chat_input"},
            {"id": "b", "component": "text_input", "inputs": {"default": "B"}},
        ],
    }
)
NONE = spec.parse(
    {"format": spec.FORMAT, "name": "none", "nodes": [{"id": "o", "component": "text_output", "inputs": {"text": "x"}}]}
)
ONE = spec.parse(APPROVAL)


@pytest.mark.parametrize(
    ("graph", "value", "taken"),
    [
        (ONE, "hello", {"brief": "hello"}),
        (ONE, {"brief": ""}, {"brief": ""}),
        (TWO, {"a": "x"}, {"a": "x", "b": "B"}),
        (TWO, {"b": "y", "a": "x"}, {"a": "x", "b": "y"}),
        (NONE, None, {}),
        (NONE, {}, {}),
    ],
)
def test_an_input_is_an_object_of_input_nodes_or_a_string_for_the_only_one(
    graph: spec.GraphSpec, value: object, taken: dict[str, object]
) -> None:
    assert spec.check_input(graph, value) == taken
    if value is not None:
        assert jsonschema_rs.is_valid(spec.input_schema(graph), value)


@pytest.mark.parametrize(
    ("graph", "value", "expected"),
    [
        (ONE, None, {("/input/brief", "missing")}),
        (ONE, 7, {("/input", "wrong-type")}),
        (ONE, ["x"], {("/input", "wrong-type")}),
        (ONE, {"brief": 7}, {("/input/brief", "wrong-type")}),
        (ONE, {"brief": None}, {("/input/brief", "wrong-type")}),
        (ONE, {"brief": "x", "a/b~": 1}, {("/input/a~1b~0", "unknown-member")}),
        (ONE, "\ud800", {("/input/brief", "wrong-type")}),
        (TWO, "x", {("/input", "wrong-type")}),
        (TWO, {"b": 1, "c": 2}, {("/input/a", "missing"), ("/input/b", "wrong-type"), ("/input/c", "unknown-member")}),
        (NONE, "x", {("/input", "wrong-type")}),
    ],
)
def test_an_input_that_does_not_fit_is_refused_at_the_place(
    graph: spec.GraphSpec, value: object, expected: set[tuple[str, str]]
) -> None:
    with pytest.raises(Invalid) as caught:
        spec.check_input(graph, value)
    assert caught.value.code == "invalid-input"
    assert {(fault.pointer, fault.code) for fault in caught.value.faults} == expected


def test_every_component_of_the_catalogue_bears_its_own_name() -> None:
    assert set(BUILTIN) == {
        "chat_input", "text_input", "data_input", "template", "chat_model", "http_request", "branch", "wait", "ask",
        "subflow", "map", "chat_output", "text_output", "data_output",
    }  # fmt: skip
    assert all(name == component.name for name, component in BUILTIN.items())
