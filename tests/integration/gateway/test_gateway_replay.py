"""The replay service: asked by a plain NATS client with an outsider's rights, answered by a gateway."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import jsonschema_rs
import msgspec
import nats
import pytest
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg
from nats.errors import NoRespondersError

from perdure.bus import replay
from perdure.bus.connection import Bus
from perdure.bus.doorbell import Doorbells
from perdure.bus.eventlog import EventLog
from perdure.bus.subject import delta_subject, event_stream, event_subject, shard_of
from perdure.bus.topology import Topology
from perdure.config import GatewaySettings
from perdure.db.engine import Database
from perdure.ids import JobRef, Tenant, new_job_id
from perdure.jobs.desk import Desk
from perdure.local.server import NatsServer, outsider
from perdure.service import Service
from perdure.testing.clock import FakeClock
from perdure.testing.hand import Hand
from perdure.testing.servers import connect, nats_server_at
from perdure_gateway import replays
from perdure_gateway.schemas import subject_schemas
from perdure_sweeper.duties.retention import Keep, Retention
from perdure_sweeper.projector import Projector

Gateway = Any  # the conftest's
Start = Callable[..., Awaitable[Gateway]]
Eventually = Callable[..., Awaitable[None]]
ANSWER: Final = jsonschema_rs.validator_for(subject_schemas()["replay.answer"])
FLOW: dict[str, Any] = {
    "format": "perdure.graph/1",
    "name": "echo",
    "nodes": [{"id": "brief", "component": "chat_input"}, {"id": "out", "component": "text_output"}],
    "edges": [{"from": "brief.text", "to": "out.text"}],
}


@pytest.fixture
def dialect() -> str:
    """SQL is asked for archives alone, which are the same in both."""
    return "sqlite"


@pytest.fixture
def server(tmp_path: Path, tenant: Tenant) -> Iterator[NatsServer]:
    """A broker that knows an outsider of the test's tenant, and one of another."""
    users = {"outsider": outsider(tenant), "stranger": outsider("other")}
    with nats_server_at(tmp_path / "nats", Topology(shards=8), users) as server:
        yield server


@pytest.fixture
async def gateway(start_gateway: Start, server: NatsServer) -> AsyncIterator[Gateway]:
    """A gateway that answers replays, with the flow `echo`."""
    async with AsyncExitStack() as stack:
        gateway = await start_gateway(server=server)
        await stack.enter_async_context(answers(gateway, server))
        made = await gateway.client.post("/api/flows", {"name": "echo", "definition": FLOW})
        assert made.status == 201, made.raw
        yield gateway


@asynccontextmanager
async def answers(gateway: Gateway, server: NatsServer) -> AsyncIterator[Bus]:
    async with connect(server, "replay") as bus, replays.answering(gateway.app, bus):
        await bus.flush()
        yield bus


@asynccontextmanager
async def plain(server: NatsServer, tenant: str, user: str = "outsider", inbox: str = "") -> AsyncIterator[Nats]:
    who = server.credentials[user]
    nc = await nats.connect(
        server.url, user=who.user, password=who.password, inbox_prefix=inbox or f"_INBOX.{tenant}", error_cb=quiet
    )
    try:
        yield nc
    finally:
        await nc.close()


async def quiet(_: Exception) -> None:
    """What the broker refuses is asked for on purpose."""


@pytest.fixture
async def outside(server: NatsServer, tenant: Tenant) -> AsyncIterator[Nats]:
    """A plain client of the tenant."""
    async with plain(server, tenant) as nc:
        yield nc


async def ask(nc: Nats, ref: JobRef, body: Any = None) -> Any:
    raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = await nc.request(f"replay.{ref.tenant}.{ref.job}", raw, timeout=20)
    assert len(reply.data) <= 900 * 1024
    said = json.loads(reply.data)
    ANSWER.validate(said)
    assert ("problem" in said) == bool(reply.headers and reply.headers.get("Nats-Service-Error"))
    return said


async def running(gateway: Gateway) -> Hand:
    hand: Hand = await gateway.submit()
    await hand.start()
    return hand


