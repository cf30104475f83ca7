"""Groups and answer links in SQL, on both databases."""

from msgspec.structs import replace

from perdure.core.instant import Instant, later
from perdure.db.engine import Database
from perdure.db.groups import add_member, groups_of, list_groups, remove_member
from perdure.db.links import LinkRow, add_link, forget_links, get_link, mark_used, revoke_link
from perdure.db.principals import ensure_tenant
from perdure.ids import Principal, RequestId, Tenant

NOW = Instant("2026-01-01T00:00:00.000Z")
LATER = Instant("2026-01-02T00:00:00.000Z")
ANN, BOB = Principal("user:ann"), Principal("user:bob")


async def test_members_come_and_go_and_belong_to_one_tenant(database: Database, tenant: Tenant) -> None:
    other = Tenant("other")
    async with database.transaction() as conn:
        for each in (tenant, other):
            await ensure_tenant(conn, each, now=NOW)
        assert await add_member(conn, tenant, "finance", BOB, by=ANN, now=NOW)
        assert not await add_member(conn, tenant, "finance", BOB, by=BOB, now=LATER)
        assert await add_member(conn, tenant, "leads", BOB, by=ANN, now=NOW)
        assert await add_member(conn, other, "finance", ANN, by=ANN, now=NOW)
    async with database.transaction() as conn:
        assert await groups_of(conn, tenant, BOB) == {"finance", "leads"}
        assert await groups_of(conn, tenant, ANN) == set()
        assert not await remove_member(conn, tenant, "finance", ANN)
        assert await remove_member(conn, tenant, "finance", BOB)
        assert not await remove_member(conn, tenant, "finance", BOB)
        assert await groups_of(conn, tenant, BOB) == {"leads"}
        [first, second] = (await list_groups(conn, tenant, limit=10)).rows
    assert (first.name, first.members) == ("finance", ())
    assert [(m.principal, m.added_by, m.added_at) for m in second.members] == [(BOB, ANN, NOW)]


async def test_groups_come_in_pages(database: Database, tenant: Tenant) -> None:
    async with database.transaction() as conn:
        await ensure_tenant(conn, tenant, now=NOW)
        for name in ("a", "b", "c"):
            await add_member(conn, tenant, name, BOB, by=ANN, now=NOW)
        first = await list_groups(conn, tenant, limit=2)
        last = await list_groups(conn, tenant, limit=2, after=first.next)
    assert [[g.name for g in page.rows] for page in (first, last)] == [["a", "b"], ["c"]]
    assert last.next is None


def a_link(tenant: Tenant, number: int = 9) -> LinkRow:
    return LinkRow(
        tenant=tenant,
        link_id=f"01990000-0000-7000-8000-{number:012}",
        request_id=RequestId("01990000-0000-7000-8000-000000000001_3"),
        revision=2,
        audience=Principal("link:board"),
        actions=("approve",),
        created_at=NOW,
        created_by=ANN,
        expires_at=LATER,
    )


async def test_a_link_is_used_once_and_ended_once(database: Database, tenant: Tenant) -> None:
    link = a_link(tenant)
    async with database.transaction() as conn:
        await ensure_tenant(conn, tenant, now=NOW)
        await add_link(conn, link)
        assert await get_link(conn, tenant, link.link_id) == link
        assert await get_link(conn, Tenant("other"), link.link_id) is None
        for at in (NOW, LATER):
            await mark_used(conn, tenant, link.link_id, at)
            await revoke_link(conn, tenant, link.link_id, by=BOB if at == NOW else ANN, now=at)
        found = await get_link(conn, tenant, link.link_id)
    assert found == replace(link, used_at=NOW, revoked_at=NOW, revoked_by=BOB)


async def test_the_links_that_expired_first_are_forgotten_and_no_others(database: Database, tenant: Tenant) -> None:
    async with database.transaction() as conn:
        await ensure_tenant(conn, tenant, now=NOW)
        for number in range(5):
            await add_link(conn, replace(a_link(tenant, number), expires_at=later(NOW, number)))
        await mark_used(conn, tenant, a_link(tenant, 4).link_id, NOW)
        assert await forget_links(conn, NOW, limit=9) == 0
        assert await forget_links(conn, later(NOW, 3), limit=2) == 2
        left = [n for n in range(5) if await get_link(conn, tenant, a_link(tenant, n).link_id) is not None]
        assert left == [2, 3, 4]
        assert await forget_links(conn, later(NOW, 3), limit=2) == 1
        assert await forget_links(conn, later(NOW, 3), limit=2) == 0
