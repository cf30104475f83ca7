"""Answer links as they were minted, used and revoked. What one opens stands, signed, in the link itself."""

from typing import Any, Final

import msgspec
from msgspec import Struct
from sqlalchemy import Select, delete, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.core.instant import Instant
from perdure.db.record import record
from perdure.db.schema import answer_links, insert
from perdure.ids import Principal, RequestId, Tenant


class LinkRow(Struct, frozen=True, kw_only=True):
    """A link. `audience`: `user:<name>`, or `link:<label>` for somebody outside; `actions`: none, all of them."""

    tenant: Tenant
    link_id: str
    request_id: RequestId
    revision: int
    audience: Principal
    actions: tuple[str, ...]
    created_at: Instant
    created_by: Principal
    expires_at: Instant
    used_at: Instant | None = None
    revoked_at: Instant | None = None
    revoked_by: Principal | None = None


_COLUMNS: Final = tuple(answer_links.c[name] for name in LinkRow.__struct_fields__)


async def add_link(conn: AsyncConnection, link: LinkRow) -> None:
    """Note a link that is about to be given out. Needs a transaction."""
    values = {name: getattr(link, name) for name in LinkRow.__struct_fields__}
    await conn.execute(insert(conn, answer_links).values(values | {"actions": _json(link.actions)}))


async def get_link(conn: AsyncConnection, tenant: Tenant, link_id: str) -> LinkRow | None:
    """One link of a tenant; None when there is none."""
    query: Select[Any] = select(*_COLUMNS).where(answer_links.c.tenant == tenant, answer_links.c.link_id == link_id)
    found = (await conn.execute(query)).first()
    return None if found is None else record(found, LinkRow, json=("actions",))


async def mark_used(conn: AsyncConnection, tenant: Tenant, link_id: str, now: Instant) -> None:
    """Note that a link's answer is in the log; again changes nothing. Needs a transaction."""
    one = (answer_links.c.tenant == tenant, answer_links.c.link_id == link_id)
    await conn.execute(update(answer_links).where(*one, answer_links.c.used_at.is_(None)).values(used_at=now))


async def revoke_link(conn: AsyncConnection, tenant: Tenant, link_id: str, *, by: Principal, now: Instant) -> None:
    """End a link; again changes nothing. Needs a transaction."""
    one = (answer_links.c.tenant == tenant, answer_links.c.link_id == link_id)
    ended = update(answer_links).where(*one, answer_links.c.revoked_at.is_(None))
    await conn.execute(ended.values(revoked_at=now, revoked_by=by))


async def forget_links(conn: AsyncConnection, before: Instant, *, limit: int) -> int:
    """Forget up to `limit` links that expired before that; how many. Needs a transaction."""
    key = (answer_links.c.tenant, answer_links.c.link_id)
    old = select(*key).where(answer_links.c.expires_at < before).order_by(answer_links.c.expires_at).limit(limit)
    return (await conn.execute(delete(answer_links).where(tuple_(*key).in_(old)))).rowcount


def _json(names: tuple[str, ...]) -> str:
    return msgspec.json.encode(names).decode()
