"""The protocol `agui` of Langflow's API: events and order of 1.13, and where it is better (contract 2.4: 13 to 15)."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from tests.unit.langflow.logs import ANN, JOB, PRINT, Log, recorded
from tests.unit.langflow.recordings import lines, step, steps, streams
from tests.unit.langflow.test_langflow_stream import jobs, piece

from perdure.core import codec
from perdure.core import event as ev
from perdure.core.event import AnyEvent
from perdure.core.stream.adapter import Attach
from perdure.core.stream.delta import Said
from perdure.core.stream.frame import Frame
from perdure.core.stream.langflow_agui import LangflowAgui
from perdure.core.stream.offset import Offset
from perdure.core.stream.registry import ADAPTERS
from perdure.testing.telling import Heard, tell

LANGFLOW = {number: next(found for _, found in streams(number)) for number in (14, 15, 16, 17)}


def told(log: Iterable[AnyEvent], after: int = 0) -> list[Frame]:
    adapter = LangflowAgui(Attach(job=JOB, after=Offset(after)))
    return [frame for event in log for frame in adapter.on_event(codec.encode(event), event)]


def events(frames: Iterable[Frame]) -> list[dict[str, Any]]:
    return [json.loads(frame.data) for frame in frames]


def theirs(number: int, state: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(step(number, f"agui, expose_graph_state {state}")["response"]["text"])]


def ids(event: dict[str, Any]) -> dict[str, Any]:
    """An event with ids as placeholders: those of the two recordings are not the same."""
    names = ("runId", "threadId", "messageId")
    return {name: "" if name in names else value for name, value in event.items()}


@pytest.mark.parametrize("number", [14, 16, 17])
@pytest.mark.parametrize("state", ["unset", "false"])
def test_069_without_graph_state_it_is_what_1_13_says(number: int, state: str) -> None:
    log = recorded(LANGFLOW[number], graph_state=False)
    assert list(map(ids, events(told(log.events)))) == list(map(ids, theirs(number, state)))


@pytest.mark.parametrize("number", [14, 16, 17])
def test_069_with_graph_state_steps_are_paired_and_the_rest_is_what_1_13_says(number: int) -> None:
    ours = [each for each in events(told(recorded(LANGFLOW[number]).events)) if each["type"] != "STEP_STARTED"]
    recording = theirs(number, "true")

    def comparable(event: dict[str, Any]) -> Any:
        if event["type"] == "STATE_DELTA":
            return event["delta"][0]["path"], event["delta"][0]["value"]["status"]
        if event["type"] == "CUSTOM":
            return event["name"], event["value"]["event_type"]
        return ids(event)

    assert list(map(comparable, ours)) == list(map(comparable, recording))


def test_070_a_failed_run_ends_with_one_error_and_nothing_behind_it() -> None:
    ours = events(told(recorded(LANGFLOW[15], graph_state=False).events))
    error = theirs(15, "unset")[1]
    assert [each["type"] for each in ours] == ["RUN_STARTED", "RUN_ERROR"]  # 1.13: and RUN_FINISHED
    assert ours[-1] == error | {"code": "EXECUTION_ERROR"}


def test_070_a_cancelled_run_says_so_inside_the_protocol() -> None:
    log = Log(graph_state=False).start().add(ev.CancelledData(fingerprint=PRINT, by=ANN, reason="stopped"))
    begin, custom, end = events(told(log.events))
    assert (begin["type"], end["type"]) == ("RUN_STARTED", "RUN_FINISHED")
    assert (custom["name"], custom["value"]) == ("langflow.run.cancelled", {"reason": "stopped"})


def test_069_one_run_started_over_a_resume() -> None:
    log = Log(graph_state=False).start()
    request = log.ask()
    log.suspend()
    first = events(told(log.events))
    assert [each["type"] for each in first] == ["RUN_STARTED", "CUSTOM"]
    assert first[1]["name"] == "langflow.human_input_required"
    recording = [json.loads(line) for line in lines(agui_gate("events, suspended"))]
    assert list(first[1]["value"])[: len(recording[1]["value"])] == list(recording[1]["value"])
    log.answer(request).start("resumed").complete()
    assert [each["type"] for each in events(told(log.events))] == ["RUN_STARTED", "CUSTOM", "RUN_FINISHED"]


def agui_gate(name: str) -> str:
    """A stream of scenario 26 in this protocol: the second of that name."""
    found = [each["response"]["text"] for each in steps(26) if each["name"] == name]
    return str(next(text for text in found if '"type":"RUN_STARTED"' in text))


def test_frames_are_compact_utf_8_and_laid_out_as_those_of_langflow() -> None:
    log = Log(graph_state=False, session_id="ä")
    [frame] = told(log.events)
    expected = f'data: {{"type":"RUN_STARTED","threadId":"ä","runId":"{JOB}"}}\nid: 1\n\n'
    assert frame.encode() == expected.encode()


TOOLS: dict[str, Any] = {
    "id": "m-1",
    "sender": "Machine",
    "text": "done",
    "properties": {},
    "content_blocks": [
        {"title": "Steps", "contents": [
            {"type": "tool_use", "name": "add", "tool_input": {"a": 1}, "output": "3", "error": None},
            {"type": "tool_use", "id": "c1", "name": "fail", "tool_input": {}, "output": None, "error": "no"},
            {"type": "code", "code": "x = 1", "language": "python"},
        ]},
    ],
}  # fmt: skip


def test_071_a_replay_has_the_whole_text_and_the_results_of_tools() -> None:
    found = events(told(Log(graph_state=False).start().message(TOOLS).complete().events))
    verify(found)
    calls = [each for each in found if each["type"] == "TOOL_CALL_START"]
    assert [call["toolCallId"] for call in calls] == ["m-1:tool:ord:0", "m-1:tool:id:c1"]
    results = {each["toolCallId"]: each["content"] for each in found if each["type"] == "TOOL_CALL_RESULT"}
    assert results == {"m-1:tool:ord:0": "3", "m-1:tool:id:c1": "no"}
    assert [each["name"] for each in found if each["type"] == "CUSTOM"] == ["langflow.content.code"]
    assert texts(found) == {"m-1": "done"}


def verify(found: list[dict[str, Any]]) -> None:
    """What a client of AG-UI refuses, and what we promise beside: one text open at a time, one end, last."""
    assert found[0]["type"] == "RUN_STARTED"
    assert sum(each["type"] == "RUN_STARTED" for each in found) == 1
    text: str | None = None
    calls: set[str] = set()
    running: set[str] = set()
    for place, each in enumerate(found):
        match each["type"]:
            case "TEXT_MESSAGE_START":
                assert text is None
                text = each["messageId"]
            case "TEXT_MESSAGE_CONTENT":
                assert (each["messageId"], bool(each["delta"])) == (text, True)
            case "TEXT_MESSAGE_END":
                assert each["messageId"] == text
                text = None
            case "TOOL_CALL_START":
                calls.add(each["toolCallId"])
            case "TOOL_CALL_ARGS":
                assert each["toolCallId"] in calls
            case "TOOL_CALL_END":
                calls.remove(each["toolCallId"])
            case "STEP_STARTED":
                assert each["stepName"] not in running
                running.add(each["stepName"])
            case "STEP_FINISHED":
                running.remove(each["stepName"])
            case "RUN_FINISHED" | "RUN_ERROR":
                assert place == len(found) - 1
                assert (text, calls, running) == (None, set(), set())
            case _:
                pass


def texts(found: Iterable[dict[str, Any]]) -> dict[str, str]:
    said: dict[str, str] = {}
    for each in found:
        if each["type"] == "TEXT_MESSAGE_START":
            said[each["messageId"]] = ""
        elif each["type"] == "TEXT_MESSAGE_CONTENT":
            said[each["messageId"]] += each["delta"]
    return said


@settings(deadline=None, max_examples=100)
@given(jobs())
def test_069_every_stream_passes_a_client_and_060_any_cut_of_it_goes_on_alike(log: list[AnyEvent]) -> None:
    frames = told(log)
    verify(events(frames))
    numbers = [int(frame.id or 0) for frame in frames]
    assert numbers == sorted(numbers)
    for number in {0, *numbers}:
        again = told(log, after=number)
        assert again == frames[len(frames) - len(again) :]
        assert all(int(frame.id or 0) > number for frame in again[-1:])


def messages(*names: str) -> Log:
    """A job that says messages of these ids."""
    log = Log(graph_state=False).start().begin(["Agent-1"], ["Agent-1"])
    for name in names:
        log.message({"id": name, "sender": "Machine", "text": "hello", "properties": {}})
    return log


def heard(log: Log, *said: Said, at: int = 3) -> list[Heard]:
    """The log, with deltas behind its event number `at`."""
    return [*log.events[:at], *said, *log.events[at:]]


def test_pieces_are_said_once_and_the_message_brings_the_rest() -> None:
    log = messages("m-1").complete()
    frames = list(tell(LangflowAgui(Attach(job=JOB)), heard(log, piece(1, "he", 0), piece(2, "l", 2)), 3))
    found = events(frames)
    verify(found)
    assert texts(found) == {"m-1": "hello"}
    assert [each["delta"] for each in found if each["type"] == "TEXT_MESSAGE_CONTENT"] == ["he", "l", "lo"]


def test_064_who_comes_in_the_middle_has_the_text_so_far_and_the_tail() -> None:
    log = messages("m-1").complete()
    line = heard(log, piece(1, "he", 0), piece(2, "l", 2), piece(3, "lo", 3))
    found = events(tell(LangflowAgui(Attach(job=JOB)), line, 5))
    verify(found)
    assert [each["delta"] for each in found if each["type"] == "TEXT_MESSAGE_CONTENT"] == ["hel", "lo"]


def test_a_text_that_comes_while_another_is_being_said_waits_for_its_turn() -> None:
    log = messages("m-2", "m-1").complete()
    found = events(tell(LangflowAgui(Attach(job=JOB)), heard(log, piece(1, "he", 0)), 3))
    verify(found)
    assert texts(found) == {"m-1": "hello", "m-2": "hello"}


def test_a_message_that_is_never_finished_ends_with_the_run() -> None:
    log = messages().fail()
    found = events(tell(LangflowAgui(Attach(job=JOB)), heard(log, piece(1, "he", 0)), 3))
    verify(found)
    assert [each["type"] for each in found][-2:] == ["TEXT_MESSAGE_END", "RUN_ERROR"]


def test_the_registry_has_the_protocol() -> None:
    assert isinstance(ADAPTERS["langflow-agui"](Attach(job=JOB)), LangflowAgui)
