"""Keys over HTTP: made and shown once, narrowed, rotated with an overlap, revoked everywhere at once."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from perdure.bus.audit import Record
from perdure.core.instant import later, seconds_between
from perdure.db.engine import Database
from perdure.db.keys import OVERLAP_SECONDS
from perdure.db.principals import create_key, ensure_tenant, find_key, key_id
from perdure.ids import Principal, Tenant
from perdure_gateway.policy import SCOPES

Gateway = Any  # the conftest's
StartGateway = Callable[..., Awaitable[Any]]
Audited = Callable[[int], Awaitable[list[Record]]]


async def with_key(gateway: Gateway, secret: str, method: str, path: str, body: Any = None, **headers: str) -> Any:
    return await gateway.client.call(method, path, body, headers={"Authorization": f"Bearer {secret}", **headers})


async def made(gateway: Gateway, **members: Any) -> Any:
    answer = await gateway.client.post("/api/keys", {"name": "ci"} | members)
    assert answer.status == 201, answer.raw
    return answer.body


async def test_a_key_is_shown_once_and_works(gateway: Gateway) -> None:
    key = await made(gateway, name="deploys", service="ci", scopes=["read", "execute"])
    assert key["name"] == "deploys"
    assert (key["principal"], key["kind"], key["scopes"]) == ("service:ci", "service", ["execute", "read"])
    who = await with_key(gateway, key["secret"], "GET", "/api/whoami")
    assert (who.body["principal"], who.body["key_id"]) == ("service:ci", key["id"])
    listed = await gateway.client.get("/api/keys")
    assert {row["id"] for row in listed.body["data"]} >= {key["id"]}
    assert b"secret" not in listed.raw
    assert b"hash" not in listed.raw
    mine = await gateway.client.get("/api/keys?mine=true")
    assert {row["principal"] for row in mine.body["data"]} == {"user:ann"}


async def test_scopes_only_narrow(gateway: Gateway) -> None:
    hand = await gateway.submit()
    job = f"/api/jobs/{hand.ref.job}"
    reader = (await made(gateway, scopes=["read"]))["secret"]
    assert (await with_key(gateway, reader, "GET", job)).status == 200
    for method, path, body in (
        ("POST", "/api/jobs", {"flow": "echo", "input": "x"}),
        ("POST", job + "/cancel", {}),
        ("DELETE", job, None),
        ("POST", job + "/signals/x", {}),
        ("POST", "/api/flows", {"name": "x", "definition": {}}),
        ("GET", "/api/keys", None),
        ("POST", "/api/keys", {"name": "more"}),
    ):
        refused = await with_key(gateway, reader, method, path, body)
        assert (refused.status, refused.body["code"]) == (403, "forbidden"), path
    page = await with_key(gateway, reader, "GET", job + "/events")
    assert page.body["events"][0]["data"]["input"]["withheld"] is True
    assert b"hello" not in page.raw
    seer = (await made(gateway, scopes=["read", "values"]))["secret"]
    assert b"hello" in (await with_key(gateway, seer, "GET", job + "/events")).raw


async def test_without_the_scope_values_nothing_that_users_wrote_is_shown(gateway: Gateway) -> None:
    secret = "canary-4711"
    hand = await gateway.submit(secret)
    await hand.start()
    asked = await hand.ask(proposal=secret, message=secret)
    answer = {"action": "approve", "payload": secret, "comment": secret}
    request = (await gateway.client.get(f"/api/inbox/{asked}")).body
    said = await gateway.client.post(
        f"/api/inbox/{asked}/answer", answer | {"proposal_digest": request["proposal_digest"]}
    )
    assert said.status == 200
    await hand.complete(out=secret)
    job = f"/api/jobs/{hand.ref.job}"
    blind = (await made(gateway, scopes=["read"]))["secret"]
    for path in (job, f"{job}/requests", f"{job}/state", f"{job}/events", f"/api/inbox/{asked}"):
        assert secret.encode() in (await gateway.client.get(path)).raw, path
        shown = await with_key(gateway, blind, "GET", path)
        assert (shown.status, secret.encode() in shown.raw) == (200, False), path
    lines = await with_key(gateway, blind, "GET", f"{job}/events", Accept="application/jsonl")
    assert (lines.status, secret.encode() in lines.raw) == (200, False)
    assert (await with_key(gateway, blind, "GET", f"{job}/blobs/{'0' * 64}")).status == 403


async def test_a_key_gives_no_scope_that_it_does_not_have(gateway: Gateway) -> None:
    admin = (await made(gateway, scopes=["admin", "read"]))["secret"]
    for scopes in ([], ["read", "edit"], list(SCOPES)):
        refused = await with_key(gateway, admin, "POST", "/api/keys", {"name": "x", "scopes": scopes})
        assert (refused.status, refused.body["code"]) == (403, "forbidden"), scopes
    assert (await with_key(gateway, admin, "POST", "/api/keys", {"name": "x", "scopes": ["read"]})).status == 201
    own = key_id(gateway.client.key)
    assert (await with_key(gateway, admin, "POST", f"/api/keys/{own}/rotate")).status == 403  # it is not narrowed


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"name": ""}, "/name"),
        ({"name": "x", "scopes": ["root"]}, "/scopes/0"),
        ({"name": "x", "expires_at": "2001-01-01T00:00:00Z"}, "/expires_at"),
        ({"name": "x", "user": "a b"}, "/user"),
        ({"name": "x", "user": "ann", "service": "ci"}, "/service"),
        ({"name": "x", "tenant": "other"}, "/tenant"),
    ],
)
async def test_a_body_that_does_not_fit_is_refused(gateway: Gateway, members: dict[str, Any], pointer: str) -> None:
    refused = await gateway.client.post("/api/keys", members)
    assert (refused.status, refused.body["errors"][0]["pointer"]) == (422, pointer)


async def test_no_secret_is_ever_repeated(gateway: Gateway) -> None:
    refused = await gateway.client.post("/api/keys", {"name": "x"}, idempotency_key="k")
    assert (refused.status, refused.body["errors"][0]["header"]) == (400, "Idempotency-Key")


async def test_a_rotated_key_stays_good_for_a_day(gateway: Gateway, database: Database) -> None:
    old = await made(gateway, scopes=["read"], service="ci")
    answer = await gateway.client.post(f"/api/keys/{old['id']}/rotate")
    new = answer.body
    assert (answer.status, new["scopes"], new["principal"], new["name"]) == (201, ["read"], "service:ci", "ci")
    for key in (old, new):
        assert (await with_key(gateway, key["secret"], "GET", "/api/whoami")).status == 200
    async with database.read() as conn:
        row = await find_key(conn, old["id"])
    assert row is not None
    assert row.expires_at is not None
    now = gateway.desk.clock.broker_now()
    assert OVERLAP_SECONDS - 60 < seconds_between(now, row.expires_at) <= OVERLAP_SECONDS
    assert not row.opens(old["secret"], later(now, OVERLAP_SECONDS + 1))
    soon = later(now, 600.0)
    short = await made(gateway, expires_at=soon)
    await gateway.client.post(f"/api/keys/{short['id']}/rotate")
    async with database.read() as conn:
        row = await find_key(conn, short["id"])
    assert row is not None
    assert row.expires_at == soon  # rotation lengthens no life
    await gateway.client.call("DELETE", f"/api/keys/{short['id']}")
    ended = await gateway.client.post(f"/api/keys/{short['id']}/rotate")
    assert (ended.status, ended.body["code"]) == (409, "key-ended")


async def test_a_revoked_key_is_refused_by_every_gateway_and_its_streams_end(
    start_gateway: StartGateway, gateway: Gateway, eventually: Callable[..., Awaitable[None]]
) -> None:
    other, hand = await start_gateway(), await gateway.submit()
    key = await made(gateway, scopes=["read"])
    streams = []
    for one in (gateway, other):
        assert (await with_key(one, key["secret"], "GET", "/api/whoami")).status == 200
        bearer = {"Authorization": f"Bearer {key['secret']}"}
        frames = one.client.stream(f"/api/jobs/{hand.ref.job}/events", **bearer)
        assert (await anext(frames)).id == "1"
        streams.append(frames)
    assert (await gateway.client.call("DELETE", f"/api/keys/{key['id']}")).status == 204
    for frames in streams:
        rest = [frame async for frame in frames]
        assert (rest[-1].event, msgspec.json.decode(rest[-1].data)) == ("stream.close", {"reason": "auth"})
    for one in (gateway, other):
        assert (await with_key(one, key["secret"], "GET", "/api/whoami")).status == 401
    assert (await gateway.client.call("DELETE", f"/api/keys/{key['id']}")).status == 204
    assert (await gateway.client.call("DELETE", "/api/keys/aaaaaaaa")).status == 404


async def test_another_tenants_keys_are_not_there(gateway: Gateway, database: Database) -> None:
    now = gateway.desk.clock.broker_now()
    async with database.transaction() as conn:
        await ensure_tenant(conn, Tenant("foreign"), now=now)
        foreign = await create_key(conn, Tenant("foreign"), Principal("user:eve"), now=now)
    own = key_id(foreign)
    assert own is not None
    assert (await gateway.client.call("DELETE", f"/api/keys/{own}")).status == 404
    assert (await gateway.client.post(f"/api/keys/{own}/rotate")).status == 404
    assert own not in {row["id"] for row in (await gateway.client.get("/api/keys")).body["data"]}
    assert (await with_key(gateway, foreign, "GET", "/api/whoami")).body["tenant"] == "foreign"


async def test_what_is_done_to_keys_is_in_the_audit(gateway: Gateway, audited: Audited) -> None:
    key = await made(gateway, service="ci", scopes=["read"])
    rotated = (await gateway.client.post(f"/api/keys/{key['id']}/rotate")).body
    assert (await gateway.client.call("DELETE", f"/api/keys/{key['id']}")).status == 204
    found = await audited(3)
    assert [(r.what, r.object, r.result, r.principal) for r in found] == [
        (what, key["id"], "done", "user:ann") for what in ("key.create", "key.rotate", "key.revoke")
    ]
    assert found[0].facts == {"of": "service:ci", "scopes": ["read"]}
    assert (found[1].facts["made"], found[0].address) == (rotated["id"], "127.0.0.1")
    assert key["secret"].encode() not in msgspec.json.encode(found)
