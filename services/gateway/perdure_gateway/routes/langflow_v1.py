"""The part of Langflow's API, version 1, that its clients need: flows, and who answers here."""

import asyncio
import re
from typing import Any, Final

from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.http_exceptions import HttpProcessingError

import perdure
from perdure.core.langflow import flow as records
from perdure.core.langflow.refusal import Refusal, sentence
from perdure.db.flows import delete_flow
from perdure_gateway import answers, bodies
from perdure_gateway.auth import CALLER
from perdure_gateway.keys import FLOWS, LIMITS, SQL
from perdure_gateway.langflow import flows, models, reading
from perdure_gateway.langflow.ids import canonical
from perdure_gateway.policy import op

VERSION: Final = "1.13.0"
MOST_SIZE: Final = 100
MOST_PAGE: Final = 10**6
MOST_UPLOADED: Final = 100
_TAG: Final = re.compile(r'"?([0-9a-fA-F-]{36})"?', re.ASCII)


@op("edit", body=models.FlowBody, answers=(201,), surface="langflow")
async def create(request: web.Request) -> web.Response:
    """`POST /api/v1/flows/`: a flow; a name, an endpoint name or an id that is taken becomes another one."""
    body = await reading.read(request, models.FlowBody, most=reading.FLOW_BYTES)
    return answers.respond(flows.shown(request, await flows.made(request, body, body.id)), 201)


