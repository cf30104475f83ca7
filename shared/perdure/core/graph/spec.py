"""A graph flow's face: check a definition, check a job's input against it, say what comes in and what comes out.

Everything here is pure and knows components by their declarations alone (`catalogue`); the gateway needs nothing else.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from msgspec.structs import replace

from perdure.core import codec
from perdure.core.event import Named, UserValue
from perdure.core.graph import nested, shape, wiring
from perdure.core.graph.catalogue import BUILTIN
from perdure.core.graph.faults import Faults, pointer
from perdure.core.graph.nested import input_nodes
from perdure.core.graph.ports import Catalogue
from perdure.core.graph.shape import FORMAT, Edge, End, GraphSpec, Node
from perdure.errors import Fault, Invalid, Malformed, TooLarge
from perdure.ids import Digest

__all__ = [
    "FORMAT",
    "Edge",
    "End",
    "GraphSpec",
    "Node",
    "check_input",
    "input_nodes",
    "input_schema",
    "outputs",
    "parse",
    "stored",
]
MAX_DEFINITION_BYTES: Final = 1024 * 1024


def parse(
    definition: object, catalogue: Catalogue = BUILTIN, flows: Mapping[str, GraphSpec] | None = None
) -> GraphSpec:
    """The graph that a definition (decoded JSON) describes. `flows` are the graphs of its references, as far as they
    exist (`nested.references`).

    Raises Invalid(code="invalid-flow") with every fault found (at most 100); pointers lead into the definition.
    """
    try:
        body = codec.canonical(definition)
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise Invalid([Fault("wrong-type", "a definition is JSON", pointer="")], "invalid-flow") from exc
    if len(body) > MAX_DEFINITION_BYTES:
        raise Invalid([Fault("too-large", f"at most {MAX_DEFINITION_BYTES} bytes", pointer="")], "invalid-flow")
    faults = Faults()
    graph = shape.read(definition, Digest(sha256(body).hexdigest()), faults)
    graph = _with_flows(graph, definition, flows or {}, faults)
    if not faults.at(
        "", "/nodes", "/edges"
    ):  # without a list of nodes or edges everything else would seem to be missing
        wiring.check(graph, catalogue, faults)
    if faults:
        faults.refuse("invalid-flow")
    return graph


def stored(definition: object, flows: Mapping[str, GraphSpec]) -> GraphSpec:
    """The graph of a definition that was checked when it was published, whichever components are known now.

    Good for what a job takes and which flows it runs; to run it, `parse` it. Raises Invalid for what is no definition.
    """
    faults = Faults()
    graph = shape.read(definition, Digest(sha256(codec.canonical(definition)).hexdigest()), faults)
    graph = _with_flows(graph, definition, flows, faults)
    if faults:
        faults.refuse("invalid-flow")
    return graph


def _with_flows(graph: GraphSpec, definition: object, flows: Mapping[str, GraphSpec], faults: Faults) -> GraphSpec:
    """`graph` with its sub-flows, how deep they go and how many nodes they are."""
    used = {name: flows[name] for name in nested.references(definition) if name in flows}
    inner = [used[name] for name in map(nested.reference_of, graph.nodes) if name in used]
    depth = 1 + max((each.depth for each in inner), default=0)
    whole = len(graph.nodes) + sum(each.whole for each in inner)
    if depth > nested.MAX_DEPTH:
        faults.add("/nodes", "too-deep", f"flows nest at most {nested.MAX_DEPTH} deep")
    if len(nested.digests(replace(graph, flows=used))) > nested.MAX_FLOWS:
        faults.add("/nodes", "too-many-flows", f"at most {nested.MAX_FLOWS} different flows inside")
    if whole > nested.MAX_WHOLE:
        faults.add("/nodes", "too-long", f"at most {nested.MAX_WHOLE} nodes, those of sub-flows counted each time")
    return replace(graph, flows=used, depth=depth, whole=whole)


def check_input(graph: GraphSpec, value: UserValue, catalogue: Catalogue = BUILTIN) -> dict[str, UserValue]:
    """The value of every input node, by its id, defaults filled in.

    `value` is an object of input-node ids; with one input node a bare string is its value; None is no input at all.
    Raises Invalid(code="invalid-input") with pointers that begin with /input.
    """
    nodes = input_nodes(graph, catalogue)
    if isinstance(value, str) and len(nodes) == 1:
        value = {nodes[0].id: value}
    elif value is None:
        value = {}
    if not isinstance(value, dict):
        shapes = "a string or an object" if len(nodes) == 1 else "an object"
        raise Invalid([Fault("wrong-type", f"must be {shapes}", pointer="/input")], "invalid-input")
    faults, names, taken = Faults(), {node.id for node in nodes}, {}
    for member in value:
        if member not in names:
            known = ", ".join(node.id for node in nodes) or "none"
            faults.add(f"/input{pointer(str(member))}", "unknown-member", f"the inputs of this flow are {known}")
    for node in nodes:
        given = value.get(node.id, node.inputs.get("default"))
        at = f"/input/{node.id}"
        if node.id not in value and "default" not in node.inputs:
            faults.add(at, "missing", "this input has no default")
        elif _is_text(node, catalogue) and not isinstance(given, str):
            faults.add(at, "wrong-type", "must be a string")
        else:
            taken[node.id] = given
            _bounded(given, at, faults)
    if faults:
        faults.refuse("invalid-input")
    return taken


def _is_text(node: Node, catalogue: Catalogue) -> bool:
    return catalogue[node.component].outputs[0].type == "text"


def _bounded(value: UserValue, at: str, faults: Faults) -> None:
    try:
        codec.encode_value(value)
    except TooLarge:
        faults.add(at, "too-large", f"must take at most {codec.MAX_VALUE_BYTES} bytes as JSON")
    except Malformed:
        faults.add(at, "wrong-type", "must be JSON that UTF-8 can hold")


def input_schema(graph: GraphSpec, catalogue: Catalogue = BUILTIN) -> dict[str, UserValue]:
    """JSON Schema 2020-12 of what `check_input` takes."""
    nodes = input_nodes(graph, catalogue)
    properties = {
        node.id: {**({"type": "string"} if _is_text(node, catalogue) else {}), **_default(node)} for node in nodes
    }
    whole: dict[str, UserValue] = {"type": "object", "properties": properties, "additionalProperties": False}
    required = [node.id for node in nodes if "default" not in node.inputs]
    if required:
        whole["required"] = required
    return {"anyOf": [{"type": "string"}, whole]} if len(nodes) == 1 else whole


def _default(node: Node) -> dict[str, UserValue]:
    return {"default": node.inputs["default"]} if "default" in node.inputs else {}


def outputs(graph: GraphSpec, catalogue: Catalogue = BUILTIN) -> tuple[Named, ...]:
    """The outputs that a job can have: one for each node without a successor, in document order."""
    return nested.terminals(graph, catalogue)
