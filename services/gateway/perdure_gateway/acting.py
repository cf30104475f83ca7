"""Who acts on a request: the caller as it stands at this moment, and what of its deeds is recorded.

Key, scopes and groups are looked up anew for each state of the log that is decided on. Until flows have shares, whoever
belongs to the tenant has every right on its flows that the key's scopes leave open.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

from perdure.core.standing import Standing
from perdure.db.principals import scopes_of
from perdure.errors import Conflict, Forbidden, NotFound, PerdureError, Unavailable
from perdure.ids import Principal, Tenant
from perdure_gateway.auth import CALLER, Caller
from perdure_gateway.keys import DESK, KEYS, MEMBERSHIPS, SQL, TRAIL
from perdure_gateway.policy import SCOPES
from perdure_gateway.problems import problem_of

ALL_RIGHTS: Final = frozenset(SCOPES)
_UNKNOWN: Final = web.RequestKey("groups_unknown", bool)


def acting(request: web.Request) -> Callable[[], Awaitable[Standing]]:
    """What tells who the caller of `request` is, each time it is asked. See `judged` for when SQL is away."""

    async def now() -> Standing:
        caller = await request.app[KEYS].caller(request)
        return Standing(caller.principal, await groups(request, caller), rights(caller))

    return now


async def groups(request: web.Request, caller: Caller) -> frozenset[str]:
    """The caller's groups; none while they are not known. Then nobody is refused for it: see `judged`."""
    try:
        return await request.app[MEMBERSHIPS].of(caller.tenant, caller.principal)
    except Unavailable:
        request[_UNKNOWN] = True
        return frozenset()


def rights(caller: Caller) -> frozenset[str]:
    """The caller's rights on any flow."""
    return frozenset(right for right in SCOPES if caller.may(right))


async def member(request: web.Request, tenant: Tenant, principal: Principal) -> Standing:
    """Somebody who is spoken of. Raises Unavailable."""
    return Standing(principal, await request.app[MEMBERSHIPS].of(tenant, principal), ALL_RIGHTS)


async def absent(request: web.Request, tenant: Tenant, principal: Principal) -> Standing | None:
    """Somebody in whose name something happens, as all keys of his leave him; None when he has no good one any more.

    Read anew each time. Raises Unavailable.
    """
    now = request.app[DESK].clock.broker_now()
    async with request.app[SQL].reading() as conn:
        keys = await scopes_of(conn, tenant, principal, now)
    if not keys:
        return None
    known = ALL_RIGHTS if () in keys else ALL_RIGHTS.intersection(right for scopes in keys for right in scopes)
    return Standing(principal, await request.app[MEMBERSHIPS].of(tenant, principal), known)


@asynccontextmanager
async def judged(request: web.Request, what: str, about: str) -> AsyncIterator[None]:
    """Around what somebody tries: a refusal is recorded, without what was sent.

    Raises Unavailable where the caller was refused only because its groups could not be looked up.
    """
    try:
        yield
    except PerdureError as exc:
        if isinstance(exc, Conflict) and exc.code == "request-withdrawn" and not request[CALLER].may("values"):
            exc.facts.pop("reason", None)  # what somebody wrote
        refused: PerdureError = exc
        if request.get(_UNKNOWN, False) and isinstance(exc, NotFound | Forbidden):
            refused = Unavailable("who is asked cannot be looked up now")
        problem = problem_of(refused)
        request.app[TRAIL].note(request, what, about, "internal" if problem is None else problem.code)
        if refused is exc:
            raise
        raise refused from exc
