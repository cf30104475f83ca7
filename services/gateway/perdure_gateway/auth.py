"""Who calls: an API key becomes a Caller. Tenants come from here and from nowhere else."""

import re
from typing import Final, Literal

from aiohttp import web
from msgspec import Struct

from perdure.clock import Clock
from perdure.db.principals import KEY, KeyRow, find_key
from perdure.errors import Unauthenticated
from perdure.ids import JobId, JobRef, Principal, Tenant
from perdure_gateway.memory import Memory
from perdure_gateway.sql import Sql

CHANNEL: Final = "Perdure-Channel"
_BEARER: Final = re.compile(rf"(?i:bearer) +({KEY.pattern})", re.ASCII)


class Caller(Struct, frozen=True):
    """A principal, by one of its keys. The owner of what it makes is the principal, never the key."""

    tenant: Tenant
    principal: Principal
    key_id: str
    scopes: frozenset[str]  # they only narrow: none of them, no narrowing

    def may(self, scope: str) -> bool:
        """Whether the key's scopes leave `scope` open."""
        return not self.scopes or scope in self.scopes

    def job(self, job: str) -> JobRef:
        """A job of the caller's tenant; the id has passed the router's pattern."""
        return JobRef(self.tenant, JobId(job))


def channel(request: web.Request) -> Literal["api", "cli"]:
    """By which channel a caller with a key says that it acts: `api`, unless it is the command line. A label for people
    who read the log, from which nothing follows; whatever else is said is passed over.
    """
    return "cli" if request.headers.getall(CHANNEL, []) == ["cli"] else "api"


CALLER: Final = web.RequestKey("caller", Caller)
PRESENTED: Final = web.RequestKey("presented", str)  # the key of a call, where its surface takes it from elsewhere


class Keys:
    """The keys that this gateway has met, and the database behind them."""

    def __init__(self, sql: Sql, clock: Clock, outage_seconds: float) -> None:
        self._sql = sql
        self._clock = clock
        self._memory: Memory[str, KeyRow] = Memory(clock, outage_seconds, lambda: sql.away)

    async def caller(self, request: web.Request) -> Caller:
        """Who sends `request`. Raises Unauthenticated; Unavailable when SQL is away and the key is not in memory."""
        presented = request.get(PRESENTED)
        values = request.headers.getall("Authorization", []) if presented is None else [f"Bearer {presented}"]
        match = _BEARER.fullmatch(values[0].strip()) if len(values) == 1 else None
        if match is None:
            raise Unauthenticated("no key")
        return await self._verify(match[1], match[2])

    async def by_id(self, key_id: str) -> Caller:
        """Whoever was known by that key, as it is now. Raises as `caller`."""
        row = await self._row(key_id)
        if row is None or not row.good(self._clock.broker_now()):
            raise Unauthenticated("the key is no longer good")
        return _caller(row)

    def forget(self, key_id: str) -> None:
        """It was revoked or narrowed: read it anew."""
        self._memory.forget(key_id)

    async def _verify(self, secret: str, key_id: str) -> Caller:
        row = await self._row(key_id)
        if row is None or not row.opens(secret, self._clock.broker_now()):
            raise Unauthenticated("no such key, or no longer good")
        return _caller(row)

    async def _row(self, key_id: str) -> KeyRow | None:
        async def read() -> KeyRow | None:
            async with self._sql.reading() as conn:
                return await find_key(conn, key_id)

        return await self._memory.get(key_id, read)


def _caller(row: KeyRow) -> Caller:
    return Caller(row.tenant, row.principal, row.id, frozenset(row.scopes))
