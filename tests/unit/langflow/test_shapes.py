"""Journal entries, frames, deaths and what children see: the pure part of running Langflow flows."""

import json
from pathlib import Path

import msgspec
import pytest
from msgspec import Raw
from msgspec.structs import replace

from perdure.core import event as ev
from perdure.core.instant import Instant
from perdure.core.langflow import entry, memory
from perdure.core.langflow.entry import Entry, Finished
from perdure.core.machine import JobState
from perdure.errors import Malformed
from perdure.testing.factory import Story
from perdure_runner.langflow import frames
from perdure_runner.langflow.deaths import UNKNOWN, death, tried_again
from perdure_runner.langflow.flow import flow_file, given
from perdure_runner.langflow.pool import visible

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "langflow" / "entry-1.json"
NOW = Instant("2026-01-01T00:00:00.000Z")
ENTRY = Entry(
    lfx="1.13.0",
    kept={"message": {"__lfx_ser__": "dict", "value": {}}},
    states={"ChatInput-a": "ACTIVE"},
    branches={"inactivated_vertices": []},
    output={"type": "message", "status": "completed", "display_name": "Chat", "content": "hi", "metadata": {}},
)


def submitted_data() -> ev.SubmittedData:
    data = Story().submitted().data
    assert isinstance(data, ev.SubmittedData)
    return data


def test_an_entry_is_read_as_it_was_written_by_this_version() -> None:
    assert entry.read(json.loads(GOLDEN.read_text())) == ENTRY
    assert msgspec.json.encode(ENTRY) == GOLDEN.read_bytes().rstrip()


@pytest.mark.parametrize("result", [None, [], {"kept": {}}, {"lfx": "1.13.0", "v": 2}, {"lfx": 1}])
def test_what_is_no_entry_is_refused(result: object) -> None:
    with pytest.raises(Malformed):
        entry.read(result)


def test_outputs_are_those_of_terminal_components() -> None:
    done = [Finished("ChatInput-a", replace(ENTRY, output=None)), Finished("ChatOutput-b", ENTRY)]
    assert entry.outputs(done) == {"ChatOutput-b": ENTRY.output}


def test_frames_come_back_as_they_were_sent() -> None:
    start = frames.Start(
        flow=Raw(b'{"data":{}}'),
        flow_id="f",
        job_id="j",
        user_id="u",
        session_id="s",
        journal=[Finished("ChatInput-a", ENTRY)],
        tweaks={"a": {"b": [1, None]}},
    )
    body = frames.encode(start)
    assert frames.size(body[: frames.HEAD]) == len(body) - frames.HEAD
    assert frames.from_parent(body[frames.HEAD :]) == start
    done = frames.Done(component="a", type="Agent", entry=ENTRY, kind="message", preview={"x": [1]})
    assert frames.from_child(frames.encode(done)[frames.HEAD :]) == done


@pytest.mark.parametrize("body", [b"", b"{}", b'{"frame":"Start"}', b"\xff", b'{"frame":"Ended"', b"[" * 5000])
def test_what_flow_code_may_write_into_the_pipe_is_no_frame(body: bytes) -> None:
    with pytest.raises(Malformed):
        frames.from_child(body)


def test_a_length_beyond_the_bound_is_no_frame() -> None:
    with pytest.raises(Malformed):
        frames.size(b"\xff\xff\xff\xff")
    with pytest.raises(Malformed):
        frames.size(b"\x00")


@pytest.mark.parametrize(
    ("status", "code"),
    [(9, "child_died"), (24, "timeout"), (77 << 8, "out_of_memory"), (1 << 8, "child_died"), (0, "child_died")],
)
def test_how_a_child_ended_says_why(status: int, code: str) -> None:
    assert death(status).code == code


def test_an_end_that_nobody_saw_and_a_signal_without_a_name_are_deaths_too() -> None:
    assert death(UNKNOWN).message == "the process of the flow was lost"
    assert death(40).message == "the process of the flow was ended by signal 40"  # a real-time signal


def test_a_job_whose_child_died_is_tried_three_times_or_as_often_as_it_says() -> None:
    job = JobState(submitted=submitted_data())
    assert [tried_again(job, n, NOW, 0.5) for n in (1, 2, 3)] == [
        "2026-01-01T00:00:00.500Z",
        "2026-01-01T00:00:01.000Z",
        None,
    ]
    once = JobState(submitted=replace(submitted_data(), max_failures=1))
    assert tried_again(once, 1, NOW, 0.5) is None


def test_085_what_the_operator_lists_is_seen_and_nothing_else() -> None:
    environ = {"PATH": "/bin", "PERDURE_NATS_PASSWORD": "x", "LANGFLOW_SSRF_ALLOWED_HOSTS": "10.0.0.0/8", "A": "1"}
    assert visible(environ, ("LANGFLOW_SSRF_ALLOWED_HOSTS", "B")) == {
        "PATH": "/bin",
        "LANGFLOW_SSRF_ALLOWED_HOSTS": "10.0.0.0/8",
    }


def test_the_input_is_a_text_or_says_more() -> None:
    assert given("hi").input_value == given({"input_value": "hi"}).input_value == "hi"
    assert given(None).input_value == ""
    assert given({"input_value": "x", "stop_component_id": "a"}).stop_component_id == "a"


@pytest.mark.parametrize("wrong", [3, [], {"input_value": 3}])
def test_what_no_flow_takes_is_refused(wrong: object) -> None:
    with pytest.raises(Malformed):
        given(wrong)


def test_a_flow_file_may_be_stored_whole_or_as_its_data() -> None:
    whole = b'{"name":"x","data":{"nodes":[],"edges":[]}}'
    assert flow_file(whole) == whole
    assert json.loads(flow_file(b'{"nodes":[],"edges":[]}')) == {"data": {"nodes": [], "edges": []}}


def test_the_journal_of_a_log_needs_an_entry_in_every_step() -> None:
    data = ev.StepCompletedData(step="a", occurrence=1, result={"x": 1}, started_at=NOW, duration_seconds=0.0)
    event = ev.StepCompleted(v=1, id="e", seq=3, attempt=1, at=NOW, status=ev.Status.RUNNING, data=data)  # type: ignore[arg-type]  # an id
    with pytest.raises(Malformed):
        entry.journal([event])


def test_the_memory_holds_what_finished_components_said_and_nobody_took_back() -> None:
    story = Story()
    story.submitted()
    story.started()
    for name, step, removed in (("m1", "a", False), ("m2", "a", False), ("m2", "a", True), ("m3", "b", False)):
        original = None if removed else {"id": name, "text": "x"}
        story.add(ev.MessageData(message_id=name, role="user", text="x", step=step, original=original, removed=removed))
    story.step("a", {})
    assert memory.said(story.events) == [{"id": "m1", "text": "x"}]
