"""The canonical form of RFC 8785, by its own examples."""

import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.core.codec import decode_value
from perdure.core.jcs import jcs, same, sameness
from perdure.core.request import proposal_digest
from perdure.errors import Malformed


@pytest.mark.parametrize(
    ("bits", "text"),
    [  # RFC 8785, appendix B
        ("0000000000000000", "0"),
        ("8000000000000000", "0"),
        ("0000000000000001", "5e-324"),
        ("8000000000000001", "-5e-324"),
        ("7fefffffffffffff", "1.7976931348623157e+308"),
        ("4340000000000000", "9007199254740992"),
        ("c340000000000000", "-9007199254740992"),
        ("4430000000000000", "295147905179352830000"),
        ("44b52d02c7e14af5", "9.999999999999997e+22"),
        ("44b52d02c7e14af6", "1e+23"),
        ("44b52d02c7e14af7", "1.0000000000000001e+23"),
        ("444b1ae4d6e2ef4e", "999999999999999700000"),
        ("444b1ae4d6e2ef4f", "999999999999999900000"),
        ("444b1ae4d6e2ef50", "1e+21"),
        ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
        ("3eb0c6f7a0b5ed8d", "0.000001"),
        ("41b3de4355555553", "333333333.3333332"),
        ("41b3de4355555554", "333333333.33333325"),
        ("41b3de4355555555", "333333333.3333333"),
        ("becbf647612f3696", "-0.0000033333333333333333"),
        ("43143ff3c1cb0959", "1424953923781206.2"),
    ],
)
def test_numbers_are_written_like_ecmascript_does(bits: str, text: str) -> None:
    (value,) = struct.unpack(">d", bytes.fromhex(bits))
    assert jcs(value).decode() == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_reads_back_as_itself(value: float) -> None:
    assert float(jcs(value)) == value


def test_names_are_sorted_by_utf_16_units_and_nothing_is_escaped_without_need() -> None:
    given = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\u0080": 6, "\u00f6": 7}
    assert list(decode_value(jcs(given))) == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
    assert jcs('€$\x0f\nA\'B"\\\\"/').decode() == '"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"'
    assert jcs([True, None, {"b": [], "a": {}}]) == b'[true,null,{"a":{},"b":[]}]'


@pytest.mark.parametrize("value", [2**53 + 1, -(2**60), {"a": [2**64 - 1]}])
def test_a_number_that_a_double_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(Malformed):
        jcs(value)


def test_what_is_equal_has_one_digest_and_what_is_shown_counts() -> None:
    digest = proposal_digest("Title", None, {"a": 1, "b": 2.0})
    assert digest == proposal_digest("Title", None, {"b": 2, "a": 1})
    assert digest.startswith("sha256:")
    assert len({digest, *(proposal_digest(*shown) for shown in (("T", None, 1), ("T", "m", 1), ("T", "m", True)))}) == 4
    assert math.isfinite(float(jcs(0.1)))


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (120, 120.0, True),
        (0, -0.0, True),
        ({"a": [1, {"b": 2.0}]}, {"a": [1.0, {"b": 2}]}, True),
        (1, True, False),
        (0, None, False),
        ("1", 1, False),
        (2**53, float(2**53), True),
        (2**53 + 1, float(2**53), False),
        (2**60, float(2**60), True),
        (1152921504606847000, float(2**60), False),  # as ECMAScript writes that double
        (2**63 - 1, 2**63 - 2, False),
        ((1, 2), [1, 2], True),
    ],
)
def test_values_are_the_same_when_their_numbers_are(one: Any, other: Any, alike: bool) -> None:
    assert same(one, other) is alike


integers = st.integers(-(2**63), 2**63 - 1)


@given(integers | st.floats(allow_nan=False, allow_infinity=False), integers)
def test_any_two_numbers_are_the_same_exactly_when_they_are_equal(one: float, other: int) -> None:
    for number in (other, float(other)):
        assert (sameness(one) == sameness(number)) is (one == number)


@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(), st.lists))
def test_what_has_a_canonical_form_is_the_same_as_what_has_the_same_one(value: Any) -> None:
    assert sameness(value) == jcs(value)
