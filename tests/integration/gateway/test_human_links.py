"""Answer links: shown by GET, decided once by POST, void as soon as anything about them is not as it was signed."""

import asyncio
import base64
import re
from collections.abc import Awaitable, Callable
from html import unescape
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
from sqlalchemy import update

from perdure.bus.audit import Record
from perdure.core import event as ev
from perdure.core.instant import Instant, later
from perdure.db.engine import Database
from perdure.db.groups import add_member, remove_member
from perdure.db.principals import create_key, ensure_tenant, revoke_key
from perdure.db.schema import answer_links, api_keys
from perdure.db.secrets import OVERLAP_SECONDS, SPREAD_SECONDS, rotate_secret, secrets_of
from perdure.db.tenants import disable_tenant, enable_tenant
from perdure.ids import Principal, Tenant
from perdure.testing.clock import FakeClock
from perdure.testing.hand import Hand
from perdure_gateway.keys import REFUSALS, REVOCATIONS, SECRETS, SQL
from perdure_gateway.linktokens import Link, token_of
from perdure_gateway.rates import Buckets

Gateway = Any  # the conftest's
Person = Callable[..., Awaitable[Any]]
LogBytes = Callable[[Hand], Awaitable[list[bytes]]]
Audited = Callable[[int], Awaitable[list[Record]]]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "note": {"type": "string", "maxLength": 20, "title": "Your <note>"},
        "amount": {"type": "integer", "minimum": 1},
        "sure": {"type": "boolean"},
        "how": {"enum": ["cash", "card"]},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}},
    },
    "required": ["amount"],
}


async def minted(client: Any, request: str, audience: str = "link:board", **members: Any) -> Any:
    made = await client.post(f"/api/inbox/{request}/links", {"for": audience} | members)
    assert made.status == 201, made.raw
    return made.body


async def form(client: Any, url: str, **fields: Any) -> Any:
    return await client.call(
        "POST",
        url,
        raw=urlencode(fields, doseq=True).encode(),
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )


@pytest.fixture
def nobody(gateway: Gateway) -> Any:
    """A client without a key."""
    return gateway.client.using("")


async def test_a_link_shows_and_decides_once(
    gateway: Gateway, nobody: Any, hand: Hand, log_bytes: LogBytes, audited: Audited
) -> None:
    asked = await hand.ask(message="**Order 9** <script>x</script>", response_schema=SCHEMA, defaults={"amount": 3})
    await hand.suspend(asked)
    link = await minted(gateway.client, asked)
    before = await log_bytes(hand)
    for method in ("GET", "HEAD", "GET", "HEAD"):  # whoever scans mail follows links
        page = await nobody.call(method, link["url"])
        assert page.status == 200
    text = (await nobody.get(link["url"])).raw.decode()
    assert "<strong>Order 9</strong> &lt;script&gt;" in text
    assert "Your &lt;note&gt;" in text
    assert 'name="f.amount" value="3"' in text
    assert re.findall(r'<button name="action" value="(\w+)"', text) == ["approve", "reject"]
    assert await log_bytes(hand) == before
    unfit = await form(nobody, link["url"], action="approve", **{"f.note": "x" * 21, "f.amount": "0"})
    assert unfit.status == 422
    assert "/payload/note" in unfit.raw.decode()
    assert "x" * 21 in unfit.raw.decode()  # what was entered is there to be mended
    assert await log_bytes(hand) == before
    entered = {"f.note": "ok", "f.amount": "5", "f.how": '"card"', "f.tags": ['"a"', '"b"']}
    done = await form(nobody, link["url"], action="approve", **entered)
    assert (done.status, b"recorded" in done.raw) == (200, True)
    settled = (await gateway.client.get(f"/api/inbox/{asked}")).body["settled"]
    assert settled["payload"] == {"note": "ok", "amount": 5, "sure": False, "how": "card", "tags": ["a", "b"]}
    assert (settled["by"], settled["via"]) == (
        "link:board",
        {"channel": "link", "link": "board", "link_by": "user:ann"},
    )
    assert (await form(nobody, link["url"], action="approve", **entered)).status == 200
    other = await form(nobody, link["url"], action="approve", **(entered | {"f.amount": "6"}))
    assert (other.status, b"link-used" in other.raw) == (410, True)
    assert (await nobody.get(link["url"])).status == 410
    assert len(await log_bytes(hand)) == len(before) + 1
    found = await audited(5)
    assert [(r.what, r.result, r.principal, r.channel) for r in found] == [
        ("link.mint", "done", "user:ann", "api"),
        ("request.answer", "invalid-answer", "link:board", "link"),
        ("request.answer", "done", "link:board", "link"),
        ("request.answer", "done", "link:board", "link"),
        ("request.answer", "link-used", "link:board", "link"),
    ]
    token = link["url"].removeprefix("/r/").encode()
    assert token not in msgspec.json.encode(found)
    assert all(r.facts["link"] == link["id"] and r.address == "127.0.0.1" for r in found)


