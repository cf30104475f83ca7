"""From the flow that a job names to something the engine can run.

Graphs come as definitions by digest, the last 256 kept. Python workflows are those of this runner's `--app`, by name: a
job runs on whatever code bears the name, and the engine notices when that code does not fit the job's log.
"""

from collections import OrderedDict
from collections.abc import Collection, Mapping
from functools import partial
from typing import Final

import msgspec
import structlog

from perdure.bus.blob import get
from perdure.bus.connection import Bus
from perdure.core.event import FlowRef, SubmittedData
from perdure.core.graph import nested
from perdure.core.graph.catalogue import BUILTIN, extended
from perdure.core.graph.ports import Catalogue
from perdure.core.graph.spec import GraphSpec, parse
from perdure.core.langflow.overrides import applied
from perdure.engine.app import PythonFlow
from perdure.engine.components.address import HostPort, host_port
from perdure.engine.components.contract import Component, Components
from perdure.engine.components.endpoint import ModelEndpoint
from perdure.engine.components.outbound import Outbound
from perdure.engine.components.registry import builtin
from perdure.engine.graph import graph_workflow
from perdure.engine.workflow import Workflow
from perdure.errors import Invalid, Malformed, NotFound, Unavailable, UnsupportedVersion
from perdure.ids import Digest, Tenant
from perdure.jobs.overrides import opened
from perdure.seal import MasterKeys
from perdure_runner.langflow.flow import LangflowFlow, flow_file

KEPT: Final = 256

log = structlog.get_logger(__name__)


class Flows:
    """Loads the workflow of a job. A definition never changes under its digest, so what is kept is never stale."""

    def __init__(
        self,
        bus: Bus,
        model: ModelEndpoint | None,
        allow: Collection[HostPort] = (),
        *,
        python: Mapping[str, PythonFlow] | None = None,
        tenants: Collection[str] = (),
        components: Mapping[str, Component] | None = None,
        langflow: bool = False,
        master_keys: MasterKeys | None = None,
    ) -> None:
        """`allow`: hosts and ports that flows may ask wherever they lead; the model's is always among them. `tenants`
        may execute the flows of `python`, and graphs with `components`, which are the users' own. `langflow`: whether
        flow files of Langflow are executed here. `master_keys` open what is sealed with a job.
        """
        self._bus = bus
        self._master_keys = master_keys or MasterKeys()
        self._python, self._tenants = python or {}, frozenset(tenants)
        hosts = {host_port(host, port) for host, port in allow}
        own = components or {}
        self._built_in = builtin(model, Outbound(hosts if model is None else hosts | {model.address}))
        self._all = {**self._built_in, **own}
        self._catalogue = extended(component.spec for component in own.values())
        self._langflow = langflow
        self._kept: OrderedDict[tuple[Tenant, Digest], Workflow | LangflowFlow] = OrderedDict()

    async def workflow(
        self, tenant: Tenant, flow: FlowRef, submitted: SubmittedData | None = None
    ) -> Workflow | LangflowFlow:
        """What runs `flow`; a graph with the tweaks that are sealed with the job, where it was `submitted` with some.

        Raises UnsupportedVersion when this runner cannot run it (another kind, a component or member it does not know,
        a definition or a master key that is not there): another runner may. Raises Unavailable when the broker does not
        answer.
        """
        if flow.kind == "python":
            return self._code(tenant, flow)
        if flow.kind == "langflow" and not self._langflow:
            raise UnsupportedVersion("this runner executes no flows of Langflow: start one with --langflow")
        sealed = submitted is not None and (submitted.sealed is not None or submitted.sealed_ref is not None)
        if flow.kind == "graph" and submitted is not None and sealed:
            return await self._tweaked(tenant, flow, submitted)
        key = (tenant, flow.digest)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        try:
            if flow.kind == "langflow":
                return self._keep(
                    key, LangflowFlow(flow.name, flow_file(await get(self._bus, tenant, flow.digest)), flow.digest)
                )
            graph = await self._graph(tenant, flow.digest, {})
            catalogue, components = self._of(tenant)
            workflow = graph_workflow(graph, components, catalogue)
        except (NotFound, Malformed, Invalid, msgspec.DecodeError) as exc:
            raise UnsupportedVersion(f"flow {flow.name} version {flow.version} cannot be run here: {exc}") from exc
        return self._keep(key, workflow)

    def _keep(self, key: tuple[Tenant, Digest], workflow: Workflow | LangflowFlow) -> Workflow | LangflowFlow:
        self._kept[key] = workflow
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return workflow

    async def _tweaked(self, tenant: Tenant, flow: FlowRef, submitted: SubmittedData) -> Workflow:
        """A graph with other literals: of this job alone, so it is not kept."""
        try:
            tweaks = (await opened(self._master_keys, partial(get, self._bus), tenant, submitted)).tweaks
            known: dict[Digest, GraphSpec] = {}
            definition = msgspec.json.decode(await get(self._bus, tenant, flow.digest))
            inner = {
                reference: await self._graph(tenant, digest, known)
                for reference in nested.references(definition)
                if (digest := nested.target(reference)[2]) is not None
            }
            catalogue, components = self._of(tenant)
            graph = parse(applied(definition, tweaks), catalogue, inner)
            return graph_workflow(graph, components, catalogue)
        except (NotFound, Malformed, Invalid, msgspec.DecodeError) as exc:
            raise UnsupportedVersion(f"flow {flow.name} version {flow.version} cannot be run here: {exc}") from exc
        except Unavailable as exc:
            if self._master_keys.able:
                raise
            raise UnsupportedVersion("this runner has no master key for what is sealed with the job") from exc

    async def _graph(self, tenant: Tenant, digest: Digest, known: dict[Digest, GraphSpec], depth: int = 1) -> GraphSpec:
        """The graph of a stored definition, its sub-flows read before it; `known` are those that were read already."""
        if depth > nested.MAX_DEPTH:
            raise Malformed(f"flows nest deeper than {nested.MAX_DEPTH}")
        if digest not in known:
            definition = msgspec.json.decode(await get(self._bus, tenant, digest))
            flows: dict[str, GraphSpec] = {}
            for reference in nested.references(definition):
                _, _, inner = nested.target(reference)
                if inner is None:
                    raise Malformed(f"sub-flow {reference} was not resolved when it was published")
                flows[reference] = await self._graph(tenant, inner, known, depth + 1)
            known[digest] = parse(definition, self._of(tenant)[0], flows)
        return known[digest]

    def _of(self, tenant: Tenant) -> tuple[Catalogue, Components]:
        """What the graphs of `tenant` may be made of."""
        return (self._catalogue, self._all) if tenant in self._tenants else (BUILTIN, self._built_in)

    def _code(self, tenant: Tenant, flow: FlowRef) -> Workflow:
        found = self._python.get(flow.name) if tenant in self._tenants else None
        if found is None:
            raise UnsupportedVersion(f"this runner has no Python flow {flow.name} for {tenant}")
        if found.digest != flow.digest:  # said, never refused: a deploy that adds steps at the end is fine
            log.info("other code than at the submission", flow=flow.name, submitted=flow.digest, runs=found.digest)
        return found.workflow
