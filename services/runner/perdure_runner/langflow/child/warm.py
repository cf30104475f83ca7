"""Runs one small flow in the process that forks: what the first run of lfx takes, no child has to take again."""

import copy
import importlib.resources
import json
from typing import Any

import langchain_openai  # noqa: F401  # each child's first agent would take 0.7 s to import it
from lfx.load import aload_flow_from_json


async def warm() -> None:
    """Run chat input to chat output once, made from the components that lfx brings along."""
    graph = await aload_flow_from_json(echo(), disable_logs=True)
    graph.session_id = "warm"
    await graph.process(fallback_to_env_vars=False)


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