async def test_the_page_loads_nothing_and_is_kept_nowhere(gateway: Gateway, nobody: Any, hand: Hand) -> None:
    texts = "[go](https://example.org) [bad](javascript:alert(1)) ![i](https://example.org/i.png) \u202e"
    asked = await hand.ask(message=texts, proposal={"amount": 1}, editable=("/amount",))
    link = await minted(gateway.client, asked)
    page = await nobody.get(link["url"])
    headers, text = page.headers, page.raw.decode()
    assert (headers["Cache-Control"], headers["Referrer-Policy"]) == ("no-store", "no-referrer")
    assert headers["X-Content-Type-Options"] == "nosniff"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "form-action 'self'" in policy
    assert not re.search(r"<(script|img|link|iframe)|src=|\son\w+=", text)
    assert re.findall(r'href="([^"]*)"', text) == ["https://example.org", "https://example.org/i.png"]
    assert "\\u202e" in text
    gone = await nobody.get("/r/" + "A" * 80)
    assert (gone.status, gone.headers["Referrer-Policy"]) == (404, "no-referrer")


@pytest.mark.parametrize("query", ["?utm_source=mail&utm_medium=a&utm_source=b", "?", "?x", "?fbclid=%00%ff"])
async def test_a_link_opens_whatever_a_mailer_adds_to_it(gateway: Gateway, nobody: Any, hand: Hand, query: str) -> None:
    link = await minted(gateway.client, await hand.ask())
    for method in ("GET", "HEAD"):
        assert (await nobody.call(method, link["url"] + query)).status == 200
    page = (await nobody.get(link["url"] + query)).raw.decode()
    assert 'name="action" value="approve"' in page
    assert (await form(nobody, link["url"] + query, action="approve")).status == 200
    assert (await nobody.post(link["url"] + query, {"action": "approve"})).body["replayed"] is True


async def test_a_program_answers_by_a_link_with_json(gateway: Gateway, nobody: Any, hand: Hand) -> None:
    asked = await hand.ask(proposal={"amount": 1}, editable=("/amount",), assignees=ev.Assignees(users=("ann",)))
    link = await minted(gateway.client, asked)
    shown = (await nobody.get(link["url"], Accept="application/json")).body
    assert (shown["proposal"], [a["id"] for a in shown["actions"]]) == ({"amount": 1}, ["approve", "reject"])
    assert not {"assignees", "asked_for", "votes"} & set(shown)
    lacking = await nobody.post(link["url"], {"action": "approve"})
    assert (lacking.status, lacking.body["errors"][0]["pointer"]) == (422, "/proposal_digest")
    body = {"action": "approve", "proposal": {"amount": 2}, "proposal_digest": shown["proposal_digest"]}
    done = await nobody.post(link["url"], body)
    assert (done.status, done.body["status"], done.body["action"]) == (200, "answered", "approve")
    again = await nobody.post(link["url"], body)
    assert (again.status, again.body["replayed"]) == (200, True)
    other = await nobody.post(link["url"], {"action": "reject", "comment": "no"})
    assert (other.status, other.body["code"]) == (410, "link-used")


