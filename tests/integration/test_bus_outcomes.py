"""What a failed append or a lost broker means, on a nats-server that is frozen, filled, killed and started again."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from nats.aio.msg import Msg

from perdure.bus.connection import Bus
from perdure.bus.eventlog import EventLog
from perdure.bus.topology import Topology, declare
from perdure.clock import SystemClock
from perdure.errors import OutcomeUnknown, StreamFull, Unauthenticated, Unavailable
from perdure.ids import StreamSeq, Tenant
from perdure.local.server import NatsServer
from perdure.testing.logs import Told
from perdure.testing.servers import connect, frozen

Eventually = Callable[..., Awaitable[None]]
START = StreamSeq(0)


async def test_an_append_into_a_frozen_broker_is_unknown_and_found_by_the_look(
    own_nats_server: NatsServer, tenant: Tenant, eventually: Eventually
) -> None:
    async with connect(own_nats_server) as bus:
        log = EventLog(bus, 8)
        told = await Told(log, tenant).begin()
        event = told.story.step("draft")
        with frozen(own_nats_server):
            with pytest.raises(OutcomeUnknown):
                await log.append(told.ref, event, told.last)
            with pytest.raises(Unavailable):
                await log.look(told.ref, told.last)

        async def found() -> bool:
            return [s.event for s in await log.look(told.ref, told.last)] == [event]

        await eventually(found)


async def test_an_append_without_a_broker_was_surely_not_sent_and_is_not_sent_later(
    own_nats_server: NatsServer, tenant: Tenant, eventually: Eventually
) -> None:
    async with connect(own_nats_server) as bus:
        log = EventLog(bus, 8)
        told = await Told(log, tenant).begin()
        event = told.story.step("draft")
        own_nats_server.kill()
        await eventually(lambda: not bus.connected)
        with pytest.raises(Unavailable):
            await log.append(told.ref, event, told.last)
        with pytest.raises(Unavailable):
            await log.read(told.ref)
        own_nats_server.start()
        await eventually(lambda: bus.connected)
        await bus.flush()
        assert await log.look(told.ref, told.last) == []
        assert (
            await log.append(told.ref, event, told.last) > told.last
        )  # what was acknowledged before the kill is there


async def test_what_is_published_without_a_broker_is_refused_and_not_sent_later(
    own_nats_server: NatsServer, tenant: Tenant, eventually: Eventually
) -> None:
    heard: list[bytes] = []

    async def hear(message: Msg) -> None:
        heard.append(message.data)

    async with connect(own_nats_server) as bus, connect(own_nats_server) as other:
        await other.subscribe(f"inbox.{tenant}.request", hear)
        own_nats_server.kill()
        await eventually(lambda: not bus.connected and not other.connected)
        with pytest.raises(Unavailable):
            await bus.publish(f"inbox.{tenant}.request", b"refused")
        own_nats_server.start()
        await eventually(lambda: bus.connected and other.connected)
        await bus.publish(f"inbox.{tenant}.request", b"sent")
        await eventually(lambda: heard)
    assert heard == [b"sent"]


async def fill(told: Told) -> None:
    for number in range(1000):
        await told.put(told.story.step(f"s{number}", "x" * 1000))


async def test_a_full_shard_refuses_and_forgets_nothing(tmp_path: Path, tenant: Tenant) -> None:
    with NatsServer(tmp_path) as small:
        async with connect(small) as bus:
            await declare(bus, Topology(shards=1, event_bytes=64 * 1024))
            log = EventLog(bus, 1)
            told = await Told(log, tenant).begin()
            with pytest.raises(StreamFull):
                await fill(told)
            assert [s.at for s in await log.read(told.ref)] == told.at
            await declare(bus, Topology(shards=1, event_bytes=128 * 1024))
            refused = told.story.events[-1]
            assert await log.append(told.ref, refused, told.last) > told.last


async def test_streams_that_are_not_declared_are_unavailable_not_empty(tmp_path: Path, tenant: Tenant) -> None:
    with NatsServer(tmp_path) as bare:
        async with connect(bare) as bus:
            log = EventLog(bus, 8)
            told = Told(log, tenant)
            for question in (
                log.tail(told.ref),
                log.look(told.ref, START),
                log.read(told.ref),
                log.shards.scan(0, START),
            ):
                with pytest.raises(Unavailable):
                    await question
            with pytest.raises((Unavailable, OutcomeUnknown)):
                await told.begin()
            with pytest.raises(Unavailable):
                await bus.measure_offset()


async def test_a_wrong_password_is_said_and_not_tried_for_ever(nats_server: NatsServer) -> None:
    wrong = Bus.connect([nats_server.url], user="gateway", password="wrong", name="test", clock=SystemClock())
    with pytest.raises(Unauthenticated):
        async with wrong:
            pass


async def test_a_connection_waits_for_a_broker_that_is_not_there_yet(own_nats_server: NatsServer) -> None:
    own_nats_server.stop()
    connecting = connect(own_nats_server)
    entering = asyncio.create_task(connecting.__aenter__())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await asyncio.shield(entering)
    own_nats_server.start()
    bus = await entering
    assert bus.connected
    await connecting.__aexit__(None, None, None)


async def test_giving_up_on_a_broker_that_is_not_there_leaves_nothing_behind(own_nats_server: NatsServer) -> None:
    own_nats_server.stop()
    before = len(asyncio.all_tasks())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3), connect(own_nats_server):
            pass
    assert len(asyncio.all_tasks()) == before


async def test_poison_ends_the_connection_for_ever_and_its_owner_is_told(
    nats_server: NatsServer, eventually: Eventually
) -> None:
    reasons: list[str] = []
    async with connect(nats_server, on_closed=reasons.append) as bus:
        await bus.nc.publish("x" * 5000, b"")  # past every check of ours, to see what the checks are for
        await eventually(lambda: reasons)
        assert not bus.connected
        with pytest.raises(Unavailable):
            await bus.publish("job.x.y.delta", b"")
        with pytest.raises(Unavailable):
            await bus.request("job.x.y.delta", b"")


async def test_a_reconnect_that_nobody_tries_any_more_is_noticed(
    own_nats_server: NatsServer, eventually: Eventually
) -> None:
    reasons: list[str] = []
    async with connect(own_nats_server, on_closed=reasons.append) as bus:
        own_nats_server.kill()
        await eventually(lambda: bus.nc.is_reconnecting)
        assert bus.nc._reconnection_task is not None
        bus.nc._reconnection_task.cancel()  # as when it met an error that nats-py does not expect
        await eventually(lambda: reasons)


async def test_callbacks_hear_of_each_reconnect_until_they_are_taken_back(
    own_nats_server: NatsServer, eventually: Eventually
) -> None:
    heard: list[str] = []
    async with connect(own_nats_server) as bus:
        bus.on_reconnect(lambda: heard.append("first"))
        forget = bus.on_reconnect(lambda: heard.append("second"))
        for wanted in (["first", "second"], ["first", "second", "first"]):
            own_nats_server.kill()
            await eventually(lambda: not bus.connected)
            own_nats_server.start()
            await eventually(lambda wanted=wanted: heard == wanted)
            if len(heard) == 2:
                forget()


class Fast(SystemClock):
    """A machine whose wall clock is an hour ahead."""

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(hours=1)


async def test_the_brokers_clock_is_the_one_that_counts(nats_server: NatsServer) -> None:
    clock = Fast()
    async with connect(nats_server, clock=clock) as bus:
        await bus.measure_offset()
        assert timedelta(minutes=-61) < clock.offset < timedelta(minutes=-59)
        assert bus.offset_measured_at is not None


async def test_what_was_acknowledged_outlives_a_kill_of_the_broker(
    own_nats_server: NatsServer, tenant: Tenant, eventually: Eventually
) -> None:
    async with connect(own_nats_server) as bus:
        log = EventLog(bus, 8)
        tolds = [await Told(log, tenant).begin(steps=5) for _ in range(8)]
        for _ in range(2):
            own_nats_server.kill()
            await eventually(lambda: not bus.connected)
            own_nats_server.start()
            await eventually(lambda: bus.connected)
            for told in tolds:
                assert [s.at for s in await log.read(told.ref)] == told.at
                await told.put(told.story.step(f"s{len(told.at)}"))


async def test_a_cancellation_that_meets_the_answer_is_not_lost(nats_server: NatsServer) -> None:
    async with connect(nats_server) as bus:
        answered = asyncio.Event()

        async def ask_for_ever() -> None:
            while True:
                await bus.ask("$JS.API.STREAM.INFO.WORK", b"")
                answered.set()

        for _ in range(200):
            asking = asyncio.create_task(ask_for_ever())
            await answered.wait()
            answered.clear()
            # Until an answer has arrived that its task has not seen; only the next turn of the loop can be waited for.
            while not bus.requests.answered:  # noqa: ASYNC110
                await asyncio.sleep(0)
            asking.cancel()
            async with asyncio.timeout(1):
                await asyncio.wait((asking,))
            assert asking.cancelled()


async def test_a_subscription_is_drained_of_what_was_on_its_way_and_a_frozen_broker_holds_up_nothing(
    own_nats_server: NatsServer, tenant: Tenant
) -> None:
    async with connect(own_nats_server) as bus, connect(own_nats_server) as other:
        heard: list[bytes] = []

        async def hear(message: Msg) -> None:
            await asyncio.sleep(0)
            heard.append(message.data)

        subscription = await bus.subscribe(f"inbox.{tenant}.request", hear)
        await bus.flush()
        for number in range(100):
            await other.publish(f"inbox.{tenant}.request", b"%d" % number)
        await other.flush()
        await bus.drain(subscription)
        assert heard == [b"%d" % number for number in range(100)]
        await other.publish(f"inbox.{tenant}.request", b"late")
        await other.flush()
        await bus.flush()
        assert len(heard) == 100
        deaf = await bus.subscribe(f"inbox.{tenant}.request", hear)
        with frozen(own_nats_server):
            await bus.drain(deaf)
        await bus.flush()
        assert await bus.ask("$JS.API.STREAM.INFO.WORK", b"")
