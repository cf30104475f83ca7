"""The pages on graph flows say what the code says."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from perdure.core import asked
from perdure.core.graph import shape, spec
from perdure.core.graph.catalogue import BUILTIN, DEFAULT_ACTIONS
from perdure.core.graph.ports import ComponentSpec
from perdure.engine.components import address, chat_model, completion, endpoint, http_request, outbound
from perdure.engine.components.contract import Component

DOCS = Path(__file__).parents[3] / "docs"
REFERENCE = (DOCS / "reference" / "graph.md").read_text()
PAGES = [DOCS / "reference" / "graph.md", DOCS / "howto" / "graph-flow.md"]
DOCUMENTS = [body for page in PAGES for body in re.findall(r"^```json\n(.*?)^```", page.read_text(), re.M | re.S)]


@pytest.mark.parametrize("body", DOCUMENTS)
def test_every_document_on_a_page_is_a_flow(body: str) -> None:
    assert spec.parse(json.loads(body)).nodes


def test_the_pages_have_documents() -> None:
    assert len(DOCUMENTS) == 7


@pytest.mark.parametrize("component", BUILTIN.values(), ids=list(BUILTIN))
def test_every_port_of_a_component_has_its_row(component: ComponentSpec) -> None:
    sections = [text for text in REFERENCE.split("\n### ")[1:] if f"`{component.name}`" in text.splitlines()[0]]
    assert len(sections) == 1
    rows = [line for line in sections[0].splitlines() if line.startswith("| `")]
    for port in component.inputs:
        row = next(line for line in rows if line.startswith(f"| `{port.name}` | input"))
        assert f"| {port.type} |" in row
        assert ("required" in row.split("|")[4]) == (port.required or port.name == "actions")
        assert ("setting" in row) == (not port.edge)
    for output in component.outputs:
        row = next(line for line in rows if line.startswith(f"| `{output.name}` | output"))
        assert f"| {output.type} |" in row
        assert ("branch" in row) == output.branch


def test_the_failures_of_the_chat_model_are_those_of_the_code() -> None:
    code = "".join(Path(module.__file__ or "").read_text() for module in (chat_model, completion))
    raised = set(re.findall(r'"(model_[a-z_]+)"', code))
    section = REFERENCE.split("### `chat_model`")[1].split("\n### ")[0]
    assert set(re.findall(r"`(model_[a-z_]+)`", section)) == raised


def test_the_component_of_the_how_to_is_one() -> None:
    (body,) = re.findall(r"^```python\n(.*?)^```", (DOCS / "howto" / "graph-flow.md").read_text(), re.M | re.S)
    module: dict[str, Any] = {"__name__": "how_to"}
    exec(compile(body, "graph-flow.md", "exec"), module)
    made = module["find_order"]
    assert isinstance(made, Component)
    assert [port.name for port in made.spec.inputs] == ["number", "region"]
    assert [port.name for port in made.spec.outputs] == ["found", "missing"]
    assert made(None, "9") == {"found": {"amount": 120}}


def test_the_failures_of_a_request_are_those_of_the_code() -> None:
    code = "".join(Path(module.__file__ or "").read_text() for module in (http_request, outbound, address))
    raised = set(re.findall(r'"(http_[a-z_]+|url_refused|invalid_input)"', code)) - {"http_request"}
    section = REFERENCE.split("### `http_request`")[1].split("\n### ")[0].split("| code of the failure |")[1]
    assert set(re.findall(r"`(http_[a-z_]+|url_refused|invalid_input)`", section)) == raised
    assert all(f"`{name.lower()}`" in REFERENCE for name in http_request.SHOWN)


def test_the_bounds_are_those_of_the_code() -> None:
    for bound in (
        f"1 to {shape.MAX_NODES} nodes",
        f"at most {shape.MAX_EDGES:,} edges",
        f"0.1 to {shape.MAX_TIMEOUT_SECONDS:,}",
        f"1 to {asked.MAX_ACTIONS} of",
        f"may take {chat_model.TIMEOUT_SECONDS:.0f} s",
        f"{endpoint.ModelEndpoint(url='http://h').read_seconds:.0f} s of silence",
        f"`{shape.FORMAT}`",
        f"`{shape.NODE_ID.pattern}`",
    ):
        assert bound in REFERENCE
    assert set(re.findall(r"`(\w+)`", REFERENCE.split("| `kind` |")[1].splitlines()[0])) == set(DEFAULT_ACTIONS)
