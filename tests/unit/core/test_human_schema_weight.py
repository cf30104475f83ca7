"""No schema holds up the process: what grows without end is refused when it is asked, and errors are not made by the
thousand.
"""

from typing import Any

import pytest

from perdure.core import schema
from perdure.core.schemaweight import MOST, MOST_NAMED, values_in, weight
from perdure.errors import Invalid


def doubling(levels: int) -> dict[str, Any]:
    """Each definition refers to the next one twice."""
    defs: dict[str, Any] = {
        f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}, {"$ref": f"#/$defs/a{n + 1}"}]} for n in range(levels)
    }
    return {"$defs": defs | {f"a{levels}": {"type": "object"}}, "$ref": "#/$defs/a0"}


def test_a_schema_whose_references_multiply_is_refused_when_it_is_asked() -> None:
    schema.check_schema(doubling(5), "/response_schema")
    with pytest.raises(Invalid) as refused:
        schema.check_schema(doubling(60), "/response_schema")
    assert [(f.pointer, f.code) for f in refused.value.faults] == [("/response_schema", "schema-too-large")]


def test_a_chain_of_references_ends() -> None:
    defs: dict[str, Any] = {f"a{n}": {"$ref": f"#/$defs/a{n + 1}"} for n in range(5000)}
    assert weight({"$defs": defs, "$ref": "#/$defs/a0"}) == MOST + 1


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({}, 1),
        ({"type": "string", "enum": [{"$ref": "#"}], "default": {"a": {}}}, 1),
        ({"$ref": "#"}, 2),
        ({"$defs": {"a~/b": {"items": {}}}, "items": {"$ref": "#/$defs/a~0~1b"}}, 4),
        ({"$ref": "#/nowhere"}, 1),
        ({"allOf": [{}, {"$ref": "#/allOf/0"}]}, 4),
    ],
)
def test_a_definition_weighs_where_it_is_referred_to(rule: dict[str, Any], expected: int) -> None:
    assert weight(rule) == expected


def test_a_tree_may_refer_to_itself() -> None:
    tree = {"type": "object", "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}, "n": {"type": "integer"}}}
    schema.check_schema(tree, "")
    assert [f.pointer for f in schema.faults(tree, {"left": {"n": "x"}, "right": {"n": 1}}, "")] == ["/left/n"]


def test_of_thousands_of_faults_the_first_is_named() -> None:
    rule = {"type": "object", "properties": {"a": {"type": "array", "items": {"anyOf": [{"type": "string"}] * 50}}}}
    many = {"a": ["fits", *range(40_000)]}
    assert values_in(many) * weight(rule) > MOST_NAMED
    assert [(f.pointer, f.code) for f in schema.faults(rule, many, "/payload")] == [("/payload/a/1", "anyOf")]
    assert schema.faults(rule, {"a": ["fits"] * 40_000}, "/payload") == []
    few = schema.faults(rule, {"a": [1, "fits", 2]}, "/payload")
    assert [f.pointer for f in few] == ["/payload/a/0", "/payload/a/2"]