async def test_a_job_is_replayed_as_its_log_has_it(gateway: Gateway, outside: Nats, server: NatsServer) -> None:
    hand = await running(gateway)
    await hand.step("a", "höhe\n\u2028")
    everything = await ask(outside, hand.ref)
    assert [event["seq"] for event in everything["events"]] == [1, 2, 3]
    assert {k: everything[k] for k in ("deltas", "next", "head", "status", "done")} == {
        "deltas": [], "next": "3", "head": 3, "status": "running", "done": False,
    }  # fmt: skip
    async with connect(server) as bus:
        shard = shard_of(hand.ref.job, 8)
        raw = await bus.ask(
            f"$JS.API.STREAM.MSG.GET.{event_stream(shard)}",
            msgspec.json.encode({"last_by_subj": event_subject(8, hand.ref)}),
        )
    stored = base64.b64decode(msgspec.json.decode(raw)["message"]["data"])
    reply = await outside.request(f"replay.{hand.ref.tenant}.{hand.ref.job}", b'{"after":"2"}', timeout=20)
    assert stored in reply.data
    await hand.complete()
    end = await ask(outside, hand.ref, {"after": "3"})
    assert ([e["type"] for e in end["events"]], end["next"], end["done"]) == (["job.completed"], "4", True)
    assert (await ask(outside, hand.ref, {"after": "4"}))["events"] == []


async def test_a_replay_comes_in_pages_by_number_and_by_bytes(gateway: Gateway, outside: Nats) -> None:
    hand = await running(gateway)
    for n in range(12):
        await hand.step("s", "x" * 120_000, occurrence=n + 1)
    for limit in (5, 500):
        seen, offset, pages = [], "0", 0
        while True:
            said = await ask(outside, hand.ref, {"after": offset, "limit": limit})
            seen += [event["seq"] for event in said["events"]]
            offset, pages = said["next"], pages + 1
            if int(offset) >= said["head"]:
                break
        assert (seen, said["head"]) == (list(range(1, 15)), 14)
        assert pages == (3 if limit == 5 else 2)


async def test_what_is_asked_wrongly_is_told_as_a_problem(gateway: Gateway, outside: Nats, tenant: Tenant) -> None:
    hand = await running(gateway)
    refused: list[tuple[Any, str]] = [
        (b"x", "invalid-json"), (b'{"after":"0","after":"1"}', "invalid-json"), (b"\xff", "invalid-json"),
        (b'{"after":"0"} x', "invalid-json"), (b"[" * 500, "invalid-json"), (b" " * 1025, "too-large"),
        ([], "invalid-body"), ({"from": "0"}, "invalid-body"), ({"limit": 0}, "invalid-body"),
        ({"limit": 501}, "invalid-body"), ({"limit": True}, "invalid-body"), ({"limit": None}, "invalid-body"),
        ({"limit": 1.0}, "invalid-body"), ({"limit": "5"}, "invalid-body"), ({"after": 0}, "invalid-offset"),
        ({"after": None}, "invalid-offset"), ({"after": "now"}, "invalid-offset"), ({"after": "-1"}, "invalid-offset"),
        ({"after": "01"}, "invalid-offset"), ({"after": "9" * 25}, "invalid-offset"), ({"after": "3"}, "offset-ahead"),
    ]  # fmt: skip
    for body, code in refused:
        said = await ask(outside, hand.ref, body)
        assert (said["problem"]["code"], list(said)) == (code, ["problem"]), body
    assert (await ask(outside, hand.ref, {"after": "3"}))["problem"]["latest"] == "2"
    assert (await ask(outside, JobRef(tenant, new_job_id())))["problem"]["code"] == "not-found"
    for odd in ("x", "*", "-", hand.ref.job.upper(), "0" * 200):
        reply = await outside.request(f"replay.{tenant}.{odd}", b"", timeout=20)
        assert json.loads(reply.data)["problem"]["code"] == "not-found", odd
        assert reply.headers is not None
        assert reply.headers["Nats-Service-Error-Code"] == "404"


async def test_a_deleted_job_is_not_there(gateway: Gateway, outside: Nats) -> None:
    hand = await running(gateway)
    await hand.complete()
    assert (await ask(outside, hand.ref))["done"] is True
    assert (await gateway.client.call("DELETE", f"/api/jobs/{hand.ref.job}")).status == 204
    assert (await ask(outside, hand.ref))["problem"]["code"] == "not-found"


