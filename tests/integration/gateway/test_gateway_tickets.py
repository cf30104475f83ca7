"""Tickets: one stream of one job within a minute, by a page that can send no key; nothing else, and not twice."""

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from sqlalchemy import func, select

from perdure.db.engine import Database
from perdure.db.principals import create_key, ensure_tenant, key_id
from perdure.db.schema import spent_tickets
from perdure.ids import Principal, Tenant, new_job_id
from perdure.testing.hand import Hand
from perdure_gateway import sse, tickets
from perdure_gateway.keys import SECRETS

Gateway = Any  # the conftest's
Start = Callable[..., Awaitable[Gateway]]
STREAM = {"Accept": "text/event-stream"}


async def ticket(gateway: Gateway, hand: Hand) -> str:
    made = await gateway.client.post("/api/stream-tickets", {"job_id": hand.ref.job})
    assert made.status == 201
    assert set(made.body) == {"ticket", "expires_at"}
    said: str = made.body["ticket"]
    return said


def path(hand: Hand, said: str, query: str = "") -> str:
    return f"/api/jobs/{hand.ref.job}/events?ticket={quote(said)}{query}"


async def test_a_ticket_opens_one_stream_without_a_key(
    gateway: Gateway, hand: Hand, capfd: pytest.CaptureFixture[str]
) -> None:
    said = await ticket(gateway, hand)
    nobody = gateway.client.using("")
    frames = gateway.client.stream(path(hand, said, "&after=1"), Authorization="")
    with pytest.raises(AssertionError, match="invalid-parameter"):  # the helper sends an empty key, and none may come
        await anext(frames)
    page = asyncio.create_task(nobody.get(path(hand, said, "&after=1"), **STREAM))
    await hand.complete()
    body = (await page).raw.decode()
    assert [line for line in body.splitlines() if line.startswith("event:")] == [
        "event: attempt.started", "event: job.completed",
    ]  # fmt: skip
    again = await nobody.get(path(hand, said), **STREAM)
    assert (again.status, again.body["code"]) == (401, "unauthenticated")
    assert said not in again.raw.decode()
    out = capfd.readouterr()
    assert said not in out.out + out.err


async def test_of_many_that_come_with_one_ticket_to_two_gateways_one_is_let_in(
    start_gateway: Start, gateway: Gateway, hand: Hand
) -> None:
    other = await start_gateway()
    await hand.complete()
    said = await ticket(gateway, hand)
    asking = [each.client.using("").get(path(hand, said), **STREAM) for each in (gateway, other) * 5]
    assert sorted(answer.status for answer in await asyncio.gather(*asking)) == [200] + [401] * 9


