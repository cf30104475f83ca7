"""The JSON Schemas (2020-12) of what comes out, generated from records: each type of event by those of the log, and
what else is heard and answered on the open subjects.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from perdure.bus.inbox import News
from perdure.core.event import TYPE_OF
from perdure.jobs.replay import Page
from perdure_gateway import views
from perdure_gateway.deltas import DELTAS
from perdure_gateway.problems import KINDS
from perdure_gateway.replays import MOST_LIMIT, Question

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
REF: Final = "#/components/schemas/{name}"


def event_schemas() -> Mapping[str, dict[str, Any]]:
    """The schema of each event's envelope by its type, as a stream shows it (with `job_id`)."""
    found: dict[str, dict[str, Any]] = {}
    for cls, name in TYPE_OF.items():
        schema: dict[str, Any] = msgspec.json.schema(cls)
        own = schema["$defs"][cls.__name__]
        own["properties"] = {"job_id": {"type": "string"}} | own["properties"]
        found[name] = {"$schema": DIALECT, "$id": f"/api/schemas/{name}.json", "title": name} | schema
    return found


def subject_schemas() -> Mapping[str, dict[str, Any]]:
    """The schema of each type of delta, of the news on `inbox.<tenant>.request`, of a replay's question and answer."""
    found: dict[str, dict[str, Any]] = {name: msgspec.json.schema(cls) for name, cls in DELTAS.items()}
    found["inbox.request"] = msgspec.json.schema(News)
    found["replay.request"] = question = msgspec.json.schema(Question)
    question["$defs"]["Question"]["properties"]["limit"] |= {"minimum": 1, "maximum": MOST_LIMIT}
    defs = msgspec.json.schema(Page)["$defs"]
    for name in ("events", "deltas"):
        defs["Page"]["properties"][name]["items"] = {"type": "object", "required": ["v", "type"]}
    required = [name for name in _PROBLEM["required"] if name != "http_request_id"]
    problem = _PROBLEM | {"required": required}
    refused = {"type": "object", "properties": {"problem": problem}, "required": ["problem"]}
    found["replay.answer"] = {"oneOf": [{"$ref": "#/$defs/Page"}, refused], "$defs": defs}
    return {
        name: {"$schema": DIALECT, "$id": f"/api/schemas/{name}.json", "title": name} | schema
        for name, schema in found.items()
    }


def components() -> dict[str, Any]:
    """The records that answers are made of, for the OpenAPI document."""
    _, found = msgspec.json.schema_components([views.JobView], ref_template=REF)
    return {name: dict(schema) for name, schema in found.items()} | {"Problem": _PROBLEM}


_PROBLEM: Final[dict[str, Any]] = {
    "title": "Problem",
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "code": {"type": "string", "examples": sorted(KINDS)},
        "http_request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    name: {"type": "string"} for name in ("code", "detail", "pointer", "parameter", "header")
                },
                "required": ["code", "detail"],
            },
        },
    },
    "required": ["type", "title", "status", "detail", "code", "http_request_id"],
}
