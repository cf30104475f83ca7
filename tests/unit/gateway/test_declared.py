"""What the gateway says of itself is true: each route declared, schemas that events fit, a page for each problem."""

import re
from pathlib import Path
from typing import Any, Final

import jsonschema_rs
import msgspec
import pytest
from aiohttp import web

from perdure.core.event import TYPE_OF
from perdure_gateway import metrics, openapi, policy
from perdure_gateway.app import RESOURCES
from perdure_gateway.causes import CAUSES
from perdure_gateway.metrics import Metrics
from perdure_gateway.policy import Undeclared, op
from perdure_gateway.problems import KINDS, Problem, members
from perdure_gateway.schemas import event_schemas, subject_schemas

GOLDEN: Final = Path(__file__).resolve().parents[2] / "golden"


@pytest.fixture
def app() -> web.Application:
    """Every route, without adapters."""
    app = web.Application()
    for resource in RESOURCES:
        app.add_routes(resource.ROUTES)
    return app


def test_a_route_that_declares_nothing_or_says_nothing_stops_the_start(app: web.Application) -> None:
    policy.check(app)

    async def stranger(request: web.Request) -> web.Response:
        return web.Response()

    @op("read")
    async def silent(request: web.Request) -> web.Response:
        return web.Response()

    for handler in (stranger, silent):
        other = web.Application()
        other.router.add_get("/health", handler)
        with pytest.raises(Undeclared, match="/health"):
            policy.check(other)


def test_the_document_names_every_route_and_resolves(app: web.Application) -> None:
    document = openapi.document(app)
    routes = {
        (r.method, re.sub(r"\{(\w+):.*?\}(?=/|$|\.json)", r"{\1}", r.resource.canonical))
        for r in app.router.routes()
        if r.resource and r.method != "HEAD"
    }
    told = {(method.upper(), path) for path, operations in document["paths"].items() for method in operations}
    assert told == routes
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    assert all(operation["summary"] for operation in operations)
    schemas = document["components"]["schemas"]
    text = msgspec.json.encode(document).decode()
    assert {name for name in re.findall(r'"#/components/schemas/(\w+)"', text)} <= set(schemas)
    assert '"$defs"' not in text
    for path, operations_of in document["paths"].items():
        for operation in operations_of.values():
            in_path = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert in_path == set(re.findall(r"\{(\w+)\}", path))
            for parameter in operation["parameters"]:
                re.compile(parameter["schema"].get("pattern", ""))
    assert document["paths"]["/api/jobs"]["post"]["requestBody"]["required"] is True
    assert document["paths"]["/api/jobs/{job}"]["delete"]["x-scope"] == "execute"
    assert document["paths"]["/livez"]["get"]["security"] == []


def test_the_schemas_of_events_are_the_golden_ones() -> None:
    """They are a contract. Members may be added: then write the file anew, with what `found` is below."""
    found = msgspec.json.format(msgspec.json.encode(event_schemas()), indent=1)
    assert found.decode() + "\n" == (GOLDEN / "event-schemas.json").read_text()


def test_the_schemas_of_the_open_subjects_are_the_golden_ones() -> None:
    """As those of events."""
    found = msgspec.json.format(msgspec.json.encode(subject_schemas()), indent=1)
    assert found.decode() + "\n" == (GOLDEN / "subject-schemas.json").read_text()


HEAD: Final = {"v": 1, "job_id": "j", "attempt": 1, "n": 1, "after": 2}
PLACE: Final = {"path": "/g.1", "step": "draft", "occurrence": 1}
DELTAS: Final[dict[str, dict[str, Any]]] = {  # Any: JSON
    "delta.step": {"kind": "started"},
    "delta.text": {"channel": "m-1", "pos": 0, "text": "hi"},
    "delta.reasoning": {"channel": "m-1", "pos": 3, "text": "hm", "truncated": True},
    "delta.tool": {"call_id": "c", "name": "search", "arguments": {"q": 1}, "result": None},
    "delta.log": {"level": "info", "text": "line", "fields": {"a": [1]}},
    "delta.progress": {"done": 1, "total": 2.5, "text": "half"},
}


def test_a_delta_fits_its_schema_and_needs_its_number() -> None:
    schemas = {name: jsonschema_rs.validator_for(schema) for name, schema in subject_schemas().items()}
    assert {name for name in schemas if name.startswith("delta.")} == {*DELTAS, "delta.reset"}
    for name, said in DELTAS.items():
        delta = HEAD | PLACE | said | {"type": name}
        schemas[name].validate(delta)
        schemas[name].validate(HEAD | said | {"type": name, "of_a_later_version": 1})
        assert not schemas[name].is_valid({k: v for k, v in delta.items() if k != "n"})
        assert not schemas[name].is_valid(delta | {"type": "delta.other"})
    reset = {"v": 1, "job_id": "j", "type": "delta.reset", "attempt": 1, "reason": "joined"}
    schemas["delta.reset"].validate(reset)
    assert not schemas["delta.reset"].is_valid(reset | {"reason": "why not"})


def test_a_replays_question_and_answers_fit_their_schemas() -> None:
    schemas = {name: jsonschema_rs.validator_for(schema) for name, schema in subject_schemas().items()}
    ask, said = schemas["replay.request"], schemas["replay.answer"]
    for question in ({}, {"after": "17.3"}, {"after": "0", "limit": 500}):
        ask.validate(question)
    wrong: Any
    for wrong in ([], {"after": 17}, {"limit": 0}, {"limit": 501}, {"from": "0"}):
        assert not ask.is_valid(wrong)
    page = {"events": [], "deltas": [], "next": "1", "head": 1, "status": "running", "done": False}
    said.validate(page)
    said.validate({"problem": members(Problem("not-found", "no such job"))})
    assert not said.is_valid(page | {"head": "1"})
    assert not said.is_valid({"problem": {}})


def test_every_schema_is_one_and_golden_events_fit_theirs() -> None:
    schemas = event_schemas()
    assert set(schemas) == set(TYPE_OF.values())
    validators = {name: jsonschema_rs.validator_for(schema) for name, schema in schemas.items()}
    checked = 0
    for file in sorted(GOLDEN.glob("events*/*.json")):
        event: dict[str, Any] = msgspec.json.decode(file.read_bytes())
        validators[event["type"]].validate(event)
        assert not validators[event["type"]].is_valid(event | {"seq": "1"})
        checked += 1
    assert checked >= len(schemas)


def test_every_problem_has_a_page_that_says_more_than_its_title() -> None:
    assert set(CAUSES) == set(KINDS)
    for code, why in CAUSES.items():
        for text in why:
            assert len(text) > 15, code
            assert text.endswith("."), code


def test_the_page_of_metrics_has_their_names_and_labels() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "reference" / "metrics.md").read_text()
    for metric in Metrics().registry.collect():
        name = metric.name + ("_total" if metric.type == "counter" else "")
        row = next((line for line in page.splitlines() if f"`{name}`" in line), "")
        assert row, name


def test_flows_beyond_the_bound_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MOST_FLOWS", 2)
    counts = Metrics()
    assert [counts.flow(name) for name in ("a", "b", "c", "a")] == ["a", "b", "other", "a"]
