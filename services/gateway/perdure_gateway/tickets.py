"""Tickets for event streams: a browser's EventSource can send no header, so what opens its stream stands in the query.

A ticket is base64url of an HMAC-SHA256 and of what it is over: format, tenant, key, id, job, expiry. It opens one
connection to one job within SECONDS, with the rights that its key has then. That it was used is a row in SQL, so it is
used once, however many gateways there are.
"""

from typing import Final

import msgspec
import uuid_utils
from aiohttp import web
from msgspec import Struct

from perdure.core.instant import Instant, later
from perdure.db.tickets import spend
from perdure.errors import Fault, Malformed, Unauthenticated
from perdure.ids import JobId, Tenant, is_token
from perdure_gateway import keys
from perdure_gateway.auth import Caller
from perdure_gateway.problems import Problem
from perdure_gateway.secrets import parts_of, signed_text

FORMAT: Final = 1
SECONDS: Final = 60.0
MAX_CHARS: Final = 512
PURPOSE: Final = "stream"
QUERY: Final = "ticket"


class Ticket(Struct, frozen=True, array_like=True):
    """What a ticket says."""

    format: int
    tenant: Tenant
    key_id: str
    id: str
    job: JobId
    expires_at: Instant


async def issue(request: web.Request, caller: Caller, job: JobId) -> tuple[str, Instant]:
    """A ticket for `job`, and until when it is good. Raises Unavailable."""
    expires_at = later(request.app[keys.DESK].clock.broker_now(), SECONDS)
    ticket = Ticket(FORMAT, caller.tenant, caller.key_id, str(uuid_utils.uuid7()), job, expires_at)
    body = msgspec.json.encode(ticket)
    mac = await request.app[keys.SECRETS].sign(caller.tenant, PURPOSE, body)
    return signed_text(mac, body), expires_at


async def redeem(request: web.Request) -> Caller:
    """Who comes with the ticket in the query of `request`; it is used up. Raises Unauthenticated for a ticket that is
    none, is another job's, has expired or was used, or whose key is no longer good; Unavailable without SQL; Problem
    when a key comes too.
    """
    if "Authorization" in request.headers or len(request.query.getall(QUERY)) > 1:
        raise Problem(
            "invalid-parameter",
            "see errors",
            faults=[Fault("repeated", "one ticket, and no key beside it", parameter=QUERY)],
        )
    body, mac, said = _read(request.query[QUERY])
    if not await request.app[keys.SECRETS].signed(said.tenant, PURPOSE, body, mac):
        raise Unauthenticated("no such ticket")
    now = request.app[keys.DESK].clock.broker_now()
    if said.format != FORMAT or said.job != request.match_info["job"] or said.expires_at <= now:
        raise Unauthenticated("no such ticket, or no longer good")
    caller = await request.app[keys.KEYS].by_id(said.key_id)
    if caller.tenant != said.tenant:
        raise Unauthenticated("no such ticket")
    async with request.app[keys.SQL].writing() as conn:
        if not await spend(conn, said.id, said.expires_at, now):
            raise Unauthenticated("this ticket was used")
    return caller


def _read(text: str) -> tuple[bytes, bytes, Ticket]:
    """What a ticket says, not yet known to be ours: the body, its signature, decoded. Raises Unauthenticated."""
    try:
        if len(text) > MAX_CHARS:
            raise Malformed("no ticket is so long")
        mac, body = parts_of(text)
        said = msgspec.json.decode(body, type=Ticket)
    except (Malformed, ValueError, msgspec.MsgspecError):
        raise Unauthenticated("no such ticket") from None
    if not is_token(said.tenant):
        raise Unauthenticated("no such ticket")
    return body, mac, said
