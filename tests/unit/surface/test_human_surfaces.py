"""Requests on other surfaces: golden files of what is shown, and that any answer comes back as it was meant.

A client in these tests knows nothing but what the surface showed it.
"""

import contextlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET
from msgspec.structs import replace

from perdure.core import event as ev
from perdure.core import fit
from perdure.core.fit import Answer
from perdure.core.surface import a2a, agui, langgraph, mcp
from perdure.core.surface.interrupt import interrupt_id
from perdure.errors import Conflict, Invalid, NotFound
from perdure.testing.requests import FORM, SAMPLES, TOOL_ACTIONS, request

GOLDEN: Final = Path(__file__).parents[2] / "golden" / "surfaces"
REFERENCE: Final = (Path(__file__).parents[3] / "docs" / "reference" / "surfaces.md").read_text()
PAGE: Final = "https://perdure.example/r/17"
SHOWN: Final[dict[str, Callable[[ev.Request], Any]]] = {
    "agui": lambda asked: agui.interrupt(asked, PAGE),
    "langgraph": langgraph.interrupt,
    "mcp": lambda asked: mcp.elicitation(asked, PAGE).params,
    "a2a": lambda asked: a2a.status([asked], task_id="t", context_id="c", message_id="m", at=asked.asked_at),
    "a2a-0.3": lambda asked: a2a.status(
        [asked], task_id="t", context_id="c", message_id="m", at=asked.asked_at, version="0.3"
    ),
}


@pytest.mark.parametrize("surface", SHOWN)
@pytest.mark.parametrize("sample", SAMPLES)
def test_what_a_surface_shows_is_in_its_golden_file(surface: str, sample: str) -> None:
    golden = json.loads((GOLDEN / surface / f"{sample}.json").read_text())
    assert json.loads(json.dumps(SHOWN[surface](SAMPLES[sample]))) == golden


def test_there_are_no_other_golden_files() -> None:
    found = {f"{path.parent.name}/{path.stem}" for path in GOLDEN.rglob("*.json")}
    assert found == {f"{surface}/{sample}" for surface in SHOWN for sample in SAMPLES}


@pytest.mark.parametrize("surface", ["agui", "langgraph", "mcp", "a2a"])
def test_the_reference_has_every_member_that_a_surface_shows(surface: str) -> None:
    [section] = [part for part in REFERENCE.split("\n## ")[1:] if f"(`perdure.core.surface.{surface}`)" in part]
    words = set(re.findall(r"\w+", section))
    shown = {name for sample in SAMPLES.values() for name in own_members(SHOWN[surface](sample))}
    assert shown - words == set()


def own_members(shown: dict[str, Any]) -> set[str]:
    """The members that Perdure chose to put in, not those that are the protocol's frame."""
    if "metadata" in shown:
        return {*shown["metadata"]["perdure"]}
    if "value" in shown:
        return set(shown["value"])
    if "mode" in shown:
        properties: dict[str, Any] = shown.get("requestedSchema", {}).get("properties", {})
        return {name for name in ("action", "comment") if name in properties}
    return {name for part in shown["message"]["parts"] for name in part.get("data", ())}


# ------------------------------------------------------------------------------------------------ what people say

TEXT: Final = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)
NOTE: Final = st.text("abc def", min_size=1, max_size=20).filter(str.strip)
VALUES: Final[dict[str, st.SearchStrategy[Any]]] = {
    "note": NOTE,
    "mail": st.just("a@example.com"),
    "amount": st.integers(1, 500),
    "rate": st.floats(-1e6, 1e6),
    "urgent": st.booleans(),
    "colour": st.sampled_from(["red", "blue"]),
    "size": st.sampled_from(["s", "l"]),
    "days": st.lists(st.sampled_from(["mon", "tue"]), max_size=2),
    "rooms": st.lists(st.sampled_from(["a", "b"]), max_size=2),
}
PAYLOAD: Final = st.fixed_dictionaries(
    {"note": NOTE}, optional={name: values for name, values in VALUES.items() if name != "note"}
)


