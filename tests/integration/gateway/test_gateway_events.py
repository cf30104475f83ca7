"""The event stream over HTTP: from any offset, live, cut and continued, ended with its reason."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec
import pytest
from yarl import URL

from perdure.bus.connection import Bus
from perdure.bus.subject import delta_subject
from perdure.db.engine import Database
from perdure.db.principals import key_id, revoke_key
from perdure.ids import new_job_id
from perdure.testing.hand import Hand
from perdure_gateway import limits, sse
from perdure_gateway.keys import KEYS, LIMITS

Gateway = Any  # the conftest's


@pytest.fixture
def dialect() -> str:
    """Nothing here asks SQL for more than a key."""
    return "sqlite"


async def running(gateway: Gateway) -> Hand:
    hand: Hand = await gateway.submit()
    await hand.start()
    return hand


def path(hand: Hand, query: str = "") -> str:
    return f"/api/jobs/{hand.ref.job}/events{query}"


async def ids(gateway: Gateway, hand: Hand, query: str = "", **headers: str) -> list[str | None]:
    return [frame.id async for frame in gateway.client.stream(path(hand, query), **headers)]


async def raw_stream(gateway: Gateway, hand: Hand, query: str = "") -> tuple[aiohttp.ClientSession, Any]:
    session = aiohttp.ClientSession()
    headers = {"Authorization": f"Bearer {gateway.client.key}", "Accept": "text/event-stream"}
    return session, await session.get(gateway.client.url + path(hand, query), headers=headers)


async def test_a_stream_begins_at_once_and_says_how_to_come_back(gateway: Gateway) -> None:
    hand = await gateway.submit()
    session, response = await raw_stream(gateway, hand)
    async with session, response:
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert response.headers["Cache-Control"] == "no-store, no-transform"
        assert response.headers["X-Accel-Buffering"] == "no"
        assert "Content-Encoding" not in response.headers
        first = await response.content.readuntil(b"\n\n")
        comment, retry = first.decode().splitlines()[:2]
        assert comment.startswith(": ")
        assert 1000 <= int(retry.removeprefix("retry: ")) < 3000
        frame = (await response.content.readuntil(b"\n\n")).decode()
        assert frame.startswith("id: 1\nevent: job.submitted\ndata: {")
        assert "\r" not in frame


@pytest.mark.parametrize("seed", range(4))
async def test_cut_anywhere_and_continued_there_is_no_gap_and_no_repeat(
    start_gateway: Callable[[], Awaitable[Gateway]], gateway: Gateway, seed: int
) -> None:
    """A reader that is cut off again and again, each time by another gateway, while the job goes on."""
    other, rnd = await start_gateway(), random.Random(seed)
    hand = await running(gateway)

    async def read() -> list[int]:
        seen: list[int] = []
        last: dict[str, str] = {}
        for turn in range(1000):
            frames = (gateway if turn % 2 else other).client.stream(path(hand, "?after=0"), **last)
            async with contextlib.aclosing(frames) as following:
                left = rnd.randrange(1, 8)
                async for frame in following:
                    if frame.event == "delta.reset":
                        continue
                    seen.append(int(frame.id))
                    last = {"last_event_id": frame.id}  # an EventSource repeats its old query: the header wins
                    left -= 1
                    if frame.event == "job.completed":
                        return seen
                    if not left:
                        break
        raise AssertionError("the stream never ended")

    reading = asyncio.create_task(read())
    for n in range(60):
        await hand.step("s", occurrence=n + 1)
    await hand.complete()
    assert await asyncio.wait_for(reading, 60) == list(range(1, 64))


async def test_offsets_are_taken_from_header_and_query(gateway: Gateway) -> None:
    hand = await running(gateway)
    await hand.complete()
    assert await ids(gateway, hand) == ["1", "2", "3"]
    assert await ids(gateway, hand, "?after=1") == ["2", "3"]
    assert await ids(gateway, hand, "?starting_after=2") == ["3"]
    assert await ids(gateway, hand, "?after=1&starting_after=1") == ["2", "3"]
    assert await ids(gateway, hand, "?after=1", last_event_id="2") == ["3"]
    assert await ids(gateway, hand, last_event_id="1.42") == ["2", "3"]


@pytest.mark.parametrize(
    "offset",
    ["-1", "+1", "01", "1.", "1.x", " 1", "1e3", "0x1", "\u0661", "9" * 25, str(2**64) + "0" * 8, "*", "Now", ""],
)
async def test_an_offset_that_is_none_is_refused(gateway: Gateway, offset: str) -> None:
    hand = await gateway.submit()
    refused = await gateway.client.call("GET", path(hand) + "?" + "after=" + quote(offset, safe=""))
    assert (refused.status, refused.body["code"]) == (400, "invalid-offset")


async def test_what_can_be_refused_is_refused_before_the_headers(gateway: Gateway) -> None:
    hand = await gateway.submit()
    stream = {"Accept": "text/event-stream"}
    for where, status, code in (
        (f"/api/jobs/{new_job_id()}/events", 404, "not-found"),
        (path(hand, "?after=2"), 410, "offset-ahead"),
        (path(hand, "?after=1&starting_after=0"), 400, "invalid-offset"),
        (path(hand, "?until=never"), 400, "invalid-parameter"),
        (path(hand, "?types=message,nothing"), 400, "invalid-parameter"),
        (path(hand, "?deltas=no"), 400, "invalid-parameter"),
    ):
        refused = await gateway.client.get(where, **stream)
        assert (refused.status, refused.body["code"]) == (status, code), where
    ahead = await gateway.client.get(path(hand, "?after=99"), **stream)
    assert ahead.body["latest"] == "1"
    assert (await gateway.client.get(path(hand), Accept="text/html")).body["code"] == "not-acceptable"


async def test_at_the_end_of_an_ended_job_an_event_source_is_told_to_stop(gateway: Gateway) -> None:
    hand = await running(gateway)
    await hand.complete()
    at_end = await gateway.client.get(path(hand, "?after=3"), Accept="text/event-stream")
    assert (at_end.status, at_end.raw) == (204, b"")


async def test_a_quiet_stream_beats_and_stays_open_until_the_job_goes_on(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT_SECONDS", 0.05)
    hand = await running(gateway)
    asked = await hand.ask()
    await hand.suspend(asked)
    session, response = await raw_stream(gateway, hand, "?after=4")
    async with session, response:
        await response.content.readuntil(b": hb\n\n")
        await response.content.readuntil(b": hb\n\n")
        answered = await gateway.client.post(f"/api/inbox/{asked}/answer", {"action": "approve"})
        assert answered.status == 200
        await response.content.readuntil(b"id: 5\nevent: input.answered\n")
        await hand.start()
        await hand.complete()
        rest = await response.content.read()
    assert [line for line in rest.decode().splitlines() if line.startswith("event:")] == [
        "event: attempt.started",
        "event: job.completed",
    ]


async def test_until_closes_with_its_reason(gateway: Gateway) -> None:
    hand = await running(gateway)
    await hand.suspend(await hand.ask())
    for until, last in (("suspended", "4"), ("head", "4"), ("input.requested", "3")):
        frames = [frame async for frame in gateway.client.stream(path(hand, f"?until={until}"))]
        assert frames[-2].id == last
        assert (frames[-1].event, msgspec.json.decode(frames[-1].data)) == ("stream.close", {"reason": "until"})


def delta(n: int, text: str, pos: int, after: int = 2) -> bytes:
    body = {"v": 1, "type": "delta.text", "attempt": 1, "n": n, "after": after, "step": "d", "occurrence": 1}
    return msgspec.json.encode(body | {"channel": "m-1", "pos": pos, "text": text})


async def test_deltas_move_the_offset_and_a_reader_goes_on_behind_them(gateway: Gateway, bus: Bus) -> None:
    hand = await running(gateway)
    with_deltas = gateway.client.stream(path(hand, "?after=1"))
    without = gateway.client.stream(path(hand, "?after=1&deltas=false"))
    assert [(await anext(frames)).id for frames in (with_deltas, without)] == ["2", "2"]  # both are attached
    assert (await anext(with_deltas)).event == "delta.reset"
    await bus.publish(delta_subject(hand.ref), delta(1, "hi", 0))
    said = await anext(with_deltas)
    assert (said.id, said.event, msgspec.json.decode(said.data)["job_id"]) == ("2.1", "delta.text", hand.ref.job)
    await bus.publish(delta_subject(hand.ref), delta(2, " you", 2))
    assert (await anext(with_deltas)).id == "2.2"
    again = gateway.client.stream(path(hand, "?after=0"), last_event_id="2.1")
    assert (await anext(again)).id == "2.2"
    late = gateway.client.stream(path(hand, "?after=now"))
    reset, whole = await anext(late), await anext(late)
    assert (reset.id, reset.event, whole.id) == ("2", "delta.reset", "2.2")
    assert msgspec.json.decode(whole.data)["text"] == "hi you"
    await hand.complete()
    for frames in (with_deltas, without, again, late):
        assert [frame.event async for frame in frames] == ["job.completed"]


async def test_filters_hide_events_and_the_offset_moves_with_the_heartbeat(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT_SECONDS", 0.05)
    hand = await running(gateway)
    await hand.step("a", "secret words")
    session, response = await raw_stream(gateway, hand, "?types=input.*,job.completed&values=false")
    async with session, response:
        await response.content.readuntil(b": hb\n\nid: 3\n\n")
        await hand.complete(out="secret words")
        rest = await response.content.read()
    assert b"id: 4\nevent: job.completed\n" in rest
    assert b"secret" not in rest
    assert b'"withheld":true' in rest


async def test_a_page_waits_for_news_and_is_narrowed(gateway: Gateway) -> None:
    hand = await running(gateway)
    waiting = asyncio.create_task(gateway.client.get(path(hand, "?after=2"), Prefer="wait=20"))
    await hand.step("a", "secret words")
    page = await waiting
    assert page.headers["Preference-Applied"] == "wait=20"
    assert [event["seq"] for event in page.body["events"]] == [3]
    short = await gateway.client.get(path(hand, "?after=3"), Prefer="wait=1")
    assert (short.body["events"], short.body["next"]) == ([], "3")
    narrow = await gateway.client.get(path(hand, "?types=step.*&values=false"))
    assert [event["type"] for event in narrow.body["events"]] == ["step.completed"]
    assert (narrow.body["next"], b"secret" in narrow.raw) == ("3", False)
    await hand.complete()
    done = await gateway.client.get(path(hand, "?after=4"), Prefer="wait=30")  # nothing will ever come
    assert (done.body["events"], done.body["done"]) == ([], True)


async def test_the_log_is_downloaded_as_lines(gateway: Gateway) -> None:
    hand = await running(gateway)
    await hand.step("a", "one\ntwo")
    await hand.complete()
    answer = await gateway.client.get(path(hand), Accept="application/jsonl")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/jsonl")
    events = [msgspec.json.decode(line) for line in answer.raw.splitlines()]
    assert [event["seq"] for event in events] == [1, 2, 3, 4]
    assert events[2]["data"]["result"] == "one\ntwo"
    assert (await gateway.client.get(f"/api/jobs/{new_job_id()}/events", Accept="application/jsonl")).status == 404


async def test_no_text_in_a_job_can_forge_a_frame(gateway: Gateway) -> None:
    evil = "x\n\nevent: job.completed\ndata: {}\n\r\n\rid: 99\n\u2028\u0085"
    hand = await gateway.submit(evil, session_id=evil[:200], tags={"t": evil})
    await hand.start()
    await hand.step(evil, {evil: [evil]})
    await hand.complete(**{evil: evil})
    frames = [frame async for frame in gateway.client.stream(path(hand))]
    assert [(f.id, f.event) for f in frames] == [
        ("1", "job.submitted"),
        ("2", "attempt.started"),
        ("3", "step.completed"),
        ("4", "job.completed"),
    ]
    assert msgspec.json.decode(frames[3].data)["data"]["outputs"] == {evil: evil}


async def test_pages_are_cut_by_number_and_say_when_there_is_no_more(gateway: Gateway) -> None:
    hand = await running(gateway)
    for n in range(5):
        await hand.step("s", occurrence=n + 1)
    seen, offset = [], "0"
    while True:
        page = (await gateway.client.get(path(hand, f"?after={offset}&limit=3"))).body
        seen += [event["seq"] for event in page["events"]]
        assert (page["head"], page["done"], page["status"]) == (7, False, "running")
        if not page["events"]:
            break
        offset = page["next"]
    assert (seen, offset) == (list(range(1, 8)), "7")
    await hand.complete()
    last = (await gateway.client.get(path(hand, "?after=7"))).body
    assert ([event["type"] for event in last["events"]], last["next"], last["done"]) == (["job.completed"], "8", True)
    at_end = (await gateway.client.get(path(hand, "?after=8"))).body
    assert (at_end["events"], at_end["done"]) == ([], True)
    assert (await gateway.client.get(path(hand, "?after=9"))).status == 410
    assert (await gateway.client.get(path(hand, "?limit=501"))).status == 400


async def test_pages_are_cut_by_bytes(gateway: Gateway) -> None:
    hand = await running(gateway)
    for n in range(12):
        await hand.step("s", "x" * 120_000, occurrence=n + 1)
    first = await gateway.client.get(path(hand))
    assert len(first.raw) <= 1_100_000
    assert 0 < len(first.body["events"]) < 14


async def test_a_drain_sends_readers_elsewhere(gateway: Gateway) -> None:
    hand = await running(gateway)
    frames = gateway.client.stream(path(hand))
    assert (await anext(frames)).id == "1"
    gateway.service.stop()
    rest = [frame async for frame in frames]
    assert (rest[-1].event, msgspec.json.decode(rest[-1].data)) == ("stream.close", {"reason": "drain"})
    refused = await gateway.client.get(path(hand), Accept="text/event-stream")
    assert (refused.status, refused.body["code"]) == (503, "draining")
    assert (await gateway.client.get("/readyz")).status == 503
    assert (await gateway.client.get("/livez")).status == 200


async def test_a_key_that_was_revoked_loses_its_streams(
    gateway: Gateway, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(sse, "AUTH_SECONDS", 0.0)
    hand = await running(gateway)
    frames = gateway.client.stream(path(hand))
    assert (await anext(frames)).id == "1"
    own = key_id(gateway.client.key)
    assert own is not None
    async with database.transaction() as conn:
        await revoke_key(conn, hand.ref.tenant, own, gateway.desk.clock.broker_now())
    gateway.app[KEYS]._memory.forget(own)  # as a minute later
    rest = [frame async for frame in frames]
    assert (rest[-1].event, msgspec.json.decode(rest[-1].data)) == ("stream.close", {"reason": "auth"})
    assert (await gateway.client.get(path(hand))).status == 401


async def test_an_old_stream_is_ended_cleanly(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(sse, "AGE_SECONDS", 0.0)
    monkeypatch.setattr(sse, "AGE_JITTER_SECONDS", 0.0)
    hand = await running(gateway)
    frames = [frame async for frame in gateway.client.stream(path(hand))]
    assert msgspec.json.decode(frames[-1].data) == {"reason": "rotate"}


async def test_a_key_has_a_bounded_number_of_streams_and_gets_them_back(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., Awaitable[None]]
) -> None:
    monkeypatch.setattr(limits, "STREAMS_PER_KEY", 2)
    monkeypatch.setattr(sse, "HEARTBEAT_SECONDS", 0.02)
    hand = await running(gateway)
    held = [gateway.client.stream(path(hand)) for _ in range(2)]
    for frames in held:
        await anext(frames)
    refused = await gateway.client.get(path(hand), Accept="text/event-stream")
    assert (refused.status, refused.body["code"]) == (429, "too-many-streams")
    for frames in held:
        await frames.aclose()

    async def freed() -> bool:
        answer = await gateway.client.get(path(hand, "?until=head"), Accept="text/event-stream")
        return bool(answer.status == 200)

    await eventually(freed)


async def test_a_reader_that_takes_nothing_is_cut_off_and_the_job_does_not_notice(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., Awaitable[None]]
) -> None:
    monkeypatch.setattr(sse, "WRITE_SECONDS", 0.3)
    hand = await running(gateway)
    url = URL(gateway.client.url)
    reader, writer = await asyncio.open_connection(url.host, url.port, limit=64 * 1024 * 1024)
    head = ("Host: x", "Accept: text/event-stream", f"Authorization: Bearer {gateway.client.key}")
    writer.write("\r\n".join((f"GET {path(hand)} HTTP/1.1", *head, "", "")).encode())
    await reader.readuntil(b"event: attempt.started")  # it has begun; from here on nobody reads
    reader._transport.pause_reading()  # type: ignore[attr-defined]  # a reader that never reads
    for n in range(200):
        await hand.step("s", "x" * 120_000, occurrence=n + 1)
    await hand.complete()
    streams = gateway.app[LIMITS]._streams
    await eventually(lambda: streams.total() == 0)
    reader._transport.resume_reading()  # type: ignore[attr-defined]
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readuntil(b"event: job.completed")  # what did not fit was not kept for it
    writer.transport.abort()
    assert len(await ids(gateway, hand, "?after=200")) == 3
