"""The planner: from what has ended, what runs next. Pure, and its answer does not depend on the order of the past.

A node is decided when every node that leads to it has ended. It is skipped when a required input has neither a literal
nor a live edge, or when edges lead to it and none of them is live; else it is started.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping

from msgspec import Struct

from perdure.core.event import UserValue
from perdure.core.graph.catalogue import BUILTIN
from perdure.core.graph.nested import scope_of
from perdure.core.graph.ports import Catalogue, inputs_of
from perdure.core.graph.shape import Edge, GraphSpec, Node

Live = Mapping[str, UserValue]
"""The ports of an ended node that are live, with their values. A skipped node has none."""


class Next(Struct, frozen=True):
    """What is to be done now, in document order. `done`: every node has ended."""

    start: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    done: bool = False


class Planner:
    """The wires of a graph, laid once; it keeps nothing about a run."""

    def __init__(self, graph: GraphSpec, catalogue: Catalogue = BUILTIN) -> None:
        self.nodes: dict[str, Node] = {node.id: node for node in graph.nodes}
        self.into: dict[str, list[Edge]] = defaultdict(list)  # node -> the edges that end there, in document order
        self.after: dict[str, list[str]] = defaultdict(list)  # node -> its successors
        for edge in graph.edges:
            self.into[edge.target.node].append(edge)
            self.after[edge.source.node].append(edge.target.node)
        scope = scope_of(graph, catalogue)
        self._required = {
            node.id: frozenset(
                name
                for name, port in inputs_of(catalogue[node.component], node.inputs, scope).items()
                if port.required and name not in node.inputs
            )
            for node in graph.nodes
        }

    def next(self, ended: Mapping[str, Live], begun: Collection[str]) -> Next:
        """What to start and what to skip, given the nodes that have ended and those that have begun (the ended too)."""
        start: list[str] = []
        skip: list[str] = []
        for node_id in self.nodes:
            if node_id in begun or any(edge.source.node not in ended for edge in self.into[node_id]):
                continue
            (start if self._runs(node_id, ended) else skip).append(node_id)
        return Next(tuple(start), tuple(skip), len(ended) == len(self.nodes))

    def inputs(self, node_id: str, ended: Mapping[str, Live]) -> dict[str, UserValue]:
        """A node's inputs: its literals, and of several live edges into one input the first in document order."""
        values = dict(self.nodes[node_id].inputs)
        for edge in self.into[node_id]:
            live = ended[edge.source.node]
            if edge.source.port in live:
                values.setdefault(edge.target.port, live[edge.source.port])
        return values

    def _runs(self, node_id: str, ended: Mapping[str, Live]) -> bool:
        live = {e.target.port for e in self.into[node_id] if e.source.port in ended[e.source.node]}
        return self._required[node_id] <= live and (bool(live) or not self.into[node_id])
