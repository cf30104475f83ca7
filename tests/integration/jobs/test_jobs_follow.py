"""Following: every transcript is the log from its offset on, in order, each event once, whatever is lost on the way."""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import msgspec
import pytest

from perdure.bus.connection import Bus
from perdure.bus.delta import Deltas
from perdure.bus.doorbell import Doorbells
from perdure.bus.entry import Stored
from perdure.bus.eventlog import EventLog
from perdure.bus.fanout import Fanout, Frame, Inbox, Lagged, LiveDelta, LiveEvent
from perdure.core.stream.frame import Frame as Shown
from perdure.core.stream.native import Native
from perdure.core.stream.offset import Offset
from perdure.errors import Expired, NotFound, Unavailable
from perdure.ids import JobRef, Tenant, new_job_id
from perdure.jobs import follow
from perdure.jobs.attach import attach
from perdure.jobs.desk import Desk
from perdure.jobs.submit import Submission, submit
from perdure.local.server import NatsServer
from perdure.testing.hand import Hand
from perdure.testing.servers import connect

EVENTS = 60


@pytest.fixture
async def fanout(bus: Bus) -> AsyncIterator[Fanout]:
    """The process's fan-out."""
    async with Fanout.open(bus) as fanout:
        yield fanout


@pytest.fixture
async def hand(desk: Desk, submission: Submission) -> Hand:
    """A job that runs."""
    hand = Hand(desk, (await submit(desk, submission)).ref)
    await hand.start()
    return hand


class Tampered(Fanout):
    """The fan-out with what reaches each follower passed through `change`: dropped, doubled, held back, swapped."""

    def __init__(self, real: Fanout, change: Callable[[Frame], list[Frame]]) -> None:
        self._real, self._change = real, change

    @contextmanager
    def follow(self, ref: JobRef) -> Iterator[Inbox]:
        with self._real.follow(ref) as inbox:
            put = inbox.put

            def changed(frame: Frame) -> None:
                for each in self._change(frame):
                    put(each)

            inbox.put = changed  # type: ignore[method-assign]  # the test stands on the line
            yield inbox

    async def kept(self, ref: JobRef) -> list[bytes]:
        return await self._real.kept(ref)


class BlindLog(EventLog):
    """A log whose direct reads are behind: they never see the last `behind` events, as on a replica."""

    behind = 0

    async def page(self, ref: JobRef, after_seq: int, most: int, **how: Any) -> list[Stored]:
        found = await super().page(ref, after_seq, most, **how)
        tail = await self.tail(ref)
        assert tail is not None
        return [stored for stored in found if stored.event.seq <= tail.event.seq - self.behind]

    async def replay(self, ref: JobRef, after_seq: int = 0) -> list[Stored]:
        found = await super().replay(ref, after_seq)
        return found[: max(0, len(found) - self.behind)]


async def transcript(
    desk: Desk, fanout: Fanout, ref: JobRef, after: int | None, until: str = "terminal"
) -> list[Shown]:
    start = None if after is None else Offset(after)
    attached = attach(desk.eventlog, fanout, desk.clock, ref, start, Native(ref.job))
    async with attached as follower, aclosing(follower.frames(until)) as frames:
        return [frame async for frame in frames]


async def events(desk: Desk, fanout: Fanout, ref: JobRef, after: int) -> list[int]:
    frames = await transcript(desk, fanout, ref, after)
    return [int(frame.id) for frame in frames if frame.id is not None and frame.event != "delta.reset"]


async def write(hand: Hand, count: int) -> None:
    """Steps up to the event `count` - 1, then the end."""
    while hand.log.state.seq < count - 1:
        await hand.step("s", occurrence=hand.log.state.seq)
    await hand.complete()


