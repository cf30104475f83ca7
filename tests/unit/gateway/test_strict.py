"""Strict JSON: what is let in, what is not, and that refusing is cheap."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure_gateway import strict
from perdure_gateway.strict import InvalidJson, loads

TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5),
    max_leaves=20,
)


@given(JSON)
def test_every_plain_value_comes_in_as_it_is(value: Any) -> None:
    assert loads(json.dumps(value).encode()) == value
    assert loads(msgspec.json.encode(value)) == value
    assert loads(json.dumps(value, ensure_ascii=False, indent=2).encode()) == value


@given(st.binary(max_size=60))
def test_whatever_the_bytes_are_they_are_a_value_or_refused(raw: bytes) -> None:
    try:
        value = loads(raw)
    except InvalidJson:
        return
    assert msgspec.json.decode(msgspec.json.encode(value)) == value


@given(st.text(alphabet='[]{}",:\\ae1 ', max_size=40))
def test_brackets_and_quotes_in_every_order_never_hide_depth(text: str) -> None:
    deep = "[" * 70 + text
    with pytest.raises(InvalidJson):
        loads(deep.encode())


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"9223372036854775807", 2**63 - 1),
        (b"-9223372036854775807", -(2**63) + 1),
        (b"-0", 0),
        (b"1e-400", 0.0),
        (b"1.7976931348623157e308", 1.7976931348623157e308),
        (b' \t\r\n"\\ud83d\\ude00"\n', "\U0001f600"),
        (b'"\\u2028"', "\u2028"),
        (b'"[[{\\"}"', '[[{"}'),
        (b"[" * 64 + b"]" * 64, json.loads("[" * 64 + "]" * 64)),
    ],
)
def test_the_last_value_within_each_bound_is_taken(raw: bytes, value: Any) -> None:
    assert loads(raw) == value


@pytest.mark.parametrize(
    "raw",
    [
        b"9223372036854775808",
        b"-9223372036854775808",
        b"9" * 100_000,
        b"1e309",
        b"-1e309",
        b"NaN",
        b"[Infinity]",
        b'{"a":-Infinity}',
        b'{"a":1,"a":1}',
        b'{"a":{"b":1,"c":2,"b":3}}',
        b'{"\\u0061":1,"a":2}',
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b'{"\\ud800":1}',
        b'"\\u0000"',
        b'{"\\u0000":1}',
        b'"\x00"',
        b'"\x1f"',
        b"\xef\xbb\xbf1",
        b'"\xc0\x80"',
        b'"\xed\xa0\x80"',
        b'"\xff"',
        b"",
        b" ",
        b"1 2",
        b"[1,]",
        b"{,}",
        b"01",
        b"+1",
        b".5",
        b"1.",
        b"0x1",
        b"1_0",
        b"\xc2\xa01",
        b"\x0c1",
        b"nul",
        b"True",
        b"'a'",
        b'"\\x41"',
        b'"a',
        b"[" * 65 + b"]" * 65,
        b'{"a":' * 65 + b"1" + b"}" * 65,
        b"[" * 1_000_000,
    ],
    ids=lambda raw: repr(raw[:20]),
)
def test_the_first_value_beyond_each_bound_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidJson):
        loads(raw)


@pytest.mark.parametrize(("members", "fits"), [(1000, True), (1001, False)])
def test_an_object_has_a_bounded_number_of_members(members: int, fits: bool) -> None:
    check(json.dumps({str(n): n for n in range(members)}).encode(), fits)


@pytest.mark.parametrize(("empty", "fits"), [(99_999, True), (100_000, False)])
@pytest.mark.parametrize("item", ["[]", "{}", "0", '""'])
def test_a_body_has_a_bounded_number_of_values(empty: int, item: str, fits: bool) -> None:
    check(f"[{','.join([item] * empty)}]".encode(), fits)


def check(raw: bytes, fits: bool) -> None:
    if fits:
        loads(raw)
        return
    with pytest.raises(InvalidJson):
        loads(raw)


def test_what_is_refused_is_not_repeated() -> None:
    for raw in (b'{"secret":1,"secret":2}', b'["secret\\ud800"]', b'"secret', b"secret", b'"secret\xff"'):
        with pytest.raises(InvalidJson) as refused:
            loads(raw)
        assert "secret" not in str(refused.value)


def test_a_syntax_error_says_where() -> None:
    with pytest.raises(InvalidJson) as refused:
        loads(b'{"a": }')
    assert refused.value.position == 6
    assert strict.MAX_BYTES == 1024 * 1024
