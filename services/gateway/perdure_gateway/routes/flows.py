"""Flows: check, store, list, restore, delete. A definition lies as a blob under its digest before SQL knows it."""

from typing import Any, Final

import msgspec
from aiohttp import web

from perdure.bus import blob
from perdure.core import codec
from perdure.core.event import TERMINAL, Status
from perdure.core.graph.spec import GraphSpec, input_schema, outputs
from perdure.db.flows import FlowVersion, delete_flow, get_flow, list_flows, list_versions, put_flow
from perdure.db.jobs import JobFilter, list_jobs
from perdure.db.page import MAX_LIMIT, PageKey
from perdure.errors import Conflict, NotFound
from perdure.ids import FLOW_NAME
from perdure.jobs import control
from perdure_gateway import answers, bodies, views
from perdure_gateway.auth import CALLER, Caller
from perdure_gateway.keys import BUS, DESK, FLOWS, SQL
from perdure_gateway.policy import op
from perdure_gateway.problems import Problem
from perdure_gateway.subflows import publishable


@op("edit", query=("dry_run",), body=bodies.FlowBody, answers=(200, 201))
async def create(request: web.Request) -> web.Response:
    """`POST /api/flows`: 201 with the first version. `?dry_run=true` only checks."""
    dry = _dry_run(request)
    body = await bodies.read(request, bodies.FlowBody)
    caller = request[CALLER]
    definition, graph = await publishable(
        request.app[SQL], request.app[FLOWS], caller.tenant, body.name, body.definition
    )
    if dry:
        return answers.respond({"name": body.name, "kind": "graph"} | _described(graph))
    async with request.app[SQL].reading() as conn:
        if await get_flow(conn, caller.tenant, body.name) is not None:
            raise _taken()
    stored = await _store(request, caller, body.name, definition, graph, expected=0)
    return _tagged(stored, 201)


@op("edit", query=("dry_run",), body=bodies.FlowChangeBody)
async def change(request: web.Request) -> web.Response:
    """`PUT /api/flows/{flow}` with If-Match: the next version, or the same one for the same definition."""
    dry = _dry_run(request)
    body = await bodies.read(request, bodies.FlowChangeBody)
    caller = request[CALLER]
    flow = await _found(request, None)
    _changeable(flow)
    definition, graph = await publishable(
        request.app[SQL], request.app[FLOWS], caller.tenant, flow.name, body.definition
    )
    if dry:
        return answers.respond({"name": flow.name, "kind": flow.kind} | _described(graph))
    expected = answers.required_version(request)
    if flow.head != expected:
        raise _changed(flow)
    return _tagged(await _store(request, caller, flow.name, definition, graph, expected=expected), 200)


@op("read", query=("limit", "cursor"))
async def index(request: web.Request) -> web.Response:
    """`GET /api/flows`: the newest versions, by name, without definitions."""
    query = bodies.query(request, "limit", "cursor")
    limit, after = answers.limit(query), await answers.begin(request, "flows", query)
    async with request.app[SQL].reading() as conn:
        found = await list_flows(conn, request[CALLER].tenant, limit=limit, after=after)
    rows = [views.flow_view(flow, definition=False) for flow in found.rows]
    return await answers.page(request, "flows", query, rows, found.next)


@op("read", answers=(200, 304))
async def show(request: web.Request) -> web.Response:
    """`GET /api/flows/{flow}`: the newest version, as SQL has it now."""
    bodies.query(request)
    flow = await _found(request, None)
    return answers.tagged(request, str(flow.version), views.flow_view(flow, definition=True))


@op("read")
async def versions(request: web.Request) -> web.Response:
    """`GET /api/flows/{flow}/versions`: newest first, without definitions."""
    bodies.query(request)
    caller = request[CALLER]
    flow = await _found(request, None)
    async with request.app[SQL].reading() as conn:
        found = await list_versions(conn, caller.tenant, flow.id)
    return answers.respond({"data": [views.flow_view(version, definition=False) for version in found]})


@op("read")
async def version(request: web.Request) -> web.Response:
    """`GET /api/flows/{flow}/versions/{n}`."""
    bodies.query(request)
    flow = await _found(request, int(request.match_info["version"]))
    return answers.respond(views.flow_view(flow, definition=True))


@op("edit", answers=(200,))
async def restore(request: web.Request) -> web.Response:
    """`POST /api/flows/{flow}/versions/{n}/restore`: what that version was becomes the newest version."""
    bodies.query(request)
    head, old = await _found(request, None), await _found(request, int(request.match_info["version"]))
    _changeable(head)
    graph = await request.app[FLOWS].graph(old)
    definition = msgspec.json.decode(old.definition)
    return _tagged(await _store(request, request[CALLER], head.name, definition, graph, expected=head.head), 200)


