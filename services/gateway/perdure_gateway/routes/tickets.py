"""Tickets for event streams, for pages whose EventSource can send no key."""

from typing import Annotated, Final

from aiohttp import web
from pydantic import StringConstraints

from perdure.errors import NotFound
from perdure.ids import UUID
from perdure_gateway import answers, bodies, tickets
from perdure_gateway.auth import CALLER
from perdure_gateway.keys import DESK
from perdure_gateway.policy import op
from perdure_gateway.problems import no_idempotency_key


class TicketBody(bodies.Body):
    """`POST /api/stream-tickets`."""

    job_id: Annotated[str, StringConstraints(pattern=rf"^{UUID.pattern}$")]


@op("read", body=TicketBody, answers=(201,))
async def issue(request: web.Request) -> web.Response:
    """`POST /api/stream-tickets`: 201 with a `ticket` that opens one stream of the job, within a minute."""
    bodies.query(request)
    no_idempotency_key(request)
    caller, body = request[CALLER], await bodies.read(request, TicketBody)
    ref = caller.job(body.job_id)
    if await request.app[DESK].eventlog.tail(ref) is None:
        raise NotFound("no such job")
    ticket, expires_at = await tickets.issue(request, caller, ref.job)
    return answers.respond({"ticket": ticket, "expires_at": expires_at}, status=201)


ROUTES: Final = (web.post("/api/stream-tickets", issue),)
