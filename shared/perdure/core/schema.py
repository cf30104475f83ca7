"""Values against JSON Schema 2020-12: what does not fit, with pointers, never with the refused value.

Offline (a `$ref` to anywhere else is refused) and with a linear regex engine, because authors of flows write schemas.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

import jsonschema_rs

from perdure.core import codec
from perdure.core.schemaweight import MOST, MOST_NAMED, values_in, weight
from perdure.errors import Fault, Invalid, Malformed

MAX_FAULTS: Final = 20  # one answer names this many
MAX_ASKED_BYTES: Final = 64 * 1024  # of a schema that a request is answered by
MAX_ASKED_DEPTH: Final = 16
SECRET: Final = "secrets do not travel through requests: no password, no writeOnly"
DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
_REFS: Final = ("$ref", "$dynamicRef")
_MAPS: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependentRequired")
_VALUES: Final = ("const", "enum", "default", "examples")  # what stands in them is no schema


def pointer(*parts: str | int) -> str:
    """An RFC 6901 pointer; "" for no parts."""
    return "".join(f"/{str(p).replace('~', '~0').replace('/', '~1')}" for p in parts)


def check_schema(schema: Mapping[str, Any], at: str) -> None:
    """Refuse what is no schema, or needs more than this process has. Raises Invalid (`invalid-schema`): pointers below
    `at`.
    """
    if foreign := list(_foreign(schema, at)):
        raise Invalid(foreign[:MAX_FAULTS], "invalid-schema")
    if weight(schema) > MOST:
        large = f"has more than {MOST} parts, each counted as often as it is referred to"
        raise Invalid([Fault("schema-too-large", large, pointer=at)], "invalid-schema")
    try:
        _validator(schema)
    except (ValueError, jsonschema_rs.ReferencingError) as exc:
        raise Invalid(
            [Fault("invalid-schema", "not a JSON Schema of draft 2020-12", pointer=at)], "invalid-schema"
        ) from exc


def check_asked(schema: Mapping[str, Any], at: str) -> None:
    """Refuse what no person can be asked by: beside what is no schema one that is too large or too deep, or asks for a
    secret. Raises Invalid (`invalid-schema`): pointers below `at`.
    """
    if len(codec.canonical(schema)) > MAX_ASKED_BYTES or _depth(schema) > MAX_ASKED_DEPTH:
        large = f"must take at most {MAX_ASKED_BYTES} bytes and be at most {MAX_ASKED_DEPTH} deep"
        raise Invalid([Fault("too-large", large, pointer=at)], "invalid-schema")
    check_schema(schema, at)
    if secret := list(_secrets(schema, at)):
        raise Invalid(secret[:MAX_FAULTS], "invalid-schema")


def faults(schema: Mapping[str, Any], value: Any, at: str) -> list[Fault]:  # Any: a user's value
    """What of `value` does not fit `schema`; pointers begin with `at`. Raises Invalid (`invalid-schema`)."""
    try:
        errors = _errors(_validator(schema), schema, value)
    except (ValueError, jsonschema_rs.ReferencingError) as exc:
        raise Invalid(
            [Fault("invalid-schema", "the schema of this request is not valid", pointer="")], "invalid-schema"
        ) from exc
    found: list[Fault] = []
    for error in errors:
        kind, place = error.kind.name, at + pointer(*error.instance_path)
        names: list[str | None] = [None]
        if kind == "required":
            names = [error.kind.value]
        elif kind in ("additionalProperties", "unevaluatedProperties"):
            names = list(error.kind.value)
        found += [
            Fault(
                kind,
                _DETAIL.get(kind, f"does not satisfy {kind!r}"),
                pointer=place + pointer(n) if n is not None else place,
            )
            for n in names
        ]
    return found[:MAX_FAULTS]


def _errors(
    validator: jsonschema_rs.Draft202012Validator,
    schema: Mapping[str, Any],
    value: Any,  # a user's value
) -> list[jsonschema_rs.ValidationError]:
    """What does not fit; of a large value the first that does not: each error costs a thousand looks at a value."""
    if validator.is_valid(value):
        return []
    if values_in(value) * weight(schema) <= MOST_NAMED:
        return list(validator.iter_errors(value))
    try:
        validator.validate(value)
    except jsonschema_rs.ValidationError as exc:
        return [exc]
    return []


def _foreign(schema: Any, at: str) -> Iterator[Fault]:  # Any: an author's JSON
    """What of a schema obeys another draft, or points elsewhere than into itself: refused when it is asked, not when it
    is answered.
    """
    for here, name, value in _keywords(schema, at):
        if name == "$schema" and isinstance(value, str) and value.removesuffix("#") != DRAFT:
            yield Fault("foreign-draft", f"must be {DRAFT}, or absent", pointer=here)
        elif name in _REFS and isinstance(value, str) and not (value == "#" or value.startswith("#/")):
            yield Fault("remote-reference", "must point into this schema: #/…", pointer=here)


def _secrets(schema: Any, at: str) -> Iterator[Fault]:  # Any: an author's JSON
    for here, name, value in _keywords(schema, at):
        if (name, value) == ("format", "password") or (name == "writeOnly" and value is True):
            yield Fault(
                "not-allowed", "secrets do not travel through requests: no password, no writeOnly", pointer=here
            )


def _keywords(schema: Any, at: str) -> Iterator[tuple[str, str, Any]]:  # Any: an author's JSON
    """Every keyword in a schema, wherever it stands: its pointer, its name and its value."""
    if isinstance(schema, list | tuple):
        for index, inner in enumerate(schema):
            yield from _keywords(inner, f"{at}/{index}")
    if not isinstance(schema, Mapping):
        return
    for name, value in schema.items():
        here = at + pointer(name)
        if name in _VALUES:
            continue
        if name in _MAPS and isinstance(value, Mapping):  # names are the author's here, no keywords
            for key, inner in value.items():
                yield from _keywords(inner, here + pointer(key))
            continue
        yield here, name, value
        yield from _keywords(value, here)


def _depth(value: Any) -> int:  # Any: an author's JSON
    """How deep lists and objects lie in each other."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


