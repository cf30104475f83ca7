"""Blob offload: which values leave an event, what stays, and that nothing is lost on the way."""

from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.core import blob, codec
from perdure.core import event as ev
from perdure.core.codec import INLINE_VALUE_BYTES, MAX_EVENT_BYTES, MAX_VALUE_BYTES
from perdure.core.event import AnyData, AnyEvent, Status
from perdure.core.instant import Instant
from perdure.errors import Malformed, TooLarge
from perdure.ids import Digest, EventId, JobId, Principal, RequestId

AT = Instant("2026-01-01T00:00:00.000Z")
JOB = JobId("01990000-0000-7000-8000-000000000001")
REQUEST = RequestId(f"{JOB}_3")
ANN = Principal("user:ann")
VIA = ev.Via(channel="api")
LARGE = "x" * INLINE_VALUE_BYTES  # two bytes more as JSON


def event_of(data: AnyData, refs: tuple[Digest, ...] = ()) -> AnyEvent:
    return ev.EVENT_OF[type(data)](
        v=1, id=EventId("e" * 36), seq=7, attempt=1, at=AT, status=Status.RUNNING, refs=refs,
        data=data,  # type: ignore[arg-type]  # EVENT_OF pairs them
    )  # fmt: skip


def step(result: Any) -> ev.StepCompletedData:
    return ev.StepCompletedData(step="a", occurrence=1, result=result, started_at=AT, duration_seconds=0.1)


def completed(**outputs: Any) -> ev.CompletedData:
    return ev.CompletedData(outputs=outputs, fingerprint=Digest("f" * 64))


def request(**values: Any) -> ev.RequestedData:
    return ev.RequestedData(
        request=ev.Request(
            id=REQUEST, job_id=JOB, name="r", occurrence=1, revision=1, kind="approval", title="?", asked_at=AT,
            asked_for=ANN, actions=(ev.Action(id="approve"),), **values,
        )
    )  # fmt: skip


def offloaded(data: AnyData) -> tuple[AnyEvent, dict[Digest, bytes]]:
    """The event as it would be appended, and its blobs."""
    left = blob.offload(data, len(codec.unbounded(event_of(data))))
    return event_of(left.data, blob.refs(left.data)), left.blobs


EVERY: list[tuple[AnyData, str]] = [
    (step(LARGE), "result"),
    (ev.OutputData(name="o", occurrence=1, kind="text", value=LARGE), "value"),
    (ev.ProgressData(name="p", occurrence=1, data=LARGE), "data"),
    (request(proposal=LARGE), "request.proposal"),
    (request(on_timeout=ev.OnTimeout(do="answer", action="approve", payload=LARGE)), "request.on_timeout.payload"),
    (
        ev.VotedData(
            request_id=REQUEST, revision=1, action="approve", payload=LARGE, payload_digest="p", by=ANN, via=VIA
        ),
        "payload",
    ),
    (ev.AnsweredData(request_id=REQUEST, revision=1, action="approve", payload=LARGE, by=ANN, via=VIA), "payload"),
    (
        ev.AnsweredData(
            request_id=REQUEST, revision=1, action="approve", payload=None, proposal=LARGE, by=ANN, via=VIA
        ),
        "proposal",
    ),
    (
        ev.ExpiredData(
            request_id=REQUEST, revision=1, cause="deadline", outcome=ev.Outcome(do="answer", payload=LARGE)
        ),
        "outcome.payload",
    ),
    (ev.SignalData(signal_id="s", name="go", payload=LARGE, by=ANN), "payload"),
    (completed(a=LARGE, b=1), "outputs"),
    (ev.ChildData(step="c", occurrence=1, job_id=JOB, status=Status.COMPLETED, outputs={"a": LARGE}), "outputs"),
]


