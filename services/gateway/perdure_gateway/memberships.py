"""Which groups a principal belongs to, from memory or SQL. Whoever changes a membership tells every gateway."""

from perdure.clock import Clock
from perdure.db.groups import groups_of
from perdure.ids import Principal, Tenant
from perdure_gateway.memory import Memory
from perdure_gateway.sql import Sql


class Memberships:
    """Groups by principal. A change that this gateway was not told of is seen within a minute."""

    def __init__(self, sql: Sql, clock: Clock, outage_seconds: float) -> None:
        self._sql = sql
        self._memory: Memory[tuple[Tenant, Principal], frozenset[str]] = Memory(clock, outage_seconds, lambda: sql.away)

    async def of(self, tenant: Tenant, principal: Principal) -> frozenset[str]:
        """The groups of `principal`. Raises Unavailable when SQL is away and they are not in memory."""

        async def read() -> frozenset[str]:
            async with self._sql.reading() as conn:
                return await groups_of(conn, tenant, principal)

        return await self._memory.get((tenant, principal), read) or frozenset()

    def forget(self, tenant: Tenant, principal: Principal) -> None:
        """It came or went: read it anew."""
        self._memory.forget((tenant, principal))