def delta(n: int, text: str, pos: int, after: int = 2, attempt: int = 1) -> bytes:
    body = {"v": 1, "type": "delta.text", "attempt": attempt, "n": n, "after": after, "step": "d", "occurrence": 1}
    return msgspec.json.encode(body | {"channel": "m-1", "pos": pos, "text": text})


async def test_open_deltas_come_behind_the_last_event_and_go_on_where_the_reader_is(
    gateway: Gateway, outside: Nats, server: NatsServer
) -> None:
    hand = await running(gateway)
    async with connect(server) as bus:
        await bus.publish(delta_subject(hand.ref), delta(1, "hi", 0))
        await bus.publish(delta_subject(hand.ref), delta(2, " you", 2))
        await bus.publish(delta_subject(hand.ref), b"no delta")
        await bus.flush()
        first = await ask(outside, hand.ref)
        reset, text = first["deltas"]
        assert (reset["type"], text["pos"], text["text"], text["n"]) == ("delta.reset", 0, "hi you", 2)
        assert (first["next"], first["head"]) == ("2.2", 2)
        short = await ask(outside, hand.ref, {"limit": 1})
        assert (short["deltas"], short["next"]) == ([], "1")  # they come behind the last event
        assert [d["text"] for d in (await ask(outside, hand.ref, {"after": "2.1"}))["deltas"]] == [" you"]
        again = await ask(outside, hand.ref, {"after": "2.2"})
        assert (again["events"], again["deltas"], again["next"]) == ([], [], "2.2")
        lost = await ask(outside, hand.ref, {"after": "2.9"})
        assert [d["type"] for d in lost["deltas"]] == ["delta.reset", "delta.text"]
        await hand.step("d", "hi you")
        settled = await ask(outside, hand.ref, {"after": "2.2"})
        assert ([e["seq"] for e in settled["events"]], settled["next"]) == ([3], "3")
        assert [d["type"] for d in settled["deltas"]] == ["delta.reset"]
        assert (await ask(outside, hand.ref))["deltas"] == []


async def test_deltas_that_do_not_fit_behind_the_events_come_with_a_page_of_their_own(
    gateway: Gateway, outside: Nats, server: NatsServer
) -> None:
    hand = await running(gateway)
    for n in range(4):
        await hand.step("s", "x" * 120_000, occurrence=n + 1)
    async with connect(server) as bus:
        for n in range(12):
            await bus.publish(delta_subject(hand.ref), delta(n + 1, "y" * 50_000, n * 50_000, after=6))
        await bus.flush()
    first = await ask(outside, hand.ref)
    assert (first["next"], first["deltas"]) == ("5", [])
    second = await ask(outside, hand.ref, {"after": "5"})
    assert ([e["seq"] for e in second["events"]], second["next"]) == ([6], "6.12")
    assert second["deltas"][-1]["text"] == "y" * 600_000


def hostile(tenant: str, ref: JobRef) -> list[str]:
    return [
        f"ev.{shard_of(ref.job, 8)}.{tenant}.{ref.job}", f"ev.0.{tenant}.{new_job_id()}",
        f"work.default.normal.{ref.job}", f"at.{ref.job}.wake", "audit.main", f"job.{tenant}.{ref.job}.event",
        f"job.{tenant}.{ref.job}.delta", f"inbox.{tenant}.request", "_INBOX.other.x", "_INBOX.x", f"_INBOX.{tenant}",
        f"_INBOX.{tenant}x.a", "_SVC.gateway.x.1", "_SVC.runner.x.1", "$JS.API.STREAM.DELETE.EV_0",
        f"replay.{tenant}.{ref.job}", "call.submit", "revoke.main", f"_INBOX.{tenant}.>", f"_INBOX.{tenant}.*",
        f"_INBOX.{tenant}.{'a' * 300}", "",
    ]  # fmt: skip


