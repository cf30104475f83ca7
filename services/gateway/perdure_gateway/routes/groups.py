"""Groups: who belongs to which. Requests name groups; who belongs to them is looked up when an answer comes."""

from typing import Any, Final

import msgspec
from aiohttp import web

from perdure.db.groups import add_member, list_groups, remove_member
from perdure.errors import NotFound
from perdure.ids import Principal
from perdure_gateway import answers, bodies
from perdure_gateway.auth import CALLER
from perdure_gateway.keys import DESK, REVOCATIONS, SQL, TRAIL
from perdure_gateway.policy import op


@op(("read", "admin"), query=("limit", "cursor"))
async def index(request: web.Request) -> web.Response:
    """`GET /api/groups`: the tenant's groups with their members, by name."""
    query = bodies.query(request, "limit", "cursor")
    limit, after = answers.limit(query), await answers.begin(request, "groups", query)
    async with request.app[SQL].reading() as conn:
        found = await list_groups(conn, request[CALLER].tenant, limit=limit, after=after)
    rows: list[Any] = [msgspec.to_builtins(row) for row in found.rows]
    return await answers.page(request, "groups", query, rows, found.next)


@op("admin", answers=(204,))
async def add(request: web.Request) -> web.Response:
    """`PUT /api/groups/{group}/members/{principal}`: 204; a group that nobody has named before is made."""
    bodies.query(request)
    caller, group, who = request[CALLER], request.match_info["group"], Principal(request.match_info["principal"])
    now = request.app[DESK].clock.broker_now()
    async with request.app[SQL].writing() as conn:
        added = await add_member(conn, caller.tenant, group, who, by=caller.principal, now=now)
    if added:
        await _told(request, "group.add", group, who)
    return web.Response(status=204)


@op("admin", answers=(204,))
async def remove(request: web.Request) -> web.Response:
    """`DELETE /api/groups/{group}/members/{principal}`: 204; from now on no gateway counts it among the group."""
    bodies.query(request)
    caller, group, who = request[CALLER], request.match_info["group"], Principal(request.match_info["principal"])
    async with request.app[SQL].writing() as conn:
        if not await remove_member(conn, caller.tenant, group, who):
            raise NotFound("no such member")
    await _told(request, "group.remove", group, who)
    return web.Response(status=204)


async def _told(request: web.Request, what: str, group: str, who: Principal) -> None:
    """After the commit: every gateway reads that principal's groups anew."""
    await request.app[REVOCATIONS].tell(request[CALLER].tenant, "member", who)
    request.app[TRAIL].note(request, what, group, member=who)


_NAME: Final = "[A-Za-z0-9][A-Za-z0-9._@+-]{0,126}"
_MEMBER: Final = f"/api/groups/{{group:{_NAME}}}/members/{{principal:(?:user|service):{_NAME}}}"
ROUTES: Final = (
    web.get("/api/groups", index, allow_head=False),
    web.put(_MEMBER, add),
    web.delete(_MEMBER, remove),
)
