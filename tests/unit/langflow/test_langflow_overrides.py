"""Tweaks in their three forms, what is protected, globals of body and headers, what cannot be stored."""

from typing import Any

import pytest

from perdure.core.langflow.gates import misplaced
from perdure.core.langflow.overrides import MAX_DEPTH, merged, resolve, unfit
from perdure.core.langflow.shape import faults_of, of_langflow


def node(name: str, kind: str, title: str, *fields: str, **template: Any) -> dict[str, Any]:
    whole = {field: {"type": "str", "value": ""} for field in fields} | template
    inner = {"display_name": title, "template": whole, "outputs": [{"name": "o", "types": ["Message"]}]}
    return {"id": name, "type": "genericNode", "data": {"id": name, "type": kind, "node": inner}}


def edge(source: str, target: str) -> dict[str, str]:
    return {"source": source, "target": target}


DATA: dict[str, Any] = {
    "nodes": [
        node("In-1", "ChatInput", "Chat Input", "input_value"),
        node("A-1", "Agent", "Agent", "model", "api_key", code={"type": "code"}),
        node("A-2", "Agent", "Agent", "model"),
        node("P-1", "PythonREPLComponent", "Interpreter", "python_code", "name"),
        node("G-1", "Group", "Group", "plain", hidden={"type": "str", "proxy": {"id": "x", "field": "code"}}),
        {"id": "n", "type": "noteNode", "data": {"type": "note", "node": {}}},
    ],
    "edges": [edge("In-1", "A-1"), edge("A-1", "A-2")],
}
SHAPE = of_langflow(DATA)
MODEL = [{"name": "m", "provider": "OpenAI"}]


def test_notes_are_no_components_and_ends_are_terminal() -> None:
    assert [component.id for component in SHAPE.components] == ["In-1", "A-1", "A-2", "P-1", "G-1"]
    assert [component.id for component in SHAPE.terminals] == ["A-2", "P-1", "G-1"]


def test_023_tweaks_by_id_by_display_name_and_as_a_bare_field() -> None:
    assert resolve({"A-1": {"model": MODEL}}, SHAPE).tweaks == {"A-1": {"model": MODEL}}
    assert resolve({"Agent": {"model": MODEL}}, SHAPE).tweaks == {"A-2": {"model": MODEL}}  # as lfx: the last
    assert resolve({"model": MODEL}, SHAPE).tweaks == {"A-1": {"model": MODEL}, "A-2": {"model": MODEL}}


def test_a_named_component_beats_a_bare_field() -> None:
    found = resolve({"A-1": {"model": "named"}, "model": "bare"}, SHAPE).tweaks
    assert found == {"A-1": {"model": "named"}, "A-2": {"model": "bare"}}


@pytest.mark.parametrize("tweaks", [{"Nope-1": {"model": 1}}, {"A-1": {"nope": 1}}, {"nope": 1}, {}, {"A-1": {}}])
def test_what_the_flow_does_not_have_is_passed_over(tweaks: dict[str, Any]) -> None:
    assert resolve(tweaks, SHAPE).tweaks == {}
    assert resolve(tweaks, SHAPE).refused == ()


@pytest.mark.parametrize(
    ("tweaks", "fields"),
    [
        ({"A-1": {"code": "import os", "model": "m"}}, ("code",)),
        ({"code": "import os"}, ("code",)),
        ({"P-1": {"python_code": "1"}}, ("python_code",)),
        ({"G-1": {"hidden": "x"}}, ("hidden",)),
        ({"G-1": {"plain": {"proxy": {"id": "A-1", "field": "code"}}}}, ("plain",)),
    ],
)
def test_024_a_protected_field_refuses_all_of_it(tweaks: dict[str, Any], fields: tuple[str, ...]) -> None:
    found = resolve(tweaks, SHAPE)
    assert (found.refused, found.tweaks) == (fields, {})