async def test_of_many_posts_of_one_link_one_decides(
    gateway: Gateway, nobody: Any, hand: Hand, log_bytes: LogBytes
) -> None:
    asked = await hand.ask()
    link = await minted(gateway.client, asked)
    before = len(await log_bytes(hand))
    found = await asyncio.gather(
        *(nobody.post(link["url"], {"action": "approve", "payload": {"n": n}}) for n in range(8))
    )
    assert sorted(each.status for each in found) == [200] + [410] * 7
    assert {each.body["code"] for each in found if each.status == 410} == {"link-used"}
    assert len(await log_bytes(hand)) == before + 1


async def test_where_the_row_does_not_know_of_the_answer_the_log_does(
    gateway: Gateway, nobody: Any, hand: Hand, database: Database
) -> None:
    asked = await hand.ask()
    link = await minted(gateway.client, asked)
    assert (await nobody.post(link["url"], {"action": "approve"})).status == 200
    async with database.transaction() as conn:  # as if the gateway had died behind the append
        await conn.execute(update(answer_links).values(used_at=None))
    assert (await nobody.post(link["url"], {"action": "approve"})).body["replayed"] is True
    async with database.transaction() as conn:
        await conn.execute(update(answer_links).values(used_at=None))
    other = await nobody.post(link["url"], {"action": "reject", "comment": "x"})
    assert (other.status, other.body["code"]) == (410, "link-used")


@pytest.mark.parametrize("why", ["expired", "revoked", "restated", "settled", "maker"])
async def test_a_link_opens_nothing_once_anything_has_changed(
    gateway: Gateway, nobody: Any, hand: Hand, person: Person, database: Database, log_bytes: LogBytes, why: str
) -> None:
    now = gateway.desk.clock.broker_now()
    async with database.transaction() as conn:
        await add_member(conn, hand.ref.tenant, "leads", Principal("user:ann"), by=Principal("user:ann"), now=now)
    asked = await hand.ask(assignees=ev.Assignees(users=("bob",), groups=("leads",)))
    link = await minted(gateway.client, asked)
    url = link["url"]
    match why:
        case "expired":
            told = Link(
                format=1, tenant=hand.ref.tenant, id=link["id"], request_id=asked, revision=1,
                audience=Principal("link:board"), actions=(), expires_at=now,
            )  # fmt: skip
            url = f"/r/{await token_of(gateway.app[SECRETS], told)}"
        case "revoked":
            for _ in range(2):
                gone = await gateway.client.call("DELETE", f"/api/inbox/{asked}/links/{link['id']}")
                assert gone.status == 204
        case "restated":
            bob = await person("bob")
            assert (await bob.post(f"/api/inbox/{asked}/delegate", {"to": "user:cy"})).status == 200
        case "settled":
            bob = await person("bob")
            assert (await bob.post(f"/api/inbox/{asked}/answer", {"action": "approve"})).status == 200
        case "maker":
            async with database.transaction() as conn:
                await remove_member(conn, hand.ref.tenant, "leads", Principal("user:ann"))
            await gateway.app[REVOCATIONS].tell(hand.ref.tenant, "member", "user:ann")
        case _:
            raise AssertionError(why)
    before = await log_bytes(hand)
    shown = await nobody.get(url, Accept="application/json")
    refused = await nobody.post(url, {"action": "approve"})
    for each in (shown, refused):
        assert (each.status, each.body["code"], each.body["reason"]) == (410, "link-void", why)
    assert b"answered_by" not in refused.raw
    assert (await form(nobody, url, action="approve")).status == 410
    assert await log_bytes(hand) == before


async def test_a_link_for_a_user_needs_that_user_s_key(
    gateway: Gateway, nobody: Any, hand: Hand, person: Person
) -> None:
    asked = await hand.ask(assignees=ev.Assignees(users=("ann", "bob")))
    link = await minted(gateway.client, asked, "user:bob")
    bob, eve = await person("bob"), await person("eve")
    assert (await nobody.get(link["url"])).status == 401
    assert (await nobody.post(link["url"], {"action": "approve"})).status == 401
    assert (await eve.get(link["url"])).status == 404
    assert (await eve.post(link["url"], {"action": "approve"})).body["code"] == "not-found"
    assert (await bob.get(link["url"])).status == 200
    assert (await bob.post(link["url"], {"action": "approve"})).status == 200
    settled = (await gateway.client.get(f"/api/inbox/{asked}")).body["settled"]
    assert (settled["by"], settled["via"]["channel"], "key_id" in settled["via"]) == ("user:bob", "link", True)
    useless = await hand.ask(name="b", assignees=ev.Assignees(users=("ann",)))
    refused = await bob.post((await minted(gateway.client, useless, "user:bob"))["url"], {"action": "approve"})
    assert (refused.status, refused.body["code"]) == (403, "not-assignee")


