"""Secrets of tenants: 32 random bytes that sign what goes out and comes back (links, cursors of lists).

They never leave the services. Gateways read them anew once a minute, so a new one is known to all of them before any
signs with it, and what the one before has signed stays good as long as a link may last:

    rotated ──── SPREAD ────► the new one signs ──── OVERLAP ────► the one before is good no more
"""

from secrets import token_hex
from typing import Any, Final

from msgspec import Struct
from sqlalchemy import Select, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.core.instant import Instant, later
from perdure.db.schema import tenants
from perdure.errors import Conflict, NotFound
from perdure.ids import Tenant

SPREAD_SECONDS: Final = 120.0  # more than a gateway takes what it has read for fresh
OVERLAP_SECONDS: Final = 90 * 86_400.0  # a link's longest life


class TenantSecrets(Struct, frozen=True, kw_only=True):
    """The secrets of a tenant that are good, as far as time allows."""

    secret: bytes
    signs_at: Instant | None = None  # None: it is the first
    before: bytes | None = None
    before_until: Instant | None = None

    def signing(self, now: Instant) -> bytes:
        """The one that signs at `now`."""
        if self.before is not None and self.signs_at is not None and now < self.signs_at:
            return self.before
        return self.secret

    def good(self, now: Instant) -> tuple[bytes, ...]:
        """Those whose signatures are taken at `now`."""
        if self.before is not None and self.before_until is not None and now < self.before_until:
            return self.secret, self.before
        return (self.secret,)


async def secrets_of(conn: AsyncConnection, tenant: Tenant) -> TenantSecrets | None:
    """The tenant's secrets; None when it has none yet, or there is no such tenant."""
    t = tenants.c
    query: Select[Any] = select(t.secret, t.secret_signs_at, t.secret_before, t.secret_before_until)
    found = (await conn.execute(query.where(t.tenant == tenant))).first()
    if found is None or found.secret is None:
        return None
    return TenantSecrets(
        secret=bytes.fromhex(found.secret),
        signs_at=found.secret_signs_at,
        before=None if found.secret_before is None else bytes.fromhex(found.secret_before),
        before_until=found.secret_before_until,
    )


async def make_secret(conn: AsyncConnection, tenant: Tenant) -> TenantSecrets:
    """The tenant's secrets, the first made now when it has none, once. Needs a transaction. Raises NotFound."""
    none = (tenants.c.tenant == tenant, tenants.c.secret.is_(None))
    await conn.execute(update(tenants).where(*none).values(secret=token_hex(32)))
    found = await secrets_of(conn, tenant)
    if found is None:
        raise NotFound("no such tenant")
    return found


async def rotate_secret(conn: AsyncConnection, tenant: Tenant, now: Instant, *, at_once: bool = False) -> TenantSecrets:
    """Give the tenant a new secret. What was signed before stays good for OVERLAP_SECONDS; `at_once`: is void.

    Needs a transaction. Raises NotFound, and Conflict (`secret-overlaps`) while one before is still good.
    """
    await conn.execute(select(tenants.c.tenant).where(tenants.c.tenant == tenant).with_for_update())
    found = await make_secret(conn, tenant)
    if not at_once and len(found.good(now)) > 1:
        raise Conflict("secret-overlaps", f"the secret before this one is good until {found.before_until}")
    signs_at = now if at_once else later(now, SPREAD_SECONDS)
    values = {
        "secret": token_hex(32),
        "secret_signs_at": signs_at,
        "secret_before": None if at_once else found.secret.hex(),
        "secret_before_until": None if at_once else later(signs_at, OVERLAP_SECONDS),
    }
    await conn.execute(update(tenants).where(tenants.c.tenant == tenant).values(values))
    return await make_secret(conn, tenant)
