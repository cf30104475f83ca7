"""Deltas: for every cut of every stream, a reader that obeys resets and writes at `pos` is never wrong.

A world is made of what runners and others did, in the order in which it happened. A reader connects again and again,
each time cut anywhere, with what LIVE has lost and what the line has lost; whatever it holds must be a piece of what
was said, and at the end it holds what nothing has settled.
"""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.core import event as ev
from perdure.core.event import AnyEvent, Status
from perdure.core.stream import delta as deltas
from perdure.core.stream import reading
from perdure.core.stream.delta import Said, join, read_delta
from perdure.core.stream.offset import START, Offset, parse
from perdure.core.stream.reading import Hole, Reading, Reset, Show
from perdure.errors import Malformed
from perdure.testing.factory import JOB, Story

Channel = tuple[str, str]
STEPS = ("a", "b", "c")


def said(**members: object) -> Said:
    base: dict[str, object] = {"v": 1, "type": "delta.text", "attempt": 1, "n": 1, "after": 2, "step": "a"}
    found = read_delta(msgspec.json.encode(base | {"occurrence": 1, "channel": "m", "pos": 0, "text": ""} | members))
    assert found is not None
    return found


class World:
    """Events and deltas in the order in which a gateway would hear them, were nothing lost."""

    def __init__(self) -> None:
        self.story = Story()
        self.story.submitted()
        self.heard: list[AnyEvent | Said] = [self.story.events[0]]
        self.lost = 0  # how many of the oldest deltas LIVE no longer has; the newest stays
        self._known = self._n = 0
        self._texts: dict[Channel, int] = {}

    def event(self, event: AnyEvent, *, known: bool = True) -> None:
        self.heard.append(event)
        if known:
            self._known = event.seq

    def start(self) -> None:
        self._n = 0
        self._texts.clear()
        self.event(self.story.started("first" if self.story.state.attempt == 0 else "lease_lost"))

    def say(self, step: str, channel: str, text: str) -> None:
        self._n += 1
        pos = self._texts.get((step, channel), 0)
        self._texts[step, channel] = pos + len(text)
        where = {"step": step, "channel": channel, "pos": pos, "text": text}
        self.heard.append(said(attempt=self.story.state.attempt, n=self._n, after=self._known, **where))

    def settle(self, step: str, how: str) -> None:
        self._texts = {key: pos for key, pos in self._texts.items() if key[0] != step}
        self.event(self.story.step(step) if how == "done" else self.story.failed_step(step))

    def by_somebody(self) -> None:
        data = ev.SignalData(signal_id="x", name="n", payload=None, by=self.story.events[0].data.owner)  # type: ignore[union-attr]
        self.event(self.story.add(data), known=False)

    def suspend(self) -> None:
        self._texts.clear()
        self.event(self.story.suspended(ev.Waiting(kind="signal", name="n")))


@st.composite
def worlds(draw: st.DrawFn) -> World:
    world = World()
    for _ in range(draw(st.integers(0, 60))):
        running = world.story.state.status is Status.RUNNING
        act = draw(st.sampled_from(["start", "somebody", "suspend", "done", "failed", *["say"] * 12]))
        if act == "start" or (not running and act != "somebody"):
            world.start()
        elif act == "somebody":
            world.by_somebody()
        elif act == "suspend":
            world.suspend()
        elif act == "say":
            letters = draw(st.text("abcé😀", min_size=1, max_size=3))
            world.say(draw(st.sampled_from(STEPS)), draw(st.sampled_from("mn")), letters)
        else:
            world.settle(draw(st.sampled_from(STEPS)), act)
    return world


class Reader:
    """Does what the documentation asks of a reader, and nothing more."""

    def __init__(self) -> None:
        self.seq = 0
        self.offset = START
        self.texts: dict[Channel, tuple[int, str]] = {}  # from where on it has the text, and the text

    def event(self, event: AnyEvent) -> None:
        assert event.seq == self.seq + 1, "a gap or a repeat"
        self.seq, self.offset = event.seq, Offset(event.seq)
        self.texts = settle(self.texts, event)

    def show(self, show: Show) -> None:
        if isinstance(show, Reset):
            assert show.at == Offset(self.seq)
            self.texts, self.offset = {}, show.at
            return
        members = msgspec.json.decode(show.said.body)
        key, pos, text = (members["step"], members["channel"]), members["pos"], members["text"]
        start, mine = self.texts.get(key, (pos, ""))  # nothing of it yet: what was before is lost, or there was none
        assert start <= pos <= start + len(mine), "a hole in a text"
        self.texts[key] = (start, mine[: pos - start] + text + mine[pos - start + len(text) :])
        self.offset = show.at or self.offset


