"""Keys as their owners manage them: list, rename by rotation, end. What a key opens is in `principals`."""

from typing import Any, Final

from msgspec import Struct
from sqlalchemy import Select, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.core.instant import Instant, later
from perdure.db.page import Page, PageKey, keyset
from perdure.db.principals import KeyKind, create_key
from perdure.db.record import record
from perdure.db.schema import api_keys
from perdure.errors import Conflict, NotFound
from perdure.ids import Principal, Tenant

OVERLAP_SECONDS: Final = 86_400.0  # a rotated key stays good for so long


class KeyInfo(Struct, frozen=True, kw_only=True):
    """A key without what opens it."""

    id: str
    principal: Principal
    kind: KeyKind
    name: str | None
    scopes: tuple[str, ...]
    created_at: Instant
    expires_at: Instant | None
    last_used_at: Instant | None
    revoked_at: Instant | None


_COLUMNS: Final = tuple(api_keys.c[name] for name in KeyInfo.__struct_fields__)


async def list_keys(
    conn: AsyncConnection, tenant: Tenant, principal: Principal | None, *, limit: int, after: PageKey | None = None
) -> Page[KeyInfo]:
    """A page of a tenant's keys, or of one principal's, the youngest first; revoked ones too."""
    query: Select[Any] = select(*_COLUMNS).where(api_keys.c.tenant == tenant)
    if principal is not None:
        query = query.where(api_keys.c.principal == principal)
    query = keyset(query, api_keys.c.created_at, api_keys.c.id, descending=True, limit=limit, after=after)
    rows = tuple(record(found, KeyInfo, json=("scopes",)) for found in (await conn.execute(query)).all())
    if len(rows) <= limit:
        return Page(rows)
    return Page(rows[:limit], (rows[limit - 1].created_at, rows[limit - 1].id))


async def get_key(conn: AsyncConnection, tenant: Tenant, key_id: str) -> KeyInfo:
    """One key of a tenant. Raises NotFound."""
    query: Select[Any] = select(*_COLUMNS).where(api_keys.c.tenant == tenant, api_keys.c.id == key_id)
    found = (await conn.execute(query)).first()
    if found is None:
        raise NotFound("no such key")
    return record(found, KeyInfo, json=("scopes",))


async def rotate_key(conn: AsyncConnection, tenant: Tenant, key_id: str, now: Instant) -> str:
    """A new key like that one, which itself ends OVERLAP_SECONDS from now, or before if it was to. Needs a transaction.

    Raises NotFound, Conflict (`key-ended`) for one that is no longer good.
    """
    old = await get_key(conn, tenant, key_id)
    if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= now):
        raise Conflict("key-ended", "the key is no longer good: make a new one")
    secret = await create_key(
        conn, tenant, old.principal, now=now, scopes=old.scopes, expires_at=old.expires_at, name=old.name
    )
    end = later(now, OVERLAP_SECONDS)
    if old.expires_at is None or old.expires_at > end:
        same = (api_keys.c.tenant == tenant, api_keys.c.id == key_id)
        await conn.execute(update(api_keys).where(*same).values(expires_at=end))
    return secret
