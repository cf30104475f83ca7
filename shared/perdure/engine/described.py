"""What a type says of itself as JSON Schema: plain types, msgspec's, dataclasses, pydantic's models."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import msgspec

from perdure.core.schema import check_schema
from perdure.engine.values import UNSHAPED, Shape
from perdure.errors import Invalid, Malformed

Schema = dict[str, Any]  # JSON Schema, 2020-12


def schema_of(shape: Shape) -> Schema | None:
    """The JSON Schema of a type; None where nothing is said. Raises Malformed for a type that has none."""
    if shape is UNSHAPED:
        return None
    nested: Schema = {}
    try:
        schema = _model_schema(shape) or msgspec.json.schema(shape, schema_hook=lambda kind: _nested(kind, nested))
        if nested:
            schema = {**schema, "$defs": {**nested, **schema.get("$defs", {})}}
        check_schema(schema, "")
    except (TypeError, NotImplementedError, Invalid) as exc:
        raise Malformed(f"{shape!r} cannot be JSON") from exc
    return schema


def form_of(shape: Shape) -> Schema:
    """The schema of a type as people are shown it: the object itself, its choices in place.

    So an action can require other members than the type does, and a flat type stays a form. It is made once for a type:
    every pass over a job asks for it. Raises Malformed for a type that has no schema.
    """
    try:
        made = _form(shape)
    except TypeError:  # a type form that cannot be told apart from others
        made = _form.__wrapped__(shape)
    return dict(made)


@lru_cache(maxsize=512)
def _form(shape: Shape) -> Schema:
    schema = schema_of(shape)
    if schema is None:
        raise Malformed(f"{shape!r} says nothing about itself")
    defined: Schema = schema.get("$defs", {})
    root = _resolved(schema, defined)
    if isinstance(root.get("properties"), dict):
        root["properties"] = {name: _choice(field, defined) for name, field in root["properties"].items()}
    root = {name: value for name, value in root.items() if name != "$defs"}
    return {**root, "$defs": defined} if _refers(root) else root


def _resolved(schema: Schema, defined: Schema) -> Schema:
    """The definition that a schema amounts to, when it only points to one."""
    name = str(schema.get("$ref", "")).removeprefix("#/$defs/")
    if name not in defined:
        return dict(schema)
    return {**defined[name], **{k: v for k, v in schema.items() if k not in ("$ref", "$defs")}}


def _choice(field: Any, defined: Schema) -> Any:
    """A field that points to an enumeration becomes it; anything else stays."""
    if not isinstance(field, dict) or "$ref" not in field:
        return field
    resolved = _resolved(field, defined)
    return resolved if "enum" in resolved else field


def _refers(value: Any) -> bool:
    if isinstance(value, dict):
        return "$ref" in value or any(map(_refers, value.values()))
    return isinstance(value, list) and any(map(_refers, value))


def _model_schema(shape: Shape) -> Schema | None:
    """What a pydantic model says of itself; None for another type. Importing pydantic would cost everyone its time."""
    describe: Callable[[], Schema] | None = getattr(shape, "model_json_schema", None)
    return describe() if callable(describe) else None


def _nested(kind: type, nested: Schema) -> Schema:
    """A model inside another type: its definitions move to the root, where its `$ref`s look for them."""
    schema = _model_schema(kind)
    if schema is None:
        raise NotImplementedError(kind.__name__)
    nested.update(schema.pop("$defs", {}))
    return schema