@pytest.mark.parametrize("how", ["revoked", "expired", "narrowed", "tenant disabled"])
async def test_a_link_is_void_once_its_maker_has_no_key_that_may_answer(
    gateway: Gateway, nobody: Any, hand: Hand, person: Person, database: Database, how: str
) -> None:
    asked = await hand.ask(assignees=ev.Assignees(users=("ann", "bob")))
    bob, tenant, now = await person("bob", "answer", "read"), hand.ref.tenant, gateway.desk.clock.broker_now()
    await person("bob", "read")  # stays good, and may not answer
    link = await minted(bob, asked)
    assert (await nobody.get(link["url"])).status == 200
    _, first, _ = bob.key.split("_", 2)
    async with database.transaction() as conn:
        match how:
            case "revoked":
                await revoke_key(conn, tenant, first, now)
            case "expired":
                await conn.execute(update(api_keys).where(api_keys.c.id == first).values(expires_at=now))
            case "narrowed":
                await conn.execute(update(api_keys).where(api_keys.c.id == first).values(scopes='["read"]'))
            case "tenant disabled":
                await disable_tenant(conn, tenant, now)
            case _:
                raise AssertionError(how)
    for refused in (
        await nobody.get(link["url"], Accept="application/json"),
        await nobody.post(link["url"], {"action": "approve"}),
    ):
        assert (refused.status, refused.body["code"], refused.body["reason"]) == (410, "link-void", "maker")
    if how == "tenant disabled":
        async with database.transaction() as conn:
            await enable_tenant(conn, tenant)
    else:
        await person("bob", "answer")  # a rotated key is as good as the one before
    assert (await nobody.post(link["url"], {"action": "approve"})).status == 200


async def test_who_tries_somebody_else_s_link_is_audited_and_does_not_fill_the_records(
    gateway: Gateway, nobody: Any, hand: Hand, person: Person, audited: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.app[REFUSALS], "_links", Buckets(FakeClock(), 4))
    asked = await hand.ask(assignees=ev.Assignees(users=("ann", "bob")))
    link = await minted(gateway.client, asked, "user:bob")
    eve = await person("eve")
    assert (await nobody.get(link["url"])).status == 401
    assert (await nobody.post(link["url"], {"action": "approve"})).status == 401
    assert (await eve.get(link["url"])).status == 404
    assert (await form(eve, link["url"], action="approve")).status == 404
    for _ in range(3):
        assert (await nobody.post(link["url"], {"action": "approve"})).status == 401
    assert (await (await person("bob")).post(link["url"], {"action": "approve"})).status == 200  # is always recorded
    found = await audited(6)
    assert [(r.what, r.result, r.principal, r.key_id is not None) for r in found] == [
        ("link.mint", "done", "user:ann", True),
        ("request.show", "unauthenticated", "anonymous", False),
        ("request.answer", "unauthenticated", "anonymous", False),
        ("request.show", "not-found", "user:eve", True),
        ("request.answer", "not-found", "user:eve", True),
        ("request.answer", "done", "user:bob", True),
    ]
    assert all(r.object == asked and r.channel == "link" and r.address for r in found[1:])


async def test_the_key_of_another_tenant_is_nobody_s_before_a_link(
    gateway: Gateway, hand: Hand, database: Database, audited: Audited
) -> None:
    now = gateway.desk.clock.broker_now()
    other = Tenant(f"{hand.ref.tenant}-b"[-32:])
    async with database.transaction() as conn:
        await ensure_tenant(conn, other, now=now)
        key = await create_key(conn, other, Principal("user:bob"), now=now)
    link = await minted(gateway.client, await hand.ask(assignees=ev.Assignees(users=("ann", "bob"))), "user:bob")
    assert (await gateway.client.using(key).get(link["url"])).status == 404
    tried = (await audited(2))[1]
    assert (tried.result, tried.principal, tried.key_id) == ("not-found", "anonymous", None)