@st.composite
def said(draw: st.DrawFn) -> tuple[ev.Request, Answer]:
    """A request, and an answer that it takes."""
    kind = draw(st.sampled_from(["approval", "tool_call", "choice", "input"]))
    members: dict[str, Any] = {"kind": kind, "title": draw(NOTE), "message": draw(st.none() | NOTE)}
    if kind == "tool_call":
        members["actions"] = TOOL_ACTIONS
        members["proposal"] = {"name": "send", "arguments": {"to": draw(TEXT)}}
        members["editable"] = ("/arguments",)
    elif kind == "choice":
        names = draw(st.lists(st.sampled_from(["left", "right", "back", "stay"]), min_size=1, unique=True))
        members["actions"] = tuple(ev.Action(id=name) for name in names)
    elif kind == "input":
        members["actions"] = (ev.Action(id="submit"),)
    if kind == "approval" and draw(st.booleans()):
        members |= {"proposal": {"sum": draw(st.integers(0, 9))}, "editable": draw(st.none() | st.just(("/sum",)))}
    if draw(st.booleans()):
        members["response_schema"] = FORM
    asked = request(draw(st.integers(1, 99)), **members)
    action = draw(st.sampled_from(asked.actions))
    proposal: Any = UNSET
    if asked.editable and action.id in ("approve", "edit") and draw(st.booleans()):
        proposal = {"sum": 5} if kind == "approval" else {"name": "send", "arguments": {"to": draw(TEXT)}}
    answer = Answer(
        action=action.id,
        payload=draw(PAYLOAD) if asked.response_schema is not None else UNSET,
        proposal=proposal,
        proposal_digest=asked.proposal_digest,
        comment=draw(NOTE) if action.requires else draw(st.none() | NOTE),
    )
    assert fit.faults(asked, answer) == []
    return asked, answer


def the_same(one: Answer, other: Answer, asked: ev.Request) -> None:
    """They say the same: what is recorded of them is equal."""
    assert (one.action, one.comment, one.proposal_digest) == (other.action, other.comment, other.proposal_digest)
    assert fit.payload_of(asked, one) == fit.payload_of(asked, other)
    assert fit.approved(asked, one) == fit.approved(asked, other)


ANY_JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXT,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["action", "payload", "proposal", "comment", "approved", "editedArgs", "decisions", "type", "data",
                 "edited_action", "args", "parts", "text", "content", "status", "interruptId", "request_id", "message"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)  # fmt: skip


# ------------------------------------------------------------------------------------------------ AG-UI


def agui_client(shown: dict[str, Any], answer: Answer) -> dict[str, Any]:
    """What a client that draws `responseSchema` sends: it fits the schema that it was shown."""
    properties = shown["responseSchema"]["properties"]
    payload: dict[str, Any] = {}
    if "approved" in properties:
        payload["approved"] = answer.action in ("approve", "edit")
    if "approved" not in properties or answer.action == "respond":
        payload["action"] = answer.action
    if "approved" in properties and answer.action == "edit" and answer.proposal is UNSET:
        payload["action"] = "edit"
    if answer.proposal is not UNSET:
        payload["editedArgs"] = (
            answer.proposal["arguments"] if shown["reason"] == "tool_call" else answer.proposal
        )  # fmt: skip
        if answer.action != "edit" and shown["reason"] == "tool_call":
            payload["action"] = answer.action
    if answer.payload is not UNSET:
        payload |= {"payload": answer.payload} if "payload" in properties else answer.payload
    if answer.comment is not None:
        payload["comment"] = answer.comment
    jsonschema_rs.Draft202012Validator(shown["responseSchema"]).validate(payload)
    return {"interruptId": shown["id"], "status": "resolved", "payload": payload}


@given(said())
def test_agui_brings_any_answer_back(case: tuple[ev.Request, Answer]) -> None:
    asked, answer = case
    shown = agui.interrupt(asked)
    assert None not in shown.values()
    result = agui.resume([asked], [agui_client(shown, answer)])
    [(of, got)] = result.answers
    assert of is asked
    the_same(got, answer, asked)
    assert (result.abandoned, result.not_applied, result.missing) == ((), (), ())


