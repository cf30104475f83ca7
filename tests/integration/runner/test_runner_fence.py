"""What a runner does when the log refuses or cannot be read: it waits, hands back or gives up, and never guesses."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from tests.integration.runner.bench import Bench, Eventually

from perdure.bus.connection import Bus
from perdure.bus.eventlog import EventLog
from perdure.bus.stream import store
from perdure.bus.subject import event_stream, event_subject, shard_of
from perdure.core import codec, verify
from perdure.core import event as ev
from perdure.core.event import Status
from perdure.core.machine import stamp
from perdure.engine.context import Context
from perdure.engine.workflow import Workflow
from perdure.ids import Principal, Tenant, new_event_id
from perdure.local.server import NatsServer
from perdure.testing.servers import connect

SHARDS = 8


async def put(bench: Bench, **members: Any) -> None:
    """Put an event with other members into the log, as a writer would that is not ours."""
    log = await bench.log()
    said = ev.SignalData(signal_id="s", name="go", payload=1, by=Principal("user:eve"))
    event = stamp(log.state, new_event_id(), bench.now(), said)
    body = msgspec.json.encode(msgspec.json.decode(codec.encode(event)) | members)
    headers = {"Nats-Expected-Last-Subject-Sequence": str(log.tail)}
    await store(bench.bus, event_subject(SHARDS, bench.ref), body, headers)


async def length(bench: Bench) -> int:
    """How many messages the job's log holds, readable or not."""
    found = await bench.bus.nc.jetstream().stream_info(
        event_stream(shard_of(bench.ref.job, SHARDS)), subjects_filter=event_subject(SHARDS, bench.ref)
    )
    return sum((found.state.subjects or {}).values())


def flow(fn: Any) -> Workflow:
    return Workflow(name="flow", fn=fn)


async def test_a_log_with_a_newer_event_is_handed_back_and_nothing_is_written(
    bench: Bench, eventually: Eventually, capfd: pytest.CaptureFixture[str]
) -> None:
    await bench.submit()
    await put(bench, v=2)
    async with bench.runner() as runner:
        await bench.ring()
        said = ""

        def handed_back() -> bool:
            nonlocal said
            said += "".join(capfd.readouterr())
            return "doorbell handed back" in said

        await eventually(handed_back)
        assert runner.started.empty()
        assert await length(bench) == 2
        assert not await bench.empty()  # for a newer runner


async def test_a_log_that_cannot_be_is_acked_and_said_so(
    bench: Bench, eventually: Eventually, capfd: pytest.CaptureFixture[str]
) -> None:
    await bench.submit()
    await put(bench, seq=7)
    async with bench.runner() as runner:
        await bench.ring()
        await eventually(bench.empty)
        assert runner.started.empty()
        assert await length(bench) == 2
    said = "".join(capfd.readouterr())
    assert "job cannot be run" in said
    assert bench.ref.job in said


@pytest.mark.parametrize("members", [{"v": 2}, {"seq": 9}], ids=["newer", "broken"])
async def test_what_cannot_be_read_while_running_ends_the_attempt_and_nothing_is_written_behind_it(
    bench: Bench, eventually: Eventually, members: dict[str, int]
) -> None:
    stopped = asyncio.Event()

    async def body(ctx: Context, given: Any) -> None:
        async def forever() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                stopped.set()

        await ctx.step("forever", forever)

    await bench.submit()
    async with bench.runner(flow(body)) as runner:
        await bench.ring()
        await runner.started.get()
        await put(bench, **members)
        await stopped.wait()
        assert await length(bench) == 3


@pytest.fixture
async def full(own_nats_server: NatsServer, tenant: Tenant) -> AsyncIterator[Bench]:
    """A bench on a broker of its own, whose streams a test may fill."""
    async with connect(own_nats_server) as bus:
        yield Bench(bus, EventLog(bus, SHARDS), tenant, own_nats_server)


async def fill(bus: Bus, bench: Bench, full: bool) -> None:
    """Let the stream of the job's log take nothing more, or take again."""
    jetstream, name = bus.nc.jetstream(), event_stream(shard_of(bench.ref.job, SHARDS))
    config = (await jetstream.stream_info(name)).config
    config.max_bytes = 1 if full else 1 << 30
    await jetstream.update_stream(config)


async def test_a_running_job_waits_for_room_in_its_stream_and_goes_on_in_the_same_attempt(
    full: Bench, eventually: Eventually, capfd: pytest.CaptureFixture[str]
) -> None:
    working, go = asyncio.Event(), asyncio.Event()

    async def body(ctx: Context, given: Any) -> str:
        async def work() -> str:
            working.set()
            await go.wait()
            return "done"

        return str(await ctx.step("work", work))

    await full.submit()
    async with full.runner(flow(body)):
        await full.ring()
        await working.wait()
        await fill(full.bus, full, True)
        go.set()
        said = ""

        def waits_for_longer_than_a_lease() -> bool:
            nonlocal said
            said += "".join(capfd.readouterr())
            return said.count("the log's stream is full") >= 2

        await eventually(waits_for_longer_than_a_lease)
        assert (await full.log()).state.status is Status.RUNNING
        await fill(full.bus, full, False)
        await eventually(full.empty)
    log = await full.log()
    assert verify.log(log.events) == []
    assert (log.state.status, log.state.attempt) == (Status.COMPLETED, 1)
