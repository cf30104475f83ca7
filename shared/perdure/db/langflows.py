"""Flows of Langflow: made under an id of the client's where that is free, changed by id, renamed. See db.flows."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Select, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.core.instant import Instant
from perdure.db.flows import FlowVersion, get_flow
from perdure.db.schema import flow_versions, flows
from perdure.errors import Conflict
from perdure.ids import Digest, FlowId, Principal, Tenant

KIND: Final = "langflow"


async def names_like(conn: AsyncConnection, tenant: Tenant, name: str) -> set[str]:
    """The names of the tenant's flows, of every kind, that begin with `name`."""
    query: Select[Any] = select(flows.c.name).where(
        flows.c.tenant == tenant, flows.c.name.startswith(name, autoescape=True)
    )
    return {row[0] for row in (await conn.execute(query)).all()}


async def id_taken(conn: AsyncConnection, flow: FlowId) -> bool:
    """Whether any tenant has a flow of that id."""
    return (await conn.execute(select(flows.c.id).where(flows.c.id == flow))).first() is not None


async def make(
    conn: AsyncConnection,
    tenant: Tenant,
    owner: Principal,
    flow: FlowId,
    name: str,
    definition: str,
    digest: Digest,
    now: Instant,
    outputs: Sequence[str] = (),
) -> FlowVersion:
    """The first version of a new flow. Raises Conflict (`name-taken`) when name or id was taken a moment ago."""
    row = {"id": flow, "tenant": tenant, "name": name, "kind": KIND, "owner": owner, "head": 1}
    try:
        async with conn.begin_nested():
            await conn.execute(flows.insert().values(**row, created_at=now, updated_at=now))
    except IntegrityError as exc:
        raise Conflict("name-taken", "there is a flow of that name or id") from exc
    await _version(conn, flow, 1, definition, digest, owner, now, outputs)
    return await _read(conn, tenant, flow)


async def change(
    conn: AsyncConnection,
    before: FlowVersion,
    by: Principal,
    name: str,
    definition: str,
    digest: Digest,
    now: Instant,
    outputs: Sequence[str] = (),
) -> FlowVersion:
    """The next version of `before`, which must still be the newest. Raises Conflict (`changed`, `name-taken`)."""
    mine = (flows.c.id == before.id, flows.c.tenant == before.tenant, flows.c.head == before.head)
    changed = update(flows).where(*mine).values(head=before.head + 1, name=name, updated_at=now)
    try:
        async with conn.begin_nested():
            found = await conn.execute(changed)
    except IntegrityError as exc:
        raise Conflict("name-taken", "there is a flow of that name") from exc
    if found.rowcount != 1:
        raise Conflict("changed", "somebody else changed the flow a moment ago")
    await _version(conn, before.id, before.head + 1, definition, digest, by, now, outputs)
    return await _read(conn, before.tenant, before.id)


async def _version(
    conn: AsyncConnection,
    flow: FlowId,
    number: int,
    definition: str,
    digest: Digest,
    by: Principal,
    now: Instant,
    outputs: Sequence[str],
) -> None:
    values = {
        "flow_id": flow,
        "version": number,
        "digest": digest,
        "definition": definition,
        "outputs": msgspec.json.encode(list(outputs)).decode(),
        "created_at": now,
        "created_by": by,
    }
    await conn.execute(flow_versions.insert().values(**values))


async def _read(conn: AsyncConnection, tenant: Tenant, flow: FlowId) -> FlowVersion:
    stored = await get_flow(conn, tenant, flow)
    assert stored is not None  # written above, in this transaction
    return stored
