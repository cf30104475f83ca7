"""Python flows from the module to the outputs, on both databases: registered, versioned, checked, run by name."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from tests.integration.calls.conftest import Fleet
from tests.integration.gateway.conftest import Gateway

from perdure.bus.queues import depth
from perdure.bus.topology import ensure_queue
from perdure.core import event as ev
from perdure.core.instant import seconds_between
from perdure.db.engine import Database
from perdure.db.principals import ensure_tenant
from perdure.ids import Queue, Tenant
from perdure.testing.servers import connect

Eventually = Callable[..., Awaitable[None]]
Opened = Callable[[], AbstractAsyncContextManager[Gateway]]

SHOP = '''
from msgspec import Struct
from perdure import Context, workflow


class Order(Struct):
    item: str
    amount: float


@workflow
async def order(ctx: Context, order: Order) -> str:
    """Take an order."""
    return await ctx.step("take", lambda: f"{order.item}: {order.amount:g}")
'''
BAKERY = """
from perdure import Context, workflow


@workflow
async def bake(ctx: Context) -> str:
    return "bread"
"""


async def submitted(gateway: Gateway, fleet: Fleet, flow: str, given: Any = None) -> str:
    answer = await gateway.client.post("/api/jobs", {"flow": flow, "input": given, "queue": fleet.queue})
    assert answer.status == 202, answer.raw
    return str(answer.body["id"])


async def outcome(gateway: Gateway, eventually: Eventually, job: str) -> Any:
    async def ended() -> Any:
        found = (await gateway.client.get(f"/api/jobs/{job}")).body
        return found if "ended_at" in found else None

    await eventually(ended)
    return await ended()


async def test_a_module_s_workflow_is_a_flow_that_runs(gateway: Gateway, fleet: Fleet, eventually: Eventually) -> None:
    async with fleet.runner(fleet.module(SHOP)):
        flow = (await gateway.client.get("/api/flows/order")).body
        assert (flow["kind"], flow["version"], flow["owner"]) == ("python", 1, "service:runners")
        assert flow["description"] == "Take an order."
        assert flow["input_schema"]["$defs"]["Order"]["required"] == ["item", "amount"]
        assert flow["output_schema"] == {"type": "string"}
        assert flow["definition"]["format"] == "perdure.python/1"
        assert flow["definition"]["digest"] == flow["digest"]
        job = await submitted(gateway, fleet, "order", {"item": "tea", "amount": 2.5})
        ended = await outcome(gateway, eventually, job)
        assert (ended["status"], ended["outputs"]) == ("completed", {"result": "tea: 2.5"})
        assert ended["flow"]["kind"] == "python"
        [first, started, *_] = await gateway.desk.eventlog.read(gateway.hand(job).ref)
        assert first.event.refs == ()
        assert isinstance(started.event, ev.AttemptStarted)
        assert started.event.data.code_digest == flow["digest"]


@pytest.mark.parametrize(
    ("given", "pointer"),
    [
        ({"item": "tea"}, "/input/amount"),
        ({"item": "tea", "amount": "2"}, "/input/amount"),
        ({"item": None, "amount": 2}, "/input/item"),
        (["tea"], "/input"),
        (None, "/input"),
    ],
)
async def test_an_input_that_does_not_fit_is_refused_by_pointer_and_nothing_is_written(
    gateway: Gateway, fleet: Fleet, given: Any, pointer: str
) -> None:
    async with fleet.runner(fleet.module(SHOP)):
        answer = await gateway.client.post("/api/jobs", {"flow": "order", "input": given}, Idempotency_Key="k")
        assert answer.status == 422, answer.raw
        assert answer.body["code"] == "invalid-input"
        assert [e["pointer"] for e in answer.body["errors"]] == [pointer]
        good = {"flow": "order", "input": {"item": "tea", "amount": 2}, "queue": "nobody"}
        accepted = await gateway.client.post("/api/jobs", good, Idempotency_Key="k")
        assert accepted.status == 202  # the key is free: nothing was written under it
        assert "Idempotency-Replayed" not in accepted.headers


async def test_a_flow_without_an_input_takes_none(gateway: Gateway, fleet: Fleet, eventually: Eventually) -> None:
    async with fleet.runner(fleet.module(BAKERY)):
        refused = await gateway.client.post("/api/jobs", {"flow": "bake", "input": "x"})
        assert (refused.status, refused.body["code"]) == (422, "invalid-input")
        job = await submitted(gateway, fleet, "bake")
        assert (await outcome(gateway, eventually, job))["outputs"] == {"result": "bread"}


async def test_a_python_flow_is_not_changed_over_http(gateway: Gateway, fleet: Fleet) -> None:
    definition = {"format": "perdure.graph/1", "name": "order", "nodes": [{"id": "a", "component": "text_input"}]}
    async with fleet.runner(fleet.module(SHOP)):
        changed = await gateway.client.call(
            "PUT", "/api/flows/order", {"definition": definition}, headers={"If-Match": '"1"'}
        )
        assert (changed.status, changed.body["code"]) == (409, "flow-read-only")
        made = await gateway.client.post("/api/flows", {"name": "order", "definition": definition})
        assert (made.status, made.body["code"]) == (409, "name-taken")
        python = await gateway.client.post("/api/flows", {"name": "other", "kind": "python", "definition": definition})
        assert (python.status, python.body["errors"][0]["pointer"]) == (422, "/kind")
        assert (await gateway.client.get("/api/flows/order")).body["version"] == 1


async def test_a_graph_s_name_is_kept_and_the_runner_serves_the_rest(
    gateway: Gateway, fleet: Fleet, eventually: Eventually
) -> None:
    definition = {"format": "perdure.graph/1", "name": "order", "nodes": [{"id": "a", "component": "text_input"}]}
    assert (await gateway.client.post("/api/flows", {"name": "order", "definition": definition})).status == 201
    async with fleet.runner(fleet.module(SHOP), fleet.module(BAKERY)):
        assert (await gateway.client.get("/api/flows/order")).body["kind"] == "graph"
        job = await submitted(gateway, fleet, "bake")
        assert (await outcome(gateway, eventually, job))["status"] == "completed"


async def test_other_code_is_another_version_the_same_code_is_not_and_jobs_run_on_what_bears_the_name(
    gateway: Gateway, fleet: Fleet, eventually: Eventually
) -> None:
    name = fleet.module(SHOP)
    async with fleet.runner(name):
        pass
    async with fleet.runner(fleet.module(SHOP, name)):
        assert (await gateway.client.get("/api/flows/order")).body["version"] == 1
    waiting = await submitted(gateway, fleet, "order@1", {"item": "tea", "amount": 1})
    async with fleet.runner(fleet.module(SHOP.replace("{order.item}:", "{order.item} =>"), name)):
        flow = (await gateway.client.get("/api/flows/order")).body
        assert flow["version"] == 2
        versions = (await gateway.client.get("/api/flows/order/versions")).body["data"]
        assert [v["version"] for v in versions] == [2, 1]
        ended = await outcome(gateway, eventually, waiting)  # its digest is explained, never compared
        assert (ended["flow"]["version"], ended["outputs"]) == (1, {"result": "tea => 1"})


async def test_a_runner_hands_back_what_it_does_not_have_and_the_other_one_runs_it(
    gateway: Gateway, fleet: Fleet, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.clock.SystemChance.random", lambda self: 0.0)  # handed back for the shortest time
    async with fleet.runner(fleet.module(SHOP)):
        jobs = [await submitted(gateway, fleet, "order", {"item": "tea", "amount": n}) for n in range(4)]
        async with fleet.runner(fleet.module(BAKERY)):
            jobs += [await submitted(gateway, fleet, "bake") for _ in range(4)]
            jobs += [await submitted(gateway, fleet, "order", {"item": "tea", "amount": n}) for n in range(4)]
            ended = [await outcome(gateway, eventually, job) for job in jobs]
    assert [e["status"] for e in ended] == ["completed"] * 12
    assert [e["attempt"] for e in ended] == [1] * 12  # what was handed back was never claimed
    assert [e["failures"] for e in ended] == [0] * 12


async def test_only_the_tenants_of_a_runner_see_and_run_its_flows(
    gateway: Gateway, fleet: Fleet, database: Database, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.clock.SystemChance.random", lambda self: 0.0)  # handed back for the shortest time
    other = Tenant(f"{fleet.tenant}b"[:32])
    async with database.transaction() as conn:
        await ensure_tenant(conn, other, now=gateway.desk.clock.broker_now())
    async with fleet.runner(fleet.module(SHOP), tenants=(other,)):
        assert (await gateway.client.get("/api/flows/order")).status == 404
        answer = await gateway.client.post("/api/jobs", {"flow": "order", "input": {"item": "tea", "amount": 1}})
        assert answer.status == 404
        assert (await gateway.client.get("/api/runners")).body["data"] == []
        async with fleet.runner(fleet.module(BAKERY), tenants=(other, fleet.tenant)):
            job = await submitted(gateway, fleet, "bake")
            assert (await outcome(gateway, eventually, job))["status"] == "completed"


async def test_a_tenant_that_does_not_exist_is_told_and_stops_nothing(
    gateway: Gateway, fleet: Fleet, eventually: Eventually
) -> None:
    async with fleet.runner(fleet.module(BAKERY), tenants=(fleet.tenant, "nobody-here")):
        job = await submitted(gateway, fleet, "bake")
        assert (await outcome(gateway, eventually, job))["status"] == "completed"


async def test_without_a_gateway_a_runner_of_python_flows_waits_and_takes_nothing(
    opened: Opened, fleet: Fleet, eventually: Eventually
) -> None:
    name = fleet.module(BAKERY)
    async with opened() as first, fleet.runner(name):
        version = (await first.client.get("/api/flows/bake")).body["version"]
    async with opened() as away:
        job = await submitted(away, fleet, "bake")  # rung, and nobody there
    heard = asyncio.Event()

    async def hear(_: object) -> None:
        heard.set()

    async with connect(fleet.server) as bus, fleet.starting(name) as service:
        silent = await bus.subscribe("call.register", hear)  # a gateway that is stuck
        await heard.wait()
        assert not service.ready
        assert len(await away.desk.eventlog.read(away.hand(job).ref)) == 1
        await bus.unsubscribe(silent)
        async with opened() as back:
            await eventually(lambda: service.ready)
            assert (await outcome(back, eventually, job))["status"] == "completed"
            assert (await back.client.get("/api/flows/bake")).body["version"] == version


async def test_a_runner_that_waits_for_a_gateway_can_be_stopped(fleet: Fleet) -> None:
    heard = asyncio.Event()

    async def hear(_: object) -> None:
        heard.set()

    async with connect(fleet.server) as bus, fleet.starting(fleet.module(BAKERY)) as service:
        await bus.subscribe("call.register", hear)
        await heard.wait()
        service.stop()
    assert service.exit_code == 0


async def test_a_runner_without_python_flows_needs_no_gateway(fleet: Fleet) -> None:
    async with fleet.runner() as service:
        assert service.ready


async def test_an_app_that_does_not_import_ends_the_start_for_good(fleet: Fleet) -> None:
    async with fleet.starting(fleet.module("import no_such_thing_at_all")) as service:
        pass
    assert service.exit_code == 2


async def test_runners_are_seen_with_what_they_serve_and_gone_when_they_left(
    gateway: Gateway, fleet: Fleet, eventually: Eventually
) -> None:
    async with fleet.runner(fleet.module(SHOP)) as service:
        [seen] = (await gateway.client.get("/api/runners")).body["data"]
        assert seen["id"] == service.facts["runner"]
        assert (seen["status"], seen["flows"], seen["queues"]) == ("up", ["order"], [fleet.queue])
        assert (seen["slots"], seen["running"]) == (8, 0)
        [queue] = (await gateway.client.get("/api/queues")).body["data"]
        assert (queue["queue"], queue["priority"], queue["held"]) == (fleet.queue, "normal", 0)
    assert (await gateway.client.get("/api/runners")).body["data"] == []


async def test_a_queue_tells_what_waits_and_since_when(gateway: Gateway, fleet: Fleet) -> None:
    before = gateway.desk.clock.broker_now()
    async with fleet.runner(fleet.module(BAKERY)):
        registered = (await gateway.client.get("/api/runners")).body["data"]
        assert len(registered) == 1
        for _ in range(3):
            answer = await gateway.client.post("/api/jobs", {"flow": "bake", "queue": fleet.queue, "priority": "low"})
            assert answer.status == 202
        [shown] = (await gateway.client.get("/api/queues")).body["data"]
        assert shown["priority"] == "normal"  # what this runner serves
        async with connect(fleet.server) as bus:
            await ensure_queue(bus, fleet.queue, "low", 2.0)
            low = await depth(bus, fleet.queue, "low")
            assert low is not None
            assert (low.waiting, low.held, low.redelivered) == (3, 0, 0)
            assert low.oldest_at is not None
            assert seconds_between(before, low.oldest_at) > -5
            assert await depth(bus, Queue("nobody-was-ever-here"), "low") is None


async def test_a_drain_is_heard_at_the_next_registration(
    gateway: Gateway, fleet: Fleet, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure_runner.register.EVERY_SECONDS", 0.1)
    async with fleet.runner(fleet.module(BAKERY)) as service:
        answer = await gateway.client.post(f"/api/runners/{service.facts['runner']}/drain")
        assert (answer.status, answer.body["status"], answer.body["drain_by"]) == (202, "draining", "user:ann")
        await eventually(service.stopping.is_set)


async def test_a_runner_that_is_not_there_or_serves_others_cannot_be_drained(
    gateway: Gateway, fleet: Fleet, database: Database
) -> None:
    other = Tenant(f"{fleet.tenant}b"[:32])
    async with database.transaction() as conn:
        await ensure_tenant(conn, other, now=gateway.desk.clock.broker_now())
    async with fleet.runner(fleet.module(BAKERY), tenants=(other,)) as service:
        for runner in (service.facts["runner"], "0199aaaa-0000-7000-8000-00000000000c"):
            answer = await gateway.client.post(f"/api/runners/{runner}/drain")
            assert (answer.status, answer.body["code"]) == (404, "not-found")
        assert (await gateway.client.post("/api/runners/*/drain")).status == 404
        assert not service.stopping.is_set()
