"""From the flow that a job names to something the engine can run: definitions by digest, the last 256 kept."""

from collections import OrderedDict
from typing import Final

import msgspec
from perdure.engine.workflow import Workflow

from perdure.bus.blob import get
from perdure.bus.connection import Bus
from perdure.core.event import FlowRef
from perdure.core.graph.spec import parse
from perdure.engine.components.endpoint import ModelEndpoint
from perdure.engine.components.registry import builtin
from perdure.engine.graph import graph_workflow
from perdure.errors import Invalid, Malformed, NotFound, UnsupportedVersion
from perdure.ids import Digest, Tenant

KEPT: Final = 256


class Flows:
    """Loads the workflow of a job. A definition never changes under its digest, so what is kept is never stale."""

    def __init__(self, bus: Bus, model: ModelEndpoint | None) -> None:
        self._bus = bus
        self._components = builtin(model)
        self._kept: OrderedDict[tuple[Tenant, Digest], Workflow] = OrderedDict()

    async def workflow(self, tenant: Tenant, flow: FlowRef) -> Workflow:
        """The workflow of `flow`.

        Raises UnsupportedVersion when this runner cannot run it (another kind, a component or member it does not know,
        a definition that is not there): another runner may. Raises Unavailable when the broker does not answer.
        """
        if flow.kind != "graph":
            raise UnsupportedVersion(f"this runner executes graph flows only, not {flow.kind}")
        key = (tenant, flow.digest)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        try:
            definition = msgspec.json.decode(await get(self._bus, tenant, flow.digest))
            workflow = graph_workflow(parse(definition), self._components)
        except (NotFound, Malformed, Invalid, msgspec.DecodeError) as exc:
            raise UnsupportedVersion(f"flow {flow.name} version {flow.version} cannot be run here: {exc}") from exc
        self._kept[key] = workflow
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return workflow
