"""Bytes and events: limits, versions, and what is no event."""

import json
import math

import pytest
from msgspec import Struct
from msgspec.structs import replace

from perdure.core import codec
from perdure.core import event as ev
from perdure.errors import Malformed, TooLarge, UnsupportedVersion
from perdure.testing.factory import Story


class Point(Struct):
    """A record of an author's."""

    x: float
    note: None = None


def submitted() -> bytes:
    return codec.encode(Story().submitted())


def changed(**members: object) -> bytes:
    return json.dumps({**json.loads(submitted()), **members}).encode()


def test_an_event_comes_back_as_it_was() -> None:
    event = Story().submitted()
    assert codec.decode(codec.encode(event)) == event


def test_members_of_a_later_release_are_ignored() -> None:
    assert codec.decode(changed(mood="good")) == Story().submitted()


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"{}", b'"job.submitted"', b'{"v":1}', b"\xff\xfe", b"{" * 5000, b"[" * 200_000]
)
def test_what_is_no_event_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        codec.decode(body)


def test_a_known_type_with_unfitting_data_is_malformed() -> None:
    with pytest.raises(Malformed, match=r"job\.submitted"):
        codec.decode(changed(data={}))


@pytest.mark.parametrize("members", [{"v": 2}, {"v": 2, "data": "elsewhere"}, {"type": "job.paused"}])
def test_a_newer_format_or_an_unknown_type_is_for_another_version(members: dict[str, object]) -> None:
    with pytest.raises(UnsupportedVersion):
        codec.decode(changed(**members))


def test_an_event_beyond_its_bound_is_refused_and_one_at_it_is_not() -> None:
    story = Story()
    story.submitted()
    event = story.started()
    assert isinstance(event, ev.AttemptStarted)
    rest = len(codec.encode(replace(event, data=replace(event.data, code_digest=""))))
    fits = replace(event, data=replace(event.data, code_digest="x" * (codec.MAX_EVENT_BYTES - rest)))
    assert len(codec.encode(fits)) == 192 * 1024
    with pytest.raises(TooLarge):
        codec.encode(replace(fits, data=replace(fits.data, code_digest="x" * (codec.MAX_EVENT_BYTES - rest + 1))))


def test_a_value_comes_back_as_json_says_it() -> None:
    assert codec.decode_value(codec.encode_value({"a": (1, 2.5, None, "é", 2**80)})) == {
        "a": [1, 2.5, None, "é", 2**80]
    }


def test_a_value_beyond_its_bound_is_refused_and_one_at_it_is_not() -> None:
    most = 64 * 1024 * 1024
    assert len(codec.encode_value("x" * (most - 2))) == most
    with pytest.raises(TooLarge):
        codec.encode_value("x" * (most - 1))
    with pytest.raises(TooLarge):
        codec.encode_value("xx", 3)


@pytest.mark.parametrize("value", [math.nan, -math.inf, {"a": [1, (2.0, {"b": math.inf})]}, Point(math.nan)], ids=repr)
def test_a_float_that_json_cannot_hold_is_refused_and_not_stored_as_null(value: object) -> None:
    with pytest.raises(Malformed, match="finite"):
        codec.encode_value(value)


@pytest.mark.parametrize("value", [None, {"a": None, "b": 1.5}, "null", [[None], 2.0], Point(0.5)], ids=repr)
def test_nulls_beside_finite_floats_are_stored(value: object) -> None:
    assert codec.encode_value(value)


@pytest.mark.parametrize("value", [{1j: 1}, "\ud800", 1j, [[1j]]], ids=repr)
def test_a_value_that_is_no_json_is_refused(value: object) -> None:
    with pytest.raises(Malformed):
        codec.encode_value(value)


def test_a_value_that_contains_itself_is_refused() -> None:
    deep: list[object] = []
    deep.append(deep)
    with pytest.raises(Malformed):
        codec.encode_value(deep)


def test_canonical_bytes_do_not_depend_on_the_order_of_members() -> None:
    assert codec.canonical({"b": 1, "a": {"d": 2, "c": 3}}) == b'{"a":{"c":3,"d":2},"b":1}'