@pytest.mark.parametrize(("data", "where"), EVERY, ids=[type(d).__name__ + "." + w for d, w in EVERY])
def test_every_large_value_leaves_its_event_and_comes_back(data: AnyData, where: str) -> None:
    event, blobs = offloaded(data)
    assert codec.decode(codec.encode(event)) == event
    ((digest, body),) = blobs.items()
    assert (codec.decode_value(body), sha256(body).hexdigest()) == (LARGE, digest)
    assert event.refs == (digest,)
    held: Any = codec.decode_value(codec.encode(event))["data"]
    *way, member = where.split(".")
    for name in way:
        held = held[name]
    ref = {"sha256": digest, "size_bytes": len(body), "media_type": "application/json"}
    assert held[f"{member}_ref"] == ({"a": ref} if member == "outputs" else ref)
    assert member not in held or "a" not in held[member]
    assert blob.resolve(event, blobs).data == data


@pytest.mark.parametrize("size", [INLINE_VALUE_BYTES, INLINE_VALUE_BYTES + 1])
def test_a_value_leaves_only_beyond_its_bound(size: int) -> None:
    event, blobs = offloaded(step("x" * (size - 2)))
    assert bool(blobs) is (size > INLINE_VALUE_BYTES)
    assert blob.resolve(event, blobs).data == step("x" * (size - 2))


@pytest.mark.parametrize("over", [0, 1])
def test_an_event_at_its_bound_keeps_its_values_and_beyond_it_loses_the_largest(over: int) -> None:
    rest = len(codec.unbounded(event_of(completed(a="", b=""))))
    half = (MAX_EVENT_BYTES - rest) // 2
    data = completed(a="x" * (half - 10), b="y" * (MAX_EVENT_BYTES - rest - half + 10 + over))
    assert len(codec.unbounded(event_of(data))) == MAX_EVENT_BYTES + over
    event, _ = offloaded(data)
    assert isinstance(event.data, ev.CompletedData)
    assert set(event.data.outputs_ref) == ({"b"} if over else set())
    codec.encode(event)


@pytest.mark.parametrize("over", [0, 1])
def test_a_blob_has_a_bound_too(over: int) -> None:
    data = step("x" * (MAX_VALUE_BYTES - 2 + over))
    if over:
        with pytest.raises(TooLarge):
            offloaded(data)
    else:
        event, blobs = offloaded(data)
        assert [len(body) for body in blobs.values()] == [MAX_VALUE_BYTES]
        codec.encode(event)


def test_what_is_no_users_value_cannot_leave_and_is_too_large() -> None:
    event, _ = offloaded(request(message="x" * MAX_EVENT_BYTES, proposal="p" * 1000))
    with pytest.raises(TooLarge):
        codec.encode(event)


def test_null_and_absent_stay_what_they_are() -> None:
    for data in (step(None), completed(a=None), request(proposal=None)):
        event, blobs = offloaded(data)
        assert not blobs
        assert blob.resolve(codec.decode(codec.encode(event)), {}).data == data


def test_a_damaged_blob_is_said_so() -> None:
    event, blobs = offloaded(step(LARGE))
    with pytest.raises(Malformed, match="no value"):
        blob.resolve(event, {digest: b"{" for digest in blobs})


values = st.one_of(
    st.none(), st.integers(), st.text(max_size=20), st.integers(1, 200_000).map(lambda n: "x" * n),
    st.lists(st.integers(1, 30_000).map(lambda n: "é" * n), max_size=4),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(st.characters(codec="ascii"), min_size=1, max_size=8), values, max_size=12))
def test_whatever_the_outputs_are_the_event_fits_and_nothing_is_lost(outputs: dict[str, Any]) -> None:
    data = completed(**outputs)
    event, blobs = offloaded(data)
    assert len(codec.encode(event)) <= MAX_EVENT_BYTES
    assert set(event.refs) == set(blobs)
    back = blob.resolve(codec.decode(codec.encode(event)), blobs)
    assert codec.canonical(back.data) == codec.canonical(data)
