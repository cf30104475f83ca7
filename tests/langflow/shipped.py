"""The flows that ship with Langflow, from the wheel of langflow-base: fetched when tests run, never in the tree."""

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, Final

from tests.langflow.flowfiles import edge, node

WHEEL: Final = "langflow-base==1.13.0"
FOLDERS: Final = ("langflow/initial_setup/starter_projects/", "langflow/agentic/flows/")
GATE: Final = "HumanInput-gate1"
MODEL: Final = [
    {
        "name": "gpt-4o-mini",
        "provider": "OpenAI",
        "icon": "OpenAI",
        "metadata": {
            "model_class": "ChatOpenAI",
            "model_name_param": "model",
            "api_key_param": "api_key",
            "context_length": 128000,
        },
    }
]
DOWNLOAD_SECONDS: Final = 120


def fetch(folder: Path) -> dict[str, dict[str, Any]]:
    """The flow files by name. They are kept in `folder`. Raises OSError where no package index gives the wheel."""
    kept = folder / "flows-1.13.0.json"
    if not kept.exists():
        with tempfile.TemporaryDirectory(dir=folder) as home:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", home, WHEEL]
            done = subprocess.run(command, capture_output=True, timeout=DOWNLOAD_SECONDS, check=False)
            if done.returncode != 0:
                raise OSError("no package index gives langflow-base 1.13.0")
            (wheel,) = Path(home).glob("*.whl")
            made = Path(home) / "flows.json"
            made.write_text(json.dumps(_read(wheel)))
            os.replace(made, kept)
    found: dict[str, dict[str, Any]] = json.loads(kept.read_text())
    return found


def _read(wheel: Path) -> dict[str, Any]:
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if n.startswith(FOLDERS) and n.endswith(".json")]
        return {Path(name).stem: json.loads(archive.read(name)) for name in names}


def components(flow: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Id, type and template of every node that is a component; notes are not."""
    return [
        (n["id"], n["data"]["type"], n["data"]["node"]["template"])
        for n in flow["data"]["nodes"]
        if n["data"].get("type") and n["data"].get("node", {}).get("template")
    ]


def tweaks(flow: dict[str, Any], key: str) -> dict[str, dict[str, Any]]:
    """A model for every component that needs one, each with a key of its own: so calls are counted by component."""
    return {
        name: {"model": MODEL, **({"api_key": f"{key}/{name}"} if "api_key" in template else {})}
        for name, _, template in components(flow)
        if template.get("model", {}).get("type") == "model"
    }


def gate_before_output(flow: dict[str, Any]) -> dict[str, Any]:
    """The flow with a gate on the way into its last Chat Output; its other branch leads to a Chat Output of its own."""
    flow = json.loads(json.dumps(flow))
    nodes, edges = flow["data"]["nodes"], flow["data"]["edges"]
    by_id = {n["id"]: n for n in nodes}
    last = next(e for e in reversed(edges) if by_id[e["target"]]["data"].get("type") == "ChatOutput")
    gate, refused = node("HumanInput", GATE), node("ChatOutput", "ChatOutput-no001")
    edges.remove(last)
    nodes += [gate, refused]
    edges += [
        edge(by_id[last["source"]], last["data"]["sourceHandle"]["name"], gate, "prompt"),
        edge(gate, "branch_approve", by_id[last["target"]], "input_value"),
        edge(gate, "branch_reject", refused, "input_value"),
    ]
    return dict(flow)


def approve_tools(flow: dict[str, Any], kind: str) -> dict[str, Any]:
    """The flow with tools of the components of type `kind` that need approval."""
    flow = json.loads(json.dumps(flow))
    for _, its, template in components(flow):
        if its == kind:
            for row in template["tools_metadata"]["value"]:
                row["approval_actions"] = ["approve", "edit", "reject"]
    return dict(flow)
