"""Bounds: token buckets, connections by address, bodies in flight, open streams."""

from types import SimpleNamespace
from typing import Any

import pytest

from perdure.ids import Tenant
from perdure.testing.clock import FakeClock
from perdure_gateway import limits, rates
from perdure_gateway.front import Gate
from perdure_gateway.limits import Limits
from perdure_gateway.problems import Problem
from perdure_gateway.rates import RATE, Buckets, Rates
from perdure_gateway.refusals import OF_A_LINK, OF_A_TENANT, Refusals


class Request(dict[Any, Any]):
    """As much of a request as rates look at."""

    remote = "192.0.2.1"


def test_a_bucket_empties_at_once_and_fills_steadily() -> None:
    clock = FakeClock()
    buckets = Buckets(clock, 60)
    assert [int(buckets.take("a")) for _ in range(60)] == list(range(59, -1, -1))
    assert buckets.take("a") < 0
    assert buckets.take("b") == 59
    clock.advance(2.0)
    assert buckets.left("a") == pytest.approx(2.0)
    clock.advance(3600.0)
    assert buckets.left("a") == 60


def test_refusals_of_a_link_and_of_a_tenant_are_let_through_so_often_and_counted_beyond() -> None:
    clock, one, other = FakeClock(), Tenant("one"), Tenant("other")
    kept = Refusals(clock)
    assert [kept.admit(one, "a") for _ in range(OF_A_LINK)] == [0] * OF_A_LINK
    assert [kept.admit(one, "a") for _ in range(5)] == [None] * 5
    assert kept.admit(other, "c") == 0
    assert kept.admit(one, "b") == 5  # another link's next record says what was left out of its tenant's
    assert kept.admit(one, "b") == 0
    found = [kept.admit(one, f"link-{n}") for n in range(OF_A_TENANT)]
    assert found == [0] * (OF_A_TENANT - OF_A_LINK - 2) + [None] * (OF_A_LINK + 2)
    clock.advance(60.0)
    assert kept.admit(one, "a") == OF_A_LINK + 2


def test_buckets_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "MOST_BUCKETS", 3)
    buckets = Buckets(FakeClock(), 60)
    for name in "abcd":
        buckets.take(name)
    assert buckets.left("a") == 60  # forgotten, so full again
    assert buckets.left("b") == 59


def test_a_key_is_told_what_is_left_and_when_to_come_back() -> None:
    clock, request = FakeClock(), Request()
    rate = Rates(clock, 3)
    assert rate.policy == '"default";q=3;w=60'
    for left in (2, 1, 0):
        rate.count(request, "k")  # type: ignore[arg-type]  # the part that is asked
        assert request[RATE].startswith(f'"default";r={left};t=')
    with pytest.raises(Problem) as refused:
        rate.count(request, "k")  # type: ignore[arg-type]
    assert (refused.value.code, int(refused.value.headers["Retry-After"])) == ("rate-limited", 40)
    clock.advance(40.0)
    rate.count(request, "k")  # type: ignore[arg-type]


def test_an_address_that_guesses_keys_is_held_back() -> None:
    clock, request = FakeClock(), Request()
    rate = Rates(clock)
    for _ in range(rates.REFUSALS_PER_MINUTE):
        rate.admit(request)  # type: ignore[arg-type]
        rate.refused(request)  # type: ignore[arg-type]
    with pytest.raises(Problem):
        rate.admit(request)  # type: ignore[arg-type]
    rate.admit(SimpleNamespace(remote="192.0.2.2"))  # type: ignore[arg-type]  # another address is another matter
    clock.advance(60.0)
    rate.admit(request)  # type: ignore[arg-type]


def test_connections_are_counted_by_address_and_in_all() -> None:
    gate = Gate(per_address=2, in_all=4)
    assert [gate.enter("192.0.2.1") for _ in range(3)] == [True, True, False]
    assert [gate.enter("127.0.0.1"), gate.enter("::1")] == [True, True]
    assert not gate.enter("192.0.2.2")  # four in all
    gate.leave("192.0.2.1")
    assert gate.enter("192.0.2.1")
    for address in ("192.0.2.1", "192.0.2.1", "127.0.0.1", "::1"):
        gate.leave(address)
    assert gate.open == 0


def test_bodies_in_flight_and_streams_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_BYTES", 10)
    monkeypatch.setattr(limits, "STREAMS_PER_KEY", 1)
    bounds = Limits()
    with bounds.body(6), pytest.raises(Problem), bounds.body(5):
        pass
    with bounds.body(10):
        pass
    with bounds.stream("a"), bounds.stream("b"), pytest.raises(Problem), bounds.stream("a"):
        pass
    with bounds.stream("a"):
        pass