def test_agui_covers_what_is_missing_abandoned_unknown_and_changed() -> None:
    one, two, three = (request(seq, proposal=seq) for seq in (1, 2, 3))
    changed = request(3, proposal="other")
    result = agui.resume(
        [one, two, three],
        [
            {"interruptId": agui.interrupt(one)["id"], "status": "cancelled"},
            {"interruptId": interrupt_id(changed), "status": "resolved", "payload": {"approved": True}},
            {"interruptId": "nothing", "status": "cancelled"},
        ],
    )
    assert result.abandoned == (one,)
    assert result.missing == (two, three)
    assert [(n.interrupt_id, n.code) for n in result.not_applied] == [
        (interrupt_id(changed), "proposal-changed"), ("nothing", "unknown")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("entries", "pointers"),
    [
        ({}, ["/resume"]),
        ([5], ["/resume/0"]),
        ([{"status": "resolved"}], ["/resume/0/interruptId"]),
        ([{"interruptId": "ID", "status": "maybe"}], ["/resume/0/status"]),
        ([{"interruptId": "ID", "status": "resolved"}], ["/resume/0/payload"]),
        ([{"interruptId": "ID", "status": "resolved", "payload": {}}], ["/resume/0/payload/approved"]),
        ([{"interruptId": "ID", "status": "resolved", "payload": {"approved": "yes"}}], ["/resume/0/payload/approved"]),
        (
            [{"interruptId": "ID", "status": "resolved", "payload": {"approved": False, "action": "approve"}}],
            ["/resume/0/payload/approved"],
        ),
        (
            [{"interruptId": "ID", "status": "resolved", "payload": {"approved": True, "editedArgs": 1}}],
            ["/resume/0/payload/editedArgs"],
        ),
        ([{"interruptId": "ID", "status": "resolved", "payload": {"approved": True, "x": 1}}], ["/resume/0/payload/x"]),
        ([{"interruptId": "ID", "status": "cancelled"}] * 2, ["/resume/1/interruptId"]),
        ([{"interruptId": "ID", "status": "?"}, 7], ["/resume/0/status", "/resume/1"]),
    ],
)
def test_agui_names_every_fault_by_its_place(entries: Any, pointers: list[str]) -> None:
    asked = SAMPLES["approval"]
    named = json.loads(json.dumps(entries).replace('"ID"', json.dumps(interrupt_id(asked))))
    with pytest.raises(Invalid) as caught:
        agui.resume([asked], named)
    assert [fault.pointer for fault in caught.value.faults] == pointers


@given(st.sampled_from(sorted(SAMPLES)), ANY_JSON)
def test_agui_takes_or_refuses_anything(sample: str, value: Any) -> None:
    asked = SAMPLES[sample]
    entry = {"interruptId": interrupt_id(asked), "status": "resolved", "payload": value}
    for entries in (value, [value], [entry]):
        with contextlib.suppress(Invalid):
            agui.resume([asked], entries)


# ------------------------------------------------------------------------------------------------ LangGraph


def langgraph_client(shown: dict[str, Any], answer: Answer) -> Any:
    """What a client of `Command(resume=…)` sends; None for what that middleware cannot say."""
    if "action_requests" not in shown["value"]:
        return {
            name: value
            for name in ("action", "payload", "proposal", "comment")
            if (value := getattr(answer, name)) is not UNSET and value is not None
        }
    if answer.payload is not UNSET or (answer.comment and answer.action in ("approve", "edit")):
        return None
    [config] = shown["value"]["review_configs"]
    assert answer.action in config["allowed_decisions"]
    decision: dict[str, Any] = {"type": answer.action}
    if answer.action in ("approve", "edit") and answer.proposal is not UNSET:
        edited = {"name": answer.proposal["name"], "args": answer.proposal["arguments"]}
        decision = {"type": "edit", "edited_action": edited}
    elif answer.action == "edit":
        [call] = shown["value"]["action_requests"]
        decision["edited_action"] = {"name": call["name"], "args": call["args"]}
    if answer.comment is not None:
        decision["message"] = answer.comment
    return {"decisions": [decision]}


@given(said(), st.booleans(), st.booleans())
def test_langgraph_brings_any_answer_back(case: tuple[ev.Request, Answer], named: bool, alone: bool) -> None:
    asked, answer = case
    value = langgraph_client(langgraph.interrupt(asked), answer)
    if value is None:
        return
    if alone and isinstance(value, dict) and "decisions" in value:
        [value] = value["decisions"]
    [(of, got)] = langgraph.resume([asked], {interrupt_id(asked): value} if named else value)
    assert of is asked
    if answer.action == "approve" and answer.proposal is not UNSET and asked.kind == "tool_call":
        answer = replace(answer, action="edit")  # there an approval with changes is an edit
    the_same(got, answer, asked)


