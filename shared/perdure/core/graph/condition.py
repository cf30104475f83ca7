"""Conditions on a value, as data: what a branch node's cases say. No code, and patterns only of the linear engine.

A condition is an object with one test, and with `at`, a JSON Pointer into the value (without it: the whole). Where the
pointer leads nowhere every test fails but `exists: false` and those under `not`. Tests of another type than the value's
fail; they never raise.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from perdure.core import schema
from perdure.core.event import UserValue
from perdure.core.graph.faults import Faults, pointer
from perdure.errors import Malformed

MAX_CASES: Final = 32
MAX_DEPTH: Final = 6
MAX_PARTS: Final = 100
MAX_TEXT: Final = 10_000
_MISSING: Final = object()
_COMPARE: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "above": lambda value, bound: value > bound,
    "at_least": lambda value, bound: value >= bound,
    "below": lambda value, bound: value < bound,
    "at_most": lambda value, bound: value <= bound,
}
_TEXT: Final = ("starts_with", "ends_with", "matches")
TESTS: Final = ("equals", "one_of", "contains", *_TEXT, *_COMPARE, "exists", "is", "all", "any", "not")
TYPES: Final = ("text", "number", "boolean", "list", "object", "null")


def holds(condition: Mapping[str, Any], value: UserValue) -> bool:
    """Whether a checked condition holds for `value`."""
    fold = condition.get("ignore_case") is True
    here = _reach(condition.get("at", ""), value)
    name, wanted = next((name, condition[name]) for name in TESTS if name in condition)
    if name == "exists":
        return (here is not _MISSING) is wanted
    if name == "not":
        return here is _MISSING or not holds(wanted, here)
    if here is _MISSING:
        return False
    if name in ("all", "any"):
        return (all if name == "all" else any)(holds(part, here) for part in wanted)
    return _test(name, wanted, here, fold)


def check(condition: UserValue, at: str, faults: Faults, depth: int = 1) -> None:
    """Note in `faults` why `condition`, which lies at the pointer `at` of the definition, is none."""
    if not isinstance(condition, dict):
        faults.add(at, "wrong-type", "must be an object with one test")
        return
    tests = [name for name in TESTS if name in condition]
    for member in condition:
        if member not in (*TESTS, "at", "ignore_case"):
            faults.add(
                at + pointer(str(member)), "unknown-member", f"tests are {', '.join(TESTS)}; also at, ignore_case"
            )
    if len(tests) != 1:
        faults.add(at, "ambiguous" if tests else "missing", f"must have exactly one of {', '.join(TESTS)}")
        return
    if "at" in condition and not _is_pointer(condition["at"]):
        faults.add(f"{at}/at", "invalid-value", 'must be a JSON Pointer such as /amount, or "" for the whole')
    if "ignore_case" in condition and not isinstance(condition["ignore_case"], bool):
        faults.add(f"{at}/ignore_case", "wrong-type", "must be true or false")
    _check_test(tests[0], condition, at, faults, depth)


def _check_test(name: str, condition: Mapping[str, Any], at: str, faults: Faults, depth: int) -> None:
    wanted, here = condition[name], f"{at}/{name}"
    if name in ("all", "any", "not"):
        if depth >= MAX_DEPTH:
            faults.add(here, "too-deep", f"conditions nest at most {MAX_DEPTH} deep")
        elif name == "not":
            check(wanted, here, faults, depth + 1)
        elif not isinstance(wanted, list) or not 1 <= len(wanted) <= MAX_PARTS:
            faults.add(here, "wrong-type", f"must be a list of 1 to {MAX_PARTS} conditions")
        else:
            for index, part in enumerate(wanted):
                check(part, f"{here}/{index}", faults, depth + 1)
    elif name in _COMPARE:
        if not _is_number(wanted):
            faults.add(here, "wrong-type", "must be a number")
    elif name == "exists":
        if not isinstance(wanted, bool):
            faults.add(here, "wrong-type", "must be true or false")
    elif name == "is":
        if wanted not in TYPES:
            faults.add(here, "invalid-value", f"must be one of {', '.join(TYPES)}")
    elif name == "one_of":
        if not isinstance(wanted, list) or not 1 <= len(wanted) <= MAX_PARTS:
            faults.add(here, "wrong-type", f"must be a list of 1 to {MAX_PARTS} values")
    elif name in _TEXT:
        _check_text(name, wanted, here, faults)


def _check_text(name: str, wanted: UserValue, at: str, faults: Faults) -> None:
    if not isinstance(wanted, str) or not 1 <= len(wanted) <= MAX_TEXT:
        faults.add(at, "wrong-type", f"must be a string of 1 to {MAX_TEXT} characters")
    elif name == "matches":
        try:
            schema.check_pattern(wanted)
        except Malformed as exc:
            faults.add(at, "invalid-pattern", str(exc))


def _test(name: str, wanted: Any, value: UserValue, fold: bool) -> bool:  # Any: as the test wants it
    if name in _COMPARE:
        return _is_number(value) and bool(_COMPARE[name](value, wanted))
    if name == "is":
        return bool(_type(value) == wanted)
    if name == "matches":
        return isinstance(value, str) and schema.matches(wanted, value, ignore_case=fold)
    if fold:
        value, wanted = _folded(value), _folded(wanted)
    if name == "equals":
        return _same(value, wanted)
    if name == "one_of":
        return any(_same(value, one) for one in wanted)
    if name == "contains":
        if isinstance(value, str):
            return isinstance(wanted, str) and wanted in value
        if isinstance(value, dict):
            return isinstance(wanted, str) and wanted in value
        return isinstance(value, list) and any(_same(part, wanted) for part in value)
    if not isinstance(value, str):
        return False
    return value.startswith(wanted) if name == "starts_with" else value.endswith(wanted)


def _same(one: UserValue, other: UserValue) -> bool:
    """Equality of JSON: a boolean is no number, 1 and 1.0 are the same."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    return bool(one == other)


def _folded(value: UserValue) -> UserValue:
    if isinstance(value, str):
        return value.casefold()
    if isinstance(value, list):
        return [_folded(part) for part in value]
    return value


def _reach(at: str, value: UserValue) -> UserValue:
    here = value
    for token in at.split("/")[1:]:
        name = token.replace("~1", "/").replace("~0", "~")
        if isinstance(here, dict) and name in here:
            here = here[name]
        elif isinstance(here, list) and _is_index(name) and int(name) < len(here):
            here = here[int(name)]
        else:
            return _MISSING
    return here


def _is_index(token: str) -> bool:
    return token.isascii() and token.isdigit() and len(token) <= 9 and (token == "0" or token[0] != "0")


def _is_pointer(text: UserValue) -> bool:
    return isinstance(text, str) and len(text) <= 1000 and (text == "" or text.startswith("/"))


def _is_number(value: UserValue) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _type(value: UserValue) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "text"
        case list():
            return "list"
        case _:
            return "object"
