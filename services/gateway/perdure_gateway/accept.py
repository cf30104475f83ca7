"""What is checked of every new job before anything is written: the flow is there, and the input fits it."""

from typing import Any

from msgspec import Struct

from perdure.core.event import FlowRef
from perdure.core.graph.nested import digests
from perdure.core.graph.spec import check_input
from perdure.core.schema import faults
from perdure.db.flows import FlowVersion
from perdure.errors import Invalid
from perdure.ids import Digest, Tenant
from perdure_gateway.flowheads import FlowHeads


class Fitting(Struct, frozen=True):
    """A flow with an input that fits it, as it will be stored. `inside`: the definitions inside the flow."""

    flow: FlowVersion
    input: Any  # any JSON that fits
    inside: tuple[Digest, ...] = ()

    @property
    def ref(self) -> FlowRef:
        """The flow as the job's log names it."""
        flow = self.flow
        return FlowRef(id=flow.id, name=flow.name, version=flow.version, kind=flow.kind, digest=flow.digest)


async def fitting(flows: FlowHeads, tenant: Tenant, reference: str, given: Any) -> Fitting:  # Any: any JSON
    """The tenant's flow `reference` (a name or id, with `@n` for a version) with `given` as its input.

    A graph's input is checked against its input nodes, a Python flow's against the schema of its annotation. Raises
    NotFound, Invalid (`invalid-input`, pointers below /input), Unavailable.
    """
    name, _, version = reference.partition("@")
    flow = await flows.get(tenant, name, int(version) if version else None)
    if flow.kind == "graph":
        graph = await flows.graph(flow)
        return Fitting(flow, check_input(graph, given), digests(graph))
    if flow.input_schema is not None and (wrong := faults(flow.input_schema, given, "/input")):
        raise Invalid(wrong, "invalid-input")
    return Fitting(flow, given)
