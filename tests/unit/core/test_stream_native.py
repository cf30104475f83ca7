"""Native frames: one line of JSON, the log's own bytes, deltas that nothing has settled."""

import msgspec
import pytest

from perdure.core import codec
from perdure.core import event as ev
from perdure.core.stream.frame import Frame
from perdure.core.stream.native import Native, envelope, read_delta
from perdure.testing.factory import JOB, Story


def delta(**members: object) -> bytes:
    base: dict[str, object] = {"v": 1, "type": "delta.text", "attempt": 1, "n": 1, "after": 2, "step": "draft"}
    return msgspec.json.encode(base | {"occurrence": 1, "text": "hi"} | members)


@pytest.fixture
def story() -> Story:
    story = Story()
    story.submitted()
    story.started()
    return story


def show(native: Native, event: ev.AnyEvent) -> Frame:
    (frame,) = native.on_event(codec.encode(event), event)
    return frame


def test_a_frame_is_an_id_a_type_and_one_line(story: Story) -> None:
    evil = "\n\nevent: x\r\ndata: \u2028"
    frame = show(Native(JOB), story.step("draft", evil))
    raw = frame.encode()
    assert raw.startswith(b"id: 3\nevent: step.completed\ndata: {")
    assert raw.endswith(b"}\n\n")
    assert raw.count(b"\n") == 4
    assert b"\r" not in raw
    shown = msgspec.json.decode(frame.data)
    assert (shown["job_id"], shown["seq"], shown["data"]["result"]) == (JOB, 3, evil)


def test_the_envelope_is_the_stored_event_with_the_job_in_front(story: Story) -> None:
    body = codec.encode(story.events[0])
    assert msgspec.json.decode(envelope(JOB, body)) == msgspec.json.decode(body) | {"job_id": JOB}


def test_a_delta_has_no_id_and_names_its_job_once(story: Story) -> None:
    native = Native(JOB)
    for body in (delta(), delta(job_id=JOB)):
        (frame,) = native.on_delta(body)
        assert (frame.id, frame.event, frame.data.count(b"job_id")) == (None, "delta.text", 1)
        assert not frame.encode().startswith(b"id:")


def test_what_is_no_delta_is_shown_to_nobody() -> None:
    native = Native(JOB)
    for body in (b"", b"null", b"[]", b"\xff", delta(type="job.completed"), delta(type="delta.x"), delta(attempt="1")):
        assert read_delta(body) is None
        assert native.on_delta(body) == ()
    assert native.on_delta(delta(job_id="01990000-0000-7000-8000-000000000002")) == ()


def test_a_settled_step_and_a_dead_attempt_say_no_more(story: Story) -> None:
    native = Native(JOB)
    for event in story.events:
        show(native, event)
    assert native.on_delta(delta())
    show(native, story.step("draft"))
    assert native.on_delta(delta()) == ()
    assert native.on_delta(delta(occurrence=2))
    assert native.on_delta(delta(path="/1.2"))
    show(native, story.started("lease_lost"))
    assert native.on_delta(delta(occurrence=2)) == ()  # of attempt 1
    assert native.on_delta(delta(attempt=2))  # what was settled is another attempt's word


def test_a_stream_that_ends_early_says_why() -> None:
    (frame,) = Native(JOB).close("drain")
    assert frame.encode() == b'event: stream.close\ndata: {"reason":"drain"}\n\n'
