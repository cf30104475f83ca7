"""Where a gate cannot suspend a run: in the body of a loop and in a nested flow, which lfx runs as one component.

`HumanInput` is the component that asks by itself; an agent asks where a tool of its has actions to be approved. What
shows only at run time the engine's guard refuses.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

GATE: Final = "HumanInput"


def misplaced(data: Any) -> tuple[str, ...]:  # Any: a flow file's `data`, which `shape.faults_of` has passed
    """The gates of a flow that lie on a cycle, by id. Nested flows are known by name only: they are the guard's."""
    nodes = [node for node in data["nodes"] if isinstance(node, dict) and isinstance(node.get("id"), str)]
    edges = [(edge.get("source"), edge.get("target")) for edge in data["edges"] if isinstance(edge, dict)]
    gates = [node["id"] for node in nodes if _type(node) == GATE or _asks(node)]
    cyclic = _on_cycles(edges) if gates else set()
    return tuple(gate for gate in gates if gate in cyclic)


def _on_cycles(edges: Iterable[tuple[Any, Any]]) -> set[Any]:
    """What lies on a cycle: strongly connected with something else, or leading to itself.

    By Kosaraju's two walks, linear in the edges: whoever edits a flow says how many there are.
    """
    following: dict[Any, list[Any]] = {}
    before: dict[Any, list[Any]] = {}
    found: set[Any] = set()
    for source, target in edges:
        following.setdefault(source, []).append(target)
        before.setdefault(target, []).append(source)
        if source == target:
            found.add(source)
    left: list[Any] = []
    seen: set[Any] = set()
    for start in following:
        left += _walk(start, following, seen)
    seen = set()
    for start in reversed(left):
        group = _walk(start, before, seen)
        if len(group) > 1:
            found |= set(group)
    return found


def _walk(start: Any, ways: Mapping[Any, list[Any]], seen: set[Any]) -> list[Any]:
    """What is reached from `start` and not yet `seen`, each behind all that is reached from it alone."""
    if start in seen:
        return []
    seen.add(start)
    order: list[Any] = []
    path = [(start, iter(ways.get(start, ())))]
    while path:
        here, following = path[-1]
        after = next((each for each in following if each not in seen), None)
        if after is None:
            order.append(here)
            path.pop()
        else:
            seen.add(after)
            path.append((after, iter(ways.get(after, ()))))
    return order


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
