"""Flows inside flows: what a definition refers to, and a graph as a component of another.

A node writes a reference: `name`, `name@3` (a version) or `name@<sha256>` (a definition). Publishing replaces each by
the last form, so a stored definition names exactly what it will run, for ever. A definition whose digest is known
cannot name itself, so no circle of digests exists; a circle of names is refused by whoever resolves them.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from perdure.core.event import Named, UserValue
from perdure.core.graph.catalogue import BUILTIN
from perdure.core.graph.ports import Catalogue, InputPort, Interface, OutputPort, Scope
from perdure.core.graph.shape import GraphSpec, Node
from perdure.ids import FLOW_NAME, Digest

REFERENCE: Final = re.compile(rf"({FLOW_NAME.pattern})(?:@([1-9][0-9]{{0,8}}|[0-9a-f]{{64}}))?", re.ASCII)
NESTING: Final = ("subflow", "map")  # the components whose literal `flow` is a reference
MAX_DEPTH: Final = 8
MAX_FLOWS: Final = 100  # different ones: every job names them all
MAX_WHOLE: Final = 2000  # nodes, sub-flows unrolled: a map counts what it repeats once


def references(definition: object) -> tuple[str, ...]:
    """The references to other flows that a definition (decoded JSON, not yet checked) makes, each once, in order."""
    return tuple(dict.fromkeys(inputs["flow"] for _, inputs in _nesting(definition)))


def resolved(definition: Any, exact: Mapping[str, str]) -> Any:  # Any: decoded JSON, not yet checked
    """`definition` with each reference in `exact` replaced by what it says there (`name@digest`); the rest is left."""
    changes = {
        index: inputs | {"flow": exact[inputs["flow"]]}
        for index, inputs in _nesting(definition)
        if inputs["flow"] in exact
    }
    if not changes:
        return definition
    nodes = [
        node | {"inputs": changes[index]} if index in changes else node
        for index, node in enumerate(definition["nodes"])
    ]
    return definition | {"nodes": nodes}


def target(reference: str) -> tuple[str, int | None, Digest | None]:
    """Name (or id), version and digest of a reference that matches REFERENCE."""
    name, _, rest = reference.partition("@")
    if not rest:
        return name, None, None
    return (name, None, Digest(rest)) if len(rest) == 64 else (name, int(rest), None)


def digests(graph: GraphSpec) -> tuple[Digest, ...]:
    """The definitions of all flows inside `graph`, at every depth, each once."""
    return tuple(dict.fromkeys(inner.digest for _, inner in _inside(graph)))


def names(graph: GraphSpec) -> frozenset[str]:
    """The names of all flows inside `graph`, at every depth, as the references write them."""
    return frozenset(target(reference)[0] for reference, _ in _inside(graph))


def _inside(graph: GraphSpec) -> Iterator[tuple[str, GraphSpec]]:
    """Each reference at every depth with its graph, once."""
    seen: set[str] = set()
    todo = [graph]
    while todo:
        for reference, inner in todo.pop(0).flows.items():
            if reference not in seen:
                seen.add(reference)
                yield reference, inner
                todo.append(inner)


def interface(graph: GraphSpec, catalogue: Catalogue = BUILTIN) -> Interface:
    """`graph` as a component: an input for each input node, a branch output for each terminal node."""
    inputs = tuple(_input(node, catalogue) for node in input_nodes(graph, catalogue))
    outputs = tuple(
        OutputPort(name=named.name, type="any" if named.kind == "data" else "text", branch=True)
        for named in terminals(graph, catalogue)
    )
    return Interface(inputs, outputs)


def scope_of(graph: GraphSpec, catalogue: Catalogue = BUILTIN) -> Scope:
    """What the nodes of `graph` can refer to."""
    return Scope(catalogue, {name: interface(inner, catalogue) for name, inner in graph.flows.items()})


def reference_of(node: Node) -> str:
    """The reference that a node makes; "" when it makes none."""
    given = node.inputs.get("flow") if node.component in NESTING else None
    return given if isinstance(given, str) else ""


def input_nodes(graph: GraphSpec, catalogue: Catalogue = BUILTIN) -> tuple[Node, ...]:
    """The nodes that take their value from the job's input, in document order."""
    inputs = {name for name, component in catalogue.items() if component.role == "input"}
    return tuple(node for node in graph.nodes if node.component in inputs)


def terminals(graph: GraphSpec, catalogue: Catalogue = BUILTIN) -> tuple[Named, ...]:
    """The outputs that a run can have: one for each node without a successor, in document order. That of a component
    that is not in `catalogue` is taken for data.
    """
    sources = {edge.source.node for edge in graph.edges}
    return tuple(
        Named(name=node.id, kind=known.output_kind if (known := catalogue.get(node.component)) is not None else "data")
        for node in graph.nodes
        if node.id not in sources
    )


def _input(node: Node, catalogue: Catalogue) -> InputPort:
    needed = "default" not in node.inputs
    if catalogue[node.component].outputs[0].type == "text":
        return InputPort(name=node.id, type="text", literal="text", required=needed)
    return InputPort(name=node.id, type="any", literal="json", required=needed)


def _nesting(definition: object) -> Iterator[tuple[int, dict[str, UserValue]]]:
    """Place and literals of the nodes that refer to a flow."""
    nodes = definition.get("nodes") if isinstance(definition, dict) else None
    for index, node in enumerate(nodes if isinstance(nodes, list) else ()):
        if not isinstance(node, dict) or node.get("component") not in NESTING:
            continue
        inputs = node.get("inputs")
        if not isinstance(inputs, dict):
            continue
        reference = inputs.get("flow")
        if isinstance(reference, str) and REFERENCE.fullmatch(reference) is not None:
            yield index, inputs
