"""Flows and their versions. A version never changes; a job names the digest, which is also the definition's blob."""

from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct
from sqlalchemy import Row, Select, and_, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.core.instant import Instant
from perdure.db.page import Page, PageKey, keyset
from perdure.db.record import record, storable
from perdure.db.schema import flow_versions, flows, insert
from perdure.errors import Conflict
from perdure.ids import Digest, FlowId, Principal, Tenant, is_uuid, new_flow_id

Kind = Literal["graph", "python", "langflow"]


class FlowVersion(Struct, frozen=True, kw_only=True):
    """A flow as of one version. `definition` is JSON text, `input_schema` JSON Schema, `outputs` names."""

    id: FlowId
    tenant: Tenant
    name: str
    kind: Kind
    owner: Principal
    head: int
    version: int
    digest: Digest
    definition: str
    input_schema: dict[str, Any] | None  # Any: JSON Schema
    outputs: tuple[str, ...]
    created_at: Instant  # of the flow
    updated_at: Instant  # of this version
    updated_by: Principal
    description: str | None = None
    output_schema: dict[str, Any] | None = None


_JOINED: Final = flow_versions.c.flow_id == flows.c.id
_COLUMNS: Final = (
    flows.c.id,
    flows.c.tenant,
    flows.c.name,
    flows.c.kind,
    flows.c.owner,
    flows.c.head,
    flow_versions.c.version,
    flow_versions.c.digest,
    flow_versions.c.definition,
    flow_versions.c.input_schema,
    flow_versions.c.outputs,
    flow_versions.c.description,
    flow_versions.c.output_schema,
    flows.c.created_at,
    flow_versions.c.created_at.label("updated_at"),
    flow_versions.c.created_by.label("updated_by"),
)


async def put_flow(
    conn: AsyncConnection,
    tenant: Tenant,
    owner: Principal,
    name: str,
    kind: Kind,
    definition: str,
    digest: Digest,
    *,
    now: Instant,
    input_schema: dict[str, Any] | None = None,
    outputs: Sequence[str] = (),
    description: str | None = None,
    output_schema: dict[str, Any] | None = None,
) -> FlowVersion:
    """Make `definition` the newest version of the tenant's flow `name`, which is made when it is new.

    The digest of the newest version again makes nothing: that version comes back. `owner` owns a new flow and is noted
    as the author of the version. Needs a transaction; two at once wait for each other. Raises Conflict(`name-taken`)
    when the name is a flow of another kind.
    """
    row = {"id": new_flow_id(), "tenant": tenant, "name": name, "kind": kind, "owner": owner, "head": 0}
    made = insert(conn, flows).values(**row, created_at=now, updated_at=now)
    await conn.execute(made.on_conflict_do_nothing(index_elements=[flows.c.tenant, flows.c.name]))
    mine = and_(flows.c.tenant == tenant, flows.c.name == name)
    found = (await conn.execute(select(flows.c.id, flows.c.kind, flows.c.head).where(mine).with_for_update())).one()
    if found.kind != kind:
        raise Conflict("name-taken", f"the flow {name} is of kind {found.kind}")
    newest = await get_flow(conn, tenant, name)
    if newest is not None and newest.digest == digest and (kind != "python" or newest.definition == definition):
        return newest  # of Python the digest is that of one module's source: its schemas may come from another
    version = {
        "flow_id": found.id,
        "version": found.head + 1,
        "digest": digest,
        "definition": definition,
        "input_schema": _text(input_schema),
        "outputs": msgspec.json.encode(list(outputs)).decode(),
        "description": storable(description),
        "output_schema": _text(output_schema),
        "created_at": now,
        "created_by": owner,
    }
    await conn.execute(flow_versions.insert().values(**version))
    await conn.execute(update(flows).where(flows.c.id == found.id).values(head=found.head + 1, updated_at=now))
    stored = await get_flow(conn, tenant, name)
    assert stored is not None  # written above, in this transaction
    return stored


async def get_flow(
    conn: AsyncConnection, tenant: Tenant, id_or_name: str, version: int | None = None
) -> FlowVersion | None:
    """A version (the newest by default) of a tenant's flow, None when there is none. A name that looks like an id is
    looked up as an id first.
    """
    wanted = flows.c.head if version is None else version
    query: Select[Any] = select(*_COLUMNS).join(flow_versions, _JOINED)
    query = query.where(flows.c.tenant == tenant, flow_versions.c.version == wanted)
    for column in (flows.c.id, flows.c.name) if is_uuid(id_or_name) else (flows.c.name,):
        found = (await conn.execute(query.where(column == id_or_name))).first()
        if found is not None:
            return _flow(found)
    return None


async def find_version(conn: AsyncConnection, tenant: Tenant, id_or_name: str, digest: Digest) -> FlowVersion | None:
    """The newest version of a tenant's flow that has this definition, None when it never had it."""
    mine = or_(flows.c.id == id_or_name, flows.c.name == id_or_name)
    query: Select[Any] = select(*_COLUMNS).join(flow_versions, _JOINED)
    query = query.where(flows.c.tenant == tenant, mine, flow_versions.c.digest == digest)
    found = (await conn.execute(query.order_by(flow_versions.c.version.desc()).limit(1))).first()
    return None if found is None else _flow(found)


async def list_flows(
    conn: AsyncConnection, tenant: Tenant, *, limit: int = 50, after: PageKey | None = None
) -> Page[FlowVersion]:
    """A page of a tenant's flows by name, each as of its newest version."""
    query: Select[Any] = select(*_COLUMNS).join(flow_versions, _JOINED)
    query = query.where(flows.c.tenant == tenant, flow_versions.c.version == flows.c.head)
    query = keyset(query, flows.c.name, flows.c.id, descending=False, limit=limit, after=after)
    rows = tuple(map(_flow, (await conn.execute(query)).all()))
    if len(rows) <= limit:
        return Page(rows)
    return Page(rows[:limit], (rows[limit - 1].name, rows[limit - 1].id))


async def list_versions(conn: AsyncConnection, tenant: Tenant, flow: FlowId) -> list[FlowVersion]:
    """Every version of a flow, the newest first."""
    query: Select[Any] = select(*_COLUMNS).join(flow_versions, _JOINED)
    query = query.where(flows.c.tenant == tenant, flows.c.id == flow).order_by(flow_versions.c.version.desc())
    return list(map(_flow, (await conn.execute(query)).all()))


async def delete_flow(conn: AsyncConnection, tenant: Tenant, flow: FlowId) -> None:
    """Delete a flow with its versions; again changes nothing. Needs a transaction."""
    mine = select(flows.c.id).where(flows.c.tenant == tenant, flows.c.id == flow).scalar_subquery()
    await conn.execute(flow_versions.delete().where(flow_versions.c.flow_id == mine))
    await conn.execute(flows.delete().where(flows.c.tenant == tenant, flows.c.id == flow))


def _flow(found: Row[Any]) -> FlowVersion:
    return record(found, FlowVersion, json=("input_schema", "output_schema", "outputs"))


def _text(schema: dict[str, Any] | None) -> str | None:
    return None if schema is None else msgspec.json.encode(schema).decode()
