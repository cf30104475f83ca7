"""AUDIT: records are stored in order and once, under the rights of those who write them, and never taken away."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from perdure.bus.audit import Audit, Record
from perdure.bus.connection import Bus
from perdure.bus.stream import direct_batch
from perdure.errors import Malformed, OutcomeUnknown
from perdure.ids import Tenant

GOLDEN = Path(__file__).parents[1] / "golden" / "bus" / "audit-1.json"
RECORD = msgspec.json.decode(GOLDEN.read_bytes(), type=Record)
Connect = Callable[[str], AbstractAsyncContextManager[Bus]]


async def stored(bus: Bus, tenant: Tenant) -> list[Record]:
    found = await direct_batch(bus, "AUDIT", f"audit.{tenant}", 0)
    return [msgspec.json.decode(read.body, type=Record) for read in found]


def test_a_record_is_written_as_the_golden_file_has_it() -> None:
    assert msgspec.json.encode(RECORD) + b"\n" == GOLDEN.read_bytes()


@pytest.mark.parametrize("user", ["gateway", "sweeper"])
async def test_records_are_stored_in_order_and_once(bus: Bus, connect_as: Connect, tenant: Tenant, user: str) -> None:
    records = [replace(RECORD, tenant=tenant, id=f"{tenant}-{n}") for n in range(20)]
    async with connect_as(user) as own:
        await Audit(own).write([])
        await Audit(own).write(records)
        await Audit(own).write(records)
    assert await stored(bus, tenant) == records


async def test_who_writes_records_takes_none_away(bus: Bus, connect_as: Connect, tenant: Tenant) -> None:
    async with connect_as("gateway") as own:
        await Audit(own).write([replace(RECORD, tenant=tenant, id=str(tenant))])
        with pytest.raises(OutcomeUnknown):  # refused by its rights: no answer ever comes
            await own.request("$JS.API.STREAM.PURGE.AUDIT", b"", within=0.2)
    refused = await bus.request("$JS.API.STREAM.PURGE.AUDIT", b"")  # nor does anybody
    assert b'"error"' in refused.data
    assert len(await stored(bus, tenant)) == 1


async def test_a_tenant_that_is_no_token_has_no_records(bus: Bus) -> None:
    with pytest.raises(Malformed):
        await Audit(bus).write([replace(RECORD, tenant=Tenant("a.>"))])