@pytest.mark.parametrize(
    ("sample", "value", "action", "payload"),
    [
        ("approval", True, "approve", UNSET),
        ("approval", False, "reject", UNSET),
        ("choice", "right", "right", UNSET),
        ("choice", " to the LEFT ", "left", UNSET),
        ("form", {"payload": {"note": "x"}}, "submit", {"note": "x"}),
    ],
)
def test_langgraph_takes_short_answers(sample: str, value: Any, action: str, payload: Any) -> None:
    [(_, got)] = langgraph.resume([SAMPLES[sample]], value)
    assert (got.action, got.payload) == (action, payload)


def test_a_text_answers_a_form_of_one_text() -> None:
    form = {"type": "object", "properties": {"name": {"type": "string"}}}
    asked = request(kind="input", actions=(ev.Action(id="submit"),), response_schema=form)
    [(_, got)] = langgraph.resume([asked], "blue")
    assert (got.action, got.payload) == ("submit", {"name": "blue"})


def test_langgraph_needs_a_map_when_several_are_open_and_knows_stale_interrupts() -> None:
    one, two = request(1, proposal=1), request(2, proposal=2)
    with pytest.raises(Invalid, match="map by interrupt id"):
        langgraph.resume([one, two], True)
    answers = langgraph.resume([one, two], {interrupt_id(two): True, interrupt_id(one): False})
    assert [(of.id, said.action) for of, said in answers] == [(two.id, "approve"), (one.id, "reject")]
    with pytest.raises(Conflict) as caught:
        langgraph.resume([one], {interrupt_id(request(1, proposal="other")): True})
    assert caught.value.code == "proposal-changed"
    with pytest.raises(NotFound):
        langgraph.resume([one], {interrupt_id(two): True})


@pytest.mark.parametrize(
    ("value", "pointer"),
    [
        ({"decisions": []}, "/decisions"),
        ({"decisions": [{"type": "accept"}]}, "/decisions/0/type"),
        ({"decisions": [{"type": "edit"}]}, "/decisions/0/edited_action"),
        ({"type": "edit", "edited_action": {"name": "x"}}, "/edited_action/args"),
        ({"type": "respond", "message": 5}, "/message"),
        ({"action": 5}, "/action"),
        ({}, "/action"),
        ({"action": "approve", "why": 1}, "/why"),
        (5, ""),
        ("perhaps", ""),
    ],
)
def test_langgraph_names_a_fault_by_its_place(value: Any, pointer: str) -> None:
    with pytest.raises(Invalid) as caught:
        langgraph.resume([SAMPLES["tool_call"]], value)
    assert [fault.pointer for fault in caught.value.faults] == [pointer]


@given(st.sampled_from(sorted(SAMPLES)), ANY_JSON)
def test_langgraph_takes_or_refuses_anything(sample: str, value: Any) -> None:
    with contextlib.suppress(Invalid):
        langgraph.resume([SAMPLES[sample]], value)


# ------------------------------------------------------------------------------------------------ MCP

ENUM: Final = {"type": "array", "items": {"type": "string"}, "minItems": 1}
TITLED: Final = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"const": {"type": "string"}, "title": {"type": "string"}},
        "required": ["const", "title"],
        "additionalProperties": False,
    },
}


def primitive(kind: Any, required: list[str] | None = None, **members: Any) -> dict[str, Any]:
    named = {"title": {"type": "string"}, "description": {"type": "string"}}
    return {
        "type": "object",
        "properties": {"type": kind, **named, **members},
        "required": ["type", *(required or [])],
        "additionalProperties": False,
    }