def check_pattern(pattern: str) -> None:
    """Refuse what the linear engine does not take (look-around, back references) or what is too large for it.

    Raises Malformed.
    """
    _pattern(pattern)


def matches(pattern: str, text: str, *, ignore_case: bool = False) -> bool:
    """Whether `pattern` is found anywhere in `text`, in time linear in its length. Raises Malformed."""
    return _pattern(f"(?i){pattern}" if ignore_case else pattern).is_valid(text)


@lru_cache(maxsize=512)
def _pattern(pattern: str) -> jsonschema_rs.Draft202012Validator:
    try:
        return _validator({"pattern": pattern})
    except ValueError as exc:
        raise Malformed("no pattern of the linear engine: no look-around, no back references, no huge repeats") from exc


def _offline(uri: str) -> Any:
    raise ValueError(f"schemas are not fetched: {uri}")


def _validator(schema: Mapping[str, Any]) -> jsonschema_rs.Draft202012Validator:
    """By `dict(schema)`, never by what its `$schema` says."""
    try:
        return _compiled(codec.encode_value(dict(schema)))
    except Malformed as exc:
        raise ValueError("a schema that is no JSON") from exc


@lru_cache(maxsize=512)
def _compiled(schema: bytes) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(
        codec.decode_value(schema),
        retriever=_offline,
        pattern_options=jsonschema_rs.RegexOptions(),
        validate_formats=True,
    )


_DETAIL: Final = {
    "required": "is required",
    "additionalProperties": "is not expected here",
    "unevaluatedProperties": "is not expected here",
    "type": "has the wrong type",
    "enum": "is none of the allowed values",
    "const": "is not the allowed value",
    "maxLength": "is too long",
    "minLength": "is too short",
    "maximum": "is too large",
    "minimum": "is too small",
    "pattern": "does not match the pattern",
    "format": "does not have the format",
}
