"""Whether the parts of a definition fit: components and ports exist, types fit, nothing runs in a circle."""

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Final

from perdure.core.graph import literal
from perdure.core.graph.catalogue import Catalogue, ComponentSpec, OutputPort, inputs_of, joins, outputs_of
from perdure.core.graph.faults import Faults, pointer
from perdure.core.graph.shape import Edge, End, GraphSpec, Node

MAX_OUTPUTS: Final = 100  # of a job


def check(spec: GraphSpec, catalogue: Catalogue, faults: Faults) -> None:
    """Note in `faults` whatever does not fit."""
    nodes: dict[str, Node] = {}
    for node in spec.nodes:
        if node.id in nodes:
            faults.add(f"/nodes/{node.index}/id", "duplicate", "another node has this id")
        else:
            nodes[node.id] = node
    components: dict[str, ComponentSpec] = {}
    for node in spec.nodes:
        component = catalogue.get(node.component)
        if component is None and node.component:
            known = ", ".join(sorted(catalogue))
            faults.add(f"/nodes/{node.index}/component", "unknown-component", f"known are {known}")
        elif component is not None:
            components[node.id] = component
    edges = [edge for edge in spec.edges if _ends(edge, nodes, components, faults)]
    for node in spec.nodes:
        if node.id in components:
            _inputs(node, components[node.id], spec.edges, faults)
    _acyclic(nodes, edges, faults)
    if len(nodes.keys() - {edge.source.node for edge in spec.edges}) > MAX_OUTPUTS:
        faults.add("/nodes", "too-many-outputs", f"at most {MAX_OUTPUTS} nodes may have no successor")


def _ends(edge: Edge, nodes: Mapping[str, Node], components: Mapping[str, ComponentSpec], faults: Faults) -> bool:
    """Whether both ends are ports that join. An end at a node whose component is unknown is left alone."""
    at = f"/edges/{edge.index}"
    for member, end in (("from", edge.source), ("to", edge.target)):
        if end.node not in nodes:
            faults.add(f"{at}/{member}", "unknown-node", "there is no node of this id")
            return False
    if edge.source.node not in components or edge.target.node not in components:
        return False
    outputs = _outputs(edge.source, nodes, components)
    inputs = inputs_of(components[edge.target.node], nodes[edge.target.node].inputs)
    source, target = outputs.get(edge.source.port), inputs.get(edge.target.port)
    if source is None:
        faults.add(
            f"{at}/from", "unknown-port", f"the outputs of {edge.source.node} are {', '.join(outputs) or 'none'}"
        )
    if target is None:
        faults.add(f"{at}/to", "unknown-port", f"the inputs of {edge.target.node} are {', '.join(inputs) or 'none'}")
    if source is None or target is None:
        return False
    if not target.edge:
        faults.add(f"{at}/to", "not-allowed", f"{edge.target} is a setting: give it as a literal")
        return False
    if not joins(source.type, target.type):
        faults.add(at, "wrong-type", f"{edge.source} is {source.type}, {edge.target} takes {target.type}")
        return False
    return True


def _outputs(end: End, nodes: Mapping[str, Node], components: Mapping[str, ComponentSpec]) -> Mapping[str, OutputPort]:
    return outputs_of(components[end.node], nodes[end.node].inputs)


def _inputs(node: Node, component: ComponentSpec, edges: Sequence[Edge], faults: Faults) -> None:
    at = f"/nodes/{node.index}"
    ports = inputs_of(component, node.inputs)
    wired = {edge.target.port: edge for edge in edges if edge.target.node == node.id}
    for name, value in node.inputs.items():
        port = ports.get(name)
        here = f"{at}/inputs{pointer(name)}"
        if port is None:
            faults.add(here, "unknown-input", f"the inputs of {component.name} are {', '.join(ports) or 'none'}")
            continue
        literal.check(port, value, node.inputs, here, faults)
        if name in wired:
            faults.add(here, "ambiguous", f"an edge leads to this input too (/edges/{wired[name].index})")
    for port in ports.values():
        if port.required and port.name not in node.inputs and port.name not in wired:
            faults.add(f"{at}/inputs/{port.name}", "missing", "needs a literal or an edge")
    if component.role == "ask":
        if "actions" not in node.inputs and node.inputs.get("kind") == "choice":
            faults.add(f"{at}/inputs/actions", "missing", "a choice names its actions")
        for member in ("timeout_seconds", "retry"):
            if getattr(node, member) is not None:
                faults.add(f"{at}/{member}", "not-allowed", "an ask waits for a person: use expires_in_seconds")


def _acyclic(nodes: Mapping[str, Node], edges: list[Edge], faults: Faults) -> None:
    """Note the nodes that lie on a cycle or between two: those that are left when sources and sinks are taken away."""
    left = set(nodes)
    for inwards in (True, False):
        left &= _stripped(left, edges, inwards=inwards)
    if left:
        names = ", ".join(node_id for node_id in nodes if node_id in left)
        faults.add("/edges", "cycle", f"these nodes wait for each other: {names}")


def _stripped(left: set[str], edges: list[Edge], *, inwards: bool) -> set[str]:
    """What remains of `left` when nodes without edges on one side are removed again and again."""
    blockers: dict[str, int] = dict.fromkeys(left, 0)
    after: dict[str, list[str]] = defaultdict(list)
    for edge in edges:
        first, second = (edge.source.node, edge.target.node) if inwards else (edge.target.node, edge.source.node)
        if first in left and second in left:
            blockers[second] += 1
            after[first].append(second)
    free = deque(node_id for node_id, count in blockers.items() if count == 0)
    while free:
        for node_id in after[free.popleft()]:
            blockers[node_id] -= 1
            if blockers[node_id] == 0:
                free.append(node_id)
    return {node_id for node_id, count in blockers.items() if count > 0}
