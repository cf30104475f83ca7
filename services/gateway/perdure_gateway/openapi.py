"""The OpenAPI 3.1 document, built from what the handlers declare (`policy.op`), their docstrings and the router."""

import re
from collections.abc import Iterator
from typing import Any, Final

from aiohttp import web
from pydantic import BaseModel

import perdure
from perdure_gateway.policy import Handler, Policy, policy_of, rights
from perdure_gateway.schemas import REF, components

PROBLEM: Final = {"schema": {"$ref": REF.format(name="Problem")}}
_PARAMETER: Final = re.compile(r"\{(\w+)(?::((?:[^{}]|\{[^{}]*\})*))?\}")
_QUERY: Final[dict[str, dict[str, Any]]] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": 500},
    "at": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
    "order": {"type": "string", "enum": ["created", "updated", "urgency", "asked"]},
    "gap": {"type": "string", "enum": ["snapshot"]},
    "waiting": {"type": "string", "enum": ["person"]},
    **{name: {"type": "boolean"} for name in ("values", "deltas", "dry_run", "mine", "overdue")},
    **{
        name: {"type": "string", "format": "date-time"}
        for name in ("created_after", "created_before", "updated_after", "expires_before")
    },
}
_WORDS: Final = {
    200: "Done",
    201: "Made",
    202: "Accepted; it is not done yet",
    204: "Nothing to say",
    304: "Not changed",
    503: "Not now",
}


def document(app: web.Application) -> dict[str, Any]:
    """The document of an application's routes."""
    paths: dict[str, dict[str, Any]] = {}
    schemas = components()
    for method, path, handler, declared in _routes(app):
        spot = paths.setdefault(_PARAMETER.sub(r"{\1}", path), {})
        spot[method.lower()] = _operation(method, path, handler, declared, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Perdure", "version": perdure.__version__},
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}],
    }


def _routes(app: web.Application) -> Iterator[tuple[str, str, Handler, Policy]]:
    for route in app.router.routes():
        declared = policy_of(route.handler)
        info = route.resource.get_info() if route.resource is not None else {}
        if declared is not None and route.method != "HEAD":
            pattern = info.get("pattern")
            path = info.get("path") or info.get("formatter") or ""
            yield route.method, _named(path, pattern), route.handler, declared


def _named(path: str, pattern: re.Pattern[str] | None) -> str:
    """The path with the form of each parameter: `{job:[0-9a-f]…}`."""
    if pattern is None:
        return path
    for name in pattern.groupindex:
        form = _group(pattern.pattern, name)
        path = path.replace(f"{{{name}}}", f"{{{name}:{form}}}")
    return path


def _group(pattern: str, name: str) -> str:
    """What stands in the group `name` of a regular expression."""
    start = pattern.index(f"(?P<{name}>") + len(f"(?P<{name}>")
    depth, at = 1, start
    while depth:
        if pattern[at] == "\\":
            at += 1
        elif pattern[at] == "[":
            at = pattern.index("]", at)
        else:
            depth += {"(": 1, ")": -1}.get(pattern[at], 0)
        at += 1
    return pattern[start : at - 1]


def _operation(method: str, path: str, handler: Handler, declared: Policy, schemas: dict[str, Any]) -> dict[str, Any]:
    text = " ".join((handler.__doc__ or "").split())
    operation: dict[str, Any] = {
        "operationId": _name(path, handler, declared),
        "summary": text.partition(": ")[2] or text,
        "parameters": [*_in_path(path), *_in_query(declared), *_in_header(declared)],
        "responses": _responses(declared),
    }
    if declared.public:
        operation["security"] = []
    elif scopes := rights(declared):
        operation["x-scope"] = scopes[0] if len(scopes) == 1 else list(scopes)
    if declared.body is not None:
        operation["requestBody"] = {
            "required": not declared.optional,
            "content": {"application/json": {"schema": _body(declared.body, schemas)}},
        }
    return operation


def _name(path: str, handler: Handler, declared: Policy) -> str:
    """One handler may serve several paths of the service itself, or a path with and without a slash behind it."""
    module = handler.__module__.rpartition(".")[2]
    name = f"{module}_{handler.__name__}" + (f"_{path.strip('/').partition('/')[0]}" if declared.public else "")
    return f"{name}_slash" if path.endswith("/") else name


def _in_path(path: str) -> Iterator[dict[str, Any]]:
    for name, form in _PARAMETER.findall(path):
        yield {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string"} | ({"pattern": f"^{form}$"} if form else {}),
        }


def _in_query(declared: Policy) -> Iterator[dict[str, Any]]:
    for name in declared.query:
        yield {"name": name, "in": "query", "schema": _QUERY.get(name, {"type": "string"})}


def _in_header(declared: Policy) -> Iterator[dict[str, Any]]:
    if declared.keyed:
        key = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[\x20-\x7e]*$"}
        yield {"name": "Idempotency-Key", "in": "header", "schema": key}


def _responses(declared: Policy) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for status in declared.answers:
        found[str(status)] = {"description": _WORDS[status]}
        if status not in (204, 304):
            schema = {} if declared.record is None else {"$ref": REF.format(name=declared.record.__name__)}
            found[str(status)]["content"] = {media: {"schema": schema} for media in declared.media}
    found["default"] = {"description": "A problem (RFC 9457)", "content": {declared.problems: PROBLEM}}
    return found


def _body(shape: type[BaseModel], schemas: dict[str, Any]) -> dict[str, Any]:
    schema = shape.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(schema.pop("$defs", {}))
    schemas[shape.__name__] = schema
    return {"$ref": REF.format(name=shape.__name__)}
