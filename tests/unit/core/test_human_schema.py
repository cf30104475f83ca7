"""Which schemas may be asked for, and which of them are a form."""

from typing import Any

import pytest

from perdure.core import schema
from perdure.core.form import Field, Option, form
from perdure.errors import Invalid


@pytest.mark.parametrize(
    ("rule", "place", "code"),
    [
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "/$schema", "foreign-draft"),
        ({"properties": {"a": {"$schema": "urn:x"}}}, "/properties/a/$schema", "foreign-draft"),
        ({"$ref": "https://example.com/s"}, "/$ref", "remote-reference"),
        ({"$ref": "other.json#/a"}, "/$ref", "remote-reference"),
        ({"$ref": "#anchor", "$defs": {"a": {"$anchor": "anchor"}}}, "/$ref", "remote-reference"),
        ({"$dynamicRef": "#node"}, "/$dynamicRef", "remote-reference"),
        ({"items": [], "allOf": [{"not": {"$ref": "file:///x"}}]}, "/allOf/0/not/$ref", "remote-reference"),
        ({"$defs": {"a/b": {"$ref": "//x"}}}, "/$defs/a~1b/$ref", "remote-reference"),
    ],
)
def test_a_schema_that_obeys_or_fetches_something_else_is_refused_where_it_says_so(
    rule: dict[str, Any], place: str, code: str
) -> None:
    with pytest.raises(Invalid) as refused:
        schema.check_schema(rule, "/response_schema")
    assert refused.value.code == "invalid-schema"
    assert [(f.pointer, f.code) for f in refused.value.faults] == [("/response_schema" + place, code)]


@pytest.mark.parametrize(
    "rule",
    [
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "string"},
        {"$defs": {"a": {"type": "string"}}, "$ref": "#/$defs/a"},
        {"properties": {"$ref": {"type": "string"}, "$schema": {"type": "string"}}},  # an author's names
        {"const": {"$ref": "https://example.com"}, "default": {"$schema": "x"}},  # values
        {"properties": {"child": {"$ref": "#"}}},
    ],
)
def test_a_schema_may_point_into_itself_and_call_members_as_it_likes(rule: dict[str, Any]) -> None:
    schema.check_schema(rule, "")


def test_a_foreign_draft_is_not_obeyed_when_a_value_is_judged() -> None:
    rule = {"$schema": "http://json-schema.org/draft-04/schema#", "exclusiveMinimum": 3}  # a flag in draft 4
    assert [f.code for f in schema.faults(rule, 3, "")] == ["exclusiveMinimum"]


def object_of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def test_a_flat_object_of_what_a_form_can_hold_is_one() -> None:
    rule = object_of(
        note={"type": "string", "title": "Note", "description": "why", "maxLength": 500},
        mail={"type": "string", "format": "email"},
        amount={"type": "number", "minimum": 0, "default": 3},
        count={"type": "integer", "maximum": 9},
        sure={"type": "boolean"},
        size={"enum": ["s", "m"]},
        pay={"oneOf": [{"const": 1, "title": "now"}, {"const": 2}]},
        tags={"type": "array", "items": {"type": "string", "enum": ["a", "b"]}, "maxItems": 2},
        mood={"$ref": "#/$defs/Mood"},
    ) | {"required": ["note", "mood"], "$defs": {"Mood": {"type": "string", "enum": ["good"]}}}
    schema.check_schema(rule, "")
    assert form(rule) == (
        Field("note", "string", "Note", True, "why", None, {"maxLength": 500}),
        Field("mail", "string", "mail", False, None, "email"),
        Field("amount", "number", "amount", False, None, None, {"minimum": 0}),
        Field("count", "integer", "count", False, None, None, {"maximum": 9}),
        Field("sure", "boolean", "sure", False),
        Field("size", "choice", "size", False, options=(Option("s", "s"), Option("m", "m"))),
        Field("pay", "choice", "pay", False, options=(Option(1, "now"), Option(2, "2"))),
        Field("tags", "choices", "tags", False, None, None, {"maxItems": 2}, (Option("a", "a"), Option("b", "b"))),
        Field("mood", "choice", "mood", True, options=(Option("good", "good"),)),
    )


def test_nothing_asked_is_a_form_without_fields() -> None:
    assert form(None) == form({"type": "object"}) == ()


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}},
        object_of() | {"oneOf": [{"required": ["a"]}]},
        object_of() | {"required": ["a"]},
        object_of() | {"additionalProperties": {"type": "string"}},
        object_of(a={"type": "object"}),
        object_of(a={"type": ["string", "null"]}),
        object_of(a={"type": "string", "format": "ipv4"}),
        object_of(a={"type": "string", "not": {"const": ""}}),
        object_of(a={"type": "number", "multipleOf": 2}),
        object_of(a={"type": "array", "items": {"type": "string"}}),
        object_of(a={"enum": []}),
        object_of(a={"enum": [None]}),
        object_of(a={"oneOf": [{"type": "string"}]}),
        object_of(a={"enum": ["x"], "oneOf": [{"const": "x"}]}),
        object_of(a={"$ref": "#/$defs/none"}),
        object_of(a=True),
    ],
)
def test_anything_else_is_no_form(rule: dict[str, Any]) -> None:
    assert form(rule) is None


DEEP: dict[str, Any] = {"type": "string"}
for _ in range(8):
    DEEP = {"properties": {"p": DEEP}}


@pytest.mark.parametrize(
    ("rule", "code", "at"),
    [
        ({"properties": {"p": {"format": "password"}}}, "not-allowed", "/s/properties/p/format"),
        ({"allOf": [{"properties": {"p": {"writeOnly": True}}}]}, "not-allowed", "/s/allOf/0/properties/p/writeOnly"),
        (DEEP, "too-large", "/s"),
        ({"description": "x" * schema.MAX_ASKED_BYTES}, "too-large", "/s"),
        ({"type": "nothing"}, "invalid-schema", "/s"),
        ({"$ref": "https://example.org/"}, "remote-reference", "/s/$ref"),
    ],
    ids=["password", "write only", "deep", "long", "no schema", "elsewhere"],
)
def test_what_no_person_can_be_asked_by_is_refused_where_it_says_so(rule: dict[str, Any], code: str, at: str) -> None:
    with pytest.raises(Invalid) as refused:
        schema.check_asked(rule, "/s")
    assert [(fault.code, fault.pointer) for fault in refused.value.faults] == [(code, at)]


def test_what_is_only_called_like_a_secret_is_none() -> None:
    named = {"writeOnly": {"type": "boolean"}, "format": {"enum": ["password", "pin"]}}
    schema.check_asked({"properties": named, "default": {"format": "password", "writeOnly": True}}, "/s")
