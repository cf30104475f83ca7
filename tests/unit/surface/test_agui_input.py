"""What a client of AG-UI posts, as what a flow takes: by name, as a text, or all of it."""

from typing import Any

import pytest

from perdure.core.surface.runinput import RunInput, candidates

TEXT: dict[str, Any] = {"type": "string"}
RUN = RunInput(
    thread_id="t1",
    run_id="r1",
    messages=[
        {"id": "1", "role": "user", "content": "first"},
        {"id": "2", "role": "assistant", "content": "said"},
        {"id": "3", "role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image"}, {"text": "this"}]},
    ],
    state={"item": "tea", "amount": 3, "message": "no", "perdure": {"status": "completed"}},
    tools=[{"name": "look"}],
    forwarded={"theme": "dark", "perdure": {"priority": "high"}},
)


def object_of(*required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


@pytest.mark.parametrize(
    ("schema", "best"),
    [
        (TEXT, "see\nthis"),
        (object_of("message", message=TEXT), {"message": "see\nthis"}),
        (object_of("item", item=TEXT, amount={"type": "integer"}), {"item": "tea", "amount": 3}),
        (object_of("messages", messages={}, tools={}), {"messages": RUN.messages, "tools": RUN.tools}),
        ({"anyOf": [TEXT, object_of("chat", chat=TEXT)]}, "see\nthis"),
        ({"anyOf": [TEXT, object_of("item", item=TEXT)]}, {"item": "tea"}),
        ({"$ref": "#/$defs/Order", "$defs": {"Order": object_of("item", item=TEXT)}}, {"item": "tea"}),
        ({"type": ["string", "null"]}, "see\nthis"),
        ({"type": "array"}, RUN.messages),
    ],
)
def test_the_best_candidate_is_what_the_schema_asks_for(schema: dict[str, Any], best: Any) -> None:
    assert candidates(schema, RUN)[0] == best


@pytest.mark.parametrize("schema", [None, {}, {"type": "object"}])
def test_a_flow_that_says_nothing_is_given_everything_but_what_is_our_own(schema: dict[str, Any] | None) -> None:
    [given] = candidates(schema, RUN)
    assert given["message"] == "see\nthis"
    assert given["state"] == {"item": "tea", "amount": 3, "message": "no"}
    assert given["forwarded_props"] == {"theme": "dark"}
    assert "parent_run_id" not in given


def test_without_a_users_text_a_text_flow_has_no_candidate() -> None:
    silent = RunInput(thread_id="t", run_id="r", messages=[{"id": "1", "role": "user", "content": []}])
    assert candidates(TEXT, silent) == []
    assert candidates({"type": ["string", "null"]}, silent) == [None]