def test_021_the_body_beats_headers_and_their_names_count_in_upper_case() -> None:
    headers = [("X-LANGFLOW-GLOBAL-VAR-FOO", "header"), ("x-langflow-global-var-bar", "b"), ("accept", "x")]
    assert merged({"FOO": "body", "lower": "1"}, headers) == {"FOO": "body", "lower": "1", "BAR": "b"}


def deep(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value", [float("nan"), [float("inf")], {"a": "\ud800"}, {"\x00": 1}, deep(MAX_DEPTH + 1), 2**63], ids=repr
)
def test_079_what_nobody_can_store_is_named(value: Any) -> None:
    assert unfit(value) is not None


@pytest.mark.parametrize("value", [1.5, -(2**63) + 1, True, None, {"ä": ["😀"]}, deep(MAX_DEPTH)], ids=repr)
def test_079_everything_else_is_fine(value: Any) -> None:
    assert unfit(value) is None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (None, "no data"),
        ({"edges": []}, "no list of nodes"),
        ({"nodes": []}, "no list of edges"),
        ({"nodes": [], "edges": []}, "no components"),
        (DATA | {"edges": [edge("In-1", "gone")]}, "to a component"),
        (DATA | {"nodes": [*DATA["nodes"], DATA["nodes"][0]]}, "one id"),
    ],
)
def test_what_json_alone_shows_of_a_flow(data: Any, why: str) -> None:
    assert why in (faults_of(data) or "")
    assert faults_of(DATA) is None


def test_083_a_gate_on_a_cycle_is_found_and_one_behind_it_is_not() -> None:
    gate = node("H-1", "HumanInput", "Human Input")
    nodes = [*DATA["nodes"][:3], gate]
    cycle = {"nodes": nodes, "edges": [edge("A-1", "H-1"), edge("H-1", "A-1")]}
    line = {"nodes": nodes, "edges": [edge("A-1", "A-2"), edge("A-2", "A-1"), edge("A-2", "H-1")]}
    assert misplaced(cycle) == ("H-1",)
    assert misplaced(line) == ()


@pytest.mark.parametrize(
    ("edges", "on_cycle"),
    [
        ("ab bc cd", ""),
        ("ab ba", "ab"),
        ("aa ab", "a"),
        ("ab bc ca cd de ed", "abcde"),
        ("ab bc cb cd da ae", "abcd"),
        ("ab ba bc cd dc", "abcd"),
        ("ab ba bc cd de ed", "abde"),
        ("ab ac bd cd da", "abcd"),
    ],
)
def test_a_gate_is_misplaced_exactly_where_it_is_on_a_cycle(edges: str, on_cycle: str) -> None:
    nodes = [node(name, "HumanInput", "") for name in "abcde"]
    assert misplaced({"nodes": nodes, "edges": [edge(*each) for each in edges.split()]}) == tuple(on_cycle)


@pytest.mark.parametrize("gate", [{"data": {"type": "HumanInput"}}, {"id": 7, "data": {"type": "HumanInput"}}])
def test_a_gate_without_an_id_is_passed_over_like_any_node_without_one(gate: dict[str, Any]) -> None:
    data = {"nodes": [node("a", "HumanInput", ""), gate], "edges": [edge("a", "a")]}
    assert faults_of(data) is None
    assert misplaced(data) == ("a",)


def test_a_flow_of_very_many_components_is_looked_at_in_one_go() -> None:
    many = 100_000  # what a body of 16 MiB can hold: looked at edge by edge for each, it would take hours
    names = [f"g{n}" for n in range(many)]
    ring = [edge(names[n - 1], names[n]) for n in range(many)]
    data = {"nodes": [node(name, "HumanInput", "", "f") for name in names], "edges": ring}
    assert faults_of(data) is None
    assert len(misplaced(data)) == many
    shape = of_langflow(data)
    assert shape.components[1].comes_from == ("g0",)
    assert shape.components[1].leads_to == ("g2",)
    found = resolve({f"x{n}": 1 for n in range(many)} | {"f": 2}, shape).tweaks
    assert found == {name: {"f": 2} for name in names}
