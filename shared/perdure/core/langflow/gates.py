"""Where a gate cannot suspend a run: in the body of a loop and in a nested flow, which lfx runs as one component.

`HumanInput` is the component that asks by itself; an agent asks where a tool of its has actions to be approved. What
shows only at run time the engine's guard refuses.
"""

from collections.abc import Iterable
from typing import Any, Final

GATE: Final = "HumanInput"


def misplaced(data: Any) -> tuple[str, ...]:  # Any: a flow file's `data`, which `shape.faults_of` has passed
    """The gates of a flow that lie on a cycle, by id. Nested flows are known by name only: they are the guard's."""
    nodes = [node for node in data["nodes"] if isinstance(node, dict)]
    edges = [(edge.get("source"), edge.get("target")) for edge in data["edges"] if isinstance(edge, dict)]
    gates = [str(node["id"]) for node in nodes if _type(node) == GATE or _asks(node)]
    return tuple(gate for gate in gates if gate in _behind(gate, edges))


def _behind(start: str, edges: Iterable[tuple[Any, Any]]) -> set[Any]:
    """What can be reached from `start` along edges; itself only where it lies on a cycle."""
    following: dict[Any, list[Any]] = {}
    for source, target in edges:
        following.setdefault(source, []).append(target)
    found: set[Any] = set()
    todo = list(following.get(start, ()))
    while todo:
        if (here := todo.pop()) not in found:
            found.add(here)
            todo += following.get(here, ())
    return found


def _type(node: dict[str, Any]) -> str:
    inner = node.get("data")
    return str(inner.get("type", "")) if isinstance(inner, dict) else ""


def _asks(node: dict[str, Any]) -> bool:
    """Whether one of the node's tools needs approval."""
    described = _member(_member(node.get("data"), "node"), "template")
    rows = _member(_member(described, "tools_metadata"), "value")
    return isinstance(rows, list) and any(bool(_member(row, "approval_actions")) for row in rows)


def _member(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None
