"""What the gateway says of itself: its API, the schemas of events, what problems mean, what it counts."""

import html
from typing import Final

from aiohttp import web

from perdure.errors import NotFound
from perdure_gateway import answers, bodies, openapi
from perdure_gateway.causes import CAUSES
from perdure_gateway.keys import METRICS
from perdure_gateway.metrics import MEDIA_TYPE
from perdure_gateway.policy import op
from perdure_gateway.problems import KINDS
from perdure_gateway.schemas import event_schemas, subject_schemas

_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{code}</title></head>
<body><main><h1>{title}</h1><p><code>{code}</code>, HTTP {status}</p>
<h2>Cause</h2><p>{cause}</p><h2>Cure</h2><p>{cure}</p></main></body></html>
"""


@op(public=True)
async def api(request: web.Request) -> web.Response:
    """`GET /api/openapi.json`: this API as OpenAPI 3.1."""
    bodies.query(request)
    return answers.respond(openapi.document(request.app))


@op(public=True, media=("application/schema+json",))
async def schema(request: web.Request) -> web.Response:
    """`GET /api/schemas/{name}.json`: the JSON Schema of a type of event or delta, or of what open subjects carry."""
    bodies.query(request)
    found = _SCHEMAS.get(request.match_info["name"])
    if found is None:
        raise NotFound("no such type")
    response = answers.respond(found)
    response.content_type = "application/schema+json"
    return response


@op(public=True, media=("text/html",))
async def problem(request: web.Request) -> web.Response:
    """`GET /problems/{code}`: where a problem comes from and what to do about it."""
    bodies.query(request)
    code = request.match_info["code"]
    kind, why = KINDS.get(code), CAUSES.get(code)
    if kind is None or why is None:
        raise NotFound("no such problem")
    parts = {"code": code, "title": kind.title, "status": str(kind.status), "cause": why.cause, "cure": why.cure}
    page = _PAGE.format(**{name: html.escape(text) for name, text in parts.items()})
    headers = {"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'"}
    return web.Response(text=page, content_type="text/html", charset="utf-8", headers=headers)


@op("metrics", media=(MEDIA_TYPE,))
async def metrics(request: web.Request) -> web.Response:
    """`GET /metrics`: what this gateway counts, for Prometheus."""
    bodies.query(request)
    return request.app[METRICS].page()


_SCHEMAS: Final = {**event_schemas(), **subject_schemas()}
ROUTES: Final = (
    web.get("/api/openapi.json", api, allow_head=False),
    web.get("/api/schemas/{name:[a-z]{1,20}(\\.[a-z]{1,20})?}.json", schema, allow_head=False),
    web.get("/problems/{code:[a-z-]{1,40}}", problem, allow_head=False),
    web.get("/metrics", metrics, allow_head=False),
)
