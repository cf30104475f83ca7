"""AUDIT: records are stored in order and once, under the rights of those who write them, and never taken away."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from perdure.bus.audit import Audit, Record, records
from perdure.bus.connection import Bus
from perdure.bus.stream import direct_batch
from perdure.cli.app import main
from perdure.core.instant import Instant
from perdure.errors import Malformed, OutcomeUnknown
from perdure.ids import StreamSeq, Tenant
from perdure.local.server import NatsServer

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


async def test_records_are_read_in_pages_by_who_may(bus: Bus, connect_as: Connect, tenant: Tenant) -> None:
    written = [replace(RECORD, tenant=tenant, id=f"{tenant}-{n}") for n in range(5)]
    await Audit(bus).write(written)
    async with connect_as("sweeper") as own:
        found, after = list[Record](), StreamSeq(0)
        while page := await records(own, tenant, after, 2):
            found, after = found + [record for _, record in page], page[-1][0]
        assert found == written
        assert await records(own, Tenant("nobody"), StreamSeq(0)) == []


async def test_the_audit_is_exported_as_lines_of_json(
    nats_server: NatsServer, bus: Bus, tenant: Tenant, capsysbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    who = nats_server.credentials["sweeper"]
    for name, value in (("NATS", nats_server.url), ("NATS_USER", who.user), ("NATS_PASSWORD", who.password)):
        monkeypatch.setenv(f"PERDURE_{name}", value)
    late = replace(RECORD, tenant=tenant, id=f"{tenant}-late", at=Instant("2026-01-02T00:00:00.000Z"))
    early = replace(RECORD, tenant=tenant, id=f"{tenant}-early")
    await Audit(bus).write([early, late])
    whole = ["audit", "export", "--tenant", tenant, "--data", str(tmp_path)]
    for words, wanted in (
        (whole, [early, late]),
        ([*whole, "--since", "2026-01-02T00:00:00Z"], [late]),
        ([*whole, "--until", "2026-01-02T01:00:00+01:00"], [early]),
    ):
        capsysbinary.readouterr()
        assert await asyncio.to_thread(main, words) == 0
        lines = capsysbinary.readouterr().out.splitlines()
        assert [msgspec.json.decode(line, type=Record) for line in lines] == wanted
    assert await asyncio.to_thread(main, [*whole, "--since", "yesterday"]) == 2


async def test_a_tenant_that_is_no_token_has_no_records(bus: Bus) -> None:
    with pytest.raises(Malformed):
        await Audit(bus).write([replace(RECORD, tenant=Tenant("a.>"))])
