"""Native frames: one line of JSON, the log's own bytes, deltas that nothing has settled."""

from hashlib import sha256

import msgspec
import pytest

from perdure.core import codec
from perdure.core import event as ev
from perdure.core.stream.delta import read_delta
from perdure.core.stream.filter import Filtered, Types
from perdure.core.stream.frame import Frame
from perdure.core.stream.native import Native, envelope
from perdure.core.stream.offset import Offset
from perdure.core.stream.reading import Reset
from perdure.errors import Malformed
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


def test_a_delta_has_the_offset_behind_it_and_names_its_job_once() -> None:
    native = Native(JOB)
    for body in (delta(), delta(job_id=JOB)):
        said = read_delta(body)
        assert said is not None
        (frame,) = native.on_delta(said, Offset(2, 1))
        assert (frame.id, frame.event, frame.data.count(b"job_id")) == ("2.1", "delta.text", 1)
        (quiet,) = native.on_delta(said, None)
        assert not quiet.encode().startswith(b"id:")


def test_a_reset_has_the_offset_of_its_event() -> None:
    (frame,) = Native(JOB).on_reset(Reset(3, "attempt", Offset(17)))
    assert frame.encode().startswith(b"id: 17\nevent: delta.reset\ndata: {")
    shown = msgspec.json.decode(frame.data)
    assert shown == {"v": 1, "job_id": JOB, "type": "delta.reset", "attempt": 3, "reason": "attempt"}


def test_filters_hide_types_and_never_renumber(story: Story) -> None:
    types = Types("step.*,job.completed")
    native = Filtered(JOB, types=types)
    assert not native.deltas
    assert [native.on_event(codec.encode(e), e) for e in story.events] == [(), ()]
    step = story.step("draft", "x")
    (frame,) = native.on_event(codec.encode(step), step)
    assert (frame.id, frame.event) == ("3", "step.completed")
    only = Filtered(JOB, types=Types("delta.text"))
    said = read_delta(delta())
    other = read_delta(delta(type="delta.step"))
    assert said is not None
    assert other is not None
    assert only.deltas
    assert only.on_delta(said, Offset(2, 1))
    assert only.on_delta(other, Offset(2, 1)) == ()
    for bad in ("", "nothing", "*", "job*", "job.", "job.*.x", ",".join(["message"] * 51)):
        with pytest.raises(Malformed):
            Types(bad)


def test_withheld_values_leave_their_size_and_digest(story: Story) -> None:
    secret = "canary-4711"
    native = Filtered(JOB, values=False)
    events = [*story.events, story.step("draft", {"x": [secret]})]
    story.asked(secret)
    events += [story.events[-1], story.failed_step("b", final=True), story.completed(out=secret)]
    frames = [frame for event in events for frame in native.on_event(codec.encode(event), event)]
    assert len(frames) == len(events)
    result = msgspec.json.decode(frames[2].data)["data"]["result"]
    assert (result["withheld"], result["size_bytes"]) == (True, len('{"x":["canary-4711"]}'))
    assert result["digest"] == sha256(b'{"x":["canary-4711"]}').hexdigest()
    assert b"canary" not in frames[2].data + frames[-1].data
    said = read_delta(delta(text=secret))
    progress = read_delta(delta(type="delta.progress", text=secret, done=1))
    assert said is not None
    assert progress is not None
    assert native.on_delta(said, Offset(2, 1)) == ()
    (frame,) = native.on_delta(progress, Offset(2, 2))
    assert b"canary" not in frame.data
    assert b'"done":1' in frame.data


def test_a_stream_that_ends_early_says_why() -> None:
    (frame,) = Native(JOB).close("drain")
    assert frame.encode() == b'event: stream.close\ndata: {"reason":"drain"}\n\n'
