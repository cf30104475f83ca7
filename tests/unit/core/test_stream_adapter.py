"""Protocols by name, and of the native one: for every cut, what was seen and what is seen again are the whole."""

from itertools import islice
from typing import Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.core import event as ev
from perdure.core.event import Status
from perdure.core.stream.adapter import Attach
from perdure.core.stream.delta import RESET, Said, read_delta
from perdure.core.stream.frame import Frame
from perdure.core.stream.offset import START, Offset, parse
from perdure.core.stream.registry import ADAPTERS, adapter
from perdure.errors import Invalid, NotFound
from perdure.testing.factory import JOB, Story
from perdure.testing.telling import Heard, tell

READER: Final = Attach(job=JOB)


def test_a_protocol_is_found_by_its_name_and_no_other_is() -> None:
    assert "native" in ADAPTERS
    with pytest.raises(NotFound, match="native"):
        adapter("morse", READER)


@pytest.mark.parametrize(
    ("option", "value"), [("types", "nothing"), ("types", ""), ("values", "yes"), ("deltas", "1"), ("deltas", "")]
)
def test_an_option_that_does_not_fit_is_refused_by_its_name(option: str, value: str) -> None:
    with pytest.raises(Invalid) as refused:
        adapter("native", Attach(job=JOB, options={option: value}))
    assert (refused.value.code, [fault.parameter for fault in refused.value.faults]) == ("invalid-parameter", [option])


def test_values_are_shown_neither_to_who_asks_for_none_nor_to_who_may_not_see_them() -> None:
    story = Story()
    event = story.submitted()
    body = msgspec.json.encode(event)
    for values, options in ((True, {"values": "false"}), (False, {}), (False, {"values": "true"})):
        (frame,) = adapter("native", Attach(job=JOB, values=values, options=options)).on_event(body, event)
        assert b"hello" not in frame.data
    (frame,) = adapter("native", READER).on_event(body, event)
    assert b"hello" in frame.data


def test_native_says_nothing_of_its_own_when_it_has_caught_up_and_stays_open() -> None:
    native = adapter("native", READER)
    assert (list(native.on_caught_up()), native.ended, native.manners.heartbeat) == ([], False, b": hb\n\n")


@st.composite
def told(draw: st.DrawFn) -> list[Heard]:
    """A life of a job: attempts that say words, steps that settle them, sleep, and perhaps the end."""
    story, n, texts, known = Story(), 0, dict[str, int](), 0
    heard: list[Heard] = [story.submitted()]
    for _ in range(draw(st.integers(0, 40))):
        act = draw(st.sampled_from(["start", "suspend", "step", *["say"] * 8]))
        if act == "start" or story.state.status is not Status.RUNNING:
            heard.append(story.started("first" if story.state.attempt == 0 else "lease_lost"))
            n, texts, known = 0, {}, story.state.seq
        elif act == "suspend":
            heard.append(story.suspended(ev.Waiting(kind="signal", name="n")))
        elif act == "step":
            name = draw(st.sampled_from("ab"))
            heard.append(story.step(name))
            texts.pop(name, None)
            known = story.state.seq
        else:
            name, text = draw(st.sampled_from("ab")), draw(st.text("xyzé", min_size=1, max_size=3))
            n += 1
            said = read_delta(
                msgspec.json.encode(
                    {"v": 1, "type": "delta.text", "attempt": story.state.attempt, "n": n, "after": known}
                    | {"step": name, "occurrence": 1, "channel": name, "pos": texts.get(name, 0), "text": text}
                )
            )
            assert said is not None
            heard.append(said)
            texts[name] = texts.get(name, 0) + len(text)
    return heard


class Reader:
    """Keeps the events' data, and the texts that nothing has settled; obeys resets, writes at `pos`."""

    def __init__(self) -> None:
        self.offset = START
        self.events: list[bytes] = []
        self.texts: dict[str, str] = {}

    def take(self, frame: Frame) -> None:
        members = msgspec.json.decode(frame.data)
        if frame.event == RESET:
            self.texts = {}
        elif frame.event == "delta.text":
            mine = self.texts.get(members["step"], "")
            self.texts[members["step"]] = mine[: members["pos"]] + members["text"]
        else:
            self.events.append(frame.data)
            if frame.event in ("attempt.started", "job.suspended"):
                self.texts = {}
            elif frame.event == "step.completed":
                self.texts.pop(members["data"]["step"], None)
        self.offset = self.offset if frame.id is None else parse(frame.id)


@settings(max_examples=200, deadline=None)
@given(told(), st.data())
def test_native_cut_anywhere_and_attached_again_is_the_whole(heard: list[Heard], data: st.DataObject) -> None:
    never_left, cut = Reader(), Reader()
    for frame in tell(adapter("native", READER), heard, 1):
        never_left.take(frame)
    begin = 1
    for _ in range(data.draw(st.integers(1, 4))):
        begin = data.draw(st.integers(begin, len(heard)))
        frames = tell(adapter("native", READER), heard, begin, cut.offset)
        for frame in islice(frames, data.draw(st.integers(0, 40))):
            cut.take(frame)
        begin = max(begin, _moment(heard, cut.offset))
    for frame in tell(adapter("native", READER), heard, len(heard), cut.offset):
        cut.take(frame)
    assert (cut.events, cut.texts) == (never_left.events, never_left.texts)


def _moment(heard: list[Heard], offset: Offset) -> int:
    """When a reader at `offset` has seen it: it cannot come back before."""
    seen = [
        count
        for count, item in enumerate(heard, start=1)
        if (item.delta.after if isinstance(item, Said) else item.seq) <= offset.seq
        and (not isinstance(item, Said) or item.delta.n <= (offset.n or 0))
    ]
    return max(seen, default=1)
