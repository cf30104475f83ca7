"""What components look like from outside: their ports, their types, what a literal may be. Declarations only, no code.

The gateway checks definitions against it without importing a single component; the engine pairs each entry with its
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
LiteralKind = Literal["text", "number", "integer", "json", "template", "ask_kind", "actions", "pointers", "on_timeout"]
OutputKind = Literal["text", "data", "message"]


class InputPort(Struct, frozen=True, kw_only=True):
    """One input of a component: a literal of the definition, or the end of an edge.

    `required`: without a literal or a live edge the node does not run. `edge` is False for settings, which only a
    literal may give, because the ports or the checks of the definition depend on them. `minimum` and `maximum` bound
    numbers, and the characters of a text.
    """

    name: str
    type: PortType
    literal: LiteralKind
    required: bool = False
    edge: bool = True
    minimum: float | None = None
    maximum: float | None = None


class OutputPort(Struct, frozen=True, kw_only=True):
    """One output of a component. `branch`: it is live only when taken, else it is live whenever the node ran."""

    name: str
    type: PortType
    branch: bool = False


class ComponentSpec(Struct, frozen=True, kw_only=True):
    """A component as a definition sees it.

    `role`: an `input` node takes its value from the job's input, a `step` runs a function once, an `ask` asks a person.
    `output_kind` is the kind of output that a node without successors gives. `dynamic` adds ports that depend on a
    literal: a template has an input for each of its variables, an ask an output for each of its actions.
    """

    name: str
    outputs: tuple[OutputPort, ...]
    inputs: tuple[InputPort, ...] = ()
    role: Literal["input", "step", "ask"] = "step"
    output_kind: OutputKind = "text"
    dynamic: Literal["variables", "actions"] | None = None


Catalogue = Mapping[str, ComponentSpec]

DEFAULT_ACTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "approval": ("approve", "reject"),
    "input": ("submit",),
    "tool_call": ("approve", "edit", "reject", "respond"),
    "choice": (),  # its options are what it is for: the definition names them
}
MAX_TEXT_CHARS: Final = 100_000
ACTION_ID: Final = re.compile(r"[a-z0-9_-]{1,64}", re.ASCII)


def _text(name: str, *, required: bool = False, edge: bool = True, maximum: int = MAX_TEXT_CHARS) -> InputPort:
    return InputPort(name=name, type="text", literal="text", required=required, edge=edge, maximum=maximum)


def _setting(name: str, kind: LiteralKind, minimum: float | None = None, maximum: float | None = None) -> InputPort:
    return InputPort(name=name, type="data", literal=kind, edge=False, minimum=minimum, maximum=maximum)


_TEXT_OUT: Final = (OutputPort(name="text", type="text"),)
_ASK_OUT: Final = (
    OutputPort(name="payload", type="data", branch=True),
    OutputPort(name="comment", type="text", branch=True),
    OutputPort(name="timeout", type="any", branch=True),
)

BUILTIN: Final[Catalogue] = {
    spec.name: spec
    for spec in (
        ComponentSpec(name="chat_input", role="input", inputs=(_text("default", edge=False),), outputs=_TEXT_OUT),
        ComponentSpec(name="text_input", role="input", inputs=(_text("default", edge=False),), outputs=_TEXT_OUT),
        ComponentSpec(
            name="template",
            inputs=(InputPort(name="template", type="text", literal="template", required=True, edge=False),),
            outputs=_TEXT_OUT,
            dynamic="variables",
        ),
        ComponentSpec(
            name="chat_model",
            inputs=(
                _text("prompt", required=True),
                _text("system"),
                _text("model", maximum=200),
                _setting("temperature", "number", 0, 2),
                _setting("max_tokens", "integer", 1, 1_000_000),
            ),
            outputs=_TEXT_OUT,
        ),
        ComponentSpec(
            name="ask",
            role="ask",
            inputs=(
                _text("title", required=True, maximum=500),
                _text("message"),
                InputPort(name="proposal", type="any", literal="json"),
                _setting("kind", "ask_kind"),
                _setting("actions", "actions"),
                _setting("editable", "pointers"),
                _setting("expires_in_seconds", "number", 1, 400 * 86_400),
                _setting("on_timeout", "on_timeout"),
            ),
            outputs=_ASK_OUT,
            output_kind="data",
            dynamic="actions",
        ),
        ComponentSpec(name="chat_output", inputs=(_text("text", required=True),), outputs=(), output_kind="message"),
        ComponentSpec(name="text_output", inputs=(_text("text", required=True),), outputs=(), output_kind="text"),
        ComponentSpec(
            name="data_output",
            inputs=(InputPort(name="data", type="data", literal="json", required=True),),
            outputs=(),
            output_kind="data",
        ),
    )
}


def joins(source: PortType, target: PortType) -> bool:
    """Whether an edge may lead from an output of type `source` to an input of type `target`."""
    return source == target or "any" in (source, target)


def inputs_of(component: ComponentSpec, literals: Mapping[str, UserValue]) -> dict[str, InputPort]:
    """The inputs of a node with these literals, by name. A literal that is not what it should be adds none."""
    ports = {port.name: port for port in component.inputs}
    if component.dynamic == "variables":
        for name in _variables(literals.get("template")):
            ports.setdefault(name, InputPort(name=name, type="any", literal="json", required=True))
    return ports


def outputs_of(component: ComponentSpec, literals: Mapping[str, UserValue]) -> dict[str, OutputPort]:
    """The outputs of a node with these literals, by name: those of its actions first."""
    ports: dict[str, OutputPort] = {}
    if component.dynamic == "actions":
        ports |= {name: OutputPort(name=name, type="any", branch=True) for name in action_ids(literals)}
    return {**ports, **{port.name: port for port in component.outputs}}


def action_ids(literals: Mapping[str, UserValue]) -> tuple[str, ...]:
    """The ids of the actions of an ask node, given or by its kind; what is no action is left out."""
    given = literals.get("actions")
    if given is None:
        kind = literals.get("kind", "approval")
        return DEFAULT_ACTIONS.get(kind, ()) if isinstance(kind, str) else ()
    if not isinstance(given, list):
        return ()
    ids = (action.get("id") for action in given if isinstance(action, dict))
    return tuple(dict.fromkeys(name for name in ids if isinstance(name, str) and ACTION_ID.fullmatch(name)))


def _variables(text: UserValue) -> tuple[str, ...]:
    if not isinstance(text, str):
        return ()
    try:
        return template.names(template.parse(text))
    except Malformed:
        return ()