@op("read", query=("header_flows", "get_all", "page", "size"), surface="langflow")
async def index(request: web.Request) -> web.Response:
    """`GET /api/v1/flows/`: the tenant's flows by name; with `get_all=false` a page of them."""
    rows = [flows.shown(request, version) for version in await flows.all_of(request)]
    if reading.flag_in_query(request, "header_flows"):
        rows = [records.header(row) for row in rows]
    if reading.flag_in_query(request, "get_all", default=True):
        return answers.respond(rows)
    page = reading.number_in_query(request, "page", 1, MOST_PAGE)
    size = reading.number_in_query(request, "size", 50, MOST_SIZE)
    pages, begin = -(-len(rows) // size), (page - 1) * size
    body = {"items": rows[begin : begin + size], "total": len(rows), "page": page, "size": size, "pages": pages}
    return answers.respond(body)


@op("read", surface="langflow")
async def show(request: web.Request) -> web.Response:
    """`GET /api/v1/flows/{flow_id}`: the newest version of a flow."""
    return answers.respond(flows.shown(request, await flows.one(request)))


@op("edit", body=models.FlowChanges, surface="langflow")
async def patch(request: web.Request) -> web.Response:
    """`PATCH /api/v1/flows/{flow_id}`: what the body says; with If-Match only where nobody changed `data` since."""
    changes = await reading.read(request, models.FlowChanges, most=reading.FLOW_BYTES)
    before = await flows.one(request, changeable=True)
    expected = _expected(request)
    if expected is not None and expected != flows.token_of(before):
        raise flows.conflict(request, before, expected)
    return answers.respond(flows.shown(request, await flows.changed(request, before, changes)))


@op("edit", body=models.FlowBody, answers=(200, 201), surface="langflow")
async def put(request: web.Request) -> web.Response:
    """`PUT /api/v1/flows/{flow_id}`: make or change the flow of that id."""
    body = await reading.read(request, models.FlowBody, most=reading.FLOW_BYTES)
    flow = canonical(request.match_info["flow_id"])
    if flow is None:
        raise flows.bad_id()
    try:
        before = await flows.one(request, changeable=True)
    except Refusal as exc:
        if exc.status != 404:
            raise
        made = await flows.made(request, body, flow)
        if made.id != flow:  # another tenant has it: nothing of that is told
            async with request.app[SQL].writing() as conn:
                await delete_flow(conn, request[CALLER].tenant, made.id)
            raise
        return answers.respond(flows.shown(request, made), 201)
    return answers.respond(flows.shown(request, await flows.changed(request, before, body)))


@op("edit", surface="langflow")
async def remove(request: web.Request) -> web.Response:
    """`DELETE /api/v1/flows/{flow_id}`: the flow with its versions. Its jobs go on, and stay readable."""
    flow = await flows.one(request, changeable=True)
    async with request.app[SQL].writing() as conn:
        await delete_flow(conn, request[CALLER].tenant, flow.id)
    request.app[FLOWS].forget(flow)
    return answers.respond({"message": "Flow deleted successfully"})


@op("edit", answers=(201,), surface="langflow")
async def upload(request: web.Request) -> web.Response:
    """`POST /api/v1/flows/upload/`: the member `file` of a form: one flow, or several under `flows`."""
    content = await _file(request)
    if content is None:
        raise sentence(400, "No file provided")
    found = reading.decoded(content)
    several = found["flows"] if isinstance(found, dict) and "flows" in found else [found]
    if not isinstance(several, list) or len(several) > MOST_UPLOADED:
        raise sentence(422, f"flows must be a list of at most {MOST_UPLOADED} flows")
    given = [_uploaded(each) for each in several]  # all of them are looked at before any is stored
    return answers.respond([flows.shown(request, await flows.made(request, body, body.id)) for body in given], 201)


@op(public=True, surface="langflow")
async def version(request: web.Request) -> web.Response:
    """`GET /api/v1/version`: the version of Langflow that this API is like, and ours."""
    told = {"version": VERSION, "main_version": VERSION, "package": "Langflow", "perdure": perdure.__version__}
    return answers.respond(told)


@op(public=True, surface="langflow")
async def health(request: web.Request) -> web.Response:
    """`GET /health`: whether there is a gateway."""
    return answers.respond({"status": "ok"})


@op(public=True, answers=(), surface="langflow")
async def auto_login(request: web.Request) -> web.Response:
    """`GET /api/v1/auto_login`: never; clients take keys."""
    raise Refusal(403, {"message": "Auto login is disabled. Please use an API key.", "auto_login": False})


def _uploaded(found: Any) -> models.FlowBody:  # Any: JSON
    try:
        return reading.parsed(found, models.FlowBody)
    except Refusal as exc:
        places = ", ".join(".".join(map(str, item["loc"][1:])) or "flow" for item in exc.detail)
        raise sentence(422, f"A flow of the file cannot be taken: {places}") from None


async def _file(request: web.Request) -> bytes | None:
    """The bytes of the form's `file`, None where there is none. Raises Refusal, Problem."""
    if not request.content_type.startswith("multipart/"):
        return None
    if (request.content_length or 0) > reading.FLOW_BYTES:
        raise reading.too_large(reading.FLOW_BYTES)
    with request.app[LIMITS].body(request.content_length or reading.FLOW_BYTES):
        try:
            async with asyncio.timeout(bodies.READ_SECONDS):
                return await _part(await request.multipart())
        except TimeoutError:
            raise reading.too_slow() from None
        except (ValueError, HttpProcessingError):  # what aiohttp raises for a form that is none
            return None


async def _part(form: MultipartReader) -> bytes | None:
    """The member `file`. Members before it are read too, and count: a form may hold any number of them."""
    left = reading.FLOW_BYTES
    while isinstance(part := await form.next(), BodyPartReader):  # else the end, or a form inside the form
        wanted, body = part.name == "file", bytearray()
        while chunk := await part.read_chunk():
            left -= len(chunk)
            if left < 0:
                raise reading.too_large(reading.FLOW_BYTES)
            if wanted:
                body += chunk
        if wanted:
            return bytes(body)
    return None


def _expected(request: web.Request) -> str | None:
    text = request.headers.get("If-Match")
    if text is None:
        return None
    match = _TAG.fullmatch(text.strip().removeprefix("W/"))
    if match is None or canonical(match[1]) is None:
        raise sentence(400, "Invalid If-Match header: expected a version token")
    return canonical(match[1])


ROUTES: Final = (
    *(web.post(f"/api/v1/flows{slash}", create) for slash in ("/", "")),
    *(web.get(f"/api/v1/flows{slash}", index, allow_head=False) for slash in ("/", "")),
    *(web.post(f"/api/v1/flows/upload{slash}", upload) for slash in ("/", "")),
    web.get("/api/v1/flows/{flow_id}", show, allow_head=False),
    web.patch("/api/v1/flows/{flow_id}", patch),
    web.put("/api/v1/flows/{flow_id}", put),
    web.delete("/api/v1/flows/{flow_id}", remove),
    web.get("/api/v1/version", version, allow_head=False),
    web.get("/api/v1/auto_login", auto_login, allow_head=False),
    web.get("/health", health, allow_head=False),
)
