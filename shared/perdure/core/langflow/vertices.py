"""`end_vertex`: what the stream shows of a component that has ended.

Of a Langflow flow it lies ready in the step's event (`preview`); of others it is made here, of the members of 1.13.
"""

from typing import Any, Final

from perdure.core import event as ev
from perdure.core.event import UserValue
from perdure.core.instant import Instant
from perdure.core.langflow.shape import Component

MAX_TEXT: Final = 6_000  # characters of each text that is shown, as in 1.13
MAX_ITEMS: Final = 1_000  # of each list
Vertex = dict[str, UserValue]


def made(component: Component, data: ev.StepCompletedData, at: Instant) -> Vertex:
    """A step of a graph flow as a component that was built."""
    kind = "text" if isinstance(data.result, str) else "object"
    outputs = {"output": {"message": cut(data.result), "type": kind}}
    return {
        "build_data": {
            "id": component.id,
            "inactivated_vertices": [],
            "next_vertices_ids": [],
            "top_level_vertices": [],
            "valid": True,
            "params": None,
            "data": {
                "results": {},
                "outputs": outputs,
                "logs": {},
                "message": {},
                "artifacts": {},
                "timedelta": data.duration_seconds,
                "duration": f"{round(data.duration_seconds * 1000)} ms",
                "used_frozen_result": False,
                "token_usage": None,
            },
            "timestamp": f"{at.removesuffix('Z')}000Z",
        },
        "output_meta": {
            "component_id": component.id,
            "display_name": component.display_name,
            "vertex_type": component.type,
            "is_output": component.is_output,
            "is_terminal": component.terminal,
            "output_types": [component.output_type.title()],
        },
    }


def is_output(vertex: UserValue) -> bool:
    """Whether the component of an `end_vertex` is an output component."""
    meta: Any = vertex.get("output_meta") if isinstance(vertex, dict) else None
    return isinstance(meta, dict) and meta.get("is_output") is True


def cut(value: UserValue) -> UserValue:
    """A value as a preview: long texts and lists are cut. Results are never cut."""
    match value:
        case str():
            return value if len(value) <= MAX_TEXT else f"{value[:MAX_TEXT]}..."
        case list():
            return [cut(item) for item in value[:MAX_ITEMS]]
        case dict():
            return {name: cut(item) for name, item in value.items()}
        case _:
            return value
