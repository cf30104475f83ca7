"""What others see of a component: its journal entry, the output of a terminal one, what Langflow's stream shows."""

import json
from importlib.metadata import version
from typing import Any, Final

from lfx.serialization.serialization import serialize
from lfx.workflow.converters import _process_terminal_vertex

from perdure.core.event import UserValue
from perdure.core.langflow.entry import Entry
from perdure_runner.langflow.child.values import encode
from perdure_runner.langflow.frames import Kind

LFX: Final = version("lfx")
_BRANCHES: Final = (
    "inactivated_vertices",
    "branch_inactivation_sources",
    "conditionally_excluded_vertices",
    "activated_vertices",
)
_KINDS: Final[dict[str, Kind]] = {
    "message": "message",
    "text": "text",
    "dataframe": "table",
    "table": "table",
}
_STRUCTURED: Final = ("data", "dataframe", "json", "table")
MOST_CHARS: Final = 6_000
MOST_ITEMS: Final = 1_000


def entry_of(graph: Any, vertex: Any) -> Entry:
    """The journal entry of a component that has just finished."""
    read = {edge.source_handle.name for edge in vertex.edges if edge.source_id == vertex.id}
    made = vertex.built_object if isinstance(vertex.built_object, dict) else {}
    kept = {name: encode(made[name]) for name in sorted(read & made.keys())}
    whole = not read or (bool(kept) and None not in kept.values())
    return Entry(
        lfx=LFX,
        kept=_plain(kept) if whole else None,
        states={other.id: other.state.name for other in graph.vertices},
        branches=_plain({name: getattr(graph, name) for name in _BRANCHES}),
        output=output_of(graph, vertex),
    )


def output_of(graph: Any, vertex: Any) -> dict[str, UserValue] | None:
    """What the API shows of a terminal component that has run in this process, else None.

    lfx knows structured outputs by their old names only, and shows null for the others: here they have content.
    """
    if graph.successor_map.get(vertex.id) or not vertex.built or vertex.result is None:
        return None
    _, output = _process_terminal_vertex(vertex, {vertex.id: vertex.result})
    shown: dict[str, UserValue] = output.model_dump(mode="json")
    if shown.get("content") is None and shown.get("type") in _STRUCTURED:
        shown["content"] = _plain(serialize(vertex.result.outputs))
    return shown


def kind_of(output: dict[str, UserValue] | None) -> Kind | None:
    """Which kind of output of ours that is."""
    return None if output is None else _KINDS.get(str(output.get("type")), "data")


def type_of(vertex: Any) -> str:
    """The component's type, as the flow file has it."""
    return str(vertex.vertex_type)


def preview_of(graph: Any, vertex: Any, result: Any) -> UserValue:
    """`build_data` and `output_meta` of an `end_vertex` frame, strings and lists cut."""
    data = result.result_dict
    artifacts = _short(result.artifacts)
    after = [name for name in vertex.successors_ids if graph.is_vertex_runnable(name)]
    return {
        "build_data": {
            "id": vertex.id,
            "inactivated_vertices": sorted(graph.inactivated_vertices),
            "next_vertices_ids": after,
            "top_level_vertices": after,
            "valid": result.valid,
            "params": _short(str(result.params)),
            "data": {
                "results": _short(data.results),
                "outputs": _short(data.outputs),
                "logs": _short(data.logs),
                "message": artifacts,
                "artifacts": artifacts,
                "timedelta": data.timedelta,
                "duration": data.duration,
                "used_frozen_result": bool(data.used_frozen_result),
                "token_usage": _short(data.token_usage),
            },
        },
        "output_meta": meta_of(graph, vertex),
    }


def failed_preview(graph: Any, vertex: Any, error: str) -> UserValue:
    """The same of a component that raised: without a traceback."""
    said = {"message": {"errorMessage": error}, "type": "error"}
    outputs = {output["name"]: said for output in vertex.outputs}
    return {
        "build_data": {
            "id": vertex.id,
            "inactivated_vertices": sorted(graph.inactivated_vertices),
            "next_vertices_ids": [],
            "top_level_vertices": [],
            "valid": False,
            "params": error,
            "data": {
                "results": {},
                "outputs": outputs,
                "logs": {},
                "message": None,
                "artifacts": {},
                "timedelta": None,
                "duration": None,
                "used_frozen_result": False,
                "token_usage": None,
            },
        },
        "output_meta": meta_of(graph, vertex),
    }


def meta_of(graph: Any, vertex: Any) -> UserValue:
    """What a component is: `output_meta` of 1.13."""
    return {
        "component_id": vertex.id,
        "display_name": vertex.display_name,
        "vertex_type": type_of(vertex),
        "is_output": bool(vertex.is_output),
        "is_terminal": not graph.successor_map.get(vertex.id),
        "output_types": [kind for output in vertex.outputs for kind in output.get("types", [])],
    }


def _short(value: Any) -> Any:
    return _plain(serialize(value, max_length=MOST_CHARS, max_items=MOST_ITEMS))


def _plain(value: Any) -> Any:
    """Plain JSON; sets in order. What is none of it becomes text."""
    return json.loads(json.dumps(value, default=lambda other: sorted(other) if isinstance(other, set) else str(other)))
