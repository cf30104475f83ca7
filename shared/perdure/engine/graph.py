"""A graph flow as a workflow: each node a branch of its own, its step named like it; the planner decides what is next.

The branch of node `draft` has the path `/draft`, and what it calls there is named `draft`, occurrence 1: so a node is
known in the log by its id alone, whatever ran beside it and in whatever order. The nodes of a sub-flow run under the
path of the node that names it (`/check/draft`), those of an item of a map under the item's (`/each[1]/draft`, items
counted from 1).
"""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from perdure.core.event import Named, UserValue
from perdure.core.graph.catalogue import BUILTIN
from perdure.core.graph.nested import scope_of, terminals
from perdure.core.graph.plan import Live, Planner
from perdure.core.graph.ports import Catalogue, OutputPort, item_port, outputs_of, repeated
from perdure.core.graph.spec import GraphSpec, Node, check_input
from perdure.core.instant import instant
from perdure.engine.components import ask, control
from perdure.engine.components.contract import Component, Components, typed
from perdure.engine.context import Context
from perdure.engine.failure import job_failure
from perdure.engine.workflow import Workflow
from perdure.errors import Invalid, RequestExpired, RequestWithdrawn, StepFailed, Terminal

NOT_REACHED = "no live edge leads here"
_FAILED = (StepFailed, RequestExpired, RequestWithdrawn, Terminal)  # what ends one item of a map, and not the map


def graph_workflow(graph: GraphSpec, components: Components, catalogue: Catalogue = BUILTIN) -> Workflow:
    """The workflow that runs `graph` with these components; it takes what `spec.check_input` takes."""
    interpreter = Interpreter(graph, components, catalogue)
    return Workflow(name=graph.name, fn=interpreter.run, digest=graph.digest)


class Ended(Struct, frozen=True):
    """How a node ended: its live ports, and its value as a whole."""

    live: Live
    value: UserValue = None
    skipped: bool = False


class Layout:
    """One graph laid out to be run, with the layouts of its sub-flows; it keeps nothing about a run."""

    def __init__(self, graph: GraphSpec, catalogue: Catalogue) -> None:
        self.graph = graph
        self.planner = Planner(graph, catalogue)
        self.scope = scope_of(graph, catalogue)
        self.terminals: dict[str, Named] = {named.name: named for named in terminals(graph, catalogue)}
        self.ports: dict[str, dict[str, OutputPort]] = {
            node.id: outputs_of(catalogue[node.component], node.inputs, self.scope) for node in graph.nodes
        }
        self.flows = {reference: Layout(inner, catalogue) for reference, inner in graph.flows.items()}

    def amount(self, ended: Mapping[str, Ended]) -> UserValue:
        """What a run of this graph amounts to: the value of its only output, else an object of those that it gave."""
        if len(self.terminals) == 1:
            return ended[next(iter(self.terminals))].value
        return {name: ended[name].value for name in self.terminals if not ended[name].skipped}


