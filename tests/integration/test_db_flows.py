"""Flows and versions on both databases."""

import asyncio

import pytest

from perdure.core.instant import Instant
from perdure.db import flows
from perdure.db.engine import Database
from perdure.db.flows import FlowVersion, get_flow, list_flows, list_versions, put_flow
from perdure.db.principals import ensure_tenant
from perdure.errors import Conflict
from perdure.ids import Digest, Principal, Tenant

NOW = Instant("2026-01-01T00:00:00.000Z")
THEN = Instant("2026-01-02T00:00:00.000Z")
ANN, BOB = Principal("user:ann"), Principal("user:bob")
ONE, TWO = Digest("1" * 64), Digest("2" * 64)
MAIN, OTHER = Tenant("main"), Tenant("other")


@pytest.fixture(autouse=True)
async def _tenants(database: Database) -> None:
    async with database.transaction() as conn:
        await ensure_tenant(conn, MAIN, now=NOW)
        await ensure_tenant(conn, OTHER, now=NOW)


async def put(
    database: Database, name: str, digest: Digest, *, tenant: Tenant = MAIN, by: Principal = ANN, now: Instant = NOW
) -> FlowVersion:
    async with database.transaction() as conn:
        return await put_flow(
            conn, tenant, by, name, "graph", f'{{"of": "{digest[0]}"}}', digest,
            now=now, input_schema={"type": "string"}, outputs=("post", "bin"),
        )  # fmt: skip


async def test_a_flow_comes_back_as_it_was_put(database: Database) -> None:
    stored = await put(database, "approval", ONE)
    assert (stored.version, stored.head, stored.digest, stored.definition) == (1, 1, ONE, '{"of": "1"}')
    assert (stored.owner, stored.kind, stored.input_schema) == (ANN, "graph", {"type": "string"})
    assert (stored.outputs, stored.created_at, stored.updated_at) == (("post", "bin"), NOW, NOW)
    async with database.read() as conn:
        assert await get_flow(conn, MAIN, "approval") == stored
        assert await get_flow(conn, MAIN, stored.id) == stored
        assert await get_flow(conn, MAIN, "approval", 1) == stored


async def test_the_same_definition_again_makes_no_version(database: Database) -> None:
    first = await put(database, "approval", ONE)
    assert await put(database, "approval", ONE, now=THEN) == first


async def test_another_definition_is_the_next_version_and_the_first_stays(database: Database) -> None:
    first = await put(database, "approval", ONE)
    second = await put(database, "approval", TWO, by=BOB, now=THEN)
    back = await put(database, "approval", ONE, now=THEN)
    assert [v.version for v in (first, second, back)] == [1, 2, 3]
    assert (second.id, second.owner, second.updated_by, second.created_at, second.updated_at) == (
        first.id, ANN, BOB, NOW, THEN,
    )  # fmt: skip
    async with database.read() as conn:
        old = await get_flow(conn, MAIN, "approval", 1)
        versions = await list_versions(conn, MAIN, first.id)
    assert old is not None
    assert (old.digest, old.head) == (ONE, 3)
    assert [v.digest for v in versions] == [ONE, TWO, ONE]


async def test_a_name_belongs_to_its_tenant(database: Database) -> None:
    mine = await put(database, "approval", ONE)
    theirs = await put(database, "approval", TWO, tenant=OTHER)
    assert mine.id != theirs.id
    async with database.read() as conn:
        assert await get_flow(conn, OTHER, mine.id) is None
        assert await list_versions(conn, OTHER, mine.id) == []
        assert [f.digest for f in (await list_flows(conn, OTHER)).rows] == [TWO]


async def test_what_is_not_there_is_none(database: Database) -> None:
    await put(database, "approval", ONE)
    async with database.read() as conn:
        assert await get_flow(conn, MAIN, "approval", 2) is None
        assert await get_flow(conn, MAIN, "approval", 0) is None
        assert await get_flow(conn, MAIN, "01990000-0000-7000-8000-0000000000f1") is None


async def test_a_name_of_another_kind_is_taken(database: Database) -> None:
    await put(database, "approval", ONE)
    with pytest.raises(Conflict) as refused:
        async with database.transaction() as conn:
            await put_flow(conn, MAIN, ANN, "approval", "python", "{}", TWO, now=NOW)
    assert refused.value.code == "name-taken"


async def test_ten_put_at_once_and_the_versions_are_dense(database: Database) -> None:
    digests = [Digest(f"{n:064x}") for n in range(10)]
    stored = await asyncio.gather(*(put(database, "approval", d) for d in digests))
    assert sorted(v.version for v in stored) == list(range(1, 11))
    assert {v.id for v in stored} == {stored[0].id}


async def test_ten_put_the_same_at_once_and_there_is_one_version(database: Database) -> None:
    stored = await asyncio.gather(*(put(database, "approval", ONE) for _ in range(10)))
    assert {v.version for v in stored} == {1}


async def test_pages_of_flows_hold_each_once_by_name(database: Database) -> None:
    names = [f"flow-{n:02}" for n in range(7)]
    for name in reversed(names):
        await put(database, name, ONE)
    seen: list[str] = []
    after = None
    async with database.read() as conn:
        while True:
            page = await flows.list_flows(conn, MAIN, limit=3, after=after)
            seen += [f.name for f in page.rows]
            if (after := page.next) is None:
                break
    assert seen == names