async def attach_everywhere(desk: Desk, fanout: Fanout, hand: Hand) -> None:
    """Followers of every offset, some of them attached at each event, all while the writer goes on."""
    rnd = random.Random(7)
    expected: list[int] = []
    async with asyncio.TaskGroup() as group:
        tasks = []
        while (seq := hand.log.state.seq) < EVENTS - 1:
            for after in {0, seq, rnd.randrange(seq + 1)}:
                tasks.append(group.create_task(events(desk, fanout, hand.ref, after)))
                expected.append(after)
            await hand.step("s", occurrence=seq)
        await hand.complete()
    for after, task in zip(expected, tasks, strict=True):
        assert task.result() == list(range(after + 1, EVENTS + 1))


async def test_attached_at_every_offset_while_a_writer_appends(desk: Desk, fanout: Fanout, hand: Hand) -> None:
    await attach_everywhere(desk, fanout, hand)


TAMPERS: dict[str, Callable[[random.Random], Callable[[Frame], list[Frame]]]] = {
    "a third lost": lambda rnd: lambda f: [] if rnd.random() < 0.33 else [f],
    "all lost but the last": lambda rnd: lambda f: [f] if b"job.completed" in getattr(f, "body", b"") else [],
    "all doubled": lambda rnd: lambda f: [f, f],
    "lagged at random": lambda rnd: lambda f: [Lagged()] if rnd.random() < 0.2 else [f],
}


@pytest.mark.parametrize("tamper", TAMPERS)
async def test_what_the_line_loses_is_read_from_the_log(
    desk: Desk, fanout: Fanout, hand: Hand, tamper: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "QUIET_SECONDS", 0.5)  # for those whose last event was lost
    await attach_everywhere(desk, Tampered(fanout, TAMPERS[tamper](random.Random(11))), hand)


async def test_live_events_out_of_order_are_put_right(
    desk: Desk, fanout: Fanout, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "QUIET_SECONDS", 0.5)  # the last ones are held back for ever
    held: list[Frame] = []

    def swap(frame: Frame) -> list[Frame]:
        held.append(frame)
        if len(held) < 3:
            return []
        out, held[:] = list(reversed(held)), []
        return out

    following = asyncio.create_task(events(desk, Tampered(fanout, swap), hand.ref, 0))
    await write(hand, 30)
    assert await following == list(range(1, 31))


async def test_the_last_event_lost_on_a_quiet_job_is_found_by_its_tail(
    desk: Desk, fanout: Fanout, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "QUIET_SECONDS", 0.05)
    following = asyncio.create_task(events(desk, Tampered(fanout, lambda f: []), hand.ref, 0))
    await write(hand, 10)
    assert await following == list(range(1, 11))


async def test_a_stale_direct_read_is_completed_from_the_leader(desk: Desk, fanout: Fanout, hand: Hand) -> None:
    await write(hand, 20)
    blind = BlindLog.__new__(BlindLog)
    blind.__dict__.update(desk.eventlog.__dict__)
    for blind.behind in (1, 3, 100):
        for after in (0, 7, 19):
            shown = await events(Desk(blind, desk.doorbells, desk.clock), fanout, hand.ref, after)
            assert shown == list(range(after + 1, 21))


