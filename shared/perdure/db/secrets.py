"""Secrets of tenants: 32 random bytes that sign what goes out and comes back (links, cursors of lists).

They never leave the services.
"""

from secrets import token_hex
from typing import Any

from sqlalchemy import Select, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.db.schema import tenants
from perdure.errors import NotFound
from perdure.ids import Tenant


async def secret_of(conn: AsyncConnection, tenant: Tenant) -> bytes | None:
    """The tenant's secret; None when it has none yet, or there is no such tenant."""
    query: Select[Any] = select(tenants.c.secret).where(tenants.c.tenant == tenant)
    found = (await conn.execute(query)).first()
    return None if found is None or found.secret is None else bytes.fromhex(found.secret)


async def make_secret(conn: AsyncConnection, tenant: Tenant) -> bytes:
    """The tenant's secret, made when it has none; several at once make one. Needs a transaction. Raises NotFound."""
    mine = tenants.c.tenant == tenant
    await conn.execute(update(tenants).where(mine, tenants.c.secret.is_(None)).values(secret=token_hex(32)))
    found = await secret_of(conn, tenant)
    if found is None:
        raise NotFound("no such tenant")
    return found
