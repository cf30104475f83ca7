"""Whoever holds a link or a key, and means ill: what a link shows after its end, and what it takes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest

from perdure.bus.audit import Record
from perdure.core import event as ev
from perdure.core.comment import MAX_CHARACTERS
from perdure.db import links
from perdure.testing.hand import Hand
from perdure_gateway import redeem

Gateway = Any  # the conftest's
Person = Callable[..., Awaitable[Any]]
LogBytes = Callable[[Hand], Awaitable[list[bytes]]]
Audited = Callable[[int], Awaitable[list[Record]]]
FORM = "application/x-www-form-urlencoded"


async def minted(client: Any, request: str, audience: str = "link:board") -> Any:
    made = await client.post(f"/api/inbox/{request}/links", {"for": audience})
    assert made.status == 201, made.raw
    return made.body


async def revoke(client: Any, request: str, link: Any) -> None:
    assert (await client.call("DELETE", f"/api/inbox/{request}/links/{link['id']}")).status == 204


async def form(client: Any, url: str, **fields: Any) -> Any:
    raw = urlencode(fields, doseq=True).encode()
    return await client.call("POST", url, raw=raw, headers={"Content-Type": FORM})


@pytest.fixture
def nobody(gateway: Gateway) -> Any:
    """A client without a key."""
    return gateway.client.using("")


@pytest.mark.parametrize("field", ["proposal", "payload"])
async def test_a_void_link_shows_nothing_whatever_is_posted(
    gateway: Gateway, nobody: Any, hand: Hand, log_bytes: LogBytes, field: str
) -> None:
    nested = {"type": "object", "properties": {"o": {"type": "object"}}}
    asked = await hand.ask(message="the secret", proposal={"amount": 1}, editable=("",), response_schema=nested)
    link = await minted(gateway.client, asked)
    before = await log_bytes(hand)
    open_ = await form(nobody, link["url"], action="approve", **{field: "{"})
    assert (open_.status, b"the secret" in open_.raw) == (422, True)
    await revoke(gateway.client, asked, link)
    void = await form(nobody, link["url"], action="approve", **{field: "{"})
    assert (void.status, b"the secret" in void.raw, b"link-void" in void.raw) == (410, False, True)
    assert await log_bytes(hand) == before


async def test_what_a_form_says_badly_is_audited(gateway: Gateway, nobody: Any, hand: Hand, audited: Audited) -> None:
    asked = await hand.ask(proposal={"amount": 1}, editable=("",))
    link = await minted(gateway.client, asked)
    assert (await form(nobody, link["url"], action="approve", proposal="{")).status == 422
    found = await audited(2)
    assert [(r.what, r.result, r.principal) for r in found][1:] == [("request.answer", "invalid-answer", "link:board")]


@pytest.mark.parametrize("content_type", ["application/json", FORM])
async def test_a_link_that_is_revoked_while_its_answer_comes_in_decides_nothing(
    gateway: Gateway,
    nobody: Any,
    hand: Hand,
    log_bytes: LogBytes,
    monkeypatch: pytest.MonkeyPatch,
    content_type: str,
) -> None:
    asked = await hand.ask()
    link = await minted(gateway.client, asked)
    before = await log_bytes(hand)
    body = b'{"action":"approve"}' if content_type == "application/json" else b"action=approve"
    seen, revoked, real = asyncio.Event(), asyncio.Event(), links.get_link

    async def get_link(*args: Any) -> Any:
        row = await real(*args)
        seen.set()
        return row

    monkeypatch.setattr(redeem, "get_link", get_link)

    async def slowly() -> AsyncIterator[bytes]:
        yield body[:3]
        await revoked.wait()
        yield body[3:]

    async def post() -> int:
        async with (
            aiohttp.ClientSession() as session,
            session.post(nobody.url + link["url"], data=slowly(), headers={"Content-Type": content_type}) as answer,
        ):
            return answer.status

    answering = asyncio.create_task(post())
    await seen.wait()
    await revoke(gateway.client, asked, link)
    revoked.set()
    assert await answering == 410
    assert await log_bytes(hand) == before


async def test_scopes_of_a_key_narrow_what_its_user_does_by_a_link(
    gateway: Gateway, hand: Hand, person: Person, log_bytes: LogBytes
) -> None:
    asked = await hand.ask(assignees=ev.Assignees(anyone_with="execute"))
    link = await minted(gateway.client, asked, "user:bob")
    before, narrow = await log_bytes(hand), await person("bob", "answer")
    assert (await narrow.post(f"/api/inbox/{asked}/answer", {"action": "approve"})).status == 404
    assert (await narrow.post(link["url"], {"action": "approve"})).status == 404
    assert await log_bytes(hand) == before
    assert (await (await person("bob")).post(link["url"], {"action": "approve"})).status == 200


async def test_a_form_is_held_to_the_bounds_of_json(
    gateway: Gateway, nobody: Any, hand: Hand, log_bytes: LogBytes
) -> None:
    asked = await hand.ask(response_schema={"type": "object", "properties": {"sure": {"type": "boolean"}}})
    link = await minted(gateway.client, asked)
    before = await log_bytes(hand)
    long = await form(nobody, link["url"], action="approve", comment="x" * (MAX_CHARACTERS + 1))
    assert (long.status, b"/comment" in long.raw) == (422, True)
    assert await log_bytes(hand) == before
    said = await form(nobody, link["url"], action="approve", comment="x" * MAX_CHARACTERS, **{"f.sure": "false"})
    assert said.status == 200
    assert (await gateway.client.get(f"/api/inbox/{asked}")).body["settled"]["payload"] == {"sure": False}


async def test_the_key_of_a_comment_belongs_to_its_text(gateway: Gateway, hand: Hand) -> None:
    asked = await hand.ask()

    async def say(text: str) -> Any:
        return await gateway.client.post(f"/api/inbox/{asked}/comments", {"text": text}, idempotency_key="k")

    assert [(await say("one")).status for _ in range(2)] == [201, 201]
    other = await say("two")
    assert other.status == 422
    assert other.body["code"] == "idempotency-key-reused"
    assert [c["text"] for c in (await gateway.client.get(f"/api/inbox/{asked}")).body["comments"]] == ["one"]


async def test_whoever_has_no_vote_gives_none_away(gateway: Gateway, hand: Hand, person: Person) -> None:
    pool = ev.Assignees(users=("bob", "link:board"))
    asked = await hand.ask(assignees=ev.Assignees(users=("bob", "cy")), quorum=ev.Quorum(n=2, of=pool))
    bob, cy = await person("bob"), await person("cy", "read", "answer", "edit")
    refused = await cy.post(f"/api/inbox/{asked}/links", {"for": "link:board"})
    assert (refused.status, refused.body["code"]) == (403, "not-assignee")
    await minted(bob, asked)


@pytest.mark.parametrize("query", ["flow=%00", "tag=a:%00", "tag=%00:a"])
async def test_a_filter_that_no_database_holds_is_refused(gateway: Gateway, query: str) -> None:
    for path in ("/api/inbox", "/api/inbox/counts"):
        refused = await gateway.client.get(f"{path}?{query}")
        assert (refused.status, refused.body["code"]) == (400, "invalid-parameter")