async def test_a_reply_that_is_not_the_tenants_inbox_gets_no_answer_and_leaves_no_trace(
    gateway: Gateway, server: NatsServer, outside: Nats, tenant: Tenant
) -> None:
    hand = await running(gateway)
    heard: list[Msg] = []

    async def hear(message: Msg) -> None:
        if message.subject != f"replay.{tenant}.{hand.ref.job}":  # the questions themselves
            heard.append(message)

    who = server.credentials["admin"]
    spy = await nats.connect(server.url, user=who.user, password=who.password)
    async with connect(server) as admin:
        try:
            before = [await admin.ask(f"$JS.API.STREAM.INFO.{name}", b"") for name in STREAMS]
            for subject in ("ev.>", "work.>", "at.>", "audit.>", "job.>", "inbox.>", "_INBOX.>", "_SVC.>", "call.>"):
                await spy.subscribe(subject, cb=hear)
            await spy.flush()
            heard.clear()
            for reply in hostile(tenant, hand.ref):
                for _ in range(2):
                    await outside._send_publish(
                        f"replay.{tenant}.{hand.ref.job}", reply, b"", 0, None
                    )  # past the client's own checks
            await outside.flush()
            mine = f"_INBOX.{tenant}."
            said = await ask(outside, hand.ref)  # behind the others: they have been looked at
            await asyncio.wait_for(spy.flush(), 20)
            strange = [m.subject for m in heard if not m.subject.startswith((mine, "_SVC.", "_INBOX."))]
            assert strange == []
            assert [m.subject for m in heard if m.subject.startswith("_INBOX.other")] == []
            after = [await admin.ask(f"$JS.API.STREAM.INFO.{name}", b"") for name in STREAMS]
        finally:
            await spy.close()
    states = [[json.loads(raw)["state"]["messages"] for raw in infos] for infos in (before, after)]
    assert states[0] == states[1]
    assert said["head"] == 2
    page = (await gateway.client.get("/metrics")).raw.decode()
    assert f'perdure_replays_total{{result="ignored"}} {2.0 * len(hostile(tenant, hand.ref))}' in page
    assert 'perdure_replays_total{result="answered"} 1.0' in page


STREAMS: Final = (*(f"EV_{shard}" for shard in range(8)), "WORK", "AUDIT", "LIVE", "BLOB")


async def test_another_tenant_gets_nothing_out_of_a_replay(
    gateway: Gateway, server: NatsServer, tenant: Tenant
) -> None:
    hand = await running(gateway)
    async with plain(server, "other", "stranger") as nc:
        with pytest.raises((TimeoutError, NoRespondersError)):  # its user may not even ask
            await nc.request(f"replay.{tenant}.{hand.ref.job}", b"", timeout=0.5)
        said = await ask(nc, JobRef(Tenant("other"), hand.ref.job))
        assert said["problem"]["code"] == "not-found"


async def retire(server: NatsServer, database: Database) -> None:
    """Project everything, then do what retention does eight days from now."""
    async with connect(server, "sweeper") as bus:
        clock = FakeClock(bus.clock.broker_now())
        desk = Desk(EventLog(bus, 8), Doorbells(bus), clock)
        for shard in range(8):
            projector = Projector(database, desk, bus, shard, 8)
            while await projector.step():
                pass
        clock.advance(8 * 86_400.0)
        assert await Retention(database, desk, bus, 8, Keep()).run_once() == 1


async def ended(gateway: Gateway, key: str) -> Hand:
    made = await gateway.client.post("/api/jobs", {"flow": "echo", "input": "hi"}, idempotency_key=key)
    hand: Hand = gateway.hand(made.body["id"])
    await hand.start()
    await hand.step("a", "b")
    await hand.complete()
    return hand


async def test_a_job_that_retention_took_away_is_replayed_from_the_archive(
    gateway: Gateway, server: NatsServer, outside: Nats, database: Database
) -> None:
    hand = await ended(gateway, "k")
    before = await ask(outside, hand.ref)
    middle = await ask(outside, hand.ref, {"after": "2", "limit": 1})
    await retire(server, database)
    assert await ask(outside, hand.ref) == before
    assert await ask(outside, hand.ref, {"after": "2", "limit": 1}) == middle
    assert (await ask(outside, hand.ref, {"after": "5"}))["problem"]["code"] == "offset-ahead"


