"""Several jobs over one connection: each has its own place, nothing of one is lost or late because of another."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import msgspec
import pytest

from perdure.bus.connection import Bus
from perdure.bus.eventlog import EventLog
from perdure.bus.subject import event_stream, event_subject, shard_of
from perdure.client.sse import SseFrame
from perdure.ids import JobRef, new_job_id
from perdure.jobs import follow
from perdure.testing.hand import Hand

Gateway = Any  # the conftest's
STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
def dialect() -> str:
    """Nothing here asks SQL for more than a key."""
    return "sqlite"


def path(places: dict[str, str]) -> str:
    return "/api/events?" + "&".join(f"job={job}@{at}" if at else f"job={job}" for job, at in places.items())


async def running(gateway: Gateway, count: int) -> list[Hand]:
    hands = [await gateway.submit() for _ in range(count)]
    for hand in hands:
        await hand.start()
    return hands


def read(frame: SseFrame) -> tuple[str, str, str]:
    """Of which job, which type, and the place behind it."""
    said = msgspec.json.decode(frame.data)
    assert frame.id is None
    return said["job_id"], frame.event, said["offset"]


async def test_cut_anywhere_each_job_has_its_whole_log_in_order(
    start_gateway: Callable[[], Awaitable[Gateway]], gateway: Gateway
) -> None:
    """A reader that is cut off after every few frames, each time by another gateway, while the jobs go on."""
    hands, other = await running(gateway, 5), await start_gateway()
    places = dict.fromkeys((str(hand.ref.job) for hand in hands), "")
    seen: dict[str, list[int]] = {job: [] for job in places}

    async def follow() -> None:
        turn = 0
        while True:
            turn += 1
            frames: AsyncIterator[SseFrame] = (gateway if turn % 2 else other).client.stream(path(places))
            async with aclosing(frames) as following:  # type: ignore[type-var]  # a generator, as they all are
                left = 3 + turn % 4
                async for frame in following:
                    job, kind, at = read(frame)
                    if kind != "delta.reset":
                        seen[job].append(int(at))
                    places[job] = at
                    left -= 1
                    if not left:
                        break
                else:
                    return

    following = asyncio.create_task(follow())
    for n in range(12):
        await asyncio.gather(*(hand.step("s", occurrence=n + 1) for hand in hands))
    await asyncio.gather(*(hand.complete() for hand in hands))
    await asyncio.wait_for(following, 60)
    assert seen == {job: list(range(1, 16)) for job in places}
    assert (await gateway.client.get(path(places), **STREAM)).status == 204


async def test_one_that_ends_or_goes_leaves_the_others_alone(gateway: Gateway) -> None:
    one, two, three = await running(gateway, 3)
    await one.complete()
    frames = gateway.client.stream(path({one.ref.job: "2", two.ref.job: "now", three.ref.job: "1"}))
    first = [read(await anext(frames)) for _ in range(2)]
    assert sorted(first) == sorted([(one.ref.job, "job.completed", "3"), (three.ref.job, "attempt.started", "2")])
    await two.step("a")
    kinds = [read(await anext(frames))]
    while kinds[-1][1] == "delta.reset":
        kinds.append(read(await anext(frames)))
    assert kinds[-1] == (two.ref.job, "step.completed", "3")
    gateway.service.stop()
    *_, last = [frame async for frame in frames]
    assert (last.event, msgspec.json.decode(last.data)) == ("stream.close", {"reason": "drain"})


async def test_a_job_whose_log_went_away_is_said_to_be_gone_and_the_rest_goes_on(
    gateway: Gateway, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, kept = await running(gateway, 2)
    tail, gone = EventLog._tail, False
    first = await tail(gateway.desk.eventlog, lost.ref)

    async def held(log: EventLog, ref: JobRef) -> Any:
        return first if ref == lost.ref and not gone else await tail(log, ref)

    monkeypatch.setattr(follow, "QUIET_SECONDS", 0.05)
    monkeypatch.setattr(EventLog, "_tail", held)
    frames = gateway.client.stream(path({lost.ref.job: "2", kept.ref.job: "1"}) + "&deltas=false")
    assert read(await anext(frames)) == (kept.ref.job, "attempt.started", "2")
    asked = msgspec.json.encode({"filter": event_subject(8, lost.ref), "keep": 0})
    await bus.ask(f"$JS.API.STREAM.PURGE.{event_stream(shard_of(lost.ref.job, 8))}", asked)
    gone = True
    said = await anext(frames)
    assert (said.event, msgspec.json.decode(said.data)) == ("stream.close", {"reason": "gone", "job_id": lost.ref.job})
    await kept.complete()
    assert [read(frame) async for frame in frames] == [(kept.ref.job, "job.completed", "3")]


async def test_what_cannot_be_followed_is_refused_and_named(gateway: Gateway) -> None:
    (hand,) = await running(gateway, 1)
    job = hand.ref.job
    for query, status, code in (
        ("", 400, "invalid-parameter"),
        (f"?job={job}&job={job}@1", 400, "invalid-parameter"),
        ("?job=x@1", 400, "invalid-parameter"),
        ("?" + "&".join(f"job={new_job_id()}" for _ in range(21)), 400, "invalid-parameter"),
        (f"?job={job}@x", 400, "invalid-offset"),
        (f"?job={job}&after=1", 400, "invalid-parameter"),
        (f"?job={job}&types=nothing", 400, "invalid-parameter"),
        (f"?job={job}&job={new_job_id()}", 404, "not-found"),
        (f"?job={job}@9", 410, "offset-ahead"),
    ):
        refused = await gateway.client.get("/api/events" + query, **STREAM)
        assert (refused.status, refused.body["code"]) == (status, code), query
    assert (await gateway.client.get(path({job: "9"}), **STREAM)).body["job_id"] == job
    assert (await gateway.client.using("").get(f"/api/events?job={job}", **STREAM)).status == 401
    await hand.complete()
    narrowed = gateway.client.stream(f"/api/events?job={job}&types=job.completed&values=false")
    assert [read(frame) async for frame in narrowed] == [(job, "job.completed", "3")]
