"""Jobs that start jobs, with real runners, gateways and failpoints: each child is one job, and its parent goes on."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

import msgspec
import pytest
from tests.integration.calls.conftest import Fleet
from tests.integration.calls.test_python_flows import outcome, submitted
from tests.integration.gateway.conftest import Gateway

from perdure.bus.call import Calls
from perdure.bus.callbodies import SUBMIT, ParentCall, Submit, Submitted
from perdure.core import event as ev
from perdure.core import verify
from perdure.core.event import Status
from perdure.errors import Conflict, Invalid, Malformed, NotFound, PerdureError, TooLarge, UnsupportedVersion
from perdure.ids import JobId, JobRef, Queue, Tenant, child_job_id
from perdure.testing.hand import Hand
from perdure.testing.servers import connect

Eventually = Callable[..., Awaitable[None]]
Opened = Callable[[], AbstractAsyncContextManager[Gateway]]

FAMILY = '''
from perdure import Context, ChildFailed, workflow


@workflow
async def leaf(ctx: Context, number: int) -> int:
    """Twice the number; 13 is too much for it."""
    if number == 13:
        raise ValueError("unlucky")
    return await ctx.step("double", lambda: number * 2)


@workflow
async def parent(ctx: Context, number: int) -> int:
    return await ctx.child("leaf", "leaf", number, returns=int) + 1


@workflow
async def grandparent(ctx: Context, numbers: list[int]) -> int:
    async def one(number: int) -> int:
        return await ctx.child("one", "parent", number, returns=int)

    return sum(await ctx.gather(*(one(n) for n in numbers)))


@workflow
async def careful(ctx: Context) -> str:
    try:
        await ctx.child("leaf", "leaf", 13)
    except ChildFailed as exc:
        return f"{exc.status} {exc.code}"
    return "no"


@workflow
async def starter(ctx: Context) -> str:
    return await ctx.child("leaf", "leaf", 4, detached=True)


@workflow
async def forever(ctx: Context) -> None:
    await ctx.sleep(86_000)
'''


async def events(gateway: Gateway, job: str) -> list[Any]:
    found = [stored.event for stored in await gateway.desk.eventlog.read(gateway.hand(job).ref)]
    assert verify.log(found) == []
    return found


async def test_a_job_gets_what_its_child_returns(gateway: Gateway, fleet: Fleet, eventually: Eventually) -> None:
    async with fleet.runner(fleet.module(FAMILY)):
        job = await submitted(gateway, fleet, "parent", 4)
        ended = await outcome(gateway, eventually, job)
        assert (ended["status"], ended["outputs"]) == ("completed", {"result": 9})
        child = child_job_id(JobId(job), "", "leaf", 1)
        shown = (await gateway.client.get(f"/api/jobs/{child}")).body
        assert shown["parent"] == {"job_id": job, "step": "leaf", "occurrence": 1}
        assert (shown["owner"], shown["queue"], shown["flow"]["name"]) == ("user:ann", fleet.queue, "leaf")
        [first, *_] = await events(gateway, child)
        assert first.data.source.surface == "child"
        assert first.data.effect_root is None  # its own id is what its parent's root would give


async def test_families_nest_and_run_side_by_side(gateway: Gateway, fleet: Fleet, eventually: Eventually) -> None:
    async with fleet.runner(fleet.module(FAMILY)):
        job = await submitted(gateway, fleet, "grandparent", [1, 2, 3])
        ended = await outcome(gateway, eventually, job)
        assert ended["outputs"] == {"result": 15}
        told = [e for e in await events(gateway, job) if isinstance(e, ev.ChildEnded)]
        assert sorted(e.data.path for e in told) == ["/1.1", "/1.2", "/1.3"]


async def test_a_child_that_fails_is_an_exception_of_its_parent(
    gateway: Gateway, fleet: Fleet, eventually: Eventually
) -> None:
    async with fleet.runner(fleet.module(FAMILY)):
        ended = await outcome(gateway, eventually, await submitted(gateway, fleet, "careful"))
        assert ended["status"] == "completed"
        assert ended["outputs"]["result"].startswith("failed ")
        failed = await outcome(gateway, eventually, await submitted(gateway, fleet, "parent", 13))
        assert failed["status"] == "failed"


async def test_nobody_waits_for_a_detached_child(gateway: Gateway, fleet: Fleet, eventually: Eventually) -> None:
    async with fleet.runner(fleet.module(FAMILY)):
        job = await submitted(gateway, fleet, "starter")
        ended = await outcome(gateway, eventually, job)
        child = ended["outputs"]["result"]
        assert child == child_job_id(JobId(job), "", "leaf", 1)
        assert (await outcome(gateway, eventually, child))["outputs"] == {"result": 8}
        assert not [e for e in await events(gateway, job) if isinstance(e, ev.ChildEnded)]


async def test_a_child_that_somebody_cancels_goes_on_in_its_parent(
    gateway: Gateway, fleet: Fleet, eventually: Eventually
) -> None:
    text = FAMILY.replace('"leaf", "leaf", 13', '"leaf", "forever"')
    async with fleet.runner(fleet.module(text)):
        job = await submitted(gateway, fleet, "careful")
        child = child_job_id(JobId(job), "", "leaf", 1)

        async def waits() -> bool:
            found = (await gateway.client.get(f"/api/jobs/{child}")).body
            return bool(found.get("status") == "suspended")

        await eventually(waits)
        assert (await gateway.client.post(f"/api/jobs/{child}/cancel")).status == 200
        assert (await outcome(gateway, eventually, job))["outputs"] == {"result": "cancelled cancelled"}


@pytest.mark.parametrize(
    "point", ["terminal.after_append", "child.after_end", "child.after_parent_append", "terminal.after_ack"]
)
async def test_a_child_killed_at_the_moment_it_ends_ends_once_and_its_parent_goes_on(
    gateway: Gateway, fleet: Fleet, eventually: Eventually, point: str
) -> None:
    name = fleet.module(FAMILY)
    async with fleet.process(name, failpoints=f"{point}=exit:n1") as doomed:

        async def registered() -> bool:
            return (await gateway.client.get("/api/flows/parent")).status == 200

        await eventually(registered)
        job = await submitted(gateway, fleet, "parent", 4)
        assert await doomed.wait() == 137
    async with fleet.runner(name):
        ended = await outcome(gateway, eventually, job)
    assert (ended["status"], ended["outputs"]) == ("completed", {"result": 9})
    child = await events(gateway, child_job_id(JobId(job), "", "leaf", 1))
    assert [e.status for e in child if e.status in ev.TERMINAL] == [Status.COMPLETED]
    told = [e for e in await events(gateway, job) if isinstance(e, ev.ChildEnded)]
    assert len(told) == 1


async def test_a_gateway_that_is_away_holds_a_child_up_and_no_more(
    opened: Opened, fleet: Fleet, eventually: Eventually
) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(opened())
        async with fleet.runner(fleet.module(FAMILY)):
            idle = await submitted(first, fleet, "leaf", 1)
            await outcome(first, eventually, idle)
            async with opened() as second:  # the first one ends while the second one answers
                await stack.aclose()
                job = await submitted(second, fleet, "parent", 4)
                assert (await outcome(second, eventually, job))["outputs"] == {"result": 9}
            held = await submitted(second, fleet, "parent", 5)  # nobody answers calls now

            async def tried() -> bool:
                found = (await second.client.get(f"/api/jobs/{held}")).body
                return bool(found["failures"] > 0)

            await eventually(tried)
            async with opened() as third:
                assert (await outcome(third, eventually, held))["outputs"] == {"result": 11}


class Caller:
    """A runner's connection and a running parent, by hand."""

    def __init__(self, gateway: Gateway, calls: Calls, parent: Hand) -> None:
        self.gateway, self.calls, self.parent = gateway, calls, parent

    async def submit(self, flow: str = "echo", given: Any = "hello", **members: Any) -> JobId:
        parent = {"tenant": self.parent.ref.tenant, "job": self.parent.ref.job, "step": "sub", "occurrence": 1}
        call = ParentCall(**(parent | members.pop("parent", {})))
        raw = given if isinstance(given, msgspec.Raw) else msgspec.Raw(msgspec.json.encode(given))
        request = Submit(parent=call, flow=flow, input=raw, **members)
        return (await self.calls.ask(SUBMIT, request, Submitted)).job_id

    async def made(self) -> list[ev.SubmittedData]:
        job = child_job_id(self.parent.ref.job, "", "sub", 1)
        log = await self.gateway.desk.eventlog.read(JobRef(self.parent.ref.tenant, job))
        return [s.event.data for s in log if isinstance(s.event, ev.JobSubmitted)]


