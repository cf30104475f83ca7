"""Langflow's flows in the database: one record a version, named and found as its clients do."""

from typing import Any, Final

import msgspec
from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.bus import blob
from perdure.core import codec
from perdure.core.langflow import flow as records
from perdure.core.langflow.flow import Flow
from perdure.core.langflow.refusal import Refusal, sentence
from perdure.core.langflow.shape import of_langflow
from perdure.db import langflows
from perdure.db.flows import FlowVersion, get_flow, list_flows
from perdure.db.page import MAX_LIMIT, PageKey
from perdure.errors import Conflict
from perdure.ids import FlowId, derived, new_flow_id
from perdure_gateway.auth import CALLER
from perdure_gateway.keys import BUS, DESK, FLOWS, SQL
from perdure_gateway.langflow.ids import canonical
from perdure_gateway.langflow.models import FlowBody, FlowChanges

NOT_FOUND: Final = "Flow not found"
NOT_OURS: Final = "This flow is none of Langflow's: it is changed at /api/flows."
TRIES: Final = 5  # to take a name that is free while others take names


def record_of(version: FlowVersion) -> Flow:
    """What a version holds; of a flow of another kind nothing that this API could change."""
    if version.kind != langflows.KIND:
        return Flow(description=version.description, data_version=version.version)
    return msgspec.json.decode(version.definition, type=Flow)


def shown(request: web.Request, version: FlowVersion) -> dict[str, Any]:
    """A flow as the API shows it."""
    tenant = request[CALLER].tenant
    owner, folder = records.user(tenant, version.owner), derived("langflow-folder", tenant)
    return records.shown(version.id, version.name, record_of(version), owner, folder, version.updated_at)


async def all_of(request: web.Request) -> list[FlowVersion]:
    """Every flow of the tenant by name. Raises Unavailable."""
    found: list[FlowVersion] = []
    after: PageKey | None = None
    async with request.app[SQL].reading() as conn:
        while True:
            page = await list_flows(conn, request[CALLER].tenant, limit=MAX_LIMIT, after=after)
            found += page.rows
            after = page.next
            if after is None:
                return found


async def one(request: web.Request, *, changeable: bool = False) -> FlowVersion:
    """The flow that the path names. Raises Refusal (404, 422), Unavailable."""
    flow = canonical(request.match_info["flow_id"])
    if flow is None:
        raise bad_id()
    async with request.app[SQL].reading() as conn:
        found = await get_flow(conn, request[CALLER].tenant, flow)
    if found is None or found.id != flow:
        raise sentence(404, NOT_FOUND)
    if changeable and found.kind != langflows.KIND:
        raise sentence(409, NOT_OURS)
    return found


def bad_id() -> Refusal:
    """The path holds no UUID."""
    item = {"type": "uuid_parsing", "loc": ["path", "flow_id"], "msg": "Input should be a valid UUID"}
    return Refusal(422, [item])


async def made(request: web.Request, body: FlowBody, flow_id: str | None) -> FlowVersion:
    """A new flow, under `flow_id` where no tenant has one of that id. Raises Unavailable."""
    caller, now = request[CALLER], request.app[DESK].clock.broker_now()
    wanted = canonical(flow_id) if flow_id is not None else None
    digest = await blob.put(request.app[BUS], caller.tenant, codec.canonical(body.data))
    record = Flow(data=body.data, description=body.description, endpoint_name=body.endpoint_name, tags=body.tags)
    for _ in range(TRIES):
        async with request.app[SQL].writing() as conn:
            taken = wanted is None or await langflows.id_taken(conn, FlowId(wanted))
            flow = new_flow_id() if wanted is None or taken else FlowId(wanted)
            name = records.free_name(body.name, await langflows.names_like(conn, caller.tenant, body.name))
            record = msgspec.structs.replace(record, endpoint_name=await _endpoint(conn, request, body.endpoint_name))
            try:
                return await langflows.make(
                    conn, caller.tenant, caller.principal, flow, name, _text(record), digest, now, _outputs(body.data)
                )
            except Conflict:
                continue
    raise sentence(409, "Names are taken faster than they can be found; try again.")


async def changed(request: web.Request, before: FlowVersion, changes: FlowChanges) -> FlowVersion:
    """The next version of a flow; members that are None stay. Raises Refusal (409), Unavailable."""
    caller, now, old = request[CALLER], request.app[DESK].clock.broker_now(), record_of(before)
    data = old.data if changes.data is None else changes.data
    digest = await blob.put(request.app[BUS], caller.tenant, codec.canonical(data))
    record = Flow(
        data=data,
        description=changes.description if changes.description is not None else old.description,
        endpoint_name=old.endpoint_name,
        tags=changes.tags if changes.tags is not None else old.tags,
        data_version=old.data_version if digest == before.digest else before.head + 1,
    )
    for _ in range(TRIES):
        async with request.app[SQL].writing() as conn:
            name = before.name
            if changes.name is not None and changes.name != before.name:
                name = records.free_name(changes.name, await langflows.names_like(conn, caller.tenant, changes.name))
            if changes.endpoint_name is not None and changes.endpoint_name != old.endpoint_name:
                found = await _endpoint(conn, request, changes.endpoint_name)
                record = msgspec.structs.replace(record, endpoint_name=found)
            try:
                stored = await langflows.change(
                    conn, before, caller.principal, name, _text(record), digest, now, _outputs(data)
                )
            except Conflict as exc:
                if exc.code == "name-taken":
                    continue
                raise conflict(request, before, token_of(before)) from None
        for version in (before, stored):
            request.app[FLOWS].forget(version)
        return stored
    raise sentence(409, "Names are taken faster than they can be found; try again.")


def token_of(version: FlowVersion) -> str:
    """The version token of a flow."""
    return records.token(version.id, record_of(version).data_version)


def conflict(request: web.Request, current: FlowVersion, expected: str) -> Refusal:
    """The flow is not what the caller has seen."""
    by = {"id": records.user(request[CALLER].tenant, current.updated_by), "username": current.updated_by}
    detail = {
        "code": "flow_version_conflict",
        "message": "This flow was changed by someone else after you loaded it.",
        "flow_id": current.id,
        "expected_version_token": expected,
        "current_version_token": token_of(current),
        "modified_by": by,
        "modified_at": f"{current.updated_at[:19]}+00:00",
    }
    return Refusal(409, detail)


async def _endpoint(conn: AsyncConnection, request: web.Request, wanted: str | None) -> str | None:
    """The endpoint name, another one where it is taken."""
    if wanted is None:
        return None
    taken: set[str] = set()
    after: PageKey | None = None
    while True:
        page = await list_flows(conn, request[CALLER].tenant, limit=MAX_LIMIT, after=after)
        taken |= {name for version in page.rows if (name := record_of(version).endpoint_name) is not None}
        after = page.next
        if after is None:
            return records.free_endpoint(wanted, taken)


def _text(record: Flow) -> str:
    return msgspec.json.encode(record).decode()


def _outputs(data: dict[str, Any] | None) -> list[str]:
    return [component.id for component in of_langflow(data).terminals]
