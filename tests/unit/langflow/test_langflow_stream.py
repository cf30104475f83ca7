"""The protocol `langflow`: bytes, order and members of 1.13, narrowed streams, any cut, the ends of all kinds."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.langflow.logs import ANN, JOB, PRINT, Log, recorded
from tests.unit.langflow.recordings import lines, step, streams

from perdure.core import codec
from perdure.core import event as ev
from perdure.core.event import AnyEvent
from perdure.core.langflow.shape import Component, FlowShape
from perdure.core.stream.adapter import Attach
from perdure.core.stream.delta import Said, read_delta
from perdure.core.stream.frame import Frame
from perdure.core.stream.langflow import LangflowStream
from perdure.core.stream.offset import Offset
from perdure.core.stream.registry import ADAPTERS
from perdure.testing.telling import Heard, tell

FULL = {name: found for name, found in streams(14, 15, 16, 17, 20) if '"vertices_sorted"' in found[0]}
NARROW = {
    name: found
    for name, found in streams(14, 16, 17, 20)
    if '"build_start"' in found[0] and not any('"end_vertex"' in line for line in found) and "u00e4" not in found[1]
}
SHAPE = FlowShape(
    (
        Component(
            id="in", type="chat_input", display_name="Chat Input", output_type="data", terminal=False, leads_to=("out",)
        ),
        Component(
            id="out",
            type="chat_output",
            display_name="Chat Output",
            output_type="message",
            terminal=True,
            is_output=True,
            comes_from=("in",),
        ),
    )
)


def told(log: list[AnyEvent], after: int = 0, shape: FlowShape | None = None, **options: str) -> list[Frame]:
    """The frames of a whole log for a reader behind `after`."""
    adapter = LangflowStream(Attach(job=JOB, after=Offset(after), options=options), shape)
    found = [frame for event in log for frame in adapter.on_event(codec.encode(event), event)]
    return found + list(adapter.on_caught_up())


def data(frames: list[Frame]) -> list[str]:
    return [frame.data.decode() for frame in frames]


def comparable(line: str) -> str:
    """A line as both sides have it: 1.13 has no status in `end`, and its times are placeholders."""
    frame = json.loads(line)
    if frame["event"] == "end":
        frame["data"] = {}
    if frame["event"] == "error":  # contract 2.2: a text, a code and a component, no traceback
        return "error"
    return json.dumps(frame)


@pytest.mark.parametrize("name", FULL)
def test_067_frames_are_those_of_1_13_byte_for_byte(name: str) -> None:
    frames = told(recorded(FULL[name]).events)
    ours, theirs = data(frames), FULL[name]
    assert [comparable(line) for line in ours] == [comparable(line) for line in theirs]
    same = [(mine, line) for mine, line in zip(ours, theirs, strict=True) if not line.startswith(('{"event": "e',))]
    assert same
    assert all(mine == line for mine, line in same)  # spacing and escapes too


@pytest.mark.parametrize("name", NARROW)
def test_068_a_narrowed_stream_is_that_of_1_13(name: str) -> None:
    number = int(name.split("-")[0])
    whole = next(found for other, found in streams(number) if other != name and '"vertices_sorted"' in found[0])
    frames = [json.loads(line) for line in data(told(recorded(whole, graph_state=False).events))]
    theirs = [json.loads(line) for line in NARROW[name]]
    assert [frame["event"] for frame in frames] == [frame["event"] for frame in theirs]
    assert {frame["event"] for frame in frames} <= {"build_start", "add_message", "output", "end"}
    for frame in frames:
        if frame["event"] == "add_message":
            nobody = {"id": None, "display_name": None, "source": None}
            assert frame["data"]["properties"]["source"] == nobody
            assert frame["data"]["data"]["properties"]["source"] == nobody


def test_067_a_frame_is_data_then_id_and_escapes_what_is_not_ascii() -> None:
    log = Log().start().add(ev.ProgressData(name="langflow.warning", occurrence=1, data={"message": "ä€😀"}))
    [frame] = told(log.events)
    expected = b'data: {"event": "warning", "data": {"message": "\\u00e4\\u20ac\\ud83d\\ude00"}}\nid: 3\n\n'
    assert frame.encode() == expected


def test_of_several_frames_of_one_event_only_the_last_has_its_seq() -> None:
    log = Log().start().begin(["a"], ["a"])
    assert [(frame.event, frame.id) for frame in told(log.events)] == [("vertices_sorted", "0"), ("build_start", "3")]


def test_a_gate_is_told_with_the_members_of_1_13_first() -> None:
    log = Log().start().begin(["a"], ["a"])
    log.ask()
    log.suspend()
    frame = json.loads(data(told(log.events))[-1])
    assert frame["event"] == "human_input_required"
    assert list(frame["data"])[:8] == [
        "request_id", "kind", "prompt", "options", "allowed_decisions", "timeout_seconds", "fallback_action",
        "paused_at",
    ]  # fmt: skip
    assert frame["data"]["request_id"] == f"HumanInput-g1:{JOB}"
    assert frame["data"]["timeout_seconds"] == 259_200
    assert frame["data"]["paused_at"] == "2026-01-01T00:00:03.000000+00:00"


def adapter_behind(log: Log, **options: str) -> LangflowStream:
    adapter = LangflowStream(Attach(job=JOB, options=options))
    for event in log.events:
        list(adapter.on_event(codec.encode(event), event))
    list(adapter.on_caught_up())
    return adapter


def test_065_a_stream_ends_at_a_suspension_and_not_when_an_answer_is_there() -> None:
    log = Log().start()
    assert not adapter_behind(log).ended
    one, two = log.ask("HumanInput-a"), log.ask("HumanInput-b")
    log.suspend()
    assert adapter_behind(log).ended
    assert not adapter_behind(log, follow="true").ended
    log.answer(one)
    assert adapter_behind(log).ended  # the other one is open
    log.answer(two)
    assert not adapter_behind(log).ended  # a runner is about to go on
    assert adapter_behind(log.start("resumed").complete(), follow="true").ended


def ends(log: Log) -> list[Any]:
    return [json.loads(line) for line in data(told(log.events))][-2:]


def test_070_a_cancelled_job_ends_with_cancelled() -> None:
    log = Log().start().add(ev.CancelledData(fingerprint=PRINT, by=ANN, reason="stopped"))
    assert ends(log) == [{"event": "cancelled", "data": {"reason": "stopped"}}]


def test_070_a_failed_job_ends_with_its_error_without_traceback_and_the_end() -> None:
    error, end = ends(Log().start().fail(details={"error_type": "ValueError"}))
    assert end["event"] == "end"
    assert end["data"]["status"] == "failed"
    told_of = error["data"]
    assert (told_of["error"], told_of["text"], told_of["category"]) == ("boom", "boom", "error")
    assert (told_of["code"], told_of["component_id"]) == ("EXECUTION_ERROR", "Sleeper-bad01")
    assert "Traceback" not in json.dumps(error)
    assert "ValueError" in told_of["content_blocks"][0]["contents"][0]["reason"]


def test_070_a_job_that_timed_out_says_so() -> None:
    log = Log().start()
    error, end = ends(log.add(ev.TimedOutData(deadline_at=log.now, fingerprint=PRINT)))
    assert error["data"]["code"] == "EXECUTION_TIMEOUT"
    assert end["data"]["status"] == "timed_out"


def test_a_graph_flow_is_told_in_the_same_words() -> None:
    log = Log("graph", input={"in": "hello"}).start().step("in", "hello", path="/in")
    log.step("out", "hello", path="/out", output=ev.Named(name="out", kind="message")).complete(out="hello")
    frames = [json.loads(line) for line in data(told(log.events, shape=SHAPE))]
    assert [frame["event"] for frame in frames] == [
        "vertices_sorted", "build_start", "add_message", "end_vertex", "add_message", "end_vertex", "output", "end",
    ]  # fmt: skip
    assert frames[0]["data"] == {"ids": ["in"], "to_run": ["in", "out"]}
    assert (frames[2]["data"]["sender"], frames[4]["data"]["sender"]) == ("User", "Machine")
    assert frames[6]["data"]["content"] == "hello"
    recorded_message = json.loads(next(line for line in FULL["14-0"] if '"add_message"' in line))["data"]
    assert list(frames[2]["data"]) == list(recorded_message)
    assert list(frames[2]["data"]["data"]) == list(recorded_message["data"])


def piece(n: int, text: str, pos: int, after: int = 3) -> Said:
    body = {"type": "delta.text", "v": 1, "attempt": 1, "n": n, "after": after, "channel": "m-1", "pos": pos}
    said = read_delta(json.dumps(body | {"text": text, "step": "Agent-1", "occurrence": 1}).encode())
    assert said is not None
    return said


def test_tokens_follow_a_partial_message_and_repeat_the_last_id() -> None:
    log = Log().start().begin(["Agent-1"], ["Agent-1"])
    adapter = adapter_behind(log)
    frames = [
        frame for n, text in enumerate(("he", "llo")) for frame in adapter.on_delta(piece(n + 1, text, 2 * n), None)
    ]
    shown = [json.loads(frame.data) for frame in frames]
    assert [frame["event"] for frame in shown] == ["add_message", "token", "token"]
    assert shown[0]["data"]["properties"]["state"] == "partial"
    assert "".join(frame["data"]["chunk"] for frame in shown[1:]) == "hello"
    assert {frame.id for frame in frames} == {"3"}


def test_064_who_comes_in_the_middle_of_a_message_has_its_text_so_far_and_the_live_tail() -> None:
    log = Log().start().begin(["Agent-1"], ["Agent-1"])
    heard: list[Heard] = [*log.events, piece(1, "he", 0), piece(2, "l", 2), piece(3, "lo", 3)]
    adapter = LangflowStream(Attach(job=JOB))
    frames = [json.loads(frame.data) for frame in tell(adapter, heard, len(heard) - 1)]
    shown = [frame for frame in frames if frame["event"] in ("add_message", "token")]
    assert [frame["event"] for frame in shown] == ["add_message", "token"]
    assert (shown[0]["data"]["text"], shown[1]["data"]["chunk"]) == ("hel", "lo")


class Reader:
    """What a client of the protocol makes of frames: messages by id, components, outputs, requests, the end."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.components: dict[str, Any] = {}
        self.outputs: dict[str, Any] = {}
        self.requests: dict[str, Any] = {}
        self.ends: set[str] = set()
        self.id = 0

    def take(self, frame: Frame) -> None:
        """Obey one frame."""
        shown = json.loads(frame.data)
        name, body = shown["event"], shown["data"]
        match name:
            case "add_message":
                self.texts[body["id"]] = body["text"]
            case "remove_message":
                self.texts.pop(body["id"], None)
            case "token" if body["id"] not in self.texts or not frame.id:
                raise AssertionError("a token of no message")
            case "end_vertex":
                self.components[body["build_data"]["id"]] = body
            case "output":
                self.outputs[body["component_id"]] = body
            case "human_input_required":
                self.requests[body["request_id"]] = body
            case "end" | "error" | "cancelled" | "warning":
                self.ends.add(frame.data.decode())
            case _:
                pass
        self.id = int(frame.id or 0)

    @property
    def state(self) -> tuple[Any, ...]:
        """What there is to see."""
        return (self.texts, self.components, self.outputs, self.requests, self.ends)


