"""JSON in the one canonical form of RFC 8785: what a digest that others compare is made of."""

import json
from collections.abc import Callable
from typing import Final

from perdure.core import codec
from perdure.errors import Malformed

_EXACT: Final = 2**53  # beyond it a double no longer holds every integer


def jcs(value: object) -> bytes:
    """`value` (whatever can be stored as JSON) in canonical form. Raises Malformed for what a double cannot hold."""
    return _written(value, _refused)


def sameness(value: object) -> bytes:
    """What is equal for equal JSON values: `jcs`, and beyond it for integers that no double holds. 1.0 is 1, not true.

    Two values are the same here exactly when their numbers are. Raises Malformed for what is no JSON.
    """
    return _written(value, _exact)


def same(one: object, other: object) -> bool:
    """Equality of JSON values, not of Python's. Raises Malformed for what is no JSON."""
    return one is other or sameness(one) == sameness(other)


def _written(value: object, large: Callable[[int], str]) -> bytes:
    out: list[str] = []
    _write(codec.decode_value(codec.encode_value(value)), out, large)
    return "".join(out).encode()


def _refused(value: int) -> str:
    raise Malformed("a number beyond 2^53 has no canonical form")


def _exact(value: int) -> str:
    """An integer beyond 2^53: as the double of the same value is written, else so that no double is written like it."""
    try:
        near = float(value)
    except OverflowError:
        return f"{value}n"
    return _number(near) if int(near) == value else f"{value}n"


def _write(value: object, out: list[str], large: Callable[[int], str]) -> None:
    match value:
        case None | bool():
            out.append({None: "null", True: "true", False: "false"}[value])
        case str():
            out.append(json.dumps(value, ensure_ascii=False))
        case int():
            out.append(large(value) if abs(value) > _EXACT else str(value))
        case float():
            out.append(_number(value))
        case list():
            out.append("[")
            for i, item in enumerate(value):
                out.append("," if i else "")
                _write(item, out, large)
            out.append("]")
        case dict():
            out.append("{")
            for i, name in enumerate(sorted(value, key=lambda n: n.encode("utf-16-be"))):
                out.append(f"{',' if i else ''}{json.dumps(name, ensure_ascii=False)}:")
                _write(value[name], out, large)
            out.append("}")
        case _:
            raise Malformed(f"{type(value).__name__} is no JSON")


def _number(value: float) -> str:
    """A double as ECMAScript's Number::toString writes it (RFC 8785 §3.2.2.3)."""
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = f"{abs(value)!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = "" if fraction == "0" else fraction
    point = len(whole) + int(exponent or "0")  # where the decimal point stands, counted from the first digit
    digits = (whole + fraction).lstrip("0")
    point -= len(whole + fraction) - len(digits)
    digits = digits.rstrip("0")
    count = len(digits)
    if count <= point <= 21:
        return f"{sign}{digits}{'0' * (point - count)}"
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    rest = f".{digits[1:]}" if count > 1 else ""
    return f"{sign}{digits[0]}{rest}e{'+' if point > 0 else '-'}{abs(point - 1)}"
