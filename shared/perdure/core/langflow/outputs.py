"""The outputs of a job as the API shows them, and the one answer that they amount to.

`outputs` is keyed by component id; `output` counts the strings among the outputs that are considered. What a component
of a Langflow flow gave lies ready in its journal entry (`output`); of other flows it is made from the named output.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from msgspec import Struct

from perdure.core import event as ev
from perdure.core.event import AnyEvent, Status, UserValue
from perdure.core.langflow.shape import KINDS, Component, FlowShape, titled, workflow_output
from perdure.core.output import text_of

Shown = dict[str, UserValue]
"""One component's output: `type status display_name content metadata`."""

STRINGS: Final = ("message", "text")
STRUCTURED: Final = ("data", "dataframe", "json", "table")
_TEXT_WAYS: Final = (
    ("message", "message"),
    ("text", "message"),
    ("message", "text"),
    ("message",),
    ("text", "text"),
    ("text",),
)
_DATA_WAYS: Final = (("result", "message"), ("results", "message"))
_TABLE_WAYS: Final = (("results", "message"), ("result", "message"), ("run_sql_query", "message"))


class Answer(Struct, frozen=True):
    """`output`: what the run amounts to for somebody who wants one text."""

    reason: str
    text: str | None = None
    source: str | None = None


def answer(status: Status, outputs: Mapping[str, Shown], output_ids: Collection[str] = ()) -> Answer:
    """What `outputs` amount to. With `output_ids` only those count; what never ran never does."""
    if status in (Status.FAILED, Status.TIMED_OUT):
        return Answer("failed")
    if status is not Status.COMPLETED:
        return Answer("none")
    considered = {
        name: shown for name, shown in outputs.items() if (not output_ids or name in output_ids) and not skipped(shown)
    }
    texts = {
        name: shown["content"]
        for name, shown in considered.items()
        if shown.get("type") in STRINGS and isinstance(shown.get("content"), str)
    }
    if len(texts) == 1:
        ((source, text),) = texts.items()
        return Answer("single", text, source)
    if texts:
        return Answer("multiple")
    return Answer("non_string" if any(shown.get("type") in STRINGS for shown in considered.values()) else "none")


def skipped(shown: Shown) -> bool:
    """Whether this stands for a component that never ran."""
    metadata = shown.get("metadata")
    return isinstance(metadata, dict) and metadata.get("skipped") is True


def produced(log: Iterable[AnyEvent], shape: FlowShape | None = None) -> dict[str, Shown]:
    """The outputs that a log with all its values tells, in the order in which they were first given."""
    found: dict[str, Shown] = {}
    kind = "graph"
    for event in log:
        match event:
            case ev.JobSubmitted(data=data):
                kind = data.flow.kind
            case ev.StepCompleted(data=data) if data.output is not None:
                shown = _entry(data.result) if kind == "langflow" else None
                component = _component(data.output.name, data.output.kind, data.component, shape)
                found[data.output.name] = shown or described(component, data.result)
            case ev.Output(data=data):
                component = _component(data.name, data.kind, None, shape)
                found[data.name] = described(component, data.value)
            case ev.JobCompleted(data=data) if kind != "langflow":
                found = {
                    name: found.get(name) or described(_component(name, _kind(value), None, shape), value)
                    for name, value in data.outputs.items()
                }
            case _:
                pass
    return found


def with_skipped(outputs: Mapping[str, Shown], shape: FlowShape) -> dict[str, Shown]:
    """`outputs` and those terminals that never ran, as a sync answer lists them."""
    found = dict(outputs)
    for component in shape.terminals:
        if component.id not in found:
            found[component.id] = never_ran(component)
    return found


def never_ran(component: Component) -> Shown:
    """A terminal that the run did not reach."""
    return _shown(component, None, {"skipped": True})


def described(component: Component, value: UserValue) -> Shown:
    """An output of a graph or a Python flow."""
    text = text_of(value) if component.output_type in STRINGS else None
    return _shown(component, value if text is None else text, {})


def of_raw(component: Component, raw: UserValue, *, valid: bool = True) -> Shown:
    """The output of a Langflow component that built `raw`: `{output name: {message, type}}`.

    As lfx 1.13 does it (`lfx.workflow.converters`), but that the names which current components declare, `json` and
    `table`, are taken for what they mean, where 1.13 shows null.
    """
    kind, metadata = component.output_type, dict[str, UserValue]()
    content: UserValue = None
    if raw is not None and (component.is_output or kind in STRUCTURED):
        content = _simplified(raw, kind)
    elif kind == "message" and isinstance(raw, dict):
        if model := at(raw, ("model_output", "message", "model_name")):
            metadata["source"] = {"id": component.id, "display_name": component.display_name, "source": model}
        path = at(raw, ("message", "message"))
        if component.type == "SaveToFile" and isinstance(path, str) and path:
            metadata["file_path"] = path
    return _shown(component, content, metadata, valid=valid)


def _simplified(raw: UserValue, kind: str) -> UserValue:
    if not isinstance(raw, dict):
        return raw
    if kind in STRINGS:
        texts = (at(raw, way) for way in _TEXT_WAYS)
        return next((text for text in texts if isinstance(text, str)), raw)
    ways = {"data": _DATA_WAYS, "json": _DATA_WAYS, "dataframe": _TABLE_WAYS, "table": _TABLE_WAYS}.get(kind, ())
    return next((value for way in ways if (value := at(raw, way)) is not None), raw)


def at(value: UserValue, way: Iterable[str]) -> UserValue:
    """What lies at the end of `way`, None where that leads nowhere."""
    for name in way:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def _shown(component: Component, content: UserValue, metadata: Shown, *, valid: bool = True) -> Shown:
    return {
        "type": component.output_type,
        "status": "failed" if component.output_type == "error" or not valid else "completed",
        "display_name": component.display_name,
        "content": content,
        "metadata": {"component_type": component.type, **metadata},
    }


def _entry(result: UserValue) -> Shown | None:
    """The output in a journal entry of a Langflow component."""
    shown: Any = result.get("output") if isinstance(result, dict) else None
    return dict(shown) if isinstance(shown, dict) else None


def _component(name: str, kind: str, type_: str | None, shape: FlowShape | None) -> Component:
    known = None if shape is None else shape.find(name)
    if known is not None and known.type != "workflow":
        return known
    if type_ is None:
        return workflow_output(name, kind)
    return Component(
        id=name,
        type=type_,
        display_name=titled(type_),
        output_type=KINDS.get(kind, kind),
        terminal=True,
        is_output=True,
    )


def _kind(value: UserValue) -> str:
    return "text" if isinstance(value, str) else "data"
