"""Runs one small flow in the process that forks: what the first run of lfx takes, no child has to take again."""

import copy
import importlib.resources
import json
from typing import Any, Final

import langchain_openai  # noqa: F401  # each child's first agent would take 0.7 s to import it
import msgspec

from perdure.core.langflow.entry import Finished
from perdure_runner.langflow.child.once import Pass
from perdure_runner.langflow.frames import Done, FromChild, FromParent, Start

_ID: Final = "00000000-0000-4000-8000-000000000000"  # no job's, no flow's, no user's


class Kept:
    """Keeps what a pass says; nobody hears it."""

    def __init__(self) -> None:
        self.frames: list[FromChild] = []

    def send(self, frame: FromChild) -> None:
        self.frames.append(frame)

    def glance(self) -> FromParent | None:
        return None

    def fileno(self) -> int:
        raise OSError("nobody is at the other end")


async def warm() -> None:
    """Run chat input to chat output from its beginning, and once more from the middle."""
    flow = msgspec.Raw(json.dumps(echo()).encode())
    start = Start(flow=flow, flow_id=_ID, job_id=_ID, user_id=_ID, session_id="warm", input_value="warm")
    kept = Kept()
    await Pass(kept, start).end()
    first = next(frame for frame in kept.frames if isinstance(frame, Done))
    journal = [Finished(first.component, first.entry)]
    await Pass(Kept(), msgspec.structs.replace(start, journal=journal)).end()


def echo() -> dict[str, Any]:
    """The flow file of that."""
    index = json.loads((importlib.resources.files("lfx") / "_assets/component_index.json").read_text())
    templates = {name: made for _, components in index["entries"] for name, made in components.items()}
    source, target = _node(templates, "ChatInput"), _node(templates, "ChatOutput")
    types = {"dataType": "ChatInput", "id": "ChatInput-warm", "name": "message", "output_types": ["Message"]}
    field = target["data"]["node"]["template"]["input_value"]
    into = {
        "fieldName": "input_value",
        "id": "ChatOutput-warm",
        "inputTypes": field.get("input_types") or [],
        "type": field["type"],
    }
    edge = {
        "id": "edge",
        "source": "ChatInput-warm",
        "target": "ChatOutput-warm",
        "sourceHandle": _handle(types),
        "targetHandle": _handle(into),
        "data": {"sourceHandle": types, "targetHandle": into},
    }
    return {"name": "warm", "data": {"nodes": [source, target], "edges": [edge], "viewport": {}}}


def _node(templates: dict[str, Any], kind: str) -> dict[str, Any]:
    made = copy.deepcopy(templates[kind])
    name = f"{kind}-warm"
    data = {"id": name, "type": kind, "node": made, "showNode": True}
    return {"id": name, "type": "genericNode", "position": {"x": 0, "y": 0}, "data": data}


def _handle(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":")).replace('"', "œ")  # as Langflow writes it
