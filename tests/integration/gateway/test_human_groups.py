"""Groups over HTTP: who belongs to one is looked up when the answer comes, in every gateway, with SQL away as well."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from perdure.bus.audit import Record
from perdure.clock import SystemClock
from perdure.core import event as ev
from perdure.db.engine import Database, open_database
from perdure.db.groups import add_member
from perdure.db.migrate import upgrade
from perdure.db.principals import create_key, ensure_tenant
from perdure.ids import Principal, Tenant
from perdure.testing.hand import Hand
from perdure.testing.postgres import PostgresServer

Gateway = Any  # the conftest's
Person = Callable[..., Awaitable[Any]]
Audited = Callable[[int], Awaitable[list[Record]]]
Eventually = Callable[..., Awaitable[None]]
Start = Callable[..., Awaitable[Gateway]]
LEADS = ev.Assignees(groups=("leads",))


async def put(client: Any, group: str, who: str, method: str = "PUT") -> Any:
    return await client.call(method, f"/api/groups/{group}/members/{who}")


async def test_members_come_and_go(gateway: Gateway, person: Person, audited: Audited) -> None:
    client = gateway.client
    assert (await client.get("/api/groups")).body == {"data": []}
    for _ in range(2):
        assert (await put(client, "leads", "user:bob")).status == 204
    assert (await put(client, "leads", "service:ci")).status == 204
    [group] = (await client.get("/api/groups")).body["data"]
    assert (group["name"], [m["principal"] for m in group["members"]]) == ("leads", ["service:ci", "user:bob"])
    assert (await (await person("bob")).get("/api/whoami")).body["groups"] == ["leads"]
    assert (await put(client, "leads", "service:ci", "DELETE")).status == 204
    assert (await put(client, "leads", "service:ci", "DELETE")).status == 404
    found = [(r.what, r.object, r.facts["member"]) for r in await audited(3)]
    assert found == [
        ("group.add", "leads", "user:bob"),
        ("group.add", "leads", "service:ci"),
        ("group.remove", "leads", "service:ci"),
    ]


@pytest.mark.parametrize(
    "path", ["a/members/bob", "a/members/link:x", "a/members/user:", "-/members/user:b", "a%2Fb/members/user:b"]
)
async def test_what_is_no_group_or_no_principal_is_not_there(gateway: Gateway, path: str) -> None:
    assert (await gateway.client.call("PUT", f"/api/groups/{path}")).status == 404


async def test_groups_are_changed_by_administrators_and_belong_to_their_tenant(
    gateway: Gateway, person: Person, database: Database
) -> None:
    bob = await person("bob", "read", "answer")
    assert (await put(bob, "leads", "user:bob")).status == 403
    assert (await put(bob, "leads", "user:bob", "DELETE")).status == 403
    assert (await put(gateway.client, "leads", "user:bob")).status == 204
    now = SystemClock().broker_now()
    async with database.transaction() as conn:
        await ensure_tenant(conn, Tenant("elsewhere"), now=now)
        foreign = await create_key(conn, Tenant("elsewhere"), Principal("user:bob"), now=now)
    stranger = gateway.client.using(foreign)
    assert (await stranger.get("/api/groups")).body == {"data": []}
    assert (await put(stranger, "leads", "user:bob", "DELETE")).status == 404
    assert (await stranger.get("/api/whoami")).body["groups"] == []


async def test_who_belongs_to_a_group_is_looked_up_when_the_answer_comes(
    gateway: Gateway, hand: Hand, person: Person
) -> None:
    bob = await person("bob", "answer")
    asked = await hand.ask(assignees=LEADS)
    path, body = f"/api/inbox/{asked}/answer", {"action": "approve"}
    assert (await bob.post(path, body)).status == 404
    await put(gateway.client, "leads", "user:bob")
    assert (await bob.get(f"/api/inbox/{asked}")).status == 200
    await put(gateway.client, "leads", "user:bob", "DELETE")
    assert (await bob.post(path, body)).status == 404
    await put(gateway.client, "leads", "user:bob")
    assert (await bob.post(path, body)).status == 200


async def test_another_gateway_hears_of_it_at_once(
    gateway: Gateway, start_gateway: Start, hand: Hand, person: Person, eventually: Eventually
) -> None:
    other = await start_gateway()
    bob = await person("bob", "read", "answer", at=other)
    await put(gateway.client, "leads", "user:bob")
    asked = await hand.ask(assignees=LEADS)
    assert (await bob.get("/api/whoami")).body["groups"] == ["leads"]
    await put(gateway.client, "leads", "user:bob", "DELETE")

    async def heard() -> bool:
        return bool((await bob.get("/api/whoami")).body["groups"] == [])

    await eventually(heard, within_seconds=5)
    refused = await bob.post(f"/api/inbox/{asked}/answer", {"action": "approve"})
    assert (refused.status, refused.body["code"]) == (403, "not-assignee")


# ---------------------------------------------------------------------------------------------- without SQL


@pytest.fixture
async def own_database(own_postgres: PostgresServer, tenant: Tenant, key: str) -> AsyncIterator[Database]:
    """A database that a test may stop; it knows ann's key, and that bob leads."""
    await asyncio.to_thread(upgrade, own_postgres.url())
    async with open_database(own_postgres.url()) as database:
        now = SystemClock().broker_now()
        async with database.transaction() as conn:
            await ensure_tenant(conn, tenant, now=now)
            await create_key(conn, tenant, Principal("user:ann"), key, now=now)
            await add_member(conn, tenant, "leads", Principal("user:bob"), by=Principal("user:ann"), now=now)
        yield database


