"""`call.register` by itself, on both databases: versions, releases side by side, and what no runner can be."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from tests.integration.calls.conftest import Fleet
from tests.integration.gateway.conftest import Gateway

from perdure.bus.call import Calls
from perdure.bus.callbodies import REGISTER, FlowOffer, Register, Registered
from perdure.db import served
from perdure.db.engine import Database
from perdure.errors import Invalid, Malformed, PerdureError, UnsupportedVersion
from perdure.ids import Digest, Queue, RunnerId, Tenant, new_runner_id
from perdure.testing.servers import connect

Opened = Callable[[], AbstractAsyncContextManager[Gateway]]
OLD, NEW = Digest("a" * 64), Digest("b" * 64)


@pytest.fixture
async def calls(fleet: Fleet) -> AsyncIterator[Calls]:
    """A runner's connection, which must live through all of it."""
    async with connect(fleet.server, "runner") as bus:
        yield Calls(bus)
        assert bus.connected
        assert bus.errors == 0


def offer(digest: Digest, name: str = "order", **members: Any) -> FlowOffer:
    return FlowOffer(name=name, digest=digest, module="shop", **members)


def says(tenant: Tenant, *flows: FlowOffer, runner: RunnerId | None = None, **members: Any) -> Register:
    about: dict[str, Any] = {
        "runner": runner or new_runner_id(),
        "version": "0.1.0",
        "queues": (Queue("default"),),
        "priorities": ("normal",),
        "slots": 8,
        "running": 0,
        "tenants": (tenant,),
        "flows": flows,
    }
    return Register(**(about | members))


async def version(calls: Calls, said: Register) -> Any:
    answer = await calls.ask(REGISTER, said, Registered)
    return answer.flows["order"][said.tenants[0]].version


async def test_two_releases_side_by_side_make_two_versions_and_no_more(
    gateway: Gateway, fleet: Fleet, calls: Calls
) -> None:
    old, new = says(fleet.tenant, offer(OLD)), says(fleet.tenant, offer(NEW))
    assert [await version(calls, said) for said in (old, new, old, new, old)] == [1, 2, 2, 2, 2]
    rollback = says(fleet.tenant, offer(OLD))
    assert [await version(calls, said) for said in (rollback, new, rollback)] == [3, 3, 3]


async def test_a_schema_that_another_module_changed_is_another_version(
    gateway: Gateway, fleet: Fleet, calls: Calls
) -> None:
    first = says(fleet.tenant, offer(OLD, input_schema={"type": "string"}))
    second = says(fleet.tenant, offer(OLD, input_schema={"type": "number"}))
    same = says(fleet.tenant, offer(OLD, input_schema={"type": "number"}))
    assert [await version(calls, said) for said in (first, second, same)] == [1, 2, 2]


async def test_twenty_runners_that_start_at_once_at_two_gateways_make_one_version(
    opened: Opened, fleet: Fleet, calls: Calls
) -> None:
    async with opened() as first, opened():
        said = [says(fleet.tenant, offer(OLD)) for _ in range(20)]
        assert await asyncio.gather(*(version(calls, one) for one in said)) == [1] * 20
        assert len((await first.client.get("/api/flows/order/versions")).body["data"]) == 1
        assert len((await first.client.get("/api/runners")).body["data"]) == 20


async def test_a_flow_that_gained_a_tenant_is_stored_for_it_by_a_runner_that_is_known(
    gateway: Gateway, fleet: Fleet, calls: Calls
) -> None:
    runner, later = new_runner_id(), Tenant("not-there-yet")
    said = says(fleet.tenant, offer(OLD), runner=runner, tenants=(fleet.tenant, later))
    answer = await calls.ask(REGISTER, said, Registered)
    assert answer.flows["order"][later].problem == "no-such-tenant"
    assert answer.flows["order"][fleet.tenant].version == 1
    again = await calls.ask(REGISTER, said, Registered)
    assert again == answer


