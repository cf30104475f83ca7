"""Whether this gateway is well, and who one is to it."""

from typing import Final

from aiohttp import web

from perdure_gateway import answers, bodies
from perdure_gateway.auth import CALLER
from perdure_gateway.keys import SERVICE
from perdure_gateway.policy import op


@op(public=True, answers=(200, 503))
async def health(request: web.Request) -> web.Response:
    """`/livez` (the loop turns), `/startupz` (was ready once), `/readyz` (may be sent work): 200 or 503."""
    status, word = request.app[SERVICE].health(request.path)
    return answers.respond({"status": word}, status)


@op()
async def whoami(request: web.Request) -> web.Response:
    """`GET /api/whoami`: what the credential stands for."""
    bodies.query(request)
    caller = request[CALLER]
    scopes = sorted(caller.scopes)
    view = {"principal": caller.principal, "tenant": caller.tenant, "key_id": caller.key_id, "scopes": scopes}
    return answers.respond(view)


ROUTES: Final = (
    web.get("/livez", health, allow_head=False),
    web.get("/readyz", health, allow_head=False),
    web.get("/startupz", health, allow_head=False),
    web.get("/api/whoami", whoami, allow_head=False),
)