@st.composite
def jobs(draw: st.DrawFn) -> list[AnyEvent]:
    """Logs of Langflow jobs: components with messages, outputs and gates, ended in every way."""
    log = Log(graph_state=draw(st.booleans())).start()
    log.begin(["c0"], ["c0", "c1", "c2"])
    for number in range(draw(st.integers(0, 4))):
        if draw(st.booleans()):
            message = {"id": f"m{number}", "sender": "Machine", "text": draw(st.text(max_size=5)), "properties": {}}
            log.message(message)
        vertex = {
            "build_data": {"id": f"c{number}", "valid": True},
            "output_meta": {"component_id": f"c{number}", "vertex_type": "X", "is_output": draw(st.booleans())},
        }
        shown = {"type": "text", "content": "x", "metadata": {}} if draw(st.booleans()) else None
        log.built(vertex, shown)
        if draw(st.booleans()):
            request = log.ask(f"HumanInput-{number}")
            log.suspend()
            log.answer(request, draw(st.sampled_from(["approve", "reject"])))
            log.start("resumed").begin([f"c{number}"], ["c0"])
    match draw(st.sampled_from(["complete", "fail", "cancel", "open"])):
        case "complete":
            log.complete()
        case "fail":
            log.fail()
        case "cancel":
            log.add(ev.CancelledData(fingerprint=PRINT, reason="stopped"))
        case _:
            pass
    return log.events