def settle(texts: dict[Channel, Any], event: AnyEvent) -> dict[Channel, Any]:
    match event:
        case ev.AttemptStarted() | ev.JobSuspended():
            return {}
        case ev.StepCompleted(data=data) | ev.StepFailed(data=data):
            return {key: text for key, text in texts.items() if key[0] != data.step}
        case _:
            return texts


def truth(heard: list[AnyEvent | Said]) -> dict[Channel, str]:
    texts: dict[Channel, str] = {}
    for item in heard:
        if isinstance(item, Said):
            key = (item.delta.step, item.delta.channel)
            texts[key] = texts.get(key, "") + item.delta.text
        else:
            texts = settle(texts, item)
    return texts


class Line:
    """A gateway's side of one connection, from the moment `begin` of the world on: a Follower without I/O."""

    def __init__(self, world: World, begin: int, draw: Callable[[st.SearchStrategy[int]], int]) -> None:
        self._world, self._begin, self._draw = world, begin, draw

    def frames(self, offset: Offset, *, fresh: bool) -> Iterator[AnyEvent | Show | int]:
        """Frames, and before those of each moment of the world its number."""
        world = self._world.heard
        before = [item for item in world[: self._begin] if not isinstance(item, Said)]
        tail = before[-1]
        yield self._begin
        view = Reading(offset, tail.status, tail.attempt, fresh=fresh)
        for event in before[offset.seq :]:
            view.event(event)
            yield event
        live = self._kept(self._begin)
        yield from view.join(live, self._log(view, live))
        for moment in range(self._begin + 1, len(world) + 1):
            yield moment
            item = world[moment - 1]
            if not isinstance(item, Said):
                shows = view.event(item)
                yield item
                yield from shows
                yield from self._say(view, view.caught_up(), moment, waited=True)
            elif self._draw(st.integers(0, 6)) != 0:  # else the line has lost it
                yield from self._say(view, [item], moment, waited=False)
        kept = self._kept(len(world))
        yield from view.heal(kept, self._log(view, kept))  # as after `Lagged`

    def _say(self, view: Reading, heard: list[Said], moment: int, *, waited: bool) -> list[Show]:
        shows = view.say(heard, waited=waited)
        if isinstance(shows, Hole):
            kept = self._kept(moment) + heard
            return view.heal(kept, self._log(view, kept))
        return shows

    def _kept(self, moment: int) -> list[Said]:
        every = [item for item in self._world.heard[:moment] if isinstance(item, Said)]
        if self._draw(st.integers(0, 3)) == 0:
            self._world.lost = max(self._world.lost, self._draw(st.integers(0, max(0, len(every) - 1))))
        return every[self._world.lost :]

    def _log(self, view: Reading, kept: list[Said]) -> list[AnyEvent]:
        oldest = view.oldest(kept)
        events = [item for item in self._world.heard if not isinstance(item, Said)]
        return [] if oldest is None else events[oldest : view.offset.seq]


def check(texts: dict[Channel, tuple[int, str]], world: World, moment: int) -> None:
    said_by_then = truth(world.heard[:moment])
    for key, (start, text) in texts.items():
        assert said_by_then[key][start : start + len(text)] == text


@settings(max_examples=250, deadline=None)
@given(worlds(), st.data(), st.sampled_from([0, 3, 32]))
def test_a_reader_that_is_cut_anywhere_is_never_wrong(world: World, data: st.DataObject, single: int) -> None:
    draw, reader, moment, fresh = data.draw, Reader(), 1, True
    many, reading.MOST_SINGLE = reading.MOST_SINGLE, single  # type: ignore[misc]  # joined early and late
    try:
        while True:
            begin = draw(st.integers(moment, len(world.heard)))
            cut = draw(st.one_of(st.none(), st.integers(0, 40)))
            done = True
            for count, frame in enumerate(Line(world, begin, draw).frames(reader.offset, fresh=fresh)):
                if isinstance(frame, int):
                    moment = frame
                elif isinstance(frame, Reset | reading.Shown):
                    reader.show(frame)
                    check(reader.texts, world, moment)
                else:
                    reader.event(frame)
                if count == cut:
                    done = False
                    break
            fresh = reader.offset == START
            if done:
                break
    finally:
        reading.MOST_SINGLE = many  # type: ignore[misc]
    assert reader.seq == world.story.state.seq
    check(reader.texts, world, len(world.heard))
    for key, text in truth(world.heard).items():  # what LIVE has lost may be missing at its beginning, nothing else
        start, mine = reader.texts.get(key, (len(text), ""))
        assert text[start:] == mine


