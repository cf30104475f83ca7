"""How a stream ends that is not at its end, and what a reader is told who comes too late or in the middle."""

from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import msgspec
import pytest

from perdure.bus.connection import Bus
from perdure.bus.eventlog import EventLog
from perdure.bus.fanout import Inbox
from perdure.bus.subject import delta_subject, event_stream, event_subject, shard_of
from perdure.core.instant import later
from perdure.db.engine import Database
from perdure.db.principals import create_key, ensure_tenant
from perdure.ids import JobRef, Principal, Tenant
from perdure.jobs import follow
from perdure.local.server import NatsServer
from perdure.testing.hand import Hand
from perdure_gateway import sse

Gateway = Any  # the conftest's
STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
def dialect() -> str:
    """Nothing here asks SQL for more than keys and deleted jobs."""
    return "sqlite"


def path(ref: JobRef, query: str = "") -> str:
    return f"/api/jobs/{ref.job}/events{query}"


async def raw(gateway: Gateway, ref: JobRef, query: str = "") -> bytes:
    """Everything that a stream says up to its end."""
    async with aiohttp.ClientSession() as session:
        headers = STREAM | {"Authorization": f"Bearer {gateway.client.key}"}
        async with session.get(gateway.client.url + path(ref, query), headers=headers) as response:
            assert response.status == 200
            return await response.read()


async def closed(frames: Any) -> dict[str, Any]:
    """What the last frame says, which closes the stream."""
    *_, last = [frame async for frame in frames]
    assert last.event == "stream.close"
    said: dict[str, Any] = msgspec.json.decode(last.data)
    return said


