"""A graph flow as a workflow: each node a branch of its own, its step named like it; the planner decides what is next.

The branch of node `draft` has the path `/draft`, and what it calls there is named `draft`, occurrence 1: so a node is
known in the log by its id alone, whatever ran beside it and in whatever order.
"""

from collections.abc import Mapping
from typing import Any

from perdure.core.event import Named, UserValue
from perdure.core.graph.catalogue import BUILTIN, Catalogue, ComponentSpec, outputs_of
from perdure.core.graph.plan import Live, Planner
from perdure.core.graph.spec import GraphSpec, Node, check_input, outputs
from perdure.engine.components import ask
from perdure.engine.components.contract import Component, Components, typed
from perdure.engine.context import Context
from perdure.engine.workflow import Workflow
from perdure.errors import Terminal

NOT_REACHED = "no live edge leads here"


def graph_workflow(graph: GraphSpec, components: Components, catalogue: Catalogue = BUILTIN) -> Workflow:
    """The workflow that runs `graph` with these components; it takes what `spec.check_input` takes."""
    interpreter = Interpreter(graph, components, catalogue)
    return Workflow(name=graph.name, fn=interpreter.run, digest=graph.digest)


class Interpreter:
    """A graph laid out to be run, any number of times: it keeps nothing about a run."""

    def __init__(self, graph: GraphSpec, components: Components, catalogue: Catalogue) -> None:
        self._graph, self._catalogue = graph, catalogue
        self._planner = Planner(graph, catalogue)
        self._components = components
        self._specs: dict[str, ComponentSpec] = {node.id: catalogue[node.component] for node in graph.nodes}
        self._outputs: dict[str, Named] = {output.name: output for output in outputs(graph, catalogue)}

    async def run(self, ctx: Context, value: UserValue) -> None:
        """Start what can start and skip what cannot, until every node has ended. The job's outputs are in the log.

        Raises Invalid when `value` does not fit the graph: a submit has checked that before.
        """
        given = check_input(self._graph, value, self._catalogue)
        group = ctx._nodes()
        ended: dict[str, Live] = {}
        begun: set[str] = set()
        while not (step := self._planner.next(ended, begun)).done:
            for node_id in step.start:
                node, values = self._planner.nodes[node_id], self._planner.inputs(node_id, ended)
                group.start(f"/{node_id}", self._node(ctx, node, values, given))
            for node_id in step.skip:
                group.start(f"/{node_id}", self._skip(ctx, self._planner.nodes[node_id]))
            begun.update(step.start, step.skip)
            path, live = await group.next_ended()
            ended[path.removeprefix("/")] = live

    async def _node(
        self, ctx: Context, node: Node, values: dict[str, UserValue], given: Mapping[str, UserValue]
    ) -> Live:
        """One node, as a branch: the ports that are live after it."""
        spec = self._specs[node.id]
        if spec.role == "ask":
            return await self._ask(ctx, node, values)
        if spec.role == "input":
            values = {"value": given[node.id]}
        component = self._components.get(node.component)
        if component is None:
            raise Terminal(f"this runner has no component {node.component}", code="component_missing")
        result = await self._step(ctx, node, component, values)
        ports = list(outputs_of(spec, node.inputs))
        if len(ports) > 1:
            return {port: result[port] for port in ports if port in result}
        return dict.fromkeys(ports, result)

    async def _step(
        self, ctx: Context, node: Node, component: Component, values: dict[str, UserValue]
    ) -> Any:  # Any: a user value, or a dict of them where there are several ports
        async def run(inputs: dict[str, UserValue]) -> Any:
            return await component.run(ctx, typed(node.component, component.inputs, inputs))

        return await ctx.step(
            node.id,
            run,
            values,
            retry=node.retry,
            timeout=node.timeout_seconds or component.timeout_seconds,
            output=self._outputs.get(node.id),
            component=node.component,
        )

    async def _ask(self, ctx: Context, node: Node, values: dict[str, UserValue]) -> Live:
        asked: ask.AskInputs = typed(node.component, ask.AskInputs, values)
        answer = await ctx.ask(
            node.id,
            title=asked.title,
            message=asked.message,
            kind=asked.kind,
            actions=asked.actions,
            proposal=asked.proposal,
            editable=asked.editable,
            expires_in=asked.expires_in_seconds,
            on_timeout=asked.on_timeout,
        )
        if node.id in self._outputs:  # a request is no step, so the decision becomes an output of its own
            await ctx.output(node.id, ask.decision(asked, answer), kind="data")
        return ask.ports(asked, answer)

    async def _skip(self, ctx: Context, node: Node) -> Live:
        await ctx._skip(node.id, reason=NOT_REACHED, component=node.component)
        return {}