def test_a_reader_that_goes_on_where_it_was_is_told_the_rest_and_no_reset() -> None:
    pieces = [said(n=n, pos=n - 1, text="x") for n in range(1, 5)]
    view = Reading(Offset(2, 2), Status.RUNNING, 1, fresh=False)
    shows = view.join(pieces, [])
    assert [(type(s), str(getattr(s, "at", ""))) for s in shows] == [(reading.Shown, "2.3"), (reading.Shown, "2.4")]
    lost = Reading(Offset(2, 2), Status.RUNNING, 1, fresh=False)
    reset, whole = lost.join(pieces[3:], [])  # the third is gone
    assert isinstance(reset, Reset)
    assert (reset.reason, reset.at) == ("joined", Offset(2))
    assert isinstance(whole, reading.Shown)
    assert msgspec.json.decode(whole.said.body) | {"pos": 3, "truncated": True} == msgspec.json.decode(whole.said.body)


def test_an_attempt_that_died_is_retracted() -> None:
    world = World()
    world.start()
    view = Reading(Offset(2), Status.RUNNING, 1, fresh=True)
    world.say("a", "m", "lost words")
    shows = view.say([world.heard[-1]])  # type: ignore[list-item]
    assert isinstance(shows, list)
    assert shows
    world.start()
    (reset,) = view.event(world.heard[-1])  # type: ignore[arg-type]
    assert reset == Reset(2, "attempt", Offset(3))
    assert view.say([said(attempt=1, n=2, after=2)]) == []  # a straggler of the dead one


def test_a_delta_waits_for_the_event_it_follows_and_keeps_its_place() -> None:
    world = World()
    world.start()
    view = Reading(Offset(2), Status.RUNNING, 1, fresh=True)
    assert view.say([said(n=1, after=3, step="b")]) == []
    assert view.say([said(n=2, after=2, step="c")]) == []  # behind the one that waits
    assert view.waits
    view.event(world.story.step("a"))
    shows = view.say(view.caught_up(), waited=True)
    assert not isinstance(shows, Hole)
    assert [str(s.at) for s in shows] == ["3.1", "3.2"]
    assert not view.waits


def test_what_is_joined_says_the_same() -> None:
    pieces = [said(n=1, text="he"), said(n=2, type="delta.step", kind="started"), said(n=3, pos=2, text="llo", x=1)]
    pieces += [said(n=4 + i, type="delta.log", text=str(i)) for i in range(deltas.MOST_LINES + 5)]
    pieces += [said(n=900, type="delta.progress", done=1), said(n=901, type="delta.progress", done=2)]
    joined = [msgspec.json.decode(each.body) for each in join(pieces, whole=True)]
    assert [(m["n"], m["type"]) for m in joined[:2]] == [(2, "delta.step"), (3, "delta.text")]
    assert (joined[1]["pos"], joined[1]["text"], joined[1]["x"], "truncated" in joined[1]) == (0, "hello", 1, False)
    assert [m["text"] for m in joined[2:-1]] == [str(i) for i in range(5, deltas.MOST_LINES + 5)]
    assert joined[-1]["done"] == 2
    part = join([said(n=3, pos=2, text="l"), said(n=4, pos=3, text="lo")], whole=False)
    assert [(each.delta.pos, each.delta.text) for each in part] == [(2, "llo")]
    assert b"truncated" not in part[0].body


def test_a_message_settles_its_channel() -> None:
    story = Story()
    story.submitted()
    story.started()
    view = Reading(Offset(2), Status.RUNNING, 1, fresh=True)
    view.event(story.add(ev.MessageData(message_id="m", role="ai", text="hi")))
    view.say([said(n=1)])
    shows = view.say([said(n=2, channel="other")])
    assert not isinstance(shows, Hole)
    assert [s.said.delta.channel for s in shows if isinstance(s, reading.Shown)] == ["other"]


def test_a_straggler_of_a_call_that_was_forgotten_stays_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story()
    story.submitted()
    story.started()
    settled = deltas.Settled(1, most=2)
    for name in "abc":
        settled.note(story.step(name))
    assert settled.covers(said(step="a").delta)
    assert settled.covers(said(step="new", after=2).delta)  # older than what was forgotten
    assert not settled.covers(said(step="new", after=3).delta)


def test_what_is_no_delta_is_none() -> None:
    good = {"type": "delta.text", "attempt": 1, "n": 1}
    assert read_delta(msgspec.json.encode(good), JOB) is not None
    bad: list[dict[str, object]] = [{"type": "delta.x"}, {"type": "delta.reset"}, {"attempt": "1"}, {"n": 0}]
    bad += [{"attempt": -1}, {"job_id": "01990000-0000-7000-8000-000000000002"}, {"n": 1.5}, {"text": 1}]
    for body in (b"", b"null", b"[]", b"\xff", *(msgspec.json.encode(good | members) for members in bad)):
        assert read_delta(body, JOB) is None


def test_offsets_are_what_ids_say() -> None:
    for text in ("0", "17", "17.42"):
        assert str(parse(text)) == text
    for text in ("", "-1", "01", "1.", "1.0", ".1", "1.x", " 1", "1" * 19, "9" * 25, "1.1.1", "\u0661"):
        with pytest.raises(Malformed):
            parse(text)
