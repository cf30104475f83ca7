"""`end_vertex`: what the stream shows of a component that has ended.

Of a Langflow flow it lies ready in the step's event (`preview`); of others it is made here, of the members of 1.13.
"""

from typing import Any, Final

from perdure.core import event as ev
from perdure.core.event import UserValue
from perdure.core.instant import Instant
from perdure.core.langflow import messages
from perdure.core.langflow.shape import Component

MAX_TEXT: Final = 6_000  # characters of each text that is shown, as in 1.13
MAX_ITEMS: Final = 1_000  # of each list
Vertex = dict[str, UserValue]


def made(component: Component, data: ev.StepCompletedData, at: Instant) -> Vertex:
    """A step of a graph flow as a component that was built."""
    kind = "text" if isinstance(data.result, str) else "object"
    return _vertex(
        component,
        params=None,
        outputs={"output": {"message": cut(data.result), "type": kind}},
        logs={},
        artifacts={},
        following=[],
        seconds=data.duration_seconds,
        at=at,
    )


def waiting(component: Component, request: ev.Request, at: Instant) -> Vertex:
    """A gate that asks: 1.13 shows it as built, with nothing in its branches yet."""
    branches = [f"branch_{action.id}" for action in request.actions]
    empty: UserValue = {"repr": "Awaiting human input", "raw": "", "type": "text"}
    artifacts = dict.fromkeys(branches, empty)
    return _vertex(
        component,
        params="None",
        outputs={branch: {"message": "", "type": "text"} for branch in branches},
        logs={branch: [] for branch in branches},
        artifacts=artifacts,
        following=sorted(component.leads_to),
        seconds=0.0,
        at=at,
    )


def completed(vertex: Vertex, data: ev.StepCompletedData, at: Instant, following: list[str], job: str) -> Vertex:
    """A component that Langflow's engine built, with what only its server adds: how long it took, when it ended, which
    of those `following` can start now.
    """
    build: Any = vertex.get("build_data")
    if not isinstance(build, dict):
        return vertex
    left: Any = build.get("inactivated_vertices") or []
    ready = build.get("next_vertices_ids") or [name for name in following if name not in left]
    inner: Any = build.get("data") or {}
    took = {"timedelta": data.duration_seconds, "duration": f"{round(data.duration_seconds * 1000)} ms"}
    inner = inner | {name: value for name, value in took.items() if inner.get(name) is None}
    results: Any = inner.get("results") or {}
    inner["results"] = {n: messages.completed(v, job) if isinstance(v, dict) else v for n, v in results.items()}
    changed = {
        "next_vertices_ids": ready,
        "top_level_vertices": build.get("top_level_vertices") or ready,
        "data": inner,
        "timestamp": build.get("timestamp") or f"{at.removesuffix('Z')}000Z",
    }
    meta: Any = vertex.get("output_meta") or {}
    types = {"output_types": list(dict.fromkeys(meta["output_types"]))} if "output_types" in meta else {}
    return vertex | {"build_data": build | changed, "output_meta": meta | types}


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


def _vertex(
    component: Component,
    *,
    params: str | None,
    outputs: Vertex,
    logs: Vertex,
    artifacts: Vertex,
    following: list[str],
    seconds: float,
    at: Instant,
) -> Vertex:
    return {
        "build_data": {
            "id": component.id,
            "inactivated_vertices": [],
            "next_vertices_ids": following,
            "top_level_vertices": following,
            "valid": True,
            "params": params,
            "data": {
                "results": {},
                "outputs": outputs,
                "logs": logs,
                "message": artifacts,
                "artifacts": artifacts,
                "timedelta": seconds,
                "duration": f"{round(seconds * 1000)} ms",
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