@settings(deadline=None, max_examples=150)
@given(jobs())
def test_060_cut_after_any_frame_a_reader_ends_where_one_ends_that_never_left(log: list[AnyEvent]) -> None:
    frames = told(log)
    whole = Reader()
    for frame in frames:
        whole.take(frame)
    ids = [int(frame.id or 0) for frame in frames]
    assert ids == sorted(ids)
    for cut in range(len(frames) + 1):
        reader = Reader()
        for frame in frames[:cut]:
            reader.take(frame)
        again = told(log, after=reader.id)
        assert again == list(_behind(frames, reader.id))  # the bytes are the same, and none is missing
        for frame in again:
            reader.take(frame)
        assert reader.state == whole.state


def _behind(frames: list[Frame], after: int) -> Iterator[Frame]:
    """The frames of the events behind an id: a group belongs to its last frame's."""
    group: list[Frame] = []
    seen = 0
    for frame in frames:
        group.append(frame)
        if int(frame.id or 0) > seen:
            seen = int(frame.id or 0)
            if seen > after:
                yield from group
            group = []


def test_the_registry_has_the_protocol() -> None:
    assert isinstance(ADAPTERS["langflow"](Attach(job=JOB)), LangflowStream)


def test_what_only_the_server_of_1_13_adds_is_added() -> None:
    shape = FlowShape(
        (
            Component(
                id="a", type="A", display_name="A", output_type="message", terminal=False, leads_to=("b", "c", "d")
            ),
            Component(id="b", type="B", display_name="B", output_type="message", terminal=True, comes_from=("a",)),
            Component(id="c", type="C", display_name="C", output_type="message", terminal=True, comes_from=("a", "x")),
            Component(id="d", type="D", display_name="D", output_type="message", terminal=True, comes_from=("a",)),
        )
    )
    data_of = {"data": {"duration": None}, "inactivated_vertices": ["d"], "next_vertices_ids": []}
    built = {"id": "a", "valid": True} | data_of
    log = Log().start().begin(["a"], ["a", "b", "c", "d"])
    log.built({"build_data": built, "output_meta": {"component_id": "a", "vertex_type": "A"}})
    block = {"type": "text", "text": "hi"}
    message = {"id": "m", "sender": "Machine", "text": "hi", "session_metadata": None, "content_blocks": [block]}
    log.message(message | {"data": message})
    _, _, vertex, said = [json.loads(line)["data"] for line in data(told(log.events, shape=shape))]
    found = vertex["build_data"]
    assert found["next_vertices_ids"] == found["top_level_vertices"] == ["b"]  # c waits for x, d is not taken
    assert (found["data"]["timedelta"], found["data"]["duration"]) == (0.25, "250 ms")
    assert found["timestamp"] == "2026-01-01T00:00:03.000000Z"
    for copy in (said, said["data"]):
        assert copy["session_metadata"] == {"graph_run_id": JOB}
        assert copy["content_blocks"] == []


