"""The JSON Schemas (2020-12) of what comes out: each type of event, generated from the records of the log."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from perdure.core.event import TYPE_OF
from perdure_gateway import views
from perdure_gateway.problems import KINDS

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