class Interpreter:
    """Runs a graph, any number of times at once."""

    def __init__(self, graph: GraphSpec, components: Components, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._components = components
        self._root = Layout(graph, catalogue)

    async def run(self, ctx: Context, value: UserValue) -> None:
        """Run the whole graph. The job's outputs are in the log.

        Raises Invalid when `value` does not fit the graph: a submit has checked that before.
        """
        given = check_input(self._root.graph, value, self._catalogue)
        await self._graph(ctx, self._root, "", given)

    async def _graph(self, ctx: Context, lay: Layout, prefix: str, given: Mapping[str, UserValue]) -> dict[str, Ended]:
        """Start what can start and skip what cannot, until every node has ended. The caller's branch has this path."""
        group = ctx._nodes()
        ended: dict[str, Ended] = {}
        live: dict[str, Live] = {}
        begun: set[str] = set()
        while not (step := lay.planner.next(live, begun)).done:
            for node_id in step.start:
                values = lay.planner.inputs(node_id, live)
                group.start(f"{prefix}/{node_id}", self._node(ctx, lay, prefix, node_id, values, given))
            for node_id in step.skip:
                group.start(f"{prefix}/{node_id}", self._skip(ctx, lay.planner.nodes[node_id]))
            begun.update(step.start, step.skip)
            path, end = await group.next_ended()
            node_id = path.removeprefix(prefix + "/")
            ended[node_id], live[node_id] = end, end.live
        return ended

    async def _node(
        self,
        ctx: Context,
        lay: Layout,
        prefix: str,
        node_id: str,
        values: dict[str, UserValue],
        given: Mapping[str, UserValue],
    ) -> Ended:
        """One node, as a branch. Outside of sub-flows a node without successors gives one of the job's outputs."""
        node = lay.planner.nodes[node_id]
        spec = self._catalogue[node.component]
        named = lay.terminals.get(node_id) if prefix == "" else None
        match spec.role:
            case "ask":
                end = await self._ask(ctx, node, values)
            case "wait":
                end = await self._wait(ctx, node, values)
            case "subflow":
                end = await self._subflow(ctx, lay, f"{prefix}/{node_id}", node, values)
            case "map":
                end = await self._map(ctx, lay, f"{prefix}/{node_id}", node, values)
            case _:
                if spec.role == "input":
                    values = {"value": given[node_id]}
                result = await self._step(ctx, node, node.component, values, named)
                ports = lay.ports[node_id]
                if spec.several:
                    return Ended({port: result[port] for port in ports if port in result}, result)
                return Ended(dict.fromkeys(ports, result), result)
        if named is not None:  # it is no step, so its value becomes an output of its own
            await ctx.output(node_id, end.value, kind="data")
        return end

    async def _step(
        self, ctx: Context, node: Node, name: str, values: dict[str, UserValue], named: Named | None
    ) -> Any:  # Any: a user value, or a dict of them where there are several ports
        component = self._component(name)

        async def run(inputs: dict[str, UserValue]) -> Any:
            return await component.run(ctx, typed(name, component.inputs, inputs))

        def threaded(inputs: dict[str, UserValue]) -> Any:
            return component.run(ctx, typed(name, component.inputs, inputs))

        return await ctx.step(
            node.id,
            threaded if component.threaded else run,
            values,
            retry=node.retry,
            timeout=node.timeout_seconds or component.timeout_seconds,
            output=named,
            component=name,
        )

    def _component(self, name: str) -> Component:
        component = self._components.get(name)
        if component is None:
            raise Terminal(f"this runner has no component {name}", code="component_missing")
        return component

    async def _ask(self, ctx: Context, node: Node, values: dict[str, UserValue]) -> Ended:
        asked: ask.AskInputs = typed(node.component, ask.AskInputs, values)
        try:
            answer = await ctx.ask(node.id, **asked.arguments())
        except Invalid as exc:  # what came by an edge; the rest was checked when the flow was published
            raise Terminal(f"{node.component} cannot ask: {exc}", code="invalid_input") from exc
        return Ended(ask.ports(asked, answer), ask.decision(asked, answer))

    async def _wait(self, ctx: Context, node: Node, values: dict[str, UserValue]) -> Ended:
        asked: control.WaitInputs = typed(node.component, control.WaitInputs, values)
        await ctx.sleep(asked.duration(instant(ctx.now())), name=node.id)
        return Ended({"value": asked.value}, asked.value)

    async def _subflow(self, ctx: Context, lay: Layout, path: str, node: Node, values: dict[str, UserValue]) -> Ended:
        inner = lay.flows[values.pop("flow")]
        ended = await self._graph(ctx, inner, path, self._given(inner, values))
        live = {name: ended[name].value for name in inner.terminals if not ended[name].skipped}
        return Ended(live, inner.amount(ended))

    def _given(self, lay: Layout, values: Mapping[str, UserValue]) -> dict[str, UserValue]:
        try:
            return check_input(lay.graph, dict(values), self._catalogue)
        except Invalid as exc:
            raise Terminal(f"{lay.graph.name} cannot take its inputs: {exc}", code="invalid_input") from exc

    async def _map(self, ctx: Context, lay: Layout, path: str, node: Node, values: dict[str, UserValue]) -> Ended:
        """Items side by side, at most `width` at a time, each as a branch `path[i]`; results in the items' order."""
        ports = repeated(node.inputs, lay.scope)
        own = {name: value for name, value in values.items() if name not in ports}
        shared = {name: value for name, value in values.items() if name in ports}
        asked: control.MapInputs = typed(node.component, control.MapInputs, own)
        port = item_port(node.inputs, lay.scope) or ""
        group = ctx._nodes()
        ended: dict[str, Ended | Exception] = {}
        for place, item in enumerate(asked.items, 1):
            if group.running >= asked.width:
                at, end = await group.next_ended()
                ended[at] = end
            here = f"{path}[{place}]"
            group.start(here, self._item(ctx, lay, here, node, {**shared, port: item}, asked.on_error))
        while len(ended) < len(asked.items):
            at, end = await group.next_ended()
            ended[at] = end
        in_order = [ended[f"{path}[{place}]"] for place in range(1, len(asked.items) + 1)]
        results = [end.value for end in in_order if isinstance(end, Ended)]
        errors = [_error(place, end) for place, end in enumerate(in_order, 1) if isinstance(end, Exception)]
        return Ended({"results": results, "errors": errors}, results)

    async def _item(
        self,
        ctx: Context,
        lay: Layout,
        path: str,
        node: Node,
        values: dict[str, UserValue],
        on_error: str,
    ) -> Ended | Exception:
        """One item of a map, as a branch. Returns what made it fail where the map goes on without it."""
        try:
            if "flow" not in node.inputs:
                return Ended({}, await self._step(ctx, node, str(node.inputs["component"]), values, None))
            inner = lay.flows[str(node.inputs["flow"])]
            return Ended({}, inner.amount(await self._graph(ctx, inner, path, self._given(inner, values))))
        except _FAILED as exc:
            if on_error == "fail":
                raise
            return exc

    async def _skip(self, ctx: Context, node: Node) -> Ended:
        await ctx._skip(node.id, reason=NOT_REACHED, component=node.component)
        return Ended({}, skipped=True)


def _error(place: int, error: Exception) -> dict[str, UserValue]:
    failure = job_failure(error)
    return {"item": place, "code": failure.code, "message": failure.message}