async def test_a_link_takes_the_actions_that_it_names(gateway: Gateway, nobody: Any, hand: Hand) -> None:
    asked = await hand.ask()
    link = await minted(gateway.client, asked, actions=["approve"])
    assert b'value="reject"' not in (await nobody.get(link["url"])).raw
    refused = await nobody.post(link["url"], {"action": "reject", "comment": "x"})
    assert (refused.status, refused.body["errors"][0]["pointer"]) == (422, "/action")
    assert (await nobody.post(link["url"], {"action": "approve"})).status == 200


async def test_an_outsider_fills_a_quorum_only_where_the_pool_names_the_link(
    gateway: Gateway, nobody: Any, hand: Hand, person: Person
) -> None:
    closed = await hand.ask(assignees=ev.Assignees(users=("ann", "bob", "cy")), quorum=ev.Quorum(n=2))
    link = await minted(gateway.client, closed)
    refused = await nobody.post(link["url"], {"action": "approve"})
    assert (refused.status, refused.body["code"]) == (403, "not-assignee")
    pool = ev.Assignees(users=("ann", "link:board"))
    open_ = await hand.ask(name="b", assignees=pool, quorum=ev.Quorum(n=2, of=pool))
    link = await minted(await person("eve"), open_)  # an administrator
    voted = await nobody.post(link["url"], {"action": "approve"})
    assert (voted.status, voted.body["status"]) == (200, "pending")
    assert (await nobody.post(link["url"], {"action": "approve"})).body["replayed"] is True
    other = await nobody.post(link["url"], {"action": "reject", "comment": "x"})
    assert (other.status, other.body["code"]) == (410, "link-used")
    last = await gateway.client.post(f"/api/inbox/{open_}/answer", {"action": "approve"})
    assert [vote["by"] for vote in last.body["settled"]["votes"]] == ["link:board", "user:ann"]


async def test_nobody_fills_a_quorum_by_a_link_of_his_own(
    gateway: Gateway, nobody: Any, hand: Hand, person: Person, log_bytes: LogBytes
) -> None:
    pool = ev.Assignees(users=("ann", "bob", "link:board", "link:lawyer"))
    asked = await hand.ask(assignees=pool, quorum=ev.Quorum(n=2))
    board, lawyer = await minted(gateway.client, asked), await minted(gateway.client, asked, "link:lawyer")
    assert (await nobody.post(board["url"], {"action": "approve"})).body["status"] == "pending"
    before = await log_bytes(hand)
    again = await gateway.client.post(f"/api/inbox/{asked}/answer", {"action": "approve"})
    other = await nobody.post(lawyer["url"], {"action": "approve"})
    more = await gateway.client.post(f"/api/inbox/{asked}/links", {"for": "link:lawyer"})
    for refused in (again, other, more):
        assert (refused.status, refused.body["code"]) == (409, "already-voted")
        assert "action" not in refused.body
    assert await log_bytes(hand) == before
    last = await (await person("bob")).post(f"/api/inbox/{asked}/answer", {"action": "approve"})
    votes = last.body["settled"]["votes"]
    assert [(vote["by"], vote["via"].get("link_by")) for vote in votes] == [
        ("link:board", "user:ann"),
        ("user:bob", None),
    ]


