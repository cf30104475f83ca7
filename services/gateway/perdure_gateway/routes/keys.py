"""API keys: one's own, and for whoever may administer the tenant, everybody's.

A key's scopes only narrow: none of them is no narrowing. Until a tenant has roles, whoever holds a key that is not
narrowed, or has the scope `admin`, administers it. A key can give no scope that it does not have.
"""

from typing import Any, Final

import msgspec
from aiohttp import web

from perdure.core.instant import Instant
from perdure.db.keys import KeyInfo, get_key, list_keys, rotate_key
from perdure.db.principals import create_key, key_id, revoke_key
from perdure.errors import Fault, Forbidden, Invalid, Malformed
from perdure.ids import Principal
from perdure_gateway import answers, bodies
from perdure_gateway.auth import CALLER, Caller
from perdure_gateway.keys import DESK, REVOCATIONS, SQL, TRAIL
from perdure_gateway.policy import Right, op
from perdure_gateway.problems import no_idempotency_key


@op("admin", query=("mine", "limit", "cursor"))
async def index(request: web.Request) -> web.Response:
    """`GET /api/keys`: the tenant's keys without what opens them, the youngest first; `mine=true`: one's own."""
    query = bodies.query(request, "mine", "limit", "cursor")
    caller, mine = request[CALLER], bodies.flag(query, "mine", default=False)
    limit, after = answers.limit(query), await answers.begin(request, "keys", query)
    async with request.app[SQL].reading() as conn:
        found = await list_keys(conn, caller.tenant, caller.principal if mine else None, limit=limit, after=after)
    return await answers.page(request, "keys", query, [_view(row) for row in found.rows], found.next)


@op("admin", body=bodies.KeyBody, answers=(201,))
async def create(request: web.Request) -> web.Response:
    """`POST /api/keys`: 201 with the `secret`, which is shown this once."""
    bodies.query(request)
    no_idempotency_key(request)
    body = await bodies.read(request, bodies.KeyBody)
    caller, now = request[CALLER], request.app[DESK].clock.broker_now()
    if body.expires_at is not None and body.expires_at <= now:
        raise Invalid([Fault("past", "must be in the future", pointer="/expires_at")])
    principal, scopes = _whose(caller, body), _narrowed(caller, body.scopes)
    expires = None if body.expires_at is None else Instant(body.expires_at)
    async with request.app[SQL].writing() as conn:
        secret = await create_key(
            conn, caller.tenant, principal, now=now, scopes=scopes, expires_at=expires, name=body.name
        )
        made = await get_key(conn, caller.tenant, _id(secret))
    request.app[TRAIL].note(request, "key.create", made.id, of=principal, scopes=made.scopes, expires_at=expires)
    return _shown_once(made, secret)


@op("admin", body=bodies.NoBody, optional=True, answers=(201,))
async def rotate(request: web.Request) -> web.Response:
    """`POST /api/keys/{key}/rotate`: 201 with a new key like it; the old one stays good for 24 hours."""
    bodies.query(request)
    no_idempotency_key(request)
    await bodies.read(request, bodies.NoBody, optional=True)
    caller, now = request[CALLER], request.app[DESK].clock.broker_now()
    old = request.match_info["key"]
    async with request.app[SQL].writing() as conn:
        _narrowed(caller, list((await get_key(conn, caller.tenant, old)).scopes))
        secret = await rotate_key(conn, caller.tenant, old, now)
        made = await get_key(conn, caller.tenant, _id(secret))
    await request.app[REVOCATIONS].tell(caller.tenant, "key", old)
    request.app[TRAIL].note(request, "key.rotate", old, of=made.principal, made=made.id)
    return _shown_once(made, secret)


@op("admin", answers=(204,))
async def revoke(request: web.Request) -> web.Response:
    """`DELETE /api/keys/{key}`: 204; every gateway forgets it at once, and its open streams end."""
    bodies.query(request)
    caller, now = request[CALLER], request.app[DESK].clock.broker_now()
    key = request.match_info["key"]
    async with request.app[SQL].writing() as conn:
        await revoke_key(conn, caller.tenant, key, now)
    await request.app[REVOCATIONS].tell(caller.tenant, "key", key)
    request.app[TRAIL].note(request, "key.revoke", key)
    return web.Response(status=204)


def _whose(caller: Caller, body: bodies.KeyBody) -> Principal:
    if body.user is not None and body.service is not None:
        raise Invalid([Fault("two-principals", "either a user or a service", pointer="/service")])
    if body.user is not None:
        return Principal(f"user:{body.user}")
    return caller.principal if body.service is None else Principal(f"service:{body.service}")


def _narrowed(caller: Caller, scopes: list[str] | list[Right]) -> list[str]:
    """The scopes of a new key. Raises Forbidden when the caller's own do not reach so far."""
    if caller.scopes and (not scopes or not caller.scopes.issuperset(scopes)):
        raise Forbidden("a key can give no scope that it does not have")
    return sorted(set(scopes))


def _id(secret: str) -> str:
    own = key_id(secret)
    if own is None:
        raise Malformed("not a key")
    return own


def _shown_once(made: KeyInfo, secret: str) -> web.Response:
    headers = {"Location": f"/api/keys/{made.id}"}
    return answers.respond(_view(made) | {"secret": secret}, 201, headers)


def _view(key: KeyInfo) -> dict[str, Any]:
    members: dict[str, Any] = msgspec.to_builtins(key)
    return {name: value for name, value in members.items() if value is not None}


_KEY: Final = "{key:[a-z0-9]{8}}"
ROUTES: Final = (
    web.get("/api/keys", index, allow_head=False),
    web.post("/api/keys", create),
    web.post(f"/api/keys/{_KEY}/rotate", rotate),
    web.delete(f"/api/keys/{_KEY}", revoke),
)
