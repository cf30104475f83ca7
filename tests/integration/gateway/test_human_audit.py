"""The gateway's part of the audit: written behind answers, again and again, never in the way of one."""

from collections.abc import Awaitable, Callable

import msgspec
import pytest
from aiohttp.test_utils import make_mocked_request

from perdure.bus.audit import Record
from perdure.bus.connection import Bus
from perdure.bus.stream import direct_batch
from perdure.errors import Unavailable
from perdure.ids import Principal, Tenant
from perdure.local.server import NatsServer
from perdure.testing.servers import connect, frozen
from perdure_gateway import audits
from perdure_gateway.audits import Trail

Eventually = Callable[..., Awaitable[None]]
ANN = Principal("user:ann")


def put(trail: Trail, tenant: Tenant, number: int) -> None:
    request = make_mocked_request("GET", "/")
    trail.put(
        request, tenant, ANN, "request.answer", f"request-{number}", channel="api", facts={"seq": number, "to": None}
    )


async def stored(bus: Bus, tenant: Tenant) -> list[Record]:
    kept = await direct_batch(bus, "AUDIT", f"audit.{tenant}", 0)
    return [msgspec.json.decode(read.body, type=Record) for read in kept]


async def test_what_is_noted_while_the_broker_answers_nothing_is_written_once_when_it_does(
    own_nats_server: NatsServer, tenant: Tenant, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audits, "AGAIN_SECONDS", 0.05)
    async with connect(own_nats_server, "gateway") as bus, connect(own_nats_server) as admin:
        trail = Trail(bus, bus.clock)
        async with trail.writing():
            put(trail, tenant, 0)
            with frozen(own_nats_server):
                for number in range(1, 600):
                    put(trail, tenant, number)
                with pytest.raises(Unavailable):
                    await trail.written()

            async def there() -> bool:
                return len(await stored(admin, tenant)) >= 600

            await eventually(there)
        found = await stored(admin, tenant)
    assert [record.object for record in found] == [f"request-{number}" for number in range(600)]
    assert found[1].facts == {"seq": 1}


async def test_what_is_left_at_the_end_is_written_then(bus: Bus, tenant: Tenant) -> None:
    trail = Trail(bus, bus.clock)
    async with trail.writing():
        for number in range(300):
            put(trail, tenant, number)
    assert len(await stored(bus, tenant)) == 300


async def test_what_finds_no_room_is_logged_whole(
    bus: Bus, tenant: Tenant, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(audits, "MOST_WAITING", 2)
    trail = Trail(bus, bus.clock)
    for number in range(3):
        put(trail, tenant, number)
    await trail.written()
    assert [record.object for record in await stored(bus, tenant)] == ["request-1", "request-2"]
    assert "request-0" in capsys.readouterr().out


async def test_a_record_that_no_broker_takes_holds_up_none(bus: Bus, tenant: Tenant) -> None:
    trail = Trail(bus, bus.clock)
    put(trail, Tenant("no.tenant"), 0)
    put(trail, tenant, 1)
    await trail.written()
    put(trail, tenant, 2)
    await trail.written()
    assert [record.object for record in await stored(bus, tenant)] == ["request-1", "request-2"]
