"""A graph flow's face: check a definition, check a job's input against it, say what comes in and what comes out.

Everything here is pure and knows components by their declarations alone (`catalogue`); the gateway needs nothing else.
"""

from hashlib import sha256
from typing import Final

from perdure.core import codec
from perdure.core.event import Named, UserValue
from perdure.core.graph import shape, wiring
from perdure.core.graph.catalogue import BUILTIN, Catalogue
from perdure.core.graph.faults import Faults, pointer
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
]
MAX_DEFINITION_BYTES: Final = 1024 * 1024


def parse(definition: object, catalogue: Catalogue = BUILTIN) -> GraphSpec:
    """The graph that a definition (decoded JSON) describes.

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
    if not faults.at(
        "", "/nodes", "/edges"
    ):  # without a list of nodes or edges everything else would seem to be missing
        wiring.check(graph, catalogue, faults)
    if faults:
        faults.refuse("invalid-flow")
    return graph


def input_nodes(graph: GraphSpec, catalogue: Catalogue = BUILTIN) -> tuple[Node, ...]:
    """The nodes that take their value from the job's input, in document order."""
    return tuple(node for node in graph.nodes if catalogue[node.component].role == "input")


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
        if node.id not in value and given is None:
            faults.add(at, "missing", "this input has no default")
        elif not isinstance(given, str):
            faults.add(at, "wrong-type", "must be a string")
        else:
            taken[node.id] = given
            _bounded(given, at, faults)
    if faults:
        faults.refuse("invalid-input")
    return taken


def _bounded(text: str, at: str, faults: Faults) -> None:
    try:
        codec.encode_value(text)
    except TooLarge:
        faults.add(at, "too-large", f"must take at most {codec.MAX_VALUE_BYTES} bytes as JSON")
    except Malformed:
        faults.add(at, "wrong-type", "must be text that UTF-8 can hold")


def input_schema(graph: GraphSpec, catalogue: Catalogue = BUILTIN) -> dict[str, UserValue]:
    """JSON Schema 2020-12 of what `check_input` takes."""
    nodes = input_nodes(graph, catalogue)
    properties = {node.id: {"type": "string", **_default(node)} for node in nodes}
    whole: dict[str, UserValue] = {"type": "object", "properties": properties, "additionalProperties": False}
    required = [node.id for node in nodes if "default" not in node.inputs]
    if required:
        whole["required"] = required
    return {"anyOf": [{"type": "string"}, whole]} if len(nodes) == 1 else whole


def _default(node: Node) -> dict[str, UserValue]:
    return {"default": node.inputs["default"]} if "default" in node.inputs else {}


def outputs(graph: GraphSpec, catalogue: Catalogue = BUILTIN) -> tuple[Named, ...]:
    """The outputs that a job can have: one for each node without a successor, in document order."""
    sources = {edge.source.node for edge in graph.edges}
    return tuple(
        Named(name=node.id, kind=catalogue[node.component].output_kind)
        for node in graph.nodes
        if node.id not in sources
    )