@op("edit", query=("cancel_jobs",), answers=(204,))
async def remove(request: web.Request) -> web.Response:
    """`DELETE /api/flows/{flow}`: 204; 409 `in-use` while jobs of it live, unless `?cancel_jobs=true` cancels them.

    A job that was submitted within the last second is not seen. It runs on: it knows its definition by digest.
    """
    cancel, caller = bodies.flag(bodies.query(request, "cancel_jobs"), "cancel_jobs", default=False), request[CALLER]
    flow = await _found(request, None)
    _changeable(flow)
    open_jobs = JobFilter(flows=[flow.id], statuses=[status for status in Status if status not in TERMINAL])
    after: PageKey | None = None
    while True:
        async with request.app[SQL].reading() as conn:
            live = await list_jobs(conn, caller.tenant, open_jobs, limit=MAX_LIMIT, after=after)
        if live.rows and not cancel:
            raise Conflict("in-use", "jobs of it have not ended: wait, or send ?cancel_jobs=true")
        for row in live.rows:
            await control.cancel(request.app[DESK], row.ref, caller.principal, reason="the flow was deleted")
        after = live.next
        if after is None:
            break
    async with request.app[SQL].writing() as conn:
        await delete_flow(conn, caller.tenant, flow.id)
    request.app[FLOWS].forget(flow)
    return web.Response(status=204)


def _changeable(flow: FlowVersion) -> None:
    """Raises Problem for a flow that is not changed over HTTP."""
    if flow.kind != "graph":
        raise Problem("flow-read-only", "a Python flow is what its runners register: deploy them anew")


async def _found(request: web.Request, number: int | None) -> FlowVersion:
    """The flow that the path names, as of a version. Raises NotFound, Unavailable."""
    async with request.app[SQL].reading() as conn:
        flow = await get_flow(conn, request[CALLER].tenant, request.match_info["flow"], number)
    if flow is None:
        raise NotFound("no such flow")
    return flow


async def _store(
    request: web.Request, caller: Caller, name: str, definition: dict[str, Any], graph: GraphSpec, *, expected: int
) -> FlowVersion:
    """Blob first, then the row, which is refused when somebody was quicker than `expected`."""
    digest = await blob.put(request.app[BUS], caller.tenant, codec.canonical(definition))
    async with request.app[SQL].writing() as conn:
        stored = await put_flow(
            conn,
            caller.tenant,
            caller.principal,
            name,
            "graph",
            msgspec.json.encode(definition).decode(),
            digest,
            now=request.app[DESK].clock.broker_now(),
            input_schema=input_schema(graph),
            outputs=[output.name for output in outputs(graph)],
        )
        if stored.head not in (expected, expected + 1):
            raise _taken() if expected == 0 else _changed(stored)
    request.app[FLOWS].forget(stored)
    return stored


def _described(graph: GraphSpec) -> dict[str, Any]:
    """What a definition will amount to, without storing it."""
    return {
        "digest": graph.digest,
        "input_schema": input_schema(graph),
        "outputs": [output.name for output in outputs(graph)],
    }


def _tagged(flow: FlowVersion, status: int) -> web.Response:
    headers = {"ETag": f'"{flow.version}"', "Cache-Control": "private, no-cache", "Location": f"/api/flows/{flow.id}"}
    return answers.respond(views.flow_view(flow, definition=True), status, headers)


def _dry_run(request: web.Request) -> bool:
    value = bodies.query(request, "dry_run").get("dry_run", "false")
    if value not in ("true", "false"):
        raise bodies.bad_parameter("dry_run", "true or false")
    return value == "true"


def _taken() -> Conflict:
    return Conflict("name-taken", "there is a flow of that name: change it with PUT")


def _changed(flow: FlowVersion) -> Problem:
    tag = {"ETag": f'"{flow.head}"'}
    return Problem("precondition-failed", "the flow has another version now", facts={"version": flow.head}, headers=tag)


_FLOW: Final = f"{{flow:{FLOW_NAME.pattern}}}"
ROUTES: Final = (
    web.post("/api/flows", create),
    web.get("/api/flows", index, allow_head=False),
    web.get(f"/api/flows/{_FLOW}", show, allow_head=False),
    web.put(f"/api/flows/{_FLOW}", change),
    web.get(f"/api/flows/{_FLOW}/versions", versions, allow_head=False),
    web.get(f"/api/flows/{_FLOW}/versions/{{version:[1-9][0-9]{{0,8}}}}", version, allow_head=False),
    web.post(f"/api/flows/{_FLOW}/versions/{{version:[1-9][0-9]{{0,8}}}}/restore", restore),
    web.delete(f"/api/flows/{_FLOW}", remove),
)