async def test_a_long_log_is_held_page_by_page(
    desk: Desk, fanout: Fanout, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By number and by bytes, over a stale replica too; what comes meanwhile follows it."""
    monkeypatch.setattr(follow, "MOST_EVENTS", 7)
    monkeypatch.setattr(follow, "MOST_BYTES", 2_000)
    for n in range(40):
        await hand.step("s", "x" * (900 if n % 10 == 5 else 1), occurrence=n + 1)
    blind = BlindLog(desk.eventlog._bus, 8)
    blind.behind = 3
    for log in (desk.eventlog, blind):
        for after in (0, 1, 17, 41):
            attached = attach(log, fanout, desk.clock, hand.ref, Offset(after), Native(hand.ref.job))
            async with attached as follower, aclosing(follower.frames("head")) as frames:
                seen = []
                async for frame in frames:
                    held = [stored.body for stored in follower._backlog]
                    assert len(held) <= 7
                    assert sum(map(len, held)) <= 2_000 or len(held) == 1
                    seen.append(frame.id)
            assert seen == [*map(str, range(after + 1, 43)), None]
    deaf = Tampered(fanout, lambda frame: [])
    monkeypatch.setattr(follow, "QUIET_SECONDS", 0.05)
    following = [asyncio.create_task(events(desk, each, hand.ref, 0)) for each in (fanout, deaf)]
    for n in range(40, 60):
        await hand.step("s", occurrence=n + 1)
    await hand.complete()
    assert await asyncio.gather(*following) == [list(range(1, 64))] * 2


async def test_a_follower_whose_inbox_ran_over_misses_nothing(desk: Desk, fanout: Fanout, hand: Hand) -> None:
    async with attach(desk.eventlog, fanout, desk.clock, hand.ref, Offset(0), Native(hand.ref.job)) as follower:
        await write(hand, 1200)  # more than an inbox holds, while nobody takes
        async with aclosing(follower.frames()) as frames:
            assert [frame.id async for frame in frames] == [str(n) for n in range(1, 1201)]


async def test_the_bytes_are_the_same_live_and_replayed(desk: Desk, fanout: Fanout, hand: Hand) -> None:
    live = asyncio.create_task(transcript(desk, fanout, hand.ref, 0))
    await hand.step("draft", {"text": "two\nlines\r\nand é \u2028"})
    await hand.complete(out="x")
    replayed = await transcript(desk, fanout, hand.ref, 0)
    assert await live == replayed
    assert all(b"\n" not in frame.data and b"\r" not in frame.data for frame in replayed)
    assert {msgspec.json.decode(frame.data)["job_id"] for frame in replayed} == {hand.ref.job}


async def test_the_stream_stays_open_while_the_job_waits_and_numbers_go_on(
    desk: Desk, fanout: Fanout, hand: Hand
) -> None:
    following = asyncio.create_task(events(desk, fanout, hand.ref, 0))
    asked = await hand.ask()
    await hand.suspend(asked)
    done, _ = await asyncio.wait({following}, timeout=0.2)
    assert not done
    await hand.start()
    await hand.complete()
    assert await following == list(range(1, hand.log.state.seq + 1))


async def test_until_ends_where_it_says(desk: Desk, fanout: Fanout, hand: Hand) -> None:
    await hand.step("a")
    await hand.suspend(await hand.ask())
    await hand.start()

    async def ids(until: str, after: int | None = 0) -> list[str | None]:
        return [frame.id or frame.event for frame in await transcript(desk, fanout, hand.ref, after, until)]

    assert await ids("head") == ["1", "2", "3", "4", "5", "6", "stream.close"]
    assert await ids("head", None) == ["stream.close"]
    assert await ids("suspended") == ["1", "2", "3", "4", "5", "stream.close"]
    assert await ids("step.completed") == ["1", "2", "3", "stream.close"]
    await hand.complete()
    assert await ids("suspended", 5) == ["6", "7"]  # the end of the job is the end of every stream
    assert await ids("head", 0) == ["1", "2", "3", "4", "5", "6", "7"]


async def test_what_can_be_refused_is_refused_before_anything_is_shown(desk: Desk, fanout: Fanout, hand: Hand) -> None:
    foreign = JobRef(Tenant("somebodyelse"), hand.ref.job)
    for ref in (JobRef(hand.ref.tenant, new_job_id()), foreign):
        with pytest.raises(NotFound):
            await transcript(desk, fanout, ref, 0)
    with pytest.raises(Expired) as ahead:
        await transcript(desk, fanout, hand.ref, 3)
    assert (ahead.value.code, ahead.value.facts) == ("offset-ahead", {"latest": "2"})


async def test_an_ended_job_has_nothing_behind_its_end(desk: Desk, fanout: Fanout, hand: Hand) -> None:
    await hand.complete()
    native = Native(hand.ref.job)
    async with attach(desk.eventlog, fanout, desk.clock, hand.ref, Offset(3), native) as at_end:
        assert at_end.exhausted
    async with attach(desk.eventlog, fanout, desk.clock, hand.ref, Offset(2), native) as before:
        assert not before.exhausted


async def test_events_that_were_purged_are_said_to_be_gone(desk: Desk, bus: Bus, fanout: Fanout, hand: Hand) -> None:
    await hand.complete()
    subject = f"ev.{int(hand.ref.job[-1], 16) % 8}.{hand.ref.tenant}.{hand.ref.job}"
    shard = int(hand.ref.job[-1], 16) % 8
    body = msgspec.json.encode({"filter": subject, "keep": 1})
    await bus.ask(f"$JS.API.STREAM.PURGE.EV_{shard}", body)
    with pytest.raises(Expired) as gone:
        await transcript(desk, fanout, hand.ref, 0)
    assert (gone.value.code, gone.value.facts) == ("offset-expired", {"earliest": "3", "latest": "3"})
    assert await events(desk, fanout, hand.ref, 2) == [3]


def delta(attempt: int, after: int, step: str, text: str, n: int = 1, pos: int = 0) -> bytes:
    members = {"v": 1, "type": "delta.text", "attempt": attempt, "n": n, "after": after, "step": step, "text": text}
    return msgspec.json.encode(members | {"occurrence": 1, "channel": "m", "pos": pos})


def words(frame: Shown) -> tuple[str | None, str, str | None]:
    members = msgspec.json.decode(frame.data)
    return frame.id, frame.event, members.get("text", members.get("reason"))


async def take(frames: AsyncGenerator[Shown], count: int) -> list[tuple[str | None, str, str | None]]:
    return [words(await anext(frames)) for _ in range(count)]


async def test_deltas_have_offsets_and_what_is_settled_is_not_replayed(
    desk: Desk, bus: Bus, fanout: Fanout, hand: Hand
) -> None:
    deltas = Deltas(bus)
    attached = attach(desk.eventlog, fanout, desk.clock, hand.ref, Offset(2), Native(hand.ref.job))
    async with attached as follower, aclosing(follower.frames()) as frames:
        assert await take(frames, 1) == [("2", "delta.reset", "joined")]
        deltas.publish(hand.ref, delta(1, 2, "draft", "he"))
        deltas.publish(hand.ref, delta(1, 2, "draft", "llo", 2, 2))
        assert await take(frames, 2) == [("2.1", "delta.text", "he"), ("2.2", "delta.text", "llo")]
        await hand.step("draft", "hello")
        assert (await anext(frames)).id == "3"
        deltas.publish(hand.ref, delta(1, 2, "draft", "late", 3))  # the step has settled it
        deltas.publish(hand.ref, delta(0, 2, "draft", "dead", 4))  # of an attempt that is over
        bus_noise = msgspec.json.encode({"type": "job.completed", "attempt": 9})
        deltas.publish(hand.ref, bus_noise)  # an event is no delta, whoever says so
        deltas.publish(hand.ref, b"\xff not JSON")
        deltas.publish(hand.ref, delta(1, 3, "other", "next", 4))
        assert await take(frames, 1) == [("3.4", "delta.text", "next")]
    await hand.complete()
    assert [f.id for f in await transcript(desk, fanout, hand.ref, 0)] == ["1", "2", "3", "4"]


async def test_a_late_reader_is_told_what_is_open_and_one_that_comes_back_the_rest(
    desk: Desk, bus: Bus, fanout: Fanout, hand: Hand
) -> None:
    deltas = Deltas(bus)
    deltas.publish(hand.ref, delta(1, 2, "draft", "he"))
    deltas.publish(hand.ref, delta(1, 2, "other", "no", 2))
    deltas.publish(hand.ref, delta(1, 2, "draft", "llo", 3, 2))
    await hand.step("other")
    deltas.publish(hand.ref, delta(1, 3, "draft", "!", 4, 5))
    await bus.flush()
    for start, first in ((None, []), (Offset(0), ["1", "2", "3"]), (Offset(3), [])):
        attached = attach(desk.eventlog, fanout, desk.clock, hand.ref, start, Native(hand.ref.job))
        async with attached as follower, aclosing(follower.frames()) as frames:
            assert [(await anext(frames)).id for _ in first] == first
            assert await take(frames, 2) == [("3", "delta.reset", "joined"), ("3.4", "delta.text", "hello!")]
            assert str(follower.offset) == "3.4"
    deltas.publish(hand.ref, delta(1, 3, "draft", "?", 5, 6))
    await bus.flush()
    native = Native(hand.ref.job)
    attached = attach(desk.eventlog, fanout, desk.clock, hand.ref, Offset(3, 4), native)
    async with attached as follower, aclosing(follower.frames()) as frames:
        assert await take(frames, 1) == [("3.5", "delta.text", "?")]
        await hand.start()
        assert [f[:2] for f in await take(frames, 2)] == [("4", "attempt.started"), ("4", "delta.reset")]
    attached = attach(desk.eventlog, fanout, desk.clock, hand.ref, Offset(3, 5), native)
    async with attached as follower, aclosing(follower.frames()) as frames:  # its attempt is over
        assert [f[:2] for f in await take(frames, 2)] == [("4", "attempt.started"), ("4", "delta.reset")]


async def live(frames: AsyncIterator[Shown]) -> str | None:
    """Take frames up to the first delta, heard as it came or restated: from here on the reader is live. Its id."""
    while (frame := await anext(frames)).event != "delta.text":
        continue
    return frame.id


async def test_a_hole_in_the_deltas_is_healed_from_live(desk: Desk, bus: Bus, fanout: Fanout, hand: Hand) -> None:
    lossy = Tampered(fanout, lambda f: [] if isinstance(f, LiveDelta) and b"lost" in f.body else [f])
    deltas = Deltas(bus)
    attached = attach(desk.eventlog, lossy, desk.clock, hand.ref, None, Native(hand.ref.job))
    async with attached as follower, aclosing(follower.frames()) as frames:
        deltas.publish(hand.ref, delta(1, 2, "a", "not ", 1))
        await live(frames)
        deltas.publish(hand.ref, delta(1, 2, "a", "lost", 2, 4))
        deltas.publish(hand.ref, delta(1, 2, "a", " but found", 3, 8))
        assert await take(frames, 2) == [("2.2", "delta.text", "lost"), ("2.3", "delta.text", " but found")]
        deltas.publish(hand.ref, delta(1, 2, "a", "?", 5, 20))  # the fourth was never published
        assert await take(frames, 2) == [("2", "delta.reset", "gap"), ("2.5", "delta.text", "?")]


async def test_a_reader_that_is_slow_gets_its_deltas_joined(
    desk: Desk, bus: Bus, fanout: Fanout, hand: Hand, eventually: Callable[..., Awaitable[None]]
) -> None:
    deltas = Deltas(bus)
    attached = attach(desk.eventlog, fanout, desk.clock, hand.ref, None, Native(hand.ref.job))
    async with attached as follower, aclosing(follower.frames()) as frames:
        deltas.publish(hand.ref, delta(1, 2, "a", "."))
        assert await live(frames) == "2.1"
        for n in range(2, 702):  # while nobody takes
            deltas.publish(hand.ref, delta(1, 2, "a", ".", n, n - 1))
        (inbox,) = inboxes(fanout, hand.ref)
        await eventually(
            lambda: len(inbox._frames or ()) >= 700
        )  # the first one may lie there too, restated before it came
        assert await take(frames, 1) == [("2.701", "delta.text", "." * 700)]
        for n in range(702, 2001):  # more than an inbox holds
            deltas.publish(hand.ref, delta(1, 2, "a", ".", n, n - 1))
        await eventually(lambda: inbox._frames and inbox._frames[0] == Lagged())
        said, at = 701, None
        while said < 2000:
            frame = await anext(frames)
            at = frame.id
            said += len(msgspec.json.decode(frame.data)["text"])
        assert (said, at) == (2000, "2.2000")


async def test_a_reader_without_deltas_is_not_told_of_them(desk: Desk, bus: Bus, fanout: Fanout, hand: Hand) -> None:
    silent = Native(hand.ref.job, deltas=False)
    attached = attach(desk.eventlog, fanout, desk.clock, hand.ref, Offset(1), silent)
    async with attached as follower, aclosing(follower.frames()) as frames:
        Deltas(bus).publish(hand.ref, delta(1, 2, "a", "."))
        await hand.start()
        await hand.complete()
        assert [frame.id async for frame in frames] == ["2", "3", "4"]


async def test_a_delta_that_runs_ahead_waits_for_its_event(desk: Desk, fanout: Fanout, hand: Hand) -> None:
    """The event on its way is lost, the delta behind it is not: the log is read first."""
    lost = Tampered(fanout, lambda f: [] if isinstance(f, LiveEvent) else [f])
    attached = attach(desk.eventlog, lost, desk.clock, hand.ref, Offset(2), Native(hand.ref.job))
    async with attached as follower, aclosing(follower.frames()) as frames:
        waiting = asyncio.ensure_future(anext(frames))
        await hand.step("a")
        for inbox in inboxes(fanout, hand.ref):
            inbox.put(LiveDelta(delta(1, 3, "b", "ahead")))
        assert (await waiting).event == "delta.reset"
        assert (await anext(frames)).id == "3"
        assert msgspec.json.decode((await anext(frames)).data)["text"] == "ahead"


def inboxes(fanout: Fanout, ref: JobRef) -> list[Inbox]:
    return list(fanout._followers[(str(ref.tenant), str(ref.job))])


async def test_no_consumer_is_made_for_anybody(desk: Desk, bus: Bus, fanout: Fanout, hand: Hand) -> None:
    following = [asyncio.create_task(events(desk, fanout, hand.ref, 0)) for _ in range(20)]
    await hand.step("a")
    shard = int(hand.ref.job[-1], 16) % 8
    info = msgspec.json.decode(await bus.ask(f"$JS.API.STREAM.INFO.EV_{shard}", b""))
    assert info["state"]["consumer_count"] == 0
    await hand.complete()
    assert {tuple(ids) for ids in await asyncio.gather(*following)} == {(1, 2, 3, 4)}


async def test_a_broker_that_was_killed_and_came_back_costs_no_event(
    own_nats_server: NatsServer, submission: Submission
) -> None:
    async with connect(own_nats_server) as near, connect(own_nats_server) as far, Fanout.open(near) as fanout:
        mine = Desk(EventLog(near, 8), Doorbells(near), near.clock)
        writer = Desk(EventLog(far, 8), Doorbells(far), far.clock)
        hand = Hand(writer, (await submit(writer, submission)).ref)
        await hand.start()
        attached = attach(mine.eventlog, fanout, mine.clock, hand.ref, Offset(0), Native(hand.ref.job))
        async with attached as follower, aclosing(follower.frames()) as frames:
            seen = [(await anext(frames)).id, (await anext(frames)).id]
            await hand.step("before")
            own_nats_server.kill()
            own_nats_server.start()
            await write(hand, 12)
            seen += [frame.id async for frame in frames]
    assert seen == [str(n) for n in range(1, 13)]


async def test_a_broker_that_stays_away_ends_the_stream(
    own_nats_server: NatsServer, submission: Submission, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "QUIET_SECONDS", 0.05)
    monkeypatch.setattr(follow, "AWAY_SECONDS", 0.2)
    async with connect(own_nats_server) as bus, Fanout.open(bus) as fanout:
        desk = Desk(EventLog(bus, 8), Doorbells(bus), bus.clock)
        ref = (await submit(desk, submission)).ref
        async with attach(desk.eventlog, fanout, desk.clock, ref, Offset(1), Native(ref.job)) as follower:
            own_nats_server.stop()
            with pytest.raises(Unavailable):
                async with aclosing(follower.frames()) as frames:
                    await anext(frames)
