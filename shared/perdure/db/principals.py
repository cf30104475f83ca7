"""Tenants and API keys. A key is `pdr_<8 id>_<43 base64url>`: 256 bits, shown once, stored as SHA-256, found by id."""

import hmac
import re
import secrets
import string
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct
from sqlalchemy import Row, Select, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.core.instant import Instant
from perdure.db.record import record
from perdure.db.schema import api_keys, insert, tenants
from perdure.errors import Conflict, Malformed, NotFound
from perdure.ids import Principal, Tenant, is_token

KEY: Final = re.compile(r"pdr_([a-z0-9]{8})_[A-Za-z0-9_-]{43}", re.ASCII)
RESERVED: Final = Tenant("canary")  # the supervisor's own: followers and projector ignore it
FIRST: Final = Principal("service:first")
_ID_LETTERS: Final = string.ascii_lowercase + string.digits

KeyKind = Literal["user", "service"]


class KeyRow(Struct, frozen=True, kw_only=True):
    """An API key as it is stored; `hash` is SHA-256 of the whole key, hex. `scopes` only narrow; none: not at all."""

    id: str
    tenant: Tenant
    principal: Principal
    kind: KeyKind
    hash: str
    scopes: tuple[str, ...]
    created_at: Instant
    expires_at: Instant | None
    last_used_at: Instant | None
    revoked_at: Instant | None
    tenant_disabled_at: Instant | None

    def opens(self, secret: str, now: Instant) -> bool:
        """Whether `secret` is this key and still good: compared in constant time, not revoked, not expired."""
        return hmac.compare_digest(self.hash, hash_key(secret)) and self.good(now)

    def good(self, now: Instant) -> bool:
        """Whether it opens anything: it was neither revoked, nor has it expired, nor was its tenant disabled."""
        good = self.revoked_at is None and self.tenant_disabled_at is None
        return good and (self.expires_at is None or self.expires_at > now)


def new_key() -> str:
    """A new API key, to be shown once."""
    return f"pdr_{''.join(secrets.choice(_ID_LETTERS) for _ in range(8))}_{secrets.token_urlsafe(32)}"


def key_id(secret: str) -> str | None:
    """The id inside a key, None for what is no key."""
    match = KEY.fullmatch(secret)
    return None if match is None else match[1]


def hash_key(secret: str) -> str:
    """What is stored of a key."""
    return sha256(secret.encode()).hexdigest()


async def ensure_tenant(conn: AsyncConnection, tenant: Tenant, *, now: Instant) -> None:
    """Make `tenant` when there is none. Raises Malformed for a name that is no token, or reserved."""
    if not is_token(tenant) or tenant == RESERVED:
        raise Malformed("not a tenant's name")
    await conn.execute(insert(conn, tenants).values(tenant=tenant, created_at=now).on_conflict_do_nothing())


async def known_tenants(conn: AsyncConnection, wanted: Sequence[Tenant]) -> set[Tenant]:
    """Those of `wanted` that exist."""
    found = await conn.execute(select(tenants.c.tenant).where(tenants.c.tenant.in_(wanted)))
    return {Tenant(row.tenant) for row in found}


async def ensure_first_key(
    conn: AsyncConnection, tenant: Tenant, secret: str | None = None, *, now: Instant, principal: Principal = FIRST
) -> str | None:
    """Make the tenant and its first key, `secret` or a new one, and return it; None when the tenant has a key already.

    Needs a transaction; services that start at once make one key between them. Raises Malformed when `secret` is none.
    """
    if secret is not None and key_id(secret) is None:
        raise Malformed("not an API key (pdr_<8 id>_<43 base64url>)")
    await ensure_tenant(conn, tenant, now=now)
    await conn.execute(select(tenants.c.tenant).where(tenants.c.tenant == tenant).with_for_update())
    if (await conn.execute(select(api_keys.c.id).where(api_keys.c.tenant == tenant).limit(1))).first() is not None:
        return None
    return await create_key(conn, tenant, principal, secret, now=now)


async def create_key(
    conn: AsyncConnection,
    tenant: Tenant,
    principal: Principal,
    secret: str | None = None,
    *,
    now: Instant,
    scopes: Sequence[str] = (),
    expires_at: Instant | None = None,
    name: str | None = None,
) -> str:
    """A key of `principal` (`user:<name>` or `service:<name>`); the return value is the only time it is seen.

    Raises Malformed for a principal or a `secret` that is none, Conflict(`in-use`) when the key's id is taken.
    """
    secret = new_key() if secret is None else secret
    kind, _, who = principal.partition(":")
    own_id = key_id(secret)
    if own_id is None or kind not in ("user", "service") or not who:
        raise Malformed("not a principal, or not an API key")
    narrowed = msgspec.json.encode(list(scopes)).decode()
    row = {"id": own_id, "tenant": tenant, "principal": principal, "kind": kind, "hash": hash_key(secret)}
    made = insert(conn, api_keys).values(**row, scopes=narrowed, created_at=now, expires_at=expires_at, name=name)
    made = made.on_conflict_do_nothing()
    if (await conn.execute(made.returning(api_keys.c.id))).first() is None:
        raise Conflict("in-use", f"there is a key {own_id}")
    return secret


async def find_key(conn: AsyncConnection, key_id: str) -> KeyRow | None:
    """The key of that id, good or not: ask `opens`. None when there is none."""
    columns = [c for c in api_keys.c if c.name in KeyRow.__struct_fields__]
    query: Select[Any] = select(*columns, tenants.c.disabled_at.label("tenant_disabled_at")).join(tenants)
    found = (await conn.execute(query.where(api_keys.c.id == key_id))).first()
    return None if found is None else _key(found)


async def scopes_of(conn: AsyncConnection, tenant: Tenant, principal: Principal, now: Instant) -> list[tuple[str, ...]]:
    """The scopes of each good key of `principal` (none of them: no narrowing). Empty: it has no good key."""
    query: Select[Any] = select(api_keys.c.scopes).join(tenants).where(tenants.c.disabled_at.is_(None))
    query = query.where(api_keys.c.tenant == tenant, api_keys.c.principal == principal, api_keys.c.revoked_at.is_(None))
    good = or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > now)
    found = (await conn.execute(query.where(good))).all()
    return [msgspec.json.decode(row.scopes, type=tuple[str, ...]) for row in found]


async def note_use(conn: AsyncConnection, key_id: str, now: Instant) -> None:
    """Note when a key was last used. Not for every call: the gateway keeps keys in memory."""
    await conn.execute(update(api_keys).where(api_keys.c.id == key_id).values(last_used_at=now))


async def revoke_key(conn: AsyncConnection, tenant: Tenant, key_id: str, now: Instant) -> None:
    """End a key; again changes nothing. Raises NotFound when the tenant has no such key."""
    mine = (api_keys.c.id == key_id, api_keys.c.tenant == tenant)
    if (await conn.execute(select(api_keys.c.id).where(*mine))).first() is None:
        raise NotFound("no such key")
    await conn.execute(update(api_keys).where(*mine, api_keys.c.revoked_at.is_(None)).values(revoked_at=now))


def _key(found: Row[Any]) -> KeyRow:
    return record(found, KeyRow, json=("scopes",))
