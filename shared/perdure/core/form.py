"""Which schemas are a form: a flat object of texts, numbers, yes or no, and choices. Anything else gets a JSON editor.

Either way the same schema judges what was entered: a form only says what to draw.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

from msgspec import Struct

Kind = Literal["string", "number", "integer", "boolean", "choice", "choices"]
FORMATS: Final = ("email", "uri", "date", "date-time")
_TELLING: Final = ("title", "description", "default", "examples", "deprecated", "readOnly", "$comment")
# By the type of a field: what may be said of it beside that, and a form can still hold.
_LIMITS: Final[Mapping[str, tuple[str, ...]]] = {
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum"),
    "integer": ("minimum", "maximum"),
    "boolean": (),
    "choice": ("type", "enum", "oneOf", "const"),
    "choices": ("items", "minItems", "maxItems", "uniqueItems"),
}
_ROOT: Final = ("type", "properties", "required", "additionalProperties", "$defs", "$schema", "$id", *_TELLING)


class Option(Struct, frozen=True):
    """One of the values of a choice, and what to call it."""

    value: Any  # a scalar of the author's
    title: str


class Field(Struct, frozen=True):
    """One member of the object. `options` are those of a choice (one of them) and of choices (any of them)."""

    name: str
    kind: Kind
    title: str
    required: bool
    description: str | None = None
    format: str | None = None
    limits: dict[str, Any] = {}  # as JSON Schema names them: minLength, maximum, pattern, …
    options: tuple[Option, ...] = ()


def form(schema: Mapping[str, Any] | None) -> tuple[Field, ...] | None:
    """The fields of a form for values of `schema`, in its order; None when it is no form. No schema: no fields."""
    if schema is None:
        return ()
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if schema.get("type") != "object" or not set(schema) <= set(_ROOT) or not isinstance(properties, Mapping):
        return None
    if schema.get("additionalProperties", True) not in (True, False) or not set(required) <= set(properties):
        return None
    found: list[Field] = []
    for name, rule in properties.items():
        field = _field(name, _resolved(schema, rule), name in required)
        if field is None:
            return None
        found.append(field)
    return tuple(found)


def _field(name: str, rule: Mapping[str, Any] | None, required: bool) -> Field | None:
    kind = None if rule is None else _kind(rule)
    if rule is None or kind is None:
        return None
    known = {*_LIMITS[kind], *_TELLING, "type"}
    if not set(rule) <= known or rule.get("format", FORMATS[0]) not in FORMATS:
        return None
    options = _options(rule["items"] if kind == "choices" else rule) if kind in ("choice", "choices") else ()
    if options is None:
        return None
    limits = {key: rule[key] for key in _LIMITS[kind] if key in rule and key not in ("format", "type", "items")}
    title, description = rule.get("title"), rule.get("description")
    return Field(
        name=name,
        kind=kind,
        title=title if isinstance(title, str) else name,
        required=required,
        description=description if isinstance(description, str) else None,
        format=rule.get("format"),
        limits={} if kind == "choice" else limits,
        options=options,
    )


def _kind(rule: Mapping[str, Any]) -> Kind | None:
    if "enum" in rule or "oneOf" in rule or "const" in rule:
        return "choice"
    match rule.get("type"):
        case "string":
            return "string"
        case "number":
            return "number"
        case "integer":
            return "integer"
        case "boolean":
            return "boolean"
        case "array" if isinstance(rule.get("items"), Mapping):
            return "choices"
        case _:
            return None


def _options(rule: Mapping[str, Any]) -> tuple[Option, ...] | None:
    """The values of `enum`, `const` or `oneOf[const, title]`; None for anything else."""
    if not set(rule) <= {*_LIMITS["choice"], *_TELLING} or sum(key in rule for key in ("enum", "oneOf", "const")) != 1:
        return None
    each: Any = rule.get("oneOf", [{"const": value} for value in rule.get("enum", [rule.get("const")])])
    if not isinstance(each, list) or not each:
        return None
    found = []
    for one in each:
        if not isinstance(one, Mapping) or "const" not in one or not set(one) <= {"const", *_TELLING}:
            return None
        value = one["const"]
        if not isinstance(value, str | int | float | bool):
            return None
        found.append(Option(value, str(one.get("title", value))))
    return tuple(found)


def _resolved(schema: Mapping[str, Any], rule: Any) -> Mapping[str, Any] | None:
    """A property that only points to one of the schema's own definitions (an enumeration of a model) is that."""
    if not isinstance(rule, Mapping) or "$ref" not in rule:
        return rule if isinstance(rule, Mapping) else None
    named = schema.get("$defs", {}).get(str(rule["$ref"]).removeprefix("#/$defs/"))
    if not isinstance(named, Mapping) or "$ref" in named:
        return None
    return {**named, **{key: value for key, value in rule.items() if key != "$ref"}}
