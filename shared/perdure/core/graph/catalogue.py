"""The built-in components as definitions see them. Users' own are declared alike and added by `extended`."""

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from perdure.core.event import UserValue
from perdure.core.graph.ports import (
    DEFAULT_ACTIONS,
    Catalogue,
    ComponentSpec,
    InputPort,
    LiteralKind,
    OutputPort,
)
from perdure.errors import Malformed

__all__ = ["BUILTIN", "DEFAULT_ACTIONS", "METHODS", "extended", "from_entries"]

MAX_TEXT_CHARS: Final = 100_000
MAX_URL_CHARS: Final = 8_000
MAX_SECONDS: Final = 400 * 86_400
MAX_WIDTH: Final = 100
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
COMPONENT: Final = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
MAX_PORTS: Final = 100  # of a component of users


def _text(name: str, *, required: bool = False, edge: bool = True, maximum: int = MAX_TEXT_CHARS) -> InputPort:
    return InputPort(name=name, type="text", literal="text", required=required, edge=edge, maximum=maximum)


def _setting(
    name: str, kind: LiteralKind, minimum: float | None = None, maximum: float | None = None, *, required: bool = False
) -> InputPort:
    return InputPort(
        name=name, type="data", literal=kind, edge=False, minimum=minimum, maximum=maximum, required=required
    )


def _choice(name: str, *choices: str) -> InputPort:
    return InputPort(name=name, type="data", literal="choice", edge=False, choices=choices)


def _value(name: str, *, required: bool = False) -> InputPort:
    return InputPort(name=name, type="any", literal="json", required=required)


def _data(name: str, *, required: bool = False) -> InputPort:
    return InputPort(name=name, type="data", literal="json", required=required)


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
            name="data_input",
            role="input",
            inputs=(_setting("default", "json"),),
            outputs=(OutputPort(name="data", type="data"),),
            output_kind="data",
        ),
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
            name="http_request",
            inputs=(
                _text("url", required=True, maximum=MAX_URL_CHARS),
                _choice("method", *METHODS),
                InputPort(name="headers", type="data", literal="headers"),
                _data("query"),
                _value("json"),
                _text("text"),
                _setting("ok_status", "statuses"),
            ),
            outputs=(
                OutputPort(name="body", type="any"),
                OutputPort(name="status", type="data"),
                OutputPort(name="headers", type="data"),
            ),
            output_kind="data",
        ),
        ComponentSpec(
            name="branch",
            inputs=(_value("value", required=True), _setting("cases", "cases", required=True)),
            outputs=(OutputPort(name="default", type="any", branch=True),),
            output_kind="data",
            dynamic="cases",
        ),
        ComponentSpec(
            name="wait",
            role="wait",
            inputs=(
                InputPort(name="seconds", type="data", literal="number", minimum=0, maximum=MAX_SECONDS),
                InputPort(name="until", type="text", literal="instant"),
                _value("value"),
            ),
            outputs=(OutputPort(name="value", type="any"),),
            output_kind="data",
        ),
        ComponentSpec(
            name="ask",
            role="ask",
            inputs=(
                _text("title", required=True, maximum=500),
                _text("message"),
                _value("proposal"),
                _setting("proposal_schema", "schema"),
                _setting("kind", "ask_kind"),
                _setting("actions", "actions"),
                _setting("editable", "pointers"),
                _setting("response_schema", "schema"),
                _data("defaults"),
                _setting("ui", "form"),
                _setting("assignees", "assignees"),
                _setting("forbid_self", "boolean"),
                _setting("quorum", "quorum"),
                _setting("reminders", "reminders"),
                _setting("escalations", "escalations"),
                _setting("expires_in_seconds", "number", 1, MAX_SECONDS),
                _setting("on_timeout", "on_timeout"),
            ),
            outputs=_ASK_OUT,
            output_kind="data",
            dynamic="actions",
        ),
        ComponentSpec(
            name="subflow",
            role="subflow",
            inputs=(_setting("flow", "flow", required=True),),
            outputs=(),
            output_kind="data",
            dynamic="flow",
        ),
        ComponentSpec(
            name="map",
            role="map",
            inputs=(
                _data("items", required=True),
                _setting("flow", "flow"),
                _setting("component", "component"),
                _setting("item", "text"),
                _setting("width", "integer", 1, MAX_WIDTH),
                _choice("on_error", "fail", "skip"),
            ),
            outputs=(OutputPort(name="results", type="data"), OutputPort(name="errors", type="data")),
            output_kind="data",
            dynamic="each",
        ),
        ComponentSpec(name="chat_output", inputs=(_text("text", required=True),), outputs=(), output_kind="message"),
        ComponentSpec(name="text_output", inputs=(_text("text", required=True),), outputs=(), output_kind="text"),
        ComponentSpec(name="data_output", inputs=(_data("data", required=True),), outputs=(), output_kind="data"),
    )
}

_PLAIN: Final[frozenset[LiteralKind]] = frozenset({"text", "json", "number", "integer", "boolean"})
_PORT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)


def from_entries(entries: Iterable[UserValue]) -> Catalogue:
    """The built-in components and those that `Component.catalogue_entry` described, as plain data.

    Raises Malformed for what is no such entry.
    """
    try:
        return extended(msgspec.convert(list(entries), list[ComponentSpec]))
    except msgspec.ValidationError as exc:
        raise Malformed(f"no entry of a catalogue of components: {exc}") from exc


def extended(entries: Iterable[ComponentSpec], base: Catalogue = BUILTIN) -> Catalogue:
    """`base` with components of users. They run as steps, with plain literals and no ports that depend on a literal.

    Raises Malformed for an entry that is none of those, or whose name is taken.
    """
    catalogue = dict(base)
    for entry in entries:
        names = [port.name for port in entry.inputs], [port.name for port in entry.outputs]
        if COMPONENT.fullmatch(entry.name) is None:
            raise Malformed(f"a component's name must match {COMPONENT.pattern}")
        if entry.name in catalogue:
            raise Malformed(f"there is a component {entry.name} already")
        plain = all(port.literal in _PLAIN for port in entry.inputs)
        if entry.role != "step" or entry.dynamic is not None or not plain:
            raise Malformed(f"component {entry.name}: a component of users is a step with plain inputs")
        if any(len(set(found)) < len(found) or len(found) > MAX_PORTS for found in names):
            raise Malformed(f"component {entry.name}: at most {MAX_PORTS} ports a side, each with its own name")
        if not all(_PORT.fullmatch(name) for found in names for name in found):
            raise Malformed(f"component {entry.name}: a port's name must match {_PORT.pattern}")
        catalogue[entry.name] = entry
    return catalogue