@pytest.fixture
async def caller(gateway: Gateway, fleet: Fleet) -> Any:
    definition = {
        "format": "perdure.graph/1",
        "name": "echo",
        "nodes": [{"id": "brief", "component": "chat_input"}, {"id": "out", "component": "text_output"}],
        "edges": [{"from": "brief.text", "to": "out.text"}],
    }
    assert (await gateway.client.post("/api/flows", {"name": "echo", "definition": definition})).status == 201
    parent = await gateway.submit(session_id="chat-1", queue=fleet.queue, priority="high")
    await parent.start()
    async with connect(fleet.server, "runner") as bus:
        yield Caller(gateway, Calls(bus), parent)
        assert bus.errors == 0
        assert bus.connected


async def test_a_child_asked_for_twice_is_one_job_with_its_parents_owner_and_place(caller: Caller) -> None:
    first = await caller.submit()
    assert await caller.submit("no-such-flow", {"other": True}) == first  # the call is the key, whatever it says now
    assert await asyncio.gather(*(caller.submit() for _ in range(20))) == [first] * 20
    [made] = await caller.made()
    assert made.owner == "user:ann"
    assert (made.session_id, made.priority, made.source.surface) == ("chat-1", "high", "child")
    assert made.input == {"brief": "hello"}
    assert made.parent == ev.Parent(job_id=caller.parent.ref.job, step="sub", occurrence=1)
    parents = caller.parent.log.state.submitted
    assert parents is not None
    assert made.queue == parents.queue
    assert abs(int(made.deadline_at[:4]) - int(parents.deadline_at[:4])) <= 1
    assert made.deadline_at <= parents.deadline_at or made.deadline_at[:19] == parents.deadline_at[:19]


