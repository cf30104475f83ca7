"""Flows as the gateway uses them: the newest version by id or name, one by its number, and the graph it describes."""

from collections import OrderedDict
from typing import Final

import msgspec

from perdure.clock import Clock
from perdure.core.graph.spec import GraphSpec, parse
from perdure.db.flows import FlowVersion, get_flow
from perdure.errors import NotFound
from perdure.ids import Digest, Tenant
from perdure_gateway.memory import Memory
from perdure_gateway.sql import Sql

MOST_GRAPHS: Final = 256


class FlowHeads:
    """Flows in memory, over SQL. Another gateway's change is seen within a minute; one's own at once (`forget`)."""

    def __init__(self, sql: Sql, clock: Clock, outage_seconds: float) -> None:
        self._sql = sql
        self._memory: Memory[tuple[Tenant, str, int | None], FlowVersion] = Memory(
            clock, outage_seconds, lambda: sql.away
        )
        self._graphs: OrderedDict[Digest, GraphSpec] = OrderedDict()

    async def get(self, tenant: Tenant, id_or_name: str, version: int | None = None) -> FlowVersion:
        """A version of a flow, the newest by default. Raises NotFound, Unavailable."""

        async def read() -> FlowVersion | None:
            async with self._sql.reading() as conn:
                return await get_flow(conn, tenant, id_or_name, version)

        flow = await self._memory.get((tenant, id_or_name, version), read)
        if flow is None:
            raise NotFound("no such flow")
        return flow

    def graph(self, flow: FlowVersion) -> GraphSpec:
        """The graph that a version of a graph flow describes; it was checked before it was stored."""
        graph = self._graphs.get(flow.digest)
        if graph is None:
            graph = parse(msgspec.json.decode(flow.definition))
            self._graphs[flow.digest] = graph
        self._graphs.move_to_end(flow.digest)
        while len(self._graphs) > MOST_GRAPHS:
            self._graphs.popitem(last=False)
        return graph

    def forget(self, flow: FlowVersion) -> None:
        """Read the newest version of `flow` anew the next time."""
        for name in (flow.id, flow.name):
            self._memory.forget((flow.tenant, name, None))
