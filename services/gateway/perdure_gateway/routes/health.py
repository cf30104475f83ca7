"""Whether this gateway is well, and who one is to it."""

import contextlib
from typing import Any, Final

from aiohttp import web

from perdure.errors import Unavailable
from perdure_gateway import answers, bodies
from perdure_gateway.auth import CALLER
from perdure_gateway.keys import MEMBERSHIPS, SERVICE
from perdure_gateway.policy import op


@op(public=True, answers=(200, 503))
async def health(request: web.Request) -> web.Response:
    """`/livez` (the loop turns), `/startupz` (was ready once), `/readyz` (may be sent work): 200 or 503."""
    status, word = request.app[SERVICE].health(request.path)
    return answers.respond({"status": word}, status)


@op()
async def whoami(request: web.Request) -> web.Response:
    """`GET /api/whoami`: what the credential stands for. Groups are absent while they cannot be looked up."""
    bodies.query(request)
    caller = request[CALLER]
    scopes = sorted(caller.scopes)
    view: dict[str, Any] = {
        "principal": caller.principal,
        "tenant": caller.tenant,
        "key_id": caller.key_id,
        "scopes": scopes,
    }
    with contextlib.suppress(Unavailable):
        view["groups"] = sorted(await request.app[MEMBERSHIPS].of(caller.tenant, caller.principal))
    return answers.respond(view)


ROUTES: Final = (
    web.get("/livez", health, allow_head=False),
    web.get("/readyz", health, allow_head=False),
    web.get("/startupz", health, allow_head=False),
    web.get("/api/whoami", whoami, allow_head=False),
)
