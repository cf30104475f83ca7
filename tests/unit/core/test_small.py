"""Instants, keys and retry arithmetic."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.core.instant import Instant, instant, later, moment, seconds_between
from perdure.core.key import ROOT, Key, args_digest, branch_path
from perdure.core.retry import DEFAULT, NEVER, RetryPolicy, delay
from perdure.errors import Malformed

OLDEST: Final = datetime(1000, 1, 1)  # noqa: DTZ001  # hypothesis adds the zone


def test_an_instant_is_utc_with_exactly_milliseconds() -> None:
    at = datetime(2026, 3, 4, 5, 6, 7, 89_999, tzinfo=timezone(timedelta(hours=2)))
    assert instant(at) == "2026-03-04T03:06:07.089Z"


@given(st.datetimes(min_value=OLDEST, timezones=st.just(UTC)), st.datetimes(timezones=st.just(UTC)))
def test_instants_sort_like_their_moments(one: datetime, other: datetime) -> None:
    if other.year >= 1000 and abs(one - other) > timedelta(milliseconds=1):
        assert (instant(one) < instant(other)) == (one < other)


@given(st.datetimes(min_value=OLDEST, timezones=st.just(UTC)))
def test_an_instant_read_back_is_the_same_instant(at: datetime) -> None:
    assert instant(moment(instant(at))) == instant(at)


def test_later_and_between_are_each_others_inverse() -> None:
    begin = Instant("2026-12-31T23:59:59.500Z")
    assert later(begin, 0.75) == "2027-01-01T00:00:00.250Z"
    assert seconds_between(begin, later(begin, 0.75)) == 0.75
    assert seconds_between(later(begin, 2), begin) == -2


def test_what_is_no_instant_is_refused() -> None:
    with pytest.raises(Malformed):
        moment(Instant("yesterday"))


def test_branch_paths_nest_from_the_root() -> None:
    assert branch_path(ROOT, 1, 2) == "/1.2"
    assert branch_path("/1.2", 3, 1) == "/1.2/3.1"
    assert str(Key("", "draft", 1)) == "/ draft#1"
    assert str(Key("/1.2", "draft", 3)) == "/1.2 draft#3"


def test_the_digest_of_arguments_does_not_depend_on_the_order_of_members() -> None:
    one = args_digest((1, {"a": 1, "b": [2]}), {"x": 1, "y": 2})
    other = args_digest((1, {"b": [2], "a": 1}), {"y": 2, "x": 1})
    assert one == other
    assert one is not None
    assert len(one) == 16
    assert one != args_digest((1, {"a": 1, "b": [3]}), {"x": 1, "y": 2})


def test_the_digest_of_arguments_is_frozen() -> None:
    assert args_digest(("hello", 2), {"tone": "dry"}) == "82004190d66a0237"


def test_arguments_that_cannot_be_encoded_have_no_digest() -> None:
    assert args_digest((object(),), {}) is None
    deep: list[object] = []
    deep.append(deep)
    assert args_digest((deep,), {}) is None


def test_delays_double_up_to_the_most_and_end_with_the_last_try() -> None:
    policy = RetryPolicy(max_failures=6, first_seconds=1.0, most_seconds=6.0)
    assert [delay(policy, failures, 1.0) for failures in range(1, 7)] == [1.0, 2.0, 4.0, 6.0, 6.0, None]


def test_the_default_is_five_tries_and_never_is_one() -> None:
    assert [delay(DEFAULT, failures, 0.5) for failures in range(1, 6)] == [0.5, 1.0, 2.0, 4.0, None]
    assert delay(NEVER, 1, 0.5) is None


def test_what_the_failed_side_asks_for_is_waited_as_far_as_the_policy_goes() -> None:
    policy = RetryPolicy(max_failures=3, first_seconds=1.0, most_seconds=60.0)
    assert delay(policy, 1, 0.5, 30.0) == 30.0
    assert delay(policy, 1, 0.5, 3600.0) == 60.0
    assert delay(policy, 2, 1.0, 0.1) == 2.0
    assert delay(policy, 3, 1.0, 30.0) is None


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_delay_is_a_share_of_the_doubled_one(failures: int, chance: float) -> None:
    found = delay(RetryPolicy(max_failures=100_000), failures, chance)
    assert found is not None
    assert 0 <= found <= min(300.0, 2.0 ** min(failures - 1, 60))
