"""Tenants as operators manage them."""

from typing import Any

from msgspec import Struct
from sqlalchemy import Select, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.core.instant import Instant
from perdure.db.record import record
from perdure.db.schema import tenants
from perdure.errors import NotFound
from perdure.ids import Tenant


class TenantRow(Struct, frozen=True, kw_only=True):
    """A tenant. `disabled_at`: since then none of its keys opens anything."""

    tenant: Tenant
    created_at: Instant
    disabled_at: Instant | None


async def list_tenants(conn: AsyncConnection) -> list[TenantRow]:
    """Every tenant, by name."""
    query: Select[Any] = select(tenants.c.tenant, tenants.c.created_at, tenants.c.disabled_at)
    found = await conn.execute(query.order_by(tenants.c.tenant))
    return [record(row, TenantRow) for row in found.all()]


async def disable_tenant(conn: AsyncConnection, tenant: Tenant, now: Instant) -> None:
    """Close a tenant; again changes nothing. Raises NotFound."""
    if (await conn.execute(select(tenants.c.tenant).where(tenants.c.tenant == tenant))).first() is None:
        raise NotFound("no such tenant")
    open_ = (tenants.c.tenant == tenant, tenants.c.disabled_at.is_(None))
    await conn.execute(update(tenants).where(*open_).values(disabled_at=now))


async def enable_tenant(conn: AsyncConnection, tenant: Tenant) -> None:
    """Open a tenant again."""
    await conn.execute(update(tenants).where(tenants.c.tenant == tenant).values(disabled_at=None))