@pytest.mark.parametrize("dialect", ["sqlite"])
async def test_without_sql_answers_go_on_for_those_who_are_in_memory(
    start_gateway: Start, own_database: Database, own_postgres: PostgresServer, tenant: Tenant, dialect: str
) -> None:
    gateway = await start_gateway(on=own_database)
    now, client = SystemClock().broker_now(), gateway.client
    flow = {
        "format": "perdure.graph/1",
        "name": "echo",
        "nodes": [{"id": "brief", "component": "chat_input"}, {"id": "out", "component": "text_output"}],
        "edges": [{"from": "brief.text", "to": "out.text"}],
    }
    assert (await client.post("/api/flows", {"name": "echo", "definition": flow})).status == 201
    async with own_database.transaction() as conn:
        bob = client.using(await create_key(conn, tenant, Principal("user:bob"), now=now))
        cy = client.using(await create_key(conn, tenant, Principal("user:cy"), now=now))
    hand: Hand = await gateway.submit()
    await hand.start()
    asked = {name: await hand.ask(name=name, assignees=LEADS) for name in ("one", "two")}
    free, link_to = await hand.ask(name="free"), await hand.ask(name="linked")
    link = (await client.post(f"/api/inbox/{link_to}/links", {"for": "link:board"})).body["url"]
    assert (await bob.get("/api/whoami")).body["groups"] == ["leads"]
    key_only = cy  # its key is known, its groups are not
    assert (await key_only.get("/livez")).status == 200
    assert (await key_only.get(f"/api/jobs/{hand.ref.job}")).status == 200
    own_postgres.stop()
    try:
        assert (await bob.post(f"/api/inbox/{asked['one']}/answer", {"action": "approve"})).status == 200
        unknown = await key_only.post(f"/api/inbox/{asked['two']}/answer", {"action": "approve"})
        assert (unknown.status, unknown.body["code"]) == (503, "unavailable")  # neither yes nor no
        assert (await key_only.post(f"/api/inbox/{free}/answer", {"action": "approve"})).status == 200
        nobody = client.using("")
        for refused in (
            await client.get("/api/inbox"),
            await client.get("/api/inbox/counts"),
            await client.get("/api/groups"),
            await put(client, "leads", "user:cy"),
            await client.post(f"/api/inbox/{link_to}/links", {"for": "link:x"}),
            await nobody.get(link, Accept="application/json"),
            await nobody.post(link, {"action": "approve"}),
        ):
            assert (refused.status, refused.body["code"]) == (503, "unavailable"), refused.raw
    finally:
        own_postgres.start()
