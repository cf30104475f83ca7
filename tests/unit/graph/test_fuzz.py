"""Definitions of every component, with anything in any place: understood or refused with pointers, no accident."""

import contextlib
from copy import deepcopy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.core.graph import nested, spec
from perdure.core.graph.catalogue import BUILTIN
from perdure.core.graph.plan import Planner
from perdure.errors import Fault, Invalid

INNER = spec.parse(
    {
        "format": spec.FORMAT,
        "name": "inner",
        "nodes": [{"id": "word", "component": "text_input"}, {"id": "out", "component": "text_output"}],
        "edges": [{"from": "word.text", "to": "out.text"}],
    }
)
FLOW = f"inner@{INNER.digest}"
LATE = {"do": "answer", "action": "yes", "payload": {"note": "x"}}
NODES: list[dict[str, Any]] = [
    {"id": "in", "component": "chat_input", "inputs": {"default": "x"}},
    {"id": "word", "component": "text_input"},
    {"id": "data", "component": "data_input", "inputs": {"default": []}},
    {"id": "text", "component": "template", "inputs": {"template": "{{a}} {{b.c}}", "b": {"c": 1}}},
    {"id": "model", "component": "chat_model", "inputs": {"model": "m", "temperature": 1, "max_tokens": 5}},
    {"id": "call", "component": "http_request", "retry": {"max_failures": 2}, "inputs": {
        "url": "https://a.example/", "method": "POST", "headers": {"X": "y"}, "query": {"a": 1}, "json": {},
        "ok_status": ["2xx", 404]}},
    {"id": "route", "component": "branch", "inputs": {"cases": [
        {"id": "a", "when": {"at": "/x", "any": [{"equals": 1}, {"not": {"matches": "^a+$"}}]}}]}},
    {"id": "pause", "component": "wait", "inputs": {"until": "2026-01-01T00:00:00Z"}},
    {"id": "ask", "component": "ask", "inputs": {
        "title": "?", "kind": "choice", "actions": [{"id": "yes", "requires": ["note"]}], "editable": ["/a"],
        "proposal": {"a": 1}, "proposal_schema": {"type": "object"}, "defaults": {"note": ""},
        "response_schema": {"properties": {"note": {"type": "string"}}}, "assignees": {"users": ["bob"]},
        "expires_in_seconds": 60, "on_timeout": LATE}},
    {"id": "sub", "component": "subflow", "inputs": {"flow": FLOW}},
    {"id": "each", "component": "map", "inputs": {"flow": FLOW, "width": 2, "on_error": "skip"}},
    {"id": "all", "component": "map", "timeout_seconds": 5, "inputs": {"component": "chat_model", "item": "prompt"}},
    {"id": "said", "component": "chat_output"},
    {"id": "told", "component": "text_output"},
    {"id": "given", "component": "data_output"},
]  # fmt: skip
EDGES = [
    ("in.text", "text.a"), ("text.text", "model.prompt"), ("call.body", "route.value"), ("route.a", "pause.value"),
    ("word.text", "sub.word"), ("data.data", "each.items"), ("each.results", "all.items"), ("sub.out", "said.text"),
    ("ask.yes", "told.text"), ("all.errors", "given.data"),
]  # fmt: skip
WHOLE: dict[str, Any] = {
    "format": spec.FORMAT,
    "name": "whole",
    "nodes": NODES,
    "edges": [{"from": source, "to": target} for source, target in EDGES],
}

WORDS = st.sampled_from(
    ["x", "inner", FLOW, f"inner@{'0' * 64}", "a", "yes", "chat_model", "branch", "flow", "prompt", "items", "/a",
     "2xx", "{{a}}", "{{", "(", "2026-01-01", "text", "Host", "answer", "skip", "choice"]
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=6) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every member and element of `value`."""
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    else:
        return []
    return [place for name, one in inner for place in ((*at, name), *places(one, (*at, name)))]


PLACES = places(WHOLE)


def test_the_definition_that_is_turned_over_is_one_and_has_every_component() -> None:
    assert {node["component"] for node in NODES} == set(BUILTIN)
    assert spec.parse(WHOLE, flows={FLOW: INNER}).whole == len(NODES) + 2 * 2


def understood(definition: Any) -> tuple[tuple[Fault, ...], spec.GraphSpec | None]:
    try:
        return (), spec.parse(definition, flows={FLOW: INNER, "inner": INNER})
    except Invalid as exc:
        return exc.faults, None


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_no_definition_is_an_accident(data: st.DataObject) -> None:
    definition = deepcopy(WHOLE)
    for _ in range(data.draw(st.integers(1, 3))):
        *way, last = data.draw(st.sampled_from(PLACES))
        here: Any = definition
        with contextlib.suppress(KeyError, IndexError, TypeError):  # an earlier change has taken the way away
            for name in way:
                here = here[name]
            here[last]
            if isinstance(here, dict) and data.draw(st.booleans()):
                here[data.draw(WORDS)] = data.draw(JSON)
            elif isinstance(here, dict | list):
                here[last] = data.draw(JSON)
    nested.references(definition)
    nested.resolved(definition, {"inner": FLOW})
    refusal, graph = understood(definition)
    if graph is None:
        assert refusal
        assert all(fault.pointer == "" or (fault.pointer or "").startswith("/") for fault in refusal)
        with contextlib.suppress(Invalid):
            spec.stored(definition, {FLOW: INNER})
        return
    assert Planner(graph).next({}, ()).start or Planner(graph).next({}, ()).skip
    assert spec.stored(definition, {FLOW: INNER, "inner": INNER}).digest == graph.digest
    spec.input_schema(graph)
    nested.interface(graph)
