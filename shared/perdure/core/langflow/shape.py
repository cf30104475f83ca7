"""What the API needs to know of a flow, whatever its kind: its components, which of them are terminal, their fields.

Terminal is a component without outgoing edges; an output component is one of Langflow's three, or flagged. Of a graph
flow the nodes are the components, of a Python flow only the outputs that it says.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from msgspec import Struct

from perdure.core.graph.catalogue import BUILTIN
from perdure.core.graph.ports import Catalogue
from perdure.core.graph.spec import GraphSpec, outputs

OUTPUT_TYPES: Final = ("ChatOutput", "TextOutput", "DataOutput")
NOTE: Final = "noteNode"
KINDS: Final[Mapping[str, str]] = {"text": "text", "message": "message", "data": "json", "table": "table"}
_GRAPH_OUTPUTS: Final = frozenset({"chat_output", "text_output", "data_output"})


class Component(Struct, frozen=True, kw_only=True):
    """`output_type` is what the API calls `type`, `fields` are types by name, `grouped` those that stand for a field
    inside a group.
    """

    id: str
    type: str
    display_name: str
    output_type: str
    terminal: bool
    leads_to: tuple[str, ...] = ()
    comes_from: tuple[str, ...] = ()
    is_output: bool = False
    fields: dict[str, str] = {}
    grouped: frozenset[str] = frozenset()

    @property
    def first(self) -> bool:
        """Whether no edge leads to it."""
        return not self.comes_from


class FlowShape(Struct, frozen=True):
    """The components in the order of the flow, notes left out."""

    components: tuple[Component, ...]

    @property
    def terminals(self) -> tuple[Component, ...]:
        """The components without outgoing edges."""
        return tuple(component for component in self.components if component.terminal)

    def find(self, component: str) -> Component | None:
        """The component of that id."""
        return next((each for each in self.components if each.id == component), None)


def of_langflow(data: Any) -> FlowShape:  # Any: a flow file's `data`, checked or not
    """The shape of a Langflow flow; what is malformed in it is passed over, `faults_of` says it."""
    leads: dict[str, dict[str, None]] = {}  # by id, in the order of the edges: a flow may have very many
    comes: dict[str, dict[str, None]] = {}
    for edge in _objects(data, "edges"):
        source, target = _text(edge.get("source")), _text(edge.get("target"))
        leads.setdefault(source, {})[target] = None
        comes.setdefault(target, {})[source] = None
    found = []
    for node in _objects(data, "nodes"):
        inner = node.get("data")
        if node.get("type") == NOTE or not isinstance(inner, dict) or not isinstance(node.get("id"), str):
            continue
        if inner.get("type") == "note":
            continue
        name = str(node["id"])
        found.append(_component(name, inner, tuple(leads.get(name, ())), tuple(comes.get(name, ()))))
    return FlowShape(tuple(found))


def _component(
    component: str, inner: dict[str, Any], leads_to: tuple[str, ...], comes_from: tuple[str, ...]
) -> Component:
    described = inner.get("node") if isinstance(inner.get("node"), dict) else {}
    assert isinstance(described, dict)  # said above; mypy does not carry it over
    kind = _text(inner.get("type"))
    template = described.get("template")
    fields = {n: f for n, f in (template if isinstance(template, dict) else {}).items() if isinstance(f, dict)}
    return Component(
        id=component,
        type=kind,
        display_name=_text(described.get("display_name")) or kind,
        output_type=output_type(described.get("outputs"), kind),
        terminal=not leads_to,
        leads_to=leads_to,
        comes_from=comes_from,
        is_output=kind in OUTPUT_TYPES or described.get("is_output") is True,
        fields={name: _text(field.get("type")) for name, field in fields.items()},
        grouped=frozenset(name for name, field in fields.items() if field.get("proxy")),
    )


def output_type(declared: Any, kind: str) -> str:  # Any: a flow file's JSON
    """The first declared type of the first output, else the component's type, in lower case; else `unknown`."""
    first = declared[0] if isinstance(declared, list) and declared else None
    types = first.get("types") if isinstance(first, dict) else None
    name = types[0] if isinstance(types, list) and types else kind
    return _text(name).lower() or "unknown"


def of_graph(graph: GraphSpec, catalogue: Catalogue = BUILTIN) -> FlowShape:
    """The shape of a graph flow. What may be tweaked of a node are the literals that it has."""
    ends = {named.name: named.kind for named in outputs(graph, catalogue)}
    edges = [(edge.source.node, edge.target.node) for edge in graph.edges]
    return FlowShape(
        tuple(
            Component(
                id=node.id,
                type=node.component,
                display_name=titled(node.component),
                output_type=KINDS[ends[node.id]] if node.id in ends else "data",
                terminal=node.id in ends,
                leads_to=tuple(dict.fromkeys(target for source, target in edges if source == node.id)),
                comes_from=tuple(dict.fromkeys(source for source, target in edges if target == node.id)),
                is_output=node.component in _GRAPH_OUTPUTS,
                fields=dict.fromkeys(node.inputs, ""),
            )
            for node in graph.nodes
        )
    )


def of_python(outputs: Iterable[str]) -> FlowShape:
    """The shape of a Python flow: the outputs that it is known to have."""
    return FlowShape(tuple(workflow_output(name) for name in outputs))


def workflow_output(name: str, kind: str = "data") -> Component:
    """An output of a Python workflow as a component."""
    return Component(
        id=name,
        type="workflow",
        display_name=titled(name),
        output_type=KINDS.get(kind, kind),
        terminal=True,
        is_output=True,
    )


def titled(name: str) -> str:
    """`chat_output` as people read it."""
    return name.replace("_", " ").replace("-", " ").title()


def faults_of(data: Any) -> str | None:  # Any: as it came in
    """Why JSON alone shows that this is no flow that can run; None where it does not."""
    if not isinstance(data, dict):
        return "the flow has no data"
    for member in ("nodes", "edges"):
        if not isinstance(data.get(member), list):
            return f"the flow's data has no list of {member}"
    shape = of_langflow(data)
    if not shape.components:
        return "the flow has no components"
    ids = {component.id for component in shape.components}
    if len(ids) != len(shape.components):
        return "two components have one id"
    for edge in _objects(data, "edges"):
        for end in ("source", "target"):
            if _text(edge.get(end)) not in ids:
                return f"an edge leads {'from' if end == 'source' else 'to'} a component that is not there"
    return None


def _objects(data: Any, member: str) -> list[dict[str, Any]]:
    items = data.get(member) if isinstance(data, dict) else None
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