@pytest.mark.parametrize("why", ["drain", "rotate"])
async def test_readers_that_are_sent_away_are_told_when_to_come_back(
    gateway: Gateway, hand: Hand, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    if why == "rotate":
        monkeypatch.setattr(sse, "AGE_SECONDS", 0.0)
        monkeypatch.setattr(sse, "AGE_JITTER_SECONDS", 0.0)
        monkeypatch.setattr(sse, "HEARTBEAT_SECONDS", 0.02)
        said = await raw(gateway, hand.ref)
    else:
        session = aiohttp.ClientSession()
        headers = STREAM | {"Authorization": f"Bearer {gateway.client.key}"}
        async with session, session.get(gateway.client.url + path(hand.ref), headers=headers) as response:
            await response.content.readuntil(b"event: attempt.started")
            gateway.service.stop()
            said = await response.content.read()
    *_, retry, close, end = said.decode().split("\n\n")
    assert 500 <= int(retry.removeprefix("retry: ")) <= 10_000
    assert (close, end) == (f'event: stream.close\ndata: {{"reason":"{why}"}}', "")


async def test_a_key_that_expires_loses_its_stream_and_a_stranger_never_had_one(
    gateway: Gateway, hand: Hand, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(sse, "AUTH_SECONDS", 0.0)
    now = gateway.desk.clock.broker_now()
    async with database.transaction() as conn:
        await ensure_tenant(conn, Tenant("elsewhere"), now=now)
        stranger = await create_key(conn, Tenant("elsewhere"), Principal("user:eve"), now=now)
        brief = await create_key(conn, hand.ref.tenant, Principal("user:ann"), now=now, expires_at=later(now, 1.5))
    frames = gateway.client.using(brief).stream(path(hand.ref))
    assert (await anext(frames)).id == "1"
    assert await closed(frames) == {"reason": "auth"}
    for kind in ("text/event-stream", "application/json", "application/jsonl"):
        assert (await gateway.client.using(brief).get(path(hand.ref), Accept=kind)).status == 401
        hidden = await gateway.client.using(stranger).get(path(hand.ref), Accept=kind)
        assert (hidden.status, hidden.body["code"]) == (404, "not-found")


async def test_a_job_that_is_deleted_takes_its_last_readers_along(
    gateway: Gateway, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = gateway.client.stream(path(hand.ref))
    assert (await anext(frames)).id == "1"
    monkeypatch.setattr(Inbox, "put", lambda inbox, frame: None)  # the line loses the end
    await hand.complete()
    assert (await gateway.client.call("DELETE", f"/api/jobs/{hand.ref.job}")).status == 204
    assert await closed(frames) == {"reason": "gone"}
    assert (await gateway.client.get(path(hand.ref), **STREAM)).status == 404


async def purge(bus: Bus, ref: JobRef, keep: int) -> None:
    asked = msgspec.json.encode({"filter": event_subject(8, ref), "keep": keep})
    await bus.ask(f"$JS.API.STREAM.PURGE.{event_stream(shard_of(ref.job, 8))}", asked)


@pytest.mark.parametrize("keep", [0, 1])
async def test_a_reader_whose_log_went_away_behind_it_is_not_left_waiting(
    gateway: Gateway, hand: Hand, bus: Bus, monkeypatch: pytest.MonkeyPatch, keep: int
) -> None:
    monkeypatch.setattr(follow, "QUIET_SECONDS", 0.05)
    frames = gateway.client.stream(path(hand.ref))
    assert [(await anext(frames)).id for _ in range(2)] == ["1", "2"]
    monkeypatch.setattr(Inbox, "put", lambda inbox, frame: None)
    tail = EventLog.tail

    async def held(log: EventLog, ref: JobRef) -> Any:
        return None if ref != hand.ref else await tail(log, ref) if gone else first

    gone, first = False, await tail(gateway.desk.eventlog, hand.ref)
    monkeypatch.setattr(EventLog, "tail", held)
    await hand.step("a")
    await hand.complete()
    await purge(bus, hand.ref, keep)
    gone = True
    assert await closed(frames) == {"reason": "gone"}


async def test_without_the_broker_a_stream_beats_for_a_while_and_then_ends(
    start_gateway: Callable[..., Awaitable[Gateway]], own_nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(follow, "QUIET_SECONDS", 0.05)
    monkeypatch.setattr(follow, "AWAY_PAUSE", 0.05)
    gateway = await start_gateway(server=own_nats_server)
    made = await gateway.client.post("/api/flows", {"name": "echo", "definition": FLOW})
    assert made.status == 201
    hand = await gateway.submit()
    session = aiohttp.ClientSession()
    headers = STREAM | {"Authorization": f"Bearer {gateway.client.key}"}
    async with session, session.get(gateway.client.url + path(hand.ref), headers=headers) as response:
        await response.content.readuntil(b"id: 1\n")
        own_nats_server.stop()
        await response.content.readuntil(b": hb\n\n")
        await response.content.readuntil(b": hb\n\n")
        refused = await gateway.client.get(path(hand.ref), **STREAM)
        assert (refused.status, refused.body["code"]) == (503, "unavailable")
        monkeypatch.setattr(follow, "AWAY_SECONDS", 0.1)
        rest = await response.content.read()
        assert rest.endswith(b'event: stream.close\ndata: {"reason":"upstream"}\n\n')
        own_nats_server.start()


FLOW: dict[str, Any] = {
    "format": "perdure.graph/1",
    "name": "echo",
    "nodes": [{"id": "brief", "component": "chat_input"}, {"id": "out", "component": "text_output"}],
    "edges": [{"from": "brief.text", "to": "out.text"}],
}


async def test_events_that_are_kept_nowhere_are_a_problem_or_a_gap_and_what_the_job_came_to(
    gateway: Gateway, hand: Hand, bus: Bus
) -> None:
    await hand.step("a", "b")
    await hand.complete(answer="done")
    await purge(bus, hand.ref, 1)
    refused = await gateway.client.get(path(hand.ref), **STREAM)
    assert (refused.status, refused.body["code"]) == (410, "offset-expired")
    assert (refused.body["earliest"], refused.body["latest"]) == ("4", "4")
    assert refused.body["snapshot"] == f"/api/jobs/{hand.ref.job}/state"
    for kind in ("application/json", "application/jsonl"):
        assert (await gateway.client.get(path(hand.ref), Accept=kind)).status == 410
    assert [f.id async for f in gateway.client.stream(path(hand.ref, "?after=3"))] == ["4"]
    gap, snapshot = [f async for f in gateway.client.stream(path(hand.ref, "?after=1&gap=snapshot"))]
    assert (gap.id, gap.event, msgspec.json.decode(gap.data)) == (None, "stream.gap", {"from": "1", "to": "3"})
    assert (snapshot.id, snapshot.event) == ("4", "stream.snapshot")
    assert msgspec.json.decode(snapshot.data)["job"]["status"] == "completed"
    assert (await gateway.client.get(path(hand.ref, "?after=4&gap=snapshot"), **STREAM)).status == 204
    assert (await gateway.client.get(path(hand.ref, "?gap=other"), **STREAM)).body["code"] == "invalid-parameter"


def delta(n: int, text: str, pos: int, attempt: int = 1, after: int = 2) -> bytes:
    body = {"v": 1, "type": "delta.text", "attempt": attempt, "n": n, "after": after, "step": "d", "occurrence": 1}
    return msgspec.json.encode(body | {"channel": "m-1", "pos": pos, "text": text})


async def test_what_a_dead_attempt_said_is_taken_back(gateway: Gateway, hand: Hand, bus: Bus) -> None:
    await bus.publish(delta_subject(hand.ref), delta(1, "Once upon", 0))
    await bus.flush()
    frames = gateway.client.stream(path(hand.ref, "?after=now"))
    reset, said = await anext(frames), await anext(frames)
    assert (reset.event, msgspec.json.decode(said.data)["text"]) == ("delta.reset", "Once upon")
    await bus.publish(delta_subject(hand.ref), delta(2, " a time", 9))
    assert msgspec.json.decode((await anext(frames)).data)["pos"] == 9
    await hand.start()
    started, void = await anext(frames), await anext(frames)
    assert (started.id, started.event, void.id, void.event) == ("3", "attempt.started", "3", "delta.reset")
    assert msgspec.json.decode(void.data) | {"reason": "attempt", "attempt": 2} == msgspec.json.decode(void.data)
    await bus.publish(delta_subject(hand.ref), delta(3, " there", 16))  # a straggler of the dead one
    await bus.publish(delta_subject(hand.ref), delta(1, "Long ago", 0, attempt=2, after=3))
    anew = await anext(frames)
    assert (anew.id, msgspec.json.decode(anew.data)["text"]) == ("3.1", "Long ago")
    await hand.complete()
    assert [frame.event async for frame in frames] == ["job.completed"]


@pytest.mark.parametrize("sent", ["-1", "01", "1.0", "now", "", "9" * 25, "1.1.1", "1\t2"])
async def test_an_offset_in_the_header_that_is_none_is_refused(gateway: Gateway, hand: Hand, sent: str) -> None:
    async with aiohttp.ClientSession() as session:
        headers = [("Authorization", f"Bearer {gateway.client.key}"), ("Last-Event-ID", sent)]
        for more in ([], [("Last-Event-ID", "1")]):
            for kind in ("text/event-stream", "application/json"):
                asked = session.get(gateway.client.url + path(hand.ref), headers=[*headers, *more, ("Accept", kind)])
                async with asked as response:
                    assert (response.status, (await response.json())["code"]) == (400, "invalid-offset")
