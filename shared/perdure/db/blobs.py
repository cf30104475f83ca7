"""Which blobs the database names: those of archived logs, and the definitions of flows with what stands in them."""

import re
from typing import Final

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.db.schema import archive, flow_versions, flows
from perdure.ids import Digest, Tenant

HEX: Final = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])", re.ASCII)


async def references(conn: AsyncConnection, *, guessed: bool) -> set[tuple[Tenant, Digest]]:
    """Every blob that an archived log or a version of a flow names; a Python flow's digest is that of its source and
    names none. With `guessed` whatever looks like a blob's name in a definition counts, too.
    """
    found: set[tuple[Tenant, Digest]] = set()
    for tenant, refs in await conn.execute(select(archive.c.tenant, archive.c.refs).where(archive.c.refs != "[]")):
        found |= {(Tenant(tenant), Digest(ref)) for ref in msgspec.json.decode(refs)}
    versions = select(flows.c.tenant, flow_versions.c.digest, flow_versions.c.definition)
    graphs = versions.where(flow_versions.c.flow_id == flows.c.id, flows.c.kind != "python")
    for tenant, digest, definition in await conn.execute(graphs):
        inside = HEX.findall(definition) if guessed else ()  # its sub-flows, among others
        found |= {(Tenant(tenant), Digest(name)) for name in (digest, *inside)}
    return found