COUNT: Final = {"type": "integer", "minimum": 0}
FORMATS: Final = {"enum": ["email", "uri", "date", "date-time"]}
TEXTS: Final = {"type": "array", "items": {"type": "string"}}
PRIMITIVES: Final = {
    "anyOf": [
        primitive(
            {"const": "string"}, minLength=COUNT, maxLength=COUNT, format=FORMATS, default={"type": "string"}
        ),
        primitive(
            {"enum": ["number", "integer"]},
            minimum={"type": "number"}, maximum={"type": "number"}, default={"type": "number"},
        ),
        primitive({"const": "boolean"}, default={"type": "boolean"}),
        primitive({"const": "string"}, ["enum"], enum=ENUM, default={"type": "string"}),
        primitive({"const": "string"}, ["oneOf"], oneOf=TITLED, default={"type": "string"}),
        primitive(
            {"const": "array"}, ["items"], minItems=COUNT, maxItems=COUNT, default=TEXTS,
            items={
                "anyOf": [
                    {"properties": {"type": {"const": "string"}, "enum": ENUM}, "required": ["type", "enum"],
                     "additionalProperties": False},
                    {"properties": {"anyOf": TITLED}, "required": ["anyOf"], "additionalProperties": False},
                ]
            },
        ),
    ]
}  # fmt: skip  # PrimitiveSchemaDefinition of the specification of 2025-11-25, by hand
REQUESTED: Final = {
    "type": "object",
    "properties": {
        "type": {"const": "object"},
        "properties": {"type": "object", "additionalProperties": PRIMITIVES},
        "required": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["type", "properties"],
    "additionalProperties": False,
}
SPEC: Final = jsonschema_rs.Draft202012Validator(REQUESTED)


@pytest.mark.parametrize("sample", [name for name in SAMPLES if name != "nested"])
def test_a_form_of_mcp_has_nothing_that_its_specification_does_not_know(sample: str) -> None:
    schema = mcp.form(SAMPLES[sample])
    assert schema is not None
    SPEC.validate(schema)
    assert set(schema["required"]) <= set(schema["properties"])


@given(said())
def test_mcp_brings_back_what_its_form_can_say(case: tuple[ev.Request, Answer]) -> None:
    asked, answer = case
    shown = mcp.elicitation(asked, PAGE)
    if answer.proposal is not UNSET or answer.action == "edit":
        return
    assert shown.params["mode"] == "form"
    SPEC.validate(shown.params["requestedSchema"])
    content: dict[str, Any] = {} if answer.payload is UNSET else dict(answer.payload)
    if "action" in shown.params["requestedSchema"]["properties"]:
        content["action"] = answer.action
    if answer.comment is not None:
        content["comment"] = answer.comment
    jsonschema_rs.Draft202012Validator(shown.params["requestedSchema"]).validate(content)
    got = mcp.answer(asked, shown.sent, {"action": "accept", "content": content})
    assert got is not None
    the_same(got, answer, asked)


def test_mcp_declines_cancels_and_sends_to_a_page() -> None:
    approval, refund, nested = SAMPLES["approval"], SAMPLES["refund"], SAMPLES["nested"]
    sent = mcp.elicitation(approval, PAGE).sent
    declined = mcp.answer(approval, sent, {"action": "decline"})
    assert declined is not None
    assert declined.action == "reject"
    assert mcp.answer(approval, sent, {"action": "cancel"}) is None
    assert mcp.answer(refund, mcp.elicitation(refund, PAGE).sent, {"action": "decline"}) is None  # it needs a comment
    link = mcp.elicitation(nested, PAGE)
    assert (link.params["mode"], link.params["url"]) == ("url", PAGE)
    assert mcp.answer(nested, link.sent, {"action": "accept"}) is None


def test_mcp_counts_for_the_revision_that_was_sent() -> None:
    asked = SAMPLES["refund"]
    sent = mcp.elicitation(asked, PAGE).sent
    restated = replace(asked, revision=2)
    with pytest.raises(Conflict) as caught:
        mcp.answer(restated, sent, {"action": "accept", "content": {"action": "approve"}})
    assert caught.value.code == "proposal-changed"


@pytest.mark.parametrize(
    ("field", "form"),
    [
        ({"type": "integer", "enum": [1, 2]}, False),
        ({"type": "object"}, False),
        ({"$ref": "#/$defs/x"}, False),
        ({"type": ["string", "null"]}, False),
        ({"type": "array", "items": {"type": "integer"}}, False),
        ({"type": "string", "enum": ["a"]}, True),
        ({"type": "string", "pattern": "x", "default": 5}, True),
    ],
)
def test_mcp_has_a_link_for_what_is_no_form_there(field: dict[str, Any], form: bool) -> None:
    asked = request(response_schema={"type": "object", "properties": {"x": field}})
    schema = mcp.form(asked)
    assert (schema is not None) == form
    if schema is not None:
        SPEC.validate(schema)


def test_a_member_called_like_ours_is_no_form_there() -> None:
    for name in ("action", "comment"):
        assert mcp.form(request(response_schema={"type": "object", "properties": {name: {"type": "string"}}})) is None


@given(st.sampled_from(sorted(SAMPLES)), ANY_JSON)
def test_mcp_takes_or_refuses_anything(sample: str, value: Any) -> None:
    asked = SAMPLES[sample]
    sent = mcp.elicitation(asked, PAGE).sent
    for result in (value, {"action": "accept", "content": value}):
        with contextlib.suppress(Invalid):
            mcp.answer(asked, sent, result)


# ------------------------------------------------------------------------------------------------ A2A


@given(said(), st.sampled_from(["1.0", "0.3"]))
def test_a2a_brings_any_answer_back(case: tuple[ev.Request, Answer], version: a2a.Version) -> None:
    asked, answer = case
    status = a2a.status([asked], task_id="t", context_id="c", message_id="m", at=asked.asked_at, version=version)
    [_, shown] = status["message"]["parts"]
    data = {
        name: value
        for name in ("action", "payload", "proposal", "comment")
        if (value := getattr(answer, name)) is not UNSET and value is not None
    }
    data["request_id"] = shown["data"]["request_id"]
    if "proposal_digest" in shown["data"]:
        data["proposal_digest"] = shown["data"]["proposal_digest"]
    part = {"data": data} if version == "1.0" else {"kind": "data", "data": data}
    result = a2a.answer([asked], {"messageId": "n", "role": "ROLE_USER", "parts": [part]})
    assert not isinstance(result, a2a.Again)
    the_same(result[1], answer, asked)


@pytest.mark.parametrize("text", ["left", "To the left", " to the LEFT", "1"])
def test_a2a_takes_a_text_that_names_an_action(text: str) -> None:
    result = a2a.answer([SAMPLES["choice"]], {"parts": [{"kind": "text", "text": text}]})
    assert not isinstance(result, a2a.Again)
    assert result[1].action == "left"


@pytest.mark.parametrize(
    ("samples", "part", "why"),
    [
        (["choice"], {"text": "perhaps"}, "Answer with one of: 1 To the left, 2 Right, 3 Back."),
        (["refund"], {"text": "approve"}, "proposal_digest"),
        (["form"], {"text": "Send"}, "needs more than a text"),
        (["choice", "approval"], {"text": "approve"}, "Several questions are open"),
        (["refund"], {"data": {"action": "approve"}}, "Send the proposal_digest"),
        (["refund"], {"data": {"action": "approve", "proposal_digest": "sha256:0"}}, "has changed"),
        (["choice"], {"data": {"request_id": "other", "action": "left"}}, "Name the request"),
    ],
)
def test_a2a_asks_again_and_says_why(samples: list[str], part: dict[str, Any], why: str) -> None:
    asked = [SAMPLES[name] for name in samples]
    result = a2a.answer(asked, {"parts": [part]})
    assert isinstance(result, a2a.Again)
    assert why in result.why
    status = a2a.status(asked, task_id="t", context_id="c", message_id="m", at="now", why=result.why)
    assert status["message"]["parts"][0] == {"text": result.why}


@pytest.mark.parametrize(
    ("message", "pointer"),
    [
        (5, ""),
        ({}, "/parts"),
        ({"parts": [5]}, "/parts/0"),
        ({"parts": [{"data": {}}]}, "/parts/0/data/action"),
        ({"parts": [{"text": "x"}, {"data": {"action": "left", "extra": 1}}]}, "/parts/1/data/extra"),
        ({"parts": [{"data": {"action": "left", "proposal_digest": "x"}}]}, "/parts/0/data/proposal_digest"),
        ({"parts": [{"data": {"action": "left", "comment": 5}}]}, "/parts/0/data/comment"),
    ],
)
def test_a2a_names_a_fault_by_its_place(message: Any, pointer: str) -> None:
    with pytest.raises(Invalid) as caught:
        a2a.answer([SAMPLES["choice"]], message)
    assert [fault.pointer for fault in caught.value.faults] == [pointer]


@given(st.sampled_from(sorted(SAMPLES)), ANY_JSON)
def test_a2a_takes_or_refuses_anything(sample: str, value: Any) -> None:
    for message in (value, {"parts": value}, {"parts": [{"data": value}]}):
        with contextlib.suppress(Invalid):
            a2a.answer([SAMPLES[sample]], message)