BAD: list[tuple[dict[str, Any], type[PerdureError]]] = [
    ({"v": 2}, UnsupportedVersion),
    ({"runner": "*"}, Malformed),
    ({"runner": "0199AAAA-0000-7000-8000-00000000000C"}, Malformed),
    ({"tenants": ["*"]}, Malformed),
    ({"tenants": []}, Malformed),
    ({"queues": ["a.b"]}, Malformed),
    ({"queues": ["q"] * 1_001}, Malformed),
    ({"slots": 0}, Malformed),
    ({"slots": "many"}, Malformed),
    ({"running": -1}, Malformed),
    ({"running": 10**12}, Malformed),
    ({"version": "\0"}, Malformed),
    ({"version": "\ud800"}, Malformed),  # never leaves the runner: it cannot be said in UTF-8
    ({"flows": [{"name": "Order", "digest": OLD, "module": "m"}]}, Invalid),
    ({"flows": [{"name": "../etc", "digest": OLD, "module": "m"}]}, Invalid),
    ({"flows": [{"name": "order", "digest": "x", "module": "m"}]}, Invalid),
    ({"flows": [{"name": "order", "digest": OLD}]}, Malformed),
    ({"flows": [{"name": "order", "digest": OLD, "module": "m", "description": "\0"}]}, Malformed),
    ({"flows": [{"name": "order", "digest": OLD, "module": "m", "input_schema": {"type": 7}}]}, Invalid),
    ({"flows": [{"name": "order", "digest": OLD, "module": "m", "input_schema": {"$ref": "https://x/y"}}]}, Invalid),
    ({"flows": [{"name": "order", "digest": OLD, "module": "m", "input_schema": "no"}]}, Malformed),
]


@pytest.mark.parametrize(("members", "error"), BAD, ids=lambda value: str(value)[:70].encode("ascii", "replace"))
async def test_what_no_runner_can_be_is_refused_and_nothing_is_written(
    gateway: Gateway, fleet: Fleet, calls: Calls, members: dict[str, Any], error: type[PerdureError]
) -> None:
    said = msgspec.to_builtins(says(fleet.tenant)) | members
    body = msgspec.defstruct("Said", list(said))(**said)
    with pytest.raises(error):
        await calls.ask(REGISTER, body, Registered)
    assert (await gateway.client.get("/api/runners")).body["data"] == []
    assert (await gateway.client.get("/api/flows")).body["data"] == []
    assert await version(calls, says(fleet.tenant, offer(OLD))) == 1


@pytest.mark.parametrize(
    "raw", [b"", b"null", b"[]", b"{", b"\xff\xfe", b"[" * 100_000, b'{"v":1,"v":1}', b'{"v":1,"version":"\\ud800"}']
)
async def test_what_is_no_call_is_refused(gateway: Gateway, fleet: Fleet, calls: Calls, raw: bytes) -> None:
    async with connect(fleet.server, "runner") as bus:
        for verb in ("register", "submit"):
            reply = msgspec.json.decode(await bus.ask(f"call.{verb}", raw))
            assert reply["problem"]["kind"] == "malformed"
    assert await version(calls, says(fleet.tenant, offer(OLD))) == 1


async def test_a_runner_of_langflow_flows_is_remembered_when_it_is_gone(
    gateway: Gateway, fleet: Fleet, calls: Calls, database: Database
) -> None:
    queue = Queue(f"q{uuid.uuid4().hex[:12]}")

    async def known() -> bool:
        async with database.read() as conn:
            return await served.ever(conn, queue, "langflow")

    plain = says(fleet.tenant, queues=(queue,))
    await calls.ask(REGISTER, plain, Registered)
    assert not await known()
    runner = says(fleet.tenant, queues=(queue,), langflow=True)
    for said in (runner, runner, replace(runner, leaving=True)):
        await calls.ask(REGISTER, said, Registered)
    assert await known()
