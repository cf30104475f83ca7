"""Groups of a tenant's principals: who belongs to which."""

from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct
from sqlalchemy import Select, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.core.instant import Instant
from perdure.db.page import Page, PageKey, keyset
from perdure.db.record import record
from perdure.db.schema import group_members, groups, insert
from perdure.ids import Principal, Tenant


class Member(Struct, frozen=True, kw_only=True):
    """One member of a group."""

    principal: Principal
    added_at: Instant
    added_by: Principal


class Group(Struct, frozen=True, kw_only=True):
    """A group with its members, by name. One that has lost its last member stays."""

    name: str
    created_at: Instant
    members: tuple[Member, ...] = ()


_MEMBER: Final = tuple(group_members.c[name] for name in Member.__struct_fields__)


async def groups_of(conn: AsyncConnection, tenant: Tenant, principal: Principal) -> frozenset[str]:
    """The names of the groups that `principal` belongs to now."""
    mine = (group_members.c.tenant == tenant, group_members.c.principal == principal)
    found = await conn.execute(select(group_members.c.group_name).where(*mine))
    return frozenset(row[0] for row in found)


async def add_member(
    conn: AsyncConnection, tenant: Tenant, group: str, principal: Principal, *, by: Principal, now: Instant
) -> bool:
    """Put `principal` into `group`, which is made when there is none; False when it belongs to it already.

    Needs a transaction.
    """
    made = insert(conn, groups).values(tenant=tenant, name=group, created_at=now)
    await conn.execute(made.on_conflict_do_nothing())
    row = {"tenant": tenant, "group_name": group, "principal": principal, "added_at": now, "added_by": by}
    added = insert(conn, group_members).values(row).on_conflict_do_nothing()
    return (await conn.execute(added.returning(group_members.c.principal))).first() is not None


async def remove_member(conn: AsyncConnection, tenant: Tenant, group: str, principal: Principal) -> bool:
    """Take `principal` out of `group`; False when it does not belong to it. Needs a transaction."""
    its = (group_members.c.tenant == tenant, group_members.c.group_name == group)
    gone = delete(group_members).where(*its, group_members.c.principal == principal)
    return (await conn.execute(gone.returning(group_members.c.principal))).first() is not None


async def list_groups(
    conn: AsyncConnection, tenant: Tenant, *, limit: int, after: PageKey | None = None
) -> Page[Group]:
    """A page of a tenant's groups, by name, with their members."""
    query: Select[Any] = select(groups.c.name, groups.c.created_at).where(groups.c.tenant == tenant)
    query = keyset(query, groups.c.name, groups.c.name, descending=False, limit=limit, after=after)
    rows = (await conn.execute(query)).all()
    shown = [row.name for row in rows[:limit]]
    members = await _members(conn, tenant, shown)
    found = tuple(Group(name=r.name, created_at=r.created_at, members=members.get(r.name, ())) for r in rows[:limit])
    return Page(found) if len(rows) <= limit else Page(found, (shown[-1], shown[-1]))


async def _members(conn: AsyncConnection, tenant: Tenant, names: Sequence[str]) -> dict[str, tuple[Member, ...]]:
    theirs = (group_members.c.tenant == tenant, group_members.c.group_name.in_(names))
    query: Select[Any] = select(group_members.c.group_name, *_MEMBER).where(*theirs)
    found: dict[str, tuple[Member, ...]] = {}
    for row in await conn.execute(query.order_by(group_members.c.group_name, group_members.c.principal)):
        found[row.group_name] = (*found.get(row.group_name, ()), record(row, Member))
    return found
