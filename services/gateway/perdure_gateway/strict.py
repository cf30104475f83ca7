"""Strict JSON: the one codec for everything that comes in, before anything else looks at it.

Broker, log, SQLite and Postgres each accept another set of texts; what passes here all of them accept. Refused:
duplicate names, NaN, Infinity, numbers without a finite value, integers beyond ±(2^63 - 1), lone surrogates, U+0000, a
byte order mark, anything that is not UTF-8, depth over 64, more than 1 000 members in an object, 100 000 values in all.
"""

import json
import math
import re
from typing import Any, Final, NoReturn

from perdure.errors import PerdureError

MAX_BYTES: Final = 1024 * 1024
MAX_DEPTH: Final = 64
MAX_MEMBERS: Final = 1_000
MAX_VALUES: Final = 100_000
MAX_INTEGER: Final = 2**63 - 1
STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_SHAPE: Final = re.compile(r"[\[\]{},]")
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")


class InvalidJson(PerdureError):
    """Not JSON that we take. `position` is the character where it went wrong, where that is known."""

    def __init__(self, reason: str, position: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.position = reason, position


def loads(raw: bytes) -> Any:
    """The one value in `raw`. Raises InvalidJson; its words never hold a part of `raw`."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise InvalidJson("not UTF-8", exc.start) from None
    if text.startswith("\ufeff"):
        raise InvalidJson("begins with a byte order mark", 0)
    _measure(text)
    try:
        value = _decoder.decode(text)
    except json.JSONDecodeError as exc:
        raise InvalidJson("not JSON", exc.pos) from None
    _walk(value)
    return value


def _measure(text: str) -> None:
    """Bound depth and number before the parser builds anything: it recurses, and a megabyte of `[` would be 60 MB."""
    depth = 0
    for parts, match in enumerate(_SHAPE.finditer(STRING.sub("", text)), start=1):
        if match[0] in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise InvalidJson(f"nested deeper than {MAX_DEPTH}")
        elif match[0] in "]}":
            depth -= 1
        if parts > 3 * MAX_VALUES:  # each value costs at most a comma and two brackets
            raise InvalidJson(f"more than {MAX_VALUES} values")


def _walk(value: Any) -> None:
    """Count the values and look at each text; the depth is bounded already."""
    count, todo = 0, [value]
    while todo:
        item = todo.pop()
        count += 1
        if count > MAX_VALUES:
            raise InvalidJson(f"more than {MAX_VALUES} values")
        if isinstance(item, str):
            _storable(item)
        elif isinstance(item, list):
            todo.extend(item)
        elif isinstance(item, dict):
            for name in item:
                _storable(name)
            todo.extend(item.values())


def _storable(text: str) -> None:
    if _UNSTORABLE.search(text):
        raise InvalidJson("a text holds U+0000 or half of a surrogate pair")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_MEMBERS:
        raise InvalidJson(f"an object of more than {MAX_MEMBERS} members")
    members = dict(pairs)
    if len(members) != len(pairs):
        raise InvalidJson("an object names a member twice")
    return members


def _integer(digits: str) -> int:
    if len(digits) > 20 or abs(number := int(digits)) > MAX_INTEGER:
        raise InvalidJson("an integer beyond 64 bits")
    return number


def _float(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise InvalidJson("a number without a finite value")
    return number


def _constant(_name: str) -> NoReturn:
    raise InvalidJson("a number without a finite value")


_decoder: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant
)