def test_the_start_of_a_tool_is_told_and_that_of_a_component_is_not() -> None:
    log = Log().start().begin(["in"], ["in"])
    adapter = LangflowStream(Attach(job=JOB), SHAPE)
    for event in log.events:
        list(adapter.on_event(codec.encode(event), event))
    body = {"type": "delta.step", "v": 1, "attempt": 1, "n": 1, "after": 3, "occurrence": 1, "kind": "started"}
    shown = []
    for started in ("in", "Tool-1"):
        said = read_delta(json.dumps(body | {"step": started}).encode())
        assert said is not None
        shown += [json.loads(frame.data) for frame in adapter.on_delta(said, None)]
    assert shown == [{"event": "build_start", "data": {"id": "Tool-1"}}]


def test_067_a_gate_that_asks_is_told_as_built_as_1_13_does() -> None:
    [theirs] = [
        json.loads(line)
        for line in lines(step(26, "events, suspended")["response"]["text"])
        if '"component_id": "HumanInput-gate1"' in line
    ]
    gate = Component(
        id="HumanInput-gate1",
        type="HumanInput",
        display_name="Human Input",
        output_type="message",
        terminal=False,
        leads_to=("ChatOutput-ok001", "ChatOutput-no001"),
        comes_from=("ChatInput-in001",),
    )
    log = Log().start().begin(["ChatInput-in001"], ["ChatInput-in001", gate.id])
    log.ask(gate.id)
    vertex, asked = [json.loads(line) for line in data(told(log.events, shape=FlowShape((gate,))))][-2:]
    build = vertex["data"]["build_data"]
    build["timestamp"], build["data"]["timedelta"], build["data"]["duration"] = "<time>", "<duration>", "<duration>"
    assert json.dumps(vertex) == json.dumps(theirs)
    assert asked["event"] == "human_input_required"
