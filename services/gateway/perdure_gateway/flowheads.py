"""Flows as the gateway uses them: the newest version by id or name, one by its number, and the graph it describes."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from perdure.clock import Clock
from perdure.core.graph import nested
from perdure.core.graph.spec import GraphSpec, stored
from perdure.db.flows import FlowVersion, get_flow
from perdure.errors import NotFound, Unavailable
from perdure.ids import Digest, Tenant
from perdure_gateway.memory import Memory
from perdure_gateway.sql import Sql

MOST_GRAPHS: Final = 256

Fetch = Callable[[Tenant, Digest], Awaitable[bytes]]
"""A stored definition by its digest. Raises NotFound, Unavailable."""


class FlowHeads:
    """Flows in memory, over SQL. Another gateway's change is seen within a minute; one's own at once (`forget`)."""

    def __init__(self, sql: Sql, clock: Clock, outage_seconds: float, fetch: Fetch) -> None:
        self._sql = sql
        self._fetch = fetch
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

    async def graph(self, flow: FlowVersion) -> GraphSpec:
        """The graph that a version of a graph flow describes, with its sub-flows; it was checked before it was stored.

        Sub-flows are read by their digests, as runners do, whatever has become of the flows that they were; components
        of users need not be known any more. Raises Unavailable.
        """
        return await self._graph(flow.tenant, flow.digest, flow.definition)

    async def graph_of(self, tenant: Tenant, digest: Digest) -> GraphSpec:
        """The graph of a stored definition, whatever has become of its flow. Raises Unavailable."""
        return await self._graph(tenant, digest)

    async def _graph(self, tenant: Tenant, digest: Digest, definition: str | bytes | None = None) -> GraphSpec:
        graph = self._graphs.get(digest)
        if graph is None:
            try:
                decoded = msgspec.json.decode(definition or await self._fetch(tenant, digest))
            except NotFound as exc:
                raise Unavailable(f"the definition {digest} of a sub-flow is not there") from exc
            flows: dict[str, GraphSpec] = {}
            for reference in nested.references(decoded):
                _, _, inner = nested.target(reference)
                if inner is not None:
                    flows[reference] = await self._graph(tenant, inner)
            graph = stored(decoded, flows)
            self._graphs[digest] = graph
        self._graphs.move_to_end(digest)
        while len(self._graphs) > MOST_GRAPHS:
            self._graphs.popitem(last=False)
        return graph

    def forget(self, flow: FlowVersion) -> None:
        """Read the newest version of `flow` anew the next time."""
        for name in (flow.id, flow.name):
            self._memory.forget((flow.tenant, name, None))
