"""Values against JSON Schema 2020-12: what does not fit, with pointers, never with the refused value.

Offline (a `$ref` to anywhere else is refused) and with a linear regex engine, because authors of flows write schemas.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import jsonschema_rs

from perdure.errors import Fault, Invalid, Malformed

MAX_FAULTS: Final = 20  # one answer names this many


def pointer(*parts: str | int) -> str:
    """An RFC 6901 pointer; "" for no parts."""
    return "".join(f"/{str(p).replace('~', '~0').replace('/', '~1')}" for p in parts)


def check_schema(schema: Mapping[str, Any], at: str) -> None:
    """Refuse what is no schema, or needs more than this process has. Raises Invalid (`invalid-schema`) naming `at`."""
    try:
        _validator(schema)
    except (ValueError, jsonschema_rs.ReferencingError) as exc:
        raise Invalid(
            [Fault("invalid-schema", "not a JSON Schema of draft 2020-12", pointer=at)], "invalid-schema"
        ) from exc


def faults(schema: Mapping[str, Any], value: Any, at: str) -> list[Fault]:  # Any: a user's value
    """What of `value` does not fit `schema`; pointers begin with `at`. Raises Invalid (`invalid-schema`)."""
    try:
        errors = list(_validator(schema).iter_errors(value))
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
    return jsonschema_rs.Draft202012Validator(
        dict(schema), retriever=_offline, pattern_options=jsonschema_rs.RegexOptions(), validate_formats=True
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