async def test_events_that_are_kept_nowhere_are_told_to_be_gone(
    gateway: Gateway, server: NatsServer, outside: Nats
) -> None:
    hand = await ended(gateway, "k")
    async with connect(server) as bus:
        purge = msgspec.json.encode({"filter": event_subject(8, hand.ref), "keep": 1})
        await bus.ask(f"$JS.API.STREAM.PURGE.{event_stream(shard_of(hand.ref.job, 8))}", purge)
    gone = (await ask(outside, hand.ref))["problem"]
    assert (gone["code"], gone["earliest"], gone["latest"]) == ("offset-expired", "4", "4")
    assert gone["snapshot"] == f"/api/jobs/{hand.ref.job}/state"
    assert [event["seq"] for event in (await ask(outside, hand.ref, {"after": "3"}))["events"]] == [4]


async def test_the_service_is_found_by_the_nats_convention(
    gateway: Gateway, server: NatsServer, tenant: Tenant
) -> None:
    hand = await running(gateway)
    async with plain(server, tenant) as nc:
        await ask(nc, hand.ref)
        await ask(nc, hand.ref, b"x")
    async with answers(gateway, server), plain(server, "", "admin", "_INBOX") as nc:
        found: list[dict[str, Any]] = []
        for verb, kind in (("PING", "ping"), ("INFO", "info"), ("STATS", "stats")):
            inbox = f"{nc.new_inbox()}.looking"
            heard = await nc.subscribe(inbox)
            for whom in ("", ".perdure-replay"):
                await nc.publish(f"$SRV.{verb}{whom}", b"", reply=inbox)
                found = [json.loads((await heard.next_msg(timeout=20)).data) for _ in range(2)]
                assert {said["type"] for said in found} == {f"io.nats.micro.v1.{kind}_response"}
                assert {said["name"] for said in found} == {"perdure-replay"}
                assert len({said["id"] for said in found}) == 2
            one = json.loads((await nc.request(f"$SRV.{verb}.perdure-replay.{found[0]['id']}", b"", timeout=20)).data)
            assert one["id"] == found[0]["id"]
            if verb != "PING":
                (endpoint,) = one["endpoints"]
                assert (endpoint["subject"], endpoint["queue_group"]) == ("replay.*.*", "replay")
        counts = [said["endpoints"][0] for said in found]
        assert sorted(c["num_requests"] for c in counts) == [0, 2]
        assert sorted(c["num_errors"] for c in counts) == [0, 1]
        assert "400:invalid-json" in {c["last_error"] for c in counts}


async def test_an_ending_gateway_answers_what_it_has_taken_and_the_other_one_the_rest(
    start_gateway: Start, server: NatsServer, tenant: Tenant, gateway: Gateway
) -> None:
    hand = await running(gateway)
    async with plain(server, tenant) as nc, AsyncExitStack() as stack:
        await stack.enter_async_context(answers(gateway, server))
        asking = [asyncio.create_task(ask(nc, hand.ref)) for _ in range(40)]
        await asyncio.sleep(0)
        await stack.aclose()
        assert {said["head"] for said in await asyncio.gather(*asking)} == {2}
        assert (await ask(nc, hand.ref))["head"] == 2


async def test_whoever_asks_for_too_much_at_once_is_told_to_ask_again(
    gateway: Gateway, outside: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand = await running(gateway)
    monkeypatch.setattr(replay, "WAIT_AT_MOST_EACH", 2)
    said = await asyncio.gather(*(ask(outside, hand.ref) for _ in range(100)))
    codes = [one["problem"]["code"] if "problem" in one else "" for one in said]
    assert set(codes) == {"", "unavailable"}
    assert (await ask(outside, hand.ref))["head"] == 2


@pytest.mark.parametrize(
    "given", [{"nats_user": "gateway"}, {"nats": "nats://everything:secret@127.0.0.1:4222"}], ids=["user", "address"]
)
async def test_a_user_that_may_write_logs_answers_no_strangers(given: dict[str, str]) -> None:
    async with replays.connected(GatewaySettings.load({}, **given), Service("gateway")) as bus:
        assert bus is None


async def test_the_second_connection_is_the_replay_users(server: NatsServer) -> None:
    who, mine = server.credentials["replay"], server.credentials["gateway"]
    given = {"nats": server.url, "nats_user": mine.user, "nats_password": mine.password}
    given |= {"nats_replay_user": who.user, "nats_replay_password": who.password}
    async with replays.connected(GatewaySettings.load({}, **given), Service("gateway")) as bus:
        assert bus is not None
        await bus.publish("ev.0.main.x", b"{}")
        await bus.flush()
        assert bus.errors == 1
