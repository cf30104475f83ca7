"""Conditions of branch nodes: what holds, what is refused, and that no value makes a checked one raise."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.core.graph import condition
from perdure.core.graph.faults import Faults

ORDER = {"total": 120.5, "tags": ["new", "Paid"], "name": "Refund for Ann", "note": None, "a/b": 1, "paid": True}


def refused(what: Any) -> set[tuple[str | None, str]]:
    faults = Faults()
    condition.check(what, "/when", faults)
    return {(fault.pointer, fault.code) for fault in faults.found}


@pytest.mark.parametrize(
    ("what", "holds"),
    [
        ({"at": "/total", "equals": 120.5}, True),
        ({"at": "/total", "above": 120.5}, False),
        ({"at": "/total", "at_least": 120.5}, True),
        ({"at": "/total", "below": 121}, True),
        ({"at": "/total", "at_most": 120}, False),
        ({"at": "/name", "above": 1}, False),
        ({"at": "/paid", "equals": 1}, False),
        ({"at": "/paid", "equals": True}, True),
        ({"at": "/paid", "at_least": 0}, False),
        ({"at": "/name", "contains": "refund"}, False),
        ({"at": "/name", "contains": "refund", "ignore_case": True}, True),
        ({"at": "/tags", "contains": "paid"}, False),
        ({"at": "/tags", "contains": "paid", "ignore_case": True}, True),
        ({"at": "/tags/0", "equals": "new"}, True),
        ({"at": "/tags/00", "equals": "new"}, False),
        ({"at": "/tags/2", "exists": False}, True),
        ({"contains": "total"}, True),
        ({"contains": "amount"}, False),
        ({"at": "/a~1b", "equals": 1}, True),
        ({"at": "/note", "exists": True}, True),
        ({"at": "/note", "is": "null"}, True),
        ({"at": "/missing", "is": "null"}, False),
        ({"at": "/missing", "not": {"equals": 1}}, True),
        ({"at": "/name", "starts_with": "Refund"}, True),
        ({"at": "/name", "ends_with": "ann", "ignore_case": True}, True),
        ({"at": "/total", "starts_with": "1"}, False),
        ({"at": "/name", "matches": "^Refund .* [A-Z]nn$"}, True),
        ({"at": "/name", "matches": "^refund", "ignore_case": True}, True),
        ({"at": "/name", "matches": "^refund"}, False),
        ({"at": "/name", "one_of": ["x", "Refund for Ann"]}, True),
        ({"is": "object"}, True),
        ({"all": [{"at": "/total", "above": 100}, {"at": "/paid", "equals": True}]}, True),
        ({"any": [{"at": "/total", "above": 200}, {"at": "/paid", "equals": False}]}, False),
        ({"at": "/tags", "all": [{"contains": "new"}, {"contains": "Paid"}]}, True),
        ({"not": {"at": "/paid", "equals": True}}, False),
    ],
)
def test_what_holds(what: dict[str, Any], holds: bool) -> None:
    assert refused(what) == set()
    assert condition.holds(what, ORDER) is holds


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("x", {("/when", "wrong-type")}),
        ({}, {("/when", "missing")}),
        ({"equals": 1, "above": 0}, {("/when", "ambiguous")}),
        ({"equal": 1}, {("/when/equal", "unknown-member"), ("/when", "missing")}),
        ({"at": "total", "equals": 1}, {("/when/at", "invalid-value")}),
        ({"above": "1"}, {("/when/above", "wrong-type")}),
        ({"above": True}, {("/when/above", "wrong-type")}),
        ({"exists": 1}, {("/when/exists", "wrong-type")}),
        ({"is": "array"}, {("/when/is", "invalid-value")}),
        ({"one_of": []}, {("/when/one_of", "wrong-type")}),
        ({"matches": "(?=a)"}, {("/when/matches", "invalid-pattern")}),
        ({"matches": r"(a)\1"}, {("/when/matches", "invalid-pattern")}),
        ({"matches": "a{1000}{1000}"}, {("/when/matches", "invalid-pattern")}),
        ({"matches": ""}, {("/when/matches", "wrong-type")}),
        ({"starts_with": 1}, {("/when/starts_with", "wrong-type")}),
        ({"equals": "a", "ignore_case": "yes"}, {("/when/ignore_case", "wrong-type")}),
        ({"all": []}, {("/when/all", "wrong-type")}),
        ({"all": [{"any": [{"above": None}]}]}, {("/when/all/0/any/0/above", "wrong-type")}),
    ],
)
def test_what_is_refused_and_where(what: Any, expected: set[tuple[str, str]]) -> None:
    assert refused(what) == expected


def test_conditions_do_not_nest_without_end() -> None:
    what: dict[str, Any] = {"equals": 1}
    for _ in range(condition.MAX_DEPTH):
        what = {"not": what}
    assert {code for _, code in refused(what)} == {"too-deep"}


def test_a_pattern_that_explodes_elsewhere_takes_linear_time() -> None:
    assert not condition.holds({"matches": "^(a+)+$"}, "a" * 100_000 + "b")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-5, 5) | st.text("aB/~0", max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("aB/~0", max_size=2), inner, max_size=3),
    max_leaves=8,
)
CONDITIONS = st.recursive(
    st.fixed_dictionaries({}, optional={"at": st.sampled_from(["", "/a", "/0", "/a/0"]), "ignore_case": st.booleans()})
    .flatmap(lambda d: st.sampled_from(condition.TESTS[:-3]).flatmap(lambda t: JSON.map(lambda v: d | {t: v}))),
    lambda inner: st.builds(lambda name, parts: {name: parts if name != "not" else parts[0]},
                            st.sampled_from(["all", "any", "not"]), st.lists(inner, min_size=1, max_size=3)),
    max_leaves=4,
)  # fmt: skip


@given(CONDITIONS | JSON, JSON)
def test_a_condition_is_refused_or_decides_every_value(what: Any, value: Any) -> None:
    if not refused(what):
        assert condition.holds(what, value) in (True, False)
        assert condition.holds({"not": what}, value) is not condition.holds(what, value)