async def test_what_a_call_says_of_its_own_goes_before_the_parents(caller: Caller) -> None:
    await caller.submit(queue=Queue("gpu"), priority="low", deadline_seconds=60.0, max_failures=2, tags={"a": "b"})
    [made] = await caller.made()
    assert (made.queue, made.priority, made.max_failures, made.tags) == ("gpu", "low", 2, {"a": "b"})


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"parent": {"tenant": Tenant("somebody-else")}}, NotFound),  # the job is not that tenant's
        ({"parent": {"job": JobId("0199aaaa-0000-7000-8000-00000000000c")}}, NotFound),
        ({"parent": {"tenant": Tenant("*")}}, Malformed),
        ({"parent": {"job": JobId("*")}}, Malformed),
        ({"parent": {"occurrence": 0}}, Malformed),
        ({"parent": {"step": "s" * 5_000}}, Malformed),
        ({"v": 2}, UnsupportedVersion),
        ({"flow": "nobody.knows"}, NotFound),
        ({"flow": "echo@9"}, NotFound),
        ({"flow": "../echo"}, Invalid),
        ({"queue": Queue("a.b")}, Invalid),
        ({"tags": {"": "x"}}, Invalid),
        ({"deadline_seconds": -1.0}, Invalid),
        ({"given": 7}, Invalid),
        ({"given": msgspec.Raw(b'{"a": 1, "a": 2}')}, Malformed),
        ({"given": msgspec.Raw(b'"\\u0000"')}, Malformed),
        ({"given": msgspec.Raw(b"1e999")}, Malformed),
        ({"given": "x" * 900 * 1024}, TooLarge),  # refused before the connection
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else re.sub("0x[0-9a-f]+", "", str(value)[:60]),
)
async def test_what_does_not_fit_makes_no_job(
    caller: Caller, members: dict[str, Any], error: type[PerdureError]
) -> None:
    with pytest.raises(error):
        await caller.submit(**members)
    assert await caller.made() == []
    await caller.submit()  # and the connections live


async def test_an_input_that_does_not_fit_is_named_by_pointer(caller: Caller) -> None:
    with pytest.raises(Invalid) as caught:
        await caller.submit(given={"brief": 7})
    assert caught.value.code == "invalid-input"
    assert [f.pointer for f in caught.value.faults] == ["/input/brief"]


async def test_a_parent_that_has_ended_starts_nothing(caller: Caller) -> None:
    await caller.parent.complete()
    with pytest.raises(Conflict) as caught:
        await caller.submit()
    assert caught.value.code == "job-ended"
    assert await caller.made() == []


async def test_a_second_submit_of_an_ended_child_tells_the_parent_what_was_lost(caller: Caller) -> None:
    job = await caller.submit()
    child = Hand(caller.gateway.desk, JobRef(caller.parent.ref.tenant, job))
    await child.start()
    await child.complete(text="done")  # by hand: nobody tells
    assert await caller.submit() == job
    log = await caller.gateway.desk.eventlog.read(caller.parent.ref)
    assert [s.event.data.job_id for s in log if isinstance(s.event, ev.ChildEnded)] == [job]


async def test_a_redriven_parents_child_inherits_its_effects(caller: Caller) -> None:
    """A parent whose root is another job's: what the child does outside derives from that job, not from this one."""
    desk, ref = caller.gateway.desk, caller.parent.ref
    [first, *_] = await desk.eventlog.read(ref)
    root = JobId("0199aaaa-0000-7000-8000-00000000000c")
    data = msgspec.structs.replace(first.event.data, effect_root=root)
    redriven = Hand(desk, JobRef(ref.tenant, JobId("0199aaaa-0000-7000-8000-000000000a0d")))
    await redriven.add(data)
    await redriven.start()
    other = Caller(caller.gateway, caller.calls, redriven)
    await other.submit()
    [made] = await other.made()
    assert made.effect_root == child_job_id(root, "", "sub", 1)
