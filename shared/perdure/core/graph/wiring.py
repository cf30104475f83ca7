"""Whether the parts of a definition fit: components and ports exist, types fit, nothing runs in a circle."""

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from perdure.core import askable
from perdure.core.graph import literal
from perdure.core.graph.faults import Faults, pointer
from perdure.core.graph.nested import reference_of, scope_of
from perdure.core.graph.ports import (
    Catalogue,
    ComponentSpec,
    Scope,
    inputs_of,
    item_port,
    joins,
    outputs_of,
    repeated,
)
from perdure.core.graph.shape import Edge, GraphSpec, Node

MAX_OUTPUTS: Final = 100  # of a job
_UNTIMED: Final = {
    "ask": "an ask waits for a person: use expires_in_seconds",
    "wait": "a wait ends by itself",
    "subflow": "give it to the nodes of the sub-flow",
    "map": "give it to the nodes of the sub-flow",
}


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
    scope = scope_of(spec, catalogue)
    edges = [edge for edge in spec.edges if _ends(edge, nodes, components, scope, faults)]
    for node in spec.nodes:
        if node.id in components:
            _inputs(node, components[node.id], spec.edges, scope, faults)
    _acyclic(nodes, edges, faults)
    if len(nodes.keys() - {edge.source.node for edge in spec.edges}) > MAX_OUTPUTS:
        faults.add("/nodes", "too-many-outputs", f"at most {MAX_OUTPUTS} nodes may have no successor")


def _ends(
    edge: Edge, nodes: Mapping[str, Node], components: Mapping[str, ComponentSpec], scope: Scope, faults: Faults
) -> bool:
    """Whether both ends are ports that join. An end at a node whose component is unknown is left alone."""
    at = f"/edges/{edge.index}"
    for member, end in (("from", edge.source), ("to", edge.target)):
        if end.node not in nodes:
            faults.add(f"{at}/{member}", "unknown-node", "there is no node of this id")
            return False
    if edge.source.node not in components or edge.target.node not in components:
        return False
    if any(_unknown(nodes[end.node], components[end.node], scope) for end in (edge.source, edge.target)):
        return False
    outputs = outputs_of(components[edge.source.node], nodes[edge.source.node].inputs, scope)
    inputs = inputs_of(components[edge.target.node], nodes[edge.target.node].inputs, scope)
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


def _unknown(node: Node, component: ComponentSpec, scope: Scope) -> bool:
    """Whether the ports of a node hang on a flow or component that is not known: that is told once, at the node."""
    if component.dynamic == "flow":
        return reference_of(node) not in scope.flows
    return component.dynamic == "each" and not repeated(node.inputs, scope)


def _inputs(node: Node, component: ComponentSpec, edges: Sequence[Edge], scope: Scope, faults: Faults) -> None:
    at = f"/nodes/{node.index}"
    ports = inputs_of(component, node.inputs, scope)
    unknown = _unknown(node, component, scope)
    wired = {edge.target.port: edge for edge in edges if edge.target.node == node.id}
    for name, value in node.inputs.items():
        port = ports.get(name)
        here = f"{at}/inputs{pointer(name)}"
        if port is None:
            if not unknown:
                faults.add(here, "unknown-input", f"the inputs of {component.name} are {', '.join(ports) or 'none'}")
            continue
        literal.check(port, value, node.inputs, here, faults)
        if name in wired:
            faults.add(here, "ambiguous", f"an edge leads to this input too (/edges/{wired[name].index})")
    for port in ports.values():
        if port.required and port.name not in node.inputs and port.name not in wired:
            faults.add(f"{at}/inputs/{port.name}", "missing", "needs a literal or an edge")
    if component.role in _UNTIMED and (component.role != "map" or "flow" in node.inputs):
        for member in ("timeout_seconds", "retry"):
            if getattr(node, member) is not None:
                faults.add(f"{at}/{member}", "not-allowed", _UNTIMED[component.role])
    _own(node, component, wired, scope, faults)


def _own(node: Node, component: ComponentSpec, wired: Mapping[str, Edge], scope: Scope, faults: Faults) -> None:
    """What only one kind of node has to keep."""
    at = f"/nodes/{node.index}/inputs"
    match component.role:
        case "ask":
            _ask(node, faults)
        case "wait":
            given = [name for name in ("seconds", "until") if name in node.inputs or name in wired]
            if len(given) != 1:
                faults.add(at, "ambiguous" if given else "missing", "a wait has either seconds or until")
        case "subflow":
            _flow(node, component, scope, faults)
        case "map":
            _map(node, component, scope, faults)
        case _:
            pass


def _ask(node: Node, faults: Faults) -> None:
    """That what the node says goes together."""
    at = f"/nodes/{node.index}/inputs"
    if not any(fault.pointer is not None and fault.pointer.startswith(at) for fault in faults.found):
        askable.check(node.inputs, at, faults)  # what is refused itself is not compared


def _flow(node: Node, component: ComponentSpec, scope: Scope, faults: Faults) -> None:
    """That the flow exists, and that its inputs do not hide behind the node's own."""
    at = f"/nodes/{node.index}/inputs"
    reference = reference_of(node)
    if reference and reference not in scope.flows and not faults.at(f"{at}/flow"):
        faults.add(f"{at}/flow", "unknown-flow", "there is no such graph flow")
    elif reference in scope.flows:
        _hidden((port.name for port in scope.flows[reference].inputs), component, f"{at}/flow", faults)


def _map(node: Node, component: ComponentSpec, scope: Scope, faults: Faults) -> None:
    at = f"/nodes/{node.index}/inputs"
    given = [name for name in ("flow", "component") if name in node.inputs]
    if len(given) != 1:
        faults.add(at, "ambiguous" if given else "missing", "a map runs either a flow or a component for each item")
        return
    if given == ["flow"]:
        _flow(node, component, scope, faults)
    elif not faults.at(f"{at}/component"):
        inner = scope.catalogue.get(str(node.inputs["component"]))
        if inner is None or not inner.repeatable:
            known = ", ".join(sorted(name for name, component in scope.catalogue.items() if component.repeatable))
            faults.add(f"{at}/component", "unknown-component", f"for each item can run {known}")
            return
        item = item_port(node.inputs, scope)
        _hidden((name for name in repeated(node.inputs, scope) if name != item), component, f"{at}/component", faults)
    ports = repeated(node.inputs, scope)
    if ports:
        item = item_port(node.inputs, scope)
        if item is None:
            faults.add(f"{at}/item", "missing", f"say which input takes the item: {', '.join(ports)}")
        elif item not in ports or not ports[item].edge or item in node.inputs:
            takers = ", ".join(name for name, port in ports.items() if port.edge and name not in node.inputs)
            faults.add(f"{at}/item", "unknown-input", f"an item can go to {takers or 'none'}")


def _hidden(names: Iterable[str], component: ComponentSpec, at: str, faults: Faults) -> None:
    own = {port.name for port in component.inputs}
    hidden = [name for name in names if name in own]
    if hidden:
        faults.add(at, "reserved-name", f"its inputs {', '.join(hidden)} are called like those of {component.name}")


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
