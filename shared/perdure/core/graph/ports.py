"""What a component looks like from outside: its ports, their types, what a literal may be. Declarations, no code.

The gateway checks definitions against them without importing a single component; the engine pairs each with its
function.
"""

import re
from collections.abc import Mapping
from typing import Final, Literal

from msgspec import Struct

from perdure.core.event import UserValue
from perdure.core.graph import template
from perdure.errors import Malformed

PortType = Literal["text", "data", "message", "any"]
LiteralKind = Literal[
    "text",
    "number",
    "integer",
    "boolean",
    "json",
    "choice",
    "template",
    "instant",
    "flow",
    "component",
    "cases",
    "headers",
    "statuses",
    "ask_kind",
    "actions",
    "pointers",
    "schema",
    "assignees",
    "on_timeout",
    "quorum",
    "reminders",
    "escalations",
    "form",
]
OutputKind = Literal["text", "data", "message"]
Role = Literal["input", "step", "ask", "wait", "subflow", "map"]


class InputPort(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One input of a component: a literal of the definition, or the end of an edge.

    `required`: without a literal or a live edge the node does not run. `edge` is False for settings, which only a
    literal may give, because the ports or the checks of the definition depend on them. `minimum` and `maximum` bound
    numbers, and the characters of a text; `choices` are the values of a `choice`.
    """

    name: str
    type: PortType
    literal: LiteralKind
    required: bool = False
    edge: bool = True
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()


class OutputPort(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One output of a component. `branch`: it is live only when taken, else it is live whenever the node ran."""

    name: str
    type: PortType
    branch: bool = False


class ComponentSpec(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A component as a definition sees it.

    `role`: an `input` node takes its value from the job's input, a `step` runs a function once; `ask`, `wait`,
    `subflow` and `map` are the engine's own. `output_kind` is the kind of output that a node without successors gives.
    `dynamic` adds ports that depend on a literal: a template has an input for each of its variables, an ask an output
    for each of its actions and fields, a branch one for each case, a sub-flow and a map have those of what they run.
    """

    name: str
    outputs: tuple[OutputPort, ...]
    inputs: tuple[InputPort, ...] = ()
    role: Role = "step"
    output_kind: OutputKind = "text"
    dynamic: Literal["variables", "actions", "cases", "flow", "each"] | None = None
    description: str = ""

    @property
    def several(self) -> bool:
        """Whether its function returns a dict of the ports that are live, and not the value of its one port."""
        return len(self.outputs) > 1 or self.dynamic == "cases" or any(port.branch for port in self.outputs)

    @property
    def repeatable(self) -> bool:
        """Whether a map can run it for each item: it is one step, and gives a value and no ways to take."""
        return self.role == "step" and self.dynamic != "cases"


Catalogue = Mapping[str, ComponentSpec]


class Interface(Struct, frozen=True):
    """A graph as a component of another: its input nodes and its terminal outputs, by their ids."""

    inputs: tuple[InputPort, ...]
    outputs: tuple[OutputPort, ...]


class Scope(Struct, frozen=True):
    """What the nodes of a graph can refer to: components by name, flows by the reference that the definition writes."""

    catalogue: Catalogue = {}
    flows: Mapping[str, Interface] = {}


NOTHING: Final = Scope()
DEFAULT_ACTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "approval": ("approve", "reject"),
    "input": ("submit",),
    "tool_call": ("approve", "edit", "reject", "respond"),
    "choice": (),  # its options are what it is for: the definition names them
}
RESERVED_PORTS: Final = ("payload", "comment", "timeout")  # the outputs of every ask
ACTION_ID: Final = re.compile(r"[a-z0-9_-]{1,64}", re.ASCII)
FIELD: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)  # what an edge can name


def joins(source: PortType, target: PortType) -> bool:
    """Whether an edge may lead from an output of type `source` to an input of type `target`."""
    return source == target or "any" in (source, target)


def inputs_of(
    component: ComponentSpec, literals: Mapping[str, UserValue], scope: Scope = NOTHING
) -> dict[str, InputPort]:
    """The inputs of a node with these literals, by name. A literal that is not what it should be adds none."""
    ports = {port.name: port for port in component.inputs}
    match component.dynamic:
        case "variables":
            for name in _variables(literals.get("template")):
                ports.setdefault(name, InputPort(name=name, type="any", literal="json", required=True))
        case "flow":
            inner = scope.flows.get(_text(literals.get("flow")))
            ports = {**{port.name: port for port in (inner.inputs if inner else ())}, **ports}
        case "each":
            inner_ports = repeated(literals, scope)
            taken = item_port(literals, scope)
            ports = {**{name: port for name, port in inner_ports.items() if name != taken or not port.edge}, **ports}
        case _:
            pass
    return ports


def outputs_of(
    component: ComponentSpec, literals: Mapping[str, UserValue], scope: Scope = NOTHING
) -> dict[str, OutputPort]:
    """The outputs of a node with these literals, by name: those of its actions or cases first."""
    ports: dict[str, OutputPort] = {}
    match component.dynamic:
        case "actions":
            ports = {name: OutputPort(name=name, type="any", branch=True) for name in action_ids(literals)}
            ports |= {name: OutputPort(name=name, type=kind, branch=True) for name, kind in fields(literals).items()}
        case "cases":
            ports = {name: OutputPort(name=name, type="any", branch=True) for name in case_ids(literals)}
        case "flow":
            inner = scope.flows.get(_text(literals.get("flow")))
            ports = {port.name: port for port in (inner.outputs if inner else ())}
        case _:
            pass
    return {**ports, **{port.name: port for port in component.outputs}}


def repeated(literals: Mapping[str, UserValue], scope: Scope) -> dict[str, InputPort]:
    """The inputs of what a map node with these literals runs for each item; none where that is not known."""
    if "flow" in literals:
        inner = scope.flows.get(_text(literals["flow"]))
        return {port.name: port for port in inner.inputs} if inner else {}
    component = scope.catalogue.get(_text(literals.get("component")))
    if component is None or not component.repeatable:
        return {}
    return inputs_of(component, literals, scope)


def item_port(literals: Mapping[str, UserValue], scope: Scope) -> str | None:
    """The input that takes the item of a map node: the one it names, else the only one, else the only required one."""
    if "item" in literals:
        return _text(literals["item"])
    ports = [port for port in repeated(literals, scope).values() if port.edge]
    wanted = [port.name for port in ports if port.required and port.name not in literals]
    if len(ports) == 1:
        return ports[0].name
    return wanted[0] if len(wanted) == 1 else None


def action_ids(literals: Mapping[str, UserValue]) -> tuple[str, ...]:
    """The ids of the actions of an ask node, given or by its kind; what is no action is left out."""
    given = literals.get("actions")
    if given is None:
        kind = literals.get("kind", "approval")
        return DEFAULT_ACTIONS.get(kind, ()) if isinstance(kind, str) else ()
    return _ids(given)


def fields(literals: Mapping[str, UserValue]) -> dict[str, PortType]:
    """The fields of an ask node's form that have a port of their own, with its type.

    One that is called like an action, or like an output that every ask has, can only be had with the whole payload.
    """
    rule = literals.get("response_schema")
    properties = rule.get("properties") if isinstance(rule, dict) else None
    if not isinstance(properties, dict):
        return {}
    taken = (*RESERVED_PORTS, *action_ids(literals))
    return {
        name: "text" if isinstance(field, dict) and field.get("type") == "string" else "data"
        for name, field in properties.items()
        if name not in taken and FIELD.fullmatch(name)
    }


def case_ids(literals: Mapping[str, UserValue]) -> tuple[str, ...]:
    """The ids of the cases of a branch node; what is no case is left out."""
    return _ids(literals.get("cases"))


def _ids(given: UserValue) -> tuple[str, ...]:
    if not isinstance(given, list):
        return ()
    ids = (item.get("id") for item in given if isinstance(item, dict))
    return tuple(dict.fromkeys(name for name in ids if isinstance(name, str) and ACTION_ID.fullmatch(name)))


def _text(value: UserValue) -> str:
    return value if isinstance(value, str) else ""


def _variables(text: UserValue) -> tuple[str, ...]:
    if not isinstance(text, str):
        return ()
    try:
        return template.names(template.parse(text))
    except Malformed:
        return ()
