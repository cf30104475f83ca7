"""Output resolution against what Langflow 1.13 answered, and where it is better on purpose (contract 2.4, row 20)."""

import json
from typing import Any

import pytest
from msgspec import to_builtins
from tests.unit.langflow.recordings import answers, step, steps, streams

from perdure.core.event import Status
from perdure.core.langflow import outputs
from perdure.core.langflow.shape import Component

ANSWERS = dict(answers(1, 2, 3, 4, 6, 7, 8, 9, 20, 23, 26, 28, 30, 32))
STREAMS = {name: found for name, found in streams(14, 15, 16, 17, 20, 26) if '"vertices_sorted"' in found[0]}


def chosen(name: str) -> list[str]:
    """The `output_ids` of the call that was answered so."""
    number, index = map(int, name.split("-"))
    return (steps(number)[index]["request"].get("json") or {}).get("output_ids") or []


def test_the_recordings_hold_every_reason_that_a_flow_of_theirs_can_have() -> None:
    found = {body["output"]["reason"] for body in ANSWERS.values()}
    assert found == {"single", "multiple", "non_string", "none", "failed"}


@pytest.mark.parametrize("name", ANSWERS)
def test_009_to_014_the_output_is_that_of_1_13(name: str) -> None:
    body = ANSWERS[name]
    found = outputs.answer(Status(body["status"]), body["outputs"], chosen(name))
    assert to_builtins(found) == body["output"]


def test_015_what_never_ran_is_listed_as_skipped_and_does_not_count() -> None:
    taken = {"type": "message", "content": "yes", "metadata": {}}
    left = outputs.never_ran(component("no", "message"))
    assert left["content"] is None
    assert left["metadata"] == {"component_type": "ChatOutput", "skipped": True}
    assert outputs.answer(Status.COMPLETED, {"a": taken, "b": left}).reason == "single"
    assert outputs.answer(Status.COMPLETED, {"a": taken, "b": left}, ["b"]).reason == "none"


@pytest.mark.parametrize(
    ("status", "reason"),
    [(Status.FAILED, "failed"), (Status.TIMED_OUT, "failed"), (Status.SUSPENDED, "none"), (Status.CANCELLED, "none")],
)
def test_what_did_not_complete_has_no_text(status: Status, reason: str) -> None:
    shown = {"a": {"type": "text", "content": "so far", "metadata": {}}}
    assert to_builtins(outputs.answer(status, shown)) == {"reason": reason, "text": None, "source": None}


def test_009_an_empty_string_is_a_string() -> None:
    shown = {"a": {"type": "text", "content": "", "metadata": {}}}
    assert to_builtins(outputs.answer(Status.COMPLETED, shown)) == {"reason": "single", "text": "", "source": "a"}
    assert outputs.answer(Status.COMPLETED, {}).reason == "none"


@pytest.mark.parametrize("name", STREAMS)
def test_018_each_output_of_a_stream_is_made_from_the_component_that_was_built(name: str) -> None:
    built: dict[str, Any] = {}
    found = 0
    for line in STREAMS[name]:
        frame = json.loads(line)
        if frame["event"] == "end_vertex":
            built[frame["data"]["build_data"]["id"]] = frame["data"]
        elif frame["event"] == "output":
            shown = dict(frame["data"])
            vertex = built[shown.pop("component_id")]
            meta, build = vertex["output_meta"], vertex["build_data"]
            made = Component(
                id=meta["component_id"],
                type=meta["vertex_type"],
                display_name=meta["display_name"],
                output_type=meta["output_types"][0].lower(),
                terminal=meta["is_terminal"],
                is_output=meta["is_output"],
            )
            assert outputs.of_raw(made, build["data"]["outputs"], valid=build["valid"]) == shown
            found += 1
    assert found or not any('"is_terminal": true' in line for line in STREAMS[name])


RAW: dict[str, Any] = {"a": "hi", "n": 1}


@pytest.mark.parametrize(
    ("kind", "output", "value"),
    [
        ("data", "data", RAW),
        ("data", "result", RAW),
        ("dataframe", "dataframe", [RAW]),
        ("dataframe", "result", [RAW]),
    ],
)
def test_018_old_shapes_are_those_of_1_13(kind: str, output: str, value: Any) -> None:
    name = {"data": "Data", "dataframe": "DataFrame"}[kind]
    expected = step(7, "sync")["response"]["json"]["outputs"]
    raw = {output: {"message": value, "type": "array" if isinstance(value, list) else "data"}}
    found = outputs.of_raw(component("x", kind, "Shape", "Shape", is_output=False), raw)
    assert found == expected[f"Shape-{name}-{output}"]


@pytest.mark.parametrize(("kind", "value"), [("json", RAW), ("table", [RAW])])
def test_017_a_json_and_a_table_have_content_where_1_13_shows_null(kind: str, value: Any) -> None:
    name = {"json": "JSON", "table": "Table"}[kind]
    theirs = step(7, "sync")["response"]["json"]["outputs"][f"Shape-{name}-result"]
    ours = outputs.of_raw(
        component("x", kind, "Shape", "Shape", is_output=False), {"result": {"message": value, "type": "x"}}
    )
    assert theirs["content"] is None
    assert ours == theirs | {"content": value}


def test_a_model_at_the_end_shows_no_text_but_where_it_comes_from() -> None:
    raw = {"model_output": {"message": {"model_name": "m-1"}}}
    found = outputs.of_raw(component("m", "message", "Model", "Model", is_output=False), raw)
    assert found["content"] is None
    assert found["metadata"] == {
        "component_type": "Model",
        "source": {"id": "m", "display_name": "Model", "source": "m-1"},
    }


def component(
    name: str, kind: str, type_: str = "ChatOutput", title: str = "Chat Output", *, is_output: bool = True
) -> Component:
    return Component(id=name, type=type_, display_name=title, output_type=kind, terminal=True, is_output=is_output)