async def test_a_ticket_opens_nothing_else(gateway: Gateway, hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody, second = gateway.client.using(""), await gateway.submit()
    said = await ticket(gateway, hand)
    assert (await nobody.get(path(second, said), **STREAM)).status == 401
    for where in (f"/api/jobs/{hand.ref.job}", "/api/jobs", f"/api/jobs/{hand.ref.job}/state", "/api/whoami"):
        assert (await nobody.get(f"{where}?ticket={said}")).status == 401, where
    for forged in (said[:-4] + "AAAA", "A" + said[1:], said + "=", "", "x", "\u00e4", "A" * 600, "e30", said * 3):
        assert (await nobody.get(path(hand, forged), **STREAM)).status == 401, forged
    for more, key in ((f"&ticket={said}", ""), ("", gateway.client.key)):
        refused = await gateway.client.using(key).get(path(hand, said, more), **STREAM)
        assert (refused.status, refused.body["code"]) == (400, "invalid-parameter")
    assert (await nobody.get(path(hand, said, "&until=head"), **STREAM)).status == 200  # none of that used it
    monkeypatch.setattr(tickets, "SECONDS", 0.0)
    assert (await nobody.get(path(hand, await ticket(gateway, hand)), **STREAM)).status == 401


async def test_a_ticket_has_the_rights_of_its_key_and_dies_with_it(
    gateway: Gateway, hand: Hand, person: Callable[..., Awaitable[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    await hand.step("a", "secret words")
    reader = await person("bob", "read")
    asked = await reader.post("/api/stream-tickets", {"job_id": hand.ref.job})
    seen = await gateway.client.using("").get(path(hand, asked.body["ticket"], "&until=head"), **STREAM)
    assert (seen.status, b"secret" in seen.raw, b'"withheld":true' in seen.raw) == (200, False, True)
    runs = await person("carl", "execute")
    assert (await runs.post("/api/stream-tickets", {"job_id": hand.ref.job})).status == 403
    opens, late = [
        (await reader.post("/api/stream-tickets", {"job_id": hand.ref.job})).body["ticket"] for _ in range(2)
    ]
    monkeypatch.setattr(sse, "HEARTBEAT_SECONDS", 0.05)
    stream = asyncio.create_task(gateway.client.using("").get(path(hand, opens), **STREAM))
    assert (await gateway.client.call("DELETE", f"/api/keys/{key_id(reader.key)}")).status == 204
    closed = (await stream).raw
    assert closed.endswith(b'event: stream.close\ndata: {"reason":"auth"}\n\n') or b"unauthenticated" in closed
    assert (await gateway.client.using("").get(path(hand, late), **STREAM)).status == 401


async def test_an_open_stream_ends_when_the_key_behind_its_ticket_is_revoked(
    gateway: Gateway, hand: Hand, person: Callable[..., Awaitable[Any]], eventually: Callable[..., Awaitable[None]]
) -> None:
    reader = await person("bob")
    asked = await reader.post("/api/stream-tickets", {"job_id": hand.ref.job})
    stream = asyncio.create_task(gateway.client.using("").get(path(hand, asked.body["ticket"]), **STREAM))

    async def open_now() -> bool:
        page = (await gateway.client.get("/metrics")).raw.decode()
        return 'perdure_streams_open{kind="sse"} 1.0' in page

    await eventually(open_now)
    assert (await gateway.client.call("DELETE", f"/api/keys/{key_id(reader.key)}")).status == 204
    assert (await stream).raw.endswith(b'event: stream.close\ndata: {"reason":"auth"}\n\n')


async def test_what_is_no_job_of_the_caller_gets_no_ticket(gateway: Gateway, hand: Hand, database: Database) -> None:
    post = gateway.client.post
    assert (await post("/api/stream-tickets", {"job_id": new_job_id()})).status == 404
    for body in ({}, {"job_id": "x"}, {"job_id": None}, {"job_id": hand.ref.job, "more": 1}):
        refused = await post("/api/stream-tickets", body)
        assert (refused.status, refused.body["code"]) == (422, "invalid-body"), body
    keyed = await post("/api/stream-tickets", {"job_id": hand.ref.job}, idempotency_key="k")
    assert (keyed.status, keyed.body["code"]) == (400, "invalid-header")
    now, other = gateway.desk.clock.broker_now(), Tenant("elsewhere")
    async with database.transaction() as conn:
        await ensure_tenant(conn, other, now=now)
        stranger = gateway.client.using(await create_key(conn, other, Principal("user:eve"), now=now))
    assert (await stranger.post("/api/stream-tickets", {"job_id": hand.ref.job})).status == 404
    said = tickets._read(await ticket(gateway, hand))[2]
    crossed = msgspec.json.encode(tickets.Ticket(said.format, other, said.key_id, said.id, said.job, said.expires_at))
    mac = await gateway.app[SECRETS].sign(other, tickets.PURPOSE, crossed)
    text = base64.urlsafe_b64encode(mac + crossed).rstrip(b"=").decode()
    assert (await gateway.client.using("").get(path(hand, text), **STREAM)).status == 401


async def test_used_tickets_are_forgotten_once_they_would_open_nothing_any_more(
    gateway: Gateway, hand: Hand, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = gateway.client.using("")
    monkeypatch.setattr(tickets, "SECONDS", 0.3)
    used = await ticket(gateway, hand)
    assert (await nobody.get(path(hand, used, "&until=head"), **STREAM)).status == 200
    while gateway.desk.clock.broker_now() <= tickets._read(used)[2].expires_at:
        await gateway.desk.clock.sleep(0.02)
    monkeypatch.setattr(tickets, "SECONDS", 60.0)
    assert (await nobody.get(path(hand, await ticket(gateway, hand), "&until=head"), **STREAM)).status == 200
    async with database.read() as conn:
        assert (await conn.execute(select(func.count()).select_from(spent_tickets))).scalar_one() == 1