async def test_only_who_may_answer_mints_and_what_is_minted_fits(
    gateway: Gateway, hand: Hand, person: Person, database: Database
) -> None:
    asked = await hand.ask(assignees=ev.Assignees(users=("ann",)))
    eve, blind = await person("eve"), await person("bob", "answer")
    for client, status in ((eve, 403), (blind, 404)):
        assert (await client.post(f"/api/inbox/{asked}/links", {"for": "link:x"})).status == status
    for body, pointer in (
        ({"for": "board"}, "/for"),
        ({}, "/for"),
        ({"for": "link:x", "actions": ["approve", "explode"]}, "/actions/1"),
        ({"for": "link:x", "expires_at": "2020-01-01T00:00:00Z"}, "/expires_at"),
        ({"for": "link:x", "expires_at": "2199-01-01T00:00:00Z"}, "/expires_at"),
    ):
        refused = await gateway.client.post(f"/api/inbox/{asked}/links", body)
        assert (refused.status, refused.body["errors"][0]["pointer"]) == (422, pointer), body
    link = await minted(gateway.client, asked)
    assert (await blind.call("DELETE", f"/api/inbox/{asked}/links/{link['id']}")).status == 404
    other = await hand.ask(name="b")
    assert (await gateway.client.call("DELETE", f"/api/inbox/{other}/links/{link['id']}")).status == 404


@pytest.mark.parametrize("how", ["flipped", "cut", "other revision", "other audience", "other tenant", "no row"])
async def test_a_link_that_was_touched_is_none(
    gateway: Gateway, nobody: Any, hand: Hand, log_bytes: LogBytes, how: str
) -> None:
    asked = await hand.ask()
    made = await minted(gateway.client, asked)
    token = made["url"].removeprefix("/r/")
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    mac, link = raw[:32], msgspec.json.decode(raw[32:], type=Link)
    match how:
        case "flipped":
            raw = bytes([raw[0] ^ 1]) + raw[1:]
        case "cut":
            raw = raw[:-1]
        case "other revision":
            raw = mac + msgspec.json.encode(msgspec.structs.replace(link, revision=2))
        case "other audience":
            raw = mac + msgspec.json.encode(msgspec.structs.replace(link, audience=Principal("user:ann")))
        case "other tenant":
            raw = mac + msgspec.json.encode(msgspec.structs.replace(link, tenant=Tenant("nobody-s")))
        case "no row":
            forged = msgspec.structs.replace(link, id="01990000-0000-7000-8000-000000000000")
            token = await token_of(gateway.app[SECRETS], forged)
            raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        case _:
            raise AssertionError(how)
    before = await log_bytes(hand)
    url = "/r/" + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    for refused in (await nobody.get(url), await nobody.post(url, {"action": "approve"})):
        assert refused.status == 404, how
    assert await log_bytes(hand) == before


