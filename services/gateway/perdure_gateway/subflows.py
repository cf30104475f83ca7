"""Publishing a flow that runs others: each reference becomes the digest of what it names now, then all is checked."""

from collections.abc import Iterable
from typing import Any

import structlog
from msgspec import ValidationError, convert
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.core.graph import nested
from perdure.core.graph.catalogue import BUILTIN, extended
from perdure.core.graph.ports import Catalogue, ComponentSpec
from perdure.core.graph.spec import GraphSpec, parse
from perdure.db.flows import FlowVersion, find_version, get_flow
from perdure.db.runners import RunnerRow, list_runners
from perdure.errors import Fault, Invalid, Malformed
from perdure.ids import Tenant
from perdure_gateway.flowheads import FlowHeads
from perdure_gateway.sql import Sql

log = structlog.get_logger(__name__)


async def publishable(
    sql: Sql, flows: FlowHeads, tenant: Tenant, name: str, definition: dict[str, Any]
) -> tuple[dict[str, Any], GraphSpec]:
    """The definition as it is stored for the flow `name`, sub-flows named by digest, and the graph that it describes.

    Raises Invalid (`invalid-flow`), its pointers into the body: also when the flow would contain itself. Unavailable.
    """
    found: dict[str, FlowVersion] = {}
    async with sql.reading() as conn:
        catalogue = announced(await list_runners(conn, tenant))
        for reference in nested.references(definition):
            inner = await _version(conn, tenant, reference)
            if inner is not None and inner.kind == "graph":
                found[reference] = inner
    exact = {reference: f"{inner.name}@{inner.digest}" for reference, inner in found.items()}
    graphs = {exact[reference]: await flows.graph(inner) for reference, inner in found.items()}
    stored = nested.resolved(definition, exact)
    try:
        graph = parse(stored, catalogue, graphs)
        _acyclic(graph, name)
    except Invalid as exc:
        faults = [Fault(f.code, f.detail, pointer=f"/definition{f.pointer or ''}") for f in exc.faults]
        raise Invalid(faults, exc.code) from exc
    return stored, graph


def announced(runners: Iterable[RunnerRow]) -> Catalogue:
    """The built-in components and those of users that `runners` can run: of two alike the one of the youngest runner.

    An entry that no catalogue takes is left out: whoever runs that runner has another version.
    """
    catalogue = BUILTIN
    for runner in runners:
        for entry in runner.components:
            if entry.get("name") in catalogue:
                continue
            try:
                catalogue = extended([convert(entry, ComponentSpec)], catalogue)
            except (Malformed, ValidationError):
                log.warning("component of a runner left out", runner=runner.runner, name=entry.get("name"))
    return catalogue


async def _version(conn: AsyncConnection, tenant: Tenant, reference: str) -> FlowVersion | None:
    name, version, digest = nested.target(reference)
    if digest is not None:
        return await find_version(conn, tenant, name, digest)
    return await get_flow(conn, tenant, name, version)


def _acyclic(graph: GraphSpec, name: str) -> None:
    """Refuse a flow that runs an earlier version of itself: whoever writes that means a loop, and gets none."""
    faults = []
    for node in graph.nodes:
        reference = nested.reference_of(node)
        if not reference:
            continue
        inside = {nested.target(reference)[0]} | nested.names(graph.flows[reference])
        if name in inside:
            at = f"/nodes/{node.index}/inputs/flow"
            faults.append(Fault("cycle", "this flow would contain itself", pointer=at))
    if faults:
        raise Invalid(faults, "invalid-flow")
