"""The shape of a definition: objects and lists with the right members, before anything is known about components."""

import re
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from perdure.core.event import UserValue
from perdure.core.graph.faults import Faults, pointer
from perdure.core.retry import RetryPolicy
from perdure.ids import FLOW_NAME, Digest

FORMAT: Final = "perdure.graph/1"
MAX_NODES: Final = 500
MAX_EDGES: Final = 2000
MAX_TIMEOUT_SECONDS: Final = 86_400
NODE_ID: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII)
PORT: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_DEFINITION: Final = ("format", "name", "description", "nodes", "edges")
_NODE: Final = ("id", "component", "inputs", "timeout_seconds", "retry")
_RETRY: Final[Mapping[str, tuple[float, float]]] = {
    "max_failures": (1, 100),
    "first_seconds": (0, 3600),
    "most_seconds": (0, 86_400),
}


class End(Struct, frozen=True):
    """One end of an edge: a port of a node."""

    node: str
    port: str

    def __str__(self) -> str:
        return f"{self.node}.{self.port}"


class Edge(Struct, frozen=True):
    """A value's way from an output port to an input port. `index` is its place in the definition's list of edges."""

    source: End
    target: End
    index: int


class Node(Struct, frozen=True):
    """A node of a definition. `inputs` are its literals, `index` its place in the definition's list of nodes.

    `component` is "" only while a definition is read that names none.
    """

    id: str
    component: str
    inputs: dict[str, UserValue]
    index: int
    timeout_seconds: float | None = None
    retry: RetryPolicy | None = None


class GraphSpec(Struct, frozen=True):
    """A graph flow as `spec.parse` has checked it: what it names exists, its types join, it has no cycle.

    `digest` is the SHA-256 of the definition's canonical JSON. Nodes and edges are in document order. `flows` are its
    sub-flows by the reference that its nodes write, `depth` is how many levels of flows there are (1 without
    sub-flows), `whole` the number of nodes with every sub-flow unrolled.
    """

    name: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    digest: Digest
    flows: "Mapping[str, GraphSpec]" = {}
    depth: int = 1
    whole: int = 0


def read(definition: object, digest: Digest, faults: Faults) -> GraphSpec:
    """The definition's parts as far as they have the right shape; the rest is noted in `faults`."""
    if not isinstance(definition, dict):
        faults.add("", "wrong-type", "a definition is an object")
        return GraphSpec("", (), (), digest)
    _closed(definition, _DEFINITION, "", faults)
    if definition.get("format") != FORMAT:
        faults.add("/format", "invalid-value" if "format" in definition else "missing", f"must be {FORMAT}")
    name = definition.get("name")
    if not isinstance(name, str) or FLOW_NAME.fullmatch(name) is None:
        faults.add("/name", "invalid-value" if "name" in definition else "missing", f"must match {FLOW_NAME.pattern}")
        name = ""
    description = definition.get("description", "")
    if not isinstance(description, str) or len(description) > 2000:
        faults.add("/description", "wrong-type", "must be a string of at most 2000 characters")
    nodes = [_node(item, index, faults) for index, item in _items(definition, "nodes", MAX_NODES, faults)]
    edges = [_edge(item, index, faults) for index, item in _items(definition, "edges", MAX_EDGES, faults)]
    if not nodes and definition.get("nodes") == []:
        faults.add("/nodes", "too-short", "a flow needs at least one node")
    return GraphSpec(name, tuple(n for n in nodes if n), tuple(e for e in edges if e), digest)


def _items(definition: Mapping[str, UserValue], member: str, most: int, faults: Faults) -> list[tuple[int, UserValue]]:
    items = definition.get(member, [] if member == "edges" else None)
    if not isinstance(items, list):
        faults.add(f"/{member}", "wrong-type" if member in definition else "missing", "must be a list")
        return []
    if len(items) > most:
        faults.add(f"/{member}", "too-long", f"at most {most}")
        return []
    return list(enumerate(items))


def _node(item: UserValue, index: int, faults: Faults) -> Node | None:
    at = f"/nodes/{index}"
    if not isinstance(item, dict):
        faults.add(at, "wrong-type", "a node is an object")
        return None
    _closed(item, _NODE, at, faults)
    node_id, component, inputs = item.get("id"), item.get("component"), item.get("inputs", {})
    if not isinstance(node_id, str) or NODE_ID.fullmatch(node_id) is None:
        faults.add(f"{at}/id", "invalid-id" if "id" in item else "missing", f"must match {NODE_ID.pattern}")
        node_id = None
    if not isinstance(component, str) or not component:
        faults.add(f"{at}/component", "wrong-type" if "component" in item else "missing", "must name a component")
        component = ""
    if not isinstance(inputs, dict):
        faults.add(f"{at}/inputs", "wrong-type", "must be an object")
        inputs = {}
    timeout = item.get("timeout_seconds")
    if "timeout_seconds" in item and not _between(timeout, 0.1, MAX_TIMEOUT_SECONDS):
        faults.add(f"{at}/timeout_seconds", "out-of-range", f"must be a number from 0.1 to {MAX_TIMEOUT_SECONDS}")
        timeout = None
    retry = _retry(item["retry"], f"{at}/retry", faults) if "retry" in item else None
    if node_id is None:
        return None
    return Node(node_id, component, dict(inputs), index, timeout, retry)


def _retry(item: UserValue, at: str, faults: Faults) -> RetryPolicy | None:
    if not isinstance(item, dict):
        faults.add(at, "wrong-type", "must be an object")
        return None
    _closed(item, tuple(_RETRY), at, faults)
    if "max_failures" not in item:  # without it the policy would hide the job's own `max_failures`
        faults.add(f"{at}/max_failures", "missing", "a retry policy names its max_failures")
    values: dict[str, float] = {}
    for member, (low, high) in _RETRY.items():
        if member not in item:
            continue
        value = item[member]
        if not _between(value, low, high) or (member == "max_failures" and not isinstance(value, int)):
            faults.add(f"{at}/{member}", "out-of-range", f"must be a number from {low:g} to {high:g}")
        else:
            values[member] = value
    return RetryPolicy(**values)  # type: ignore[arg-type]  # max_failures was checked to be an int


def _edge(item: UserValue, index: int, faults: Faults) -> Edge | None:
    at = f"/edges/{index}"
    if not isinstance(item, dict):
        faults.add(at, "wrong-type", "an edge is an object with from and to")
        return None
    _closed(item, ("from", "to"), at, faults)
    source, target = (_end(item, member, at, faults) for member in ("from", "to"))
    return Edge(source, target, index) if source and target else None


def _end(item: Mapping[str, UserValue], member: str, at: str, faults: Faults) -> End | None:
    text = item.get(member)
    node, dot, port = text.partition(".") if isinstance(text, str) else ("", "", "")
    if not dot or NODE_ID.fullmatch(node) is None or PORT.fullmatch(port) is None:
        code = "invalid-value" if member in item else "missing"
        faults.add(f"{at}/{member}", code, "must be a node's id, a dot and a port")
        return None
    return End(node, port)


def _closed(item: Mapping[str, UserValue], members: tuple[str, ...], at: str, faults: Faults) -> None:
    for member in item:
        if member not in members:
            faults.add(at + pointer(str(member)), "unknown-member", f"known are {', '.join(members)}")


def _between(value: UserValue, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