@pytest.mark.parametrize("there", ["a tenant without a secret", "no tenant"])
async def test_a_forged_link_writes_nothing(
    gateway: Gateway, nobody: Any, hand: Hand, database: Database, monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    other = Tenant(f"{hand.ref.tenant}-b"[-32:])
    if there == "a tenant without a secret":
        async with database.transaction() as conn:
            await ensure_tenant(conn, other, now=gateway.desk.clock.broker_now())
    made = await minted(gateway.client, await hand.ask())
    raw = base64.urlsafe_b64decode(made["url"].removeprefix("/r/") + "==")
    link = msgspec.structs.replace(msgspec.json.decode(raw[32:], type=Link), tenant=other)
    url = "/r/" + base64.urlsafe_b64encode(raw[:32] + msgspec.json.encode(link)).rstrip(b"=").decode()

    def writing() -> None:
        raise AssertionError("a forgery opens a transaction")

    monkeypatch.setattr(gateway.app[SQL], "writing", writing)
    for refused in (await nobody.get(url), await nobody.post(url, {"action": "approve"})):
        assert refused.status == 404
    async with database.read() as conn:
        assert await secrets_of(conn, other) is None


@pytest.mark.parametrize(
    ("ago", "at_once", "good"),
    [(0.0, False, True), (SPREAD_SECONDS + 5, False, True), (SPREAD_SECONDS + OVERLAP_SECONDS + 5, False, False),
     (0.0, True, False)],
    ids=["not yet signing", "signing", "overlap over", "at once"],
)  # fmt: skip
async def test_a_rotated_secret_leaves_links_and_cursors_good_or_voids_them(
    gateway: Gateway, nobody: Any, hand: Hand, database: Database, ago: float, at_once: bool, good: bool
) -> None:
    asked = await hand.ask()
    before = await minted(gateway.client, asked)
    assert (await gateway.client.post("/api/keys", {"name": "a second"})).status == 201
    page = (await gateway.client.get("/api/keys?limit=1")).body["next"]
    rotated = later(gateway.desk.clock.broker_now(), -ago)
    async with database.transaction() as conn:
        await rotate_secret(conn, hand.ref.tenant, rotated, at_once=at_once)
    gateway.app[SECRETS]._memory.forget(hand.ref.tenant)  # as a minute later
    after = await minted(gateway.client, asked, "link:other")
    assert (await nobody.get(before["url"])).status == (200 if good else 404)
    assert (await nobody.get(after["url"])).status == 200
    assert (await gateway.client.get(f"/api/keys?limit=1&cursor={page}")).status == (200 if good else 400)


async def test_a_proposal_is_edited_in_the_page(gateway: Gateway, nobody: Any, hand: Hand) -> None:
    asked = await hand.ask(proposal="Dear all", editable=("",), response_schema={"type": "array"})
    link = await minted(gateway.client, asked)
    text = (await nobody.get(link["url"])).raw.decode()
    digest = unescape(re.findall(r'name="proposal_digest" value="([^"]+)"', text)[0])
    assert "Answer, as JSON" in text
    broken = await form(nobody, link["url"], action="approve", proposal_digest=digest, payload="[1")
    assert (broken.status, b"/payload" in broken.raw) == (422, True)
    done = await form(nobody, link["url"], action="approve", proposal_digest=digest, payload="[1]", proposal="Dear Bob")
    assert done.status == 200, done.raw
    settled = (await gateway.client.get(f"/api/inbox/{asked}")).body["settled"]
    assert (settled["proposal"], settled["edited"], settled["payload"]) == ("Dear Bob", True, [1])


@pytest.mark.parametrize("text", ["one\r\ntwo\r\n", "one\ntwo", "one\rtwo", "\none\r\n\ntwo"])
async def test_what_a_browser_makes_of_line_ends_is_no_edit(
    gateway: Gateway, nobody: Any, hand: Hand, text: str
) -> None:
    asked = await hand.ask(proposal=text, editable=("",))
    link = await minted(gateway.client, asked)
    page = (await nobody.get(link["url"])).raw.decode()
    digest = unescape(re.findall(r'name="proposal_digest" value="([^"]+)"', page)[0])
    area = re.findall(r'<textarea name="proposal"[^>]*>\n(.*?)</textarea>', page, re.DOTALL)[0]
    sent = re.sub(r"\r\n|\r|\n", "\r\n", unescape(area))  # HTML: a form's values have CR LF
    done = await form(nobody, link["url"], action="approve", proposal_digest=digest, proposal=sent)
    assert done.status == 200
    settled = (await gateway.client.get(f"/api/inbox/{asked}")).body["settled"]
    assert (settled["proposal"], settled.get("edited")) == (text, None)


async def test_a_form_that_is_none_is_refused(gateway: Gateway, nobody: Any, hand: Hand) -> None:
    link = await minted(gateway.client, await hand.ask())
    for raw in (b"action=%ff", b"a=%00", b"\xff", b"action", b"&".join(b"a=1" for _ in range(1001))):
        refused = await nobody.call(
            "POST", link["url"], raw=raw, headers={"Content-Type": "application/x-www-form-urlencoded"}
        )
        assert refused.status == 422, raw[:20]
    wrong = await nobody.call("POST", link["url"], raw=b"{}", headers={"Content-Type": "text/plain"})
    assert wrong.status == 415


async def test_a_link_never_opens_longer_than_its_request(gateway: Gateway, hand: Hand) -> None:
    end = Instant("2099-01-01T00:00:00.000Z")
    open_end = await minted(gateway.client, await hand.ask())
    assert open_end["expires_at"] < end
    soon = gateway.desk.clock.broker_now()[:19]
    until = Instant(f"{int(soon[:4]) + 1}-01-01T00:00:00.000Z")
    asked = await hand.ask(name="b", expires_at=min(until, Instant(open_end["expires_at"])))
    assert (await minted(gateway.client, asked))["expires_at"] <= until
