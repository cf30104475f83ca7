"""Tweaks and globals: what a caller sets for one job. Names are resolved to component ids when the job is submitted.

The three forms of a tweak, and what is protected, are those of lfx 1.13 (`lfx.processing.process`,
`lfx.utils.flow_validation`): component id or display name with an object of fields, or a bare field for all components.
Of several components with one display name the last is meant. A named component beats a bare field.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from msgspec import Struct

from perdure.core.event import UserValue
from perdure.core.langflow.shape import Component, FlowShape

MAX_NAME: Final = 256  # characters of a global's name
MAX_GLOBAL: Final = 65_536  # characters of its value
MAX_DEPTH: Final = 64
MAX_INTEGER: Final = 2**63 - 1
HEADER: Final = "x-langflow-global-var-"
_LONE: Final = re.compile("[\x00\ud800-\udfff]")
_RUNS_CODE: Final = frozenset(
    {
        "CSVAgent", "CodeAct Agent (Smolagents)", "CodeActAgentSmolagents", "Cuga", "LambdaFilterComponent",
        "OpenDsStar Agent", "OpenDsStarAgent", "Python Code Structured", "PythonCodeStructuredTool", "Python Function",
        "PythonFunction", "PythonFunctionComponent", "Python Interpreter", "PythonREPLComponent", "Python REPL",
        "PythonREPLToolComponent", "PythonREPLTool", "Smart Transform",
    }
)  # fmt: skip
_CODE_FIELDS: Final = frozenset(
    {"allow_dangerous_code", "function_code", "python_code", "tool_code", "filter_instruction", "global_imports"}
)
_PROTECTED: Final[Mapping[str, frozenset[str]]] = {
    "SQLComponent": frozenset({"database_url", "query"}),
    **dict.fromkeys(
        ("BingSearchAPI", "BingSearchAPIComponent", "Bing Search API"),
        frozenset({"bing_search_url"}),
    ),
}
Tweaks = dict[str, dict[str, UserValue]]


class Overrides(Struct, frozen=True, kw_only=True):
    """What is sealed with a job: tweaks by component id and field, globals by name."""

    tweaks: Tweaks = {}
    globals: dict[str, str] = {}

    @property
    def empty(self) -> bool:
        """Whether there is nothing to seal."""
        return not (self.tweaks or self.globals)


class Resolved(Struct, frozen=True):
    """Tweaks by component id; `refused` are the protected fields among them, and then none counts."""

    tweaks: Tweaks
    refused: tuple[str, ...] = ()


def resolve(tweaks: Mapping[str, UserValue], shape: FlowShape) -> Resolved:
    """The tweaks of a body, by component id; components and fields that the flow does not have are passed over."""
    names = {component.display_name: component for component in shape.components}
    ids = {component.id: component for component in shape.components}
    found: Tweaks = {}
    refused: dict[str, None] = {}

    def take(component: Component, fields: Mapping[str, UserValue]) -> None:
        for field in component.fields:  # a body may name many more fields than a component has
            if field not in fields:
                continue
            value = fields[field]
            if protected(component, field, value):
                refused[field] = None
            found.setdefault(component.id, {})[field] = value

    bare = {name: value for name, value in tweaks.items() if not isinstance(value, dict)}
    for component in shape.components if bare else ():
        take(component, bare)
    for name, value in tweaks.items():
        if isinstance(value, dict) and (named := ids.get(name) or names.get(name)) is not None:
            take(named, value)
    return Resolved({} if refused else found, tuple(refused))


def protected(component: Component, field: str, value: UserValue = None) -> bool:
    """Whether the field keeps what the flow's author wrote. A field that stands for one inside a group is protected
    too, and nobody redirects a field to another one.
    """
    kind = component.fields.get(field, "")
    redirects = isinstance(value, dict) and "proxy" in value and kind not in ("NestedDict", "mcp", "dict")
    return (
        kind == "code"
        or field == "code"
        or field in component.grouped
        or redirects
        or (component.type in _RUNS_CODE and field in _CODE_FIELDS)
        or field in _PROTECTED.get(component.type.rsplit(".", 1)[-1], ())
    )


def applied(definition: dict[str, Any], tweaks: Tweaks) -> dict[str, Any]:
    """A graph flow's definition with the literals of its nodes as the tweaks say; those that a node has, no others."""
    nodes = []
    for node in definition.get("nodes", ()):
        fields = tweaks.get(str(node.get("id")), {})
        inputs = node.get("inputs", {})
        said = {name: value for name, value in fields.items() if name in inputs}
        nodes.append({**node, "inputs": {**inputs, **said}} if said else node)
    return {**definition, "nodes": nodes}


def merged(body: Mapping[str, str], headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The globals of a call: those of the body beat those of headers by name; a header's name counts in upper case."""
    from_headers = {
        name[len(HEADER) :].upper(): value
        for name, value in headers
        if name.lower().startswith(HEADER) and len(name) > len(HEADER)
    }
    return {**body, **{name: value for name, value in from_headers.items() if name not in body}}


def unfit(value: UserValue, depth: int = 0) -> str | None:
    """What makes a tweak something that cannot be stored, None where nothing does. NaN and infinity are no JSON."""
    if depth > MAX_DEPTH:
        return f"is nested deeper than {MAX_DEPTH}"
    match value:
        case str():
            return "holds half of a surrogate pair or U+0000" if _LONE.search(value) else None
        case int() if abs(value) > MAX_INTEGER:
            return "holds an integer beyond 64 bits"
        case float() if value != value or value in (float("inf"), float("-inf")):
            return "holds a number without a finite value"
        case dict():
            parts: Iterable[UserValue] = (*value.keys(), *value.values())
        case list():
            parts = value
        case _:
            return None
    return next((fault for part in parts if (fault := unfit(part, depth + 1)) is not None), None)
