"""What is heard live: events and deltas for followers, news for runners, the public subjects for clients of any
kind.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import msgspec
import nats
import pytest
from nats.aio.msg import Msg

from perdure.bus.connection import Bus
from perdure.bus.delta import Deltas
from perdure.bus.eventlog import EventLog
from perdure.bus.fanout import Fanout, Frame, Lagged, LiveDelta, LiveEvent
from perdure.bus.news import news
from perdure.bus.stream import direct_batch
from perdure.bus.subject import delta_subject, public_event_subject
from perdure.bus.topology import Topology
from perdure.core import codec
from perdure.errors import Malformed
from perdure.ids import JobId, JobRef, StreamSeq, Tenant, new_job_id
from perdure.local.server import NatsServer, outsider
from perdure.testing.logs import Told
from perdure.testing.servers import connect, nats_server_at

Eventually = Callable[..., Awaitable[None]]


async def test_a_follower_hears_each_event_with_its_place_and_the_one_before(
    eventlog: EventLog, bus: Bus, tenant: Tenant
) -> None:
    async with Fanout.open(bus) as fanout:
        told, beside = Told(eventlog, tenant), Told(eventlog, tenant)
        with fanout.follow(told.ref) as inbox:
            await told.begin(steps=2)
            await beside.begin(steps=2)
            frames = [await inbox.next(20) for _ in told.at]
            before = [StreamSeq(0), *told.at[:-1]]
            bodies = [codec.encode(e) for e in told.story.events]
            assert frames == [LiveEvent(*f) for f in zip(told.at, before, bodies, strict=True)]
            assert await inbox.next(0) is None
            assert fanout.followers == 1
        assert fanout.followers == 0


async def test_each_follower_of_a_job_gets_its_own_copy(eventlog: EventLog, bus: Bus, tenant: Tenant) -> None:
    async with Fanout.open(bus) as fanout:
        told = Told(eventlog, tenant)
        with fanout.follow(told.ref) as first:
            with fanout.follow(told.ref) as second:
                await told.begin()
                assert await second.next(20) == await first.next(20)
            await first.next(20)
            await told.put(told.story.step("s"))
            assert isinstance(await first.next(20), LiveEvent)


async def test_a_delta_arrives_before_what_is_appended_after_it(
    nats_server: NatsServer, eventlog: EventLog, tenant: Tenant
) -> None:
    async with connect(nats_server, "runner") as runner, connect(nats_server, "gateway") as gateway:
        log, deltas = EventLog(runner, 8), Deltas(runner)
        told = await Told(log, tenant).begin()
        async with Fanout.open(gateway) as fanout:
            with fanout.follow(told.ref) as inbox:
                for number in range(100):
                    deltas.publish(told.ref, b"%d" % number)
                    await told.put(told.story.step(f"s{number}"))
                frames = [await inbox.next(20) for _ in range(200)]
        assert frames[::2] == [LiveDelta(b"%d" % number) for number in range(100)]
        assert all(isinstance(f, LiveEvent) for f in frames[1::2])
        assert (deltas.dropped, runner.errors, gateway.errors) == (0, 0, 0)


async def test_deltas_are_kept_for_late_readers(bus: Bus, tenant: Tenant, eventually: Eventually) -> None:
    ref, deltas = JobRef(tenant, new_job_id()), Deltas(bus)
    deltas.publish(ref, b"one")
    deltas.publish(ref, b"two")
    await bus.flush()

    async def kept() -> bool:
        return [r.body for r in await direct_batch(bus, "LIVE", delta_subject(ref), 0)] == [b"one", b"two"]

    await eventually(kept)


async def test_a_delta_that_cannot_go_is_dropped_and_counted(
    own_nats_server: NatsServer, tenant: Tenant, eventually: Eventually
) -> None:
    async with connect(own_nats_server) as bus:
        ref, deltas = JobRef(tenant, new_job_id()), Deltas(bus)
        deltas.publish(ref, b"x" * 70_000)
        assert deltas.dropped == 1
        own_nats_server.kill()
        await eventually(lambda: not bus.connected)
        deltas.publish(ref, b"x")
        assert deltas.dropped == 2
        with pytest.raises(Malformed):
            deltas.publish(JobRef(tenant, JobId("*")), b"x")


async def test_what_somebody_publishes_on_the_public_subject_is_no_event(
    bus: Bus, eventlog: EventLog, tenant: Tenant
) -> None:
    async with Fanout.open(bus) as fanout:
        told = Told(eventlog, tenant)
        with fanout.follow(told.ref) as inbox:
            await bus.publish(public_event_subject(told.ref), b"forged")
            await bus.publish(f"job.{tenant}.*.event", b"forged")
            await told.begin()
            frame = await inbox.next(20)
            assert isinstance(frame, LiveEvent)
            assert frame.seq == told.at[0]


async def test_after_a_reconnect_a_follower_is_told_to_read_and_hears_again(
    own_nats_server: NatsServer, tenant: Tenant, eventually: Eventually
) -> None:
    async with connect(own_nats_server) as bus, Fanout.open(bus) as fanout:
        told = await Told(EventLog(bus, 8), tenant).begin()
        with fanout.follow(told.ref) as inbox:
            own_nats_server.kill()
            await eventually(lambda: not bus.connected)
            own_nats_server.start()
            assert await inbox.next(20) == Lagged()
            await told.put(told.story.step("s"))
            frame = await inbox.next(20)
            assert isinstance(frame, LiveEvent)
            assert (frame.seq, frame.previous) == (told.at[-1], told.at[-2])


async def test_news_is_set_at_the_start_by_others_appends_and_after_a_reconnect(
    own_nats_server: NatsServer, tenant: Tenant, eventually: Eventually
) -> None:
    async with connect(own_nats_server, "runner") as runner, connect(own_nats_server, "gateway") as gateway:
        told = await Told(EventLog(gateway, 8), tenant).begin()
        async with news(runner, told.ref) as changed:
            assert changed.is_set()
            changed.clear()
            await told.put(told.story.step("s"))
            await eventually(changed.is_set)
            changed.clear()
            own_nats_server.kill()
            await eventually(lambda: not runner.connected)
            own_nats_server.start()
            await eventually(changed.is_set)
            changed.clear()
            await eventually(lambda: gateway.connected)
            await told.put(told.story.step("t"))
            await eventually(changed.is_set)


async def test_news_says_how_far_the_log_goes_as_long_as_nothing_can_have_been_lost(
    bus: Bus, tenant: Tenant, eventually: Eventually
) -> None:
    told = await Told(EventLog(bus, 8), tenant).begin()
    async with news(bus, told.ref) as changed:
        assert changed.take() is None  # what came before this is not known
        assert changed.take() == 0
        await told.put(told.story.step("s"))
        await told.put(told.story.step("t"))
        newest = 0

        def both() -> bool:
            nonlocal newest
            newest = max(newest, changed.take() or 0)
            return newest == told.at[-1]

        await eventually(both)
        changed.clear()
        changed.doubt()
        assert changed.is_set()
        changed.heard(told.at[-1])
        assert changed.take() is None


async def test_news_may_be_asked_for_while_the_broker_is_away(
    own_nats_server: NatsServer, tenant: Tenant, eventually: Eventually
) -> None:
    async with connect(own_nats_server) as bus, connect(own_nats_server) as other:
        told = await Told(EventLog(other, 8), tenant).begin()
        own_nats_server.kill()
        await eventually(lambda: not bus.connected)
        async with news(bus, told.ref) as changed:
            changed.clear()
            own_nats_server.start()
            await eventually(changed.is_set)
            changed.clear()
            await eventually(lambda: other.connected)
            await told.put(told.story.step("s"))
            await eventually(changed.is_set)


@pytest.fixture
def server_with_an_outsider(tmp_path: Path, tenant: Tenant) -> Iterator[NatsServer]:
    """A broker with a user who has an outsider's rights for `tenant`."""
    with nats_server_at(tmp_path / "nats", Topology(), {"outsider": outsider(tenant)}) as server:
        yield server


async def test_a_client_that_uses_none_of_our_code_hears_a_jobs_events_and_nobody_elses(
    server_with_an_outsider: NatsServer, tenant: Tenant, eventually: Eventually
) -> None:
    server, heard, errors = server_with_an_outsider, [], []

    async def on_message(message: Msg) -> None:
        heard.append(message)

    async def on_error(error: Exception) -> None:
        errors.append(str(error))

    who = server.credentials["outsider"]
    client = await nats.connect(
        server.url, user=who.user, password=who.password, inbox_prefix=f"_INBOX.{tenant}".encode(), error_cb=on_error
    )
    await client.subscribe(f"job.{tenant}.*.event", cb=on_message)
    await client.flush()
    async with connect(server, "gateway") as gateway:
        log = EventLog(gateway, 8)
        told = await Told(log, tenant).begin(steps=1)
        await Told(log, Tenant("somebodyelse")).begin()
        await told.put(told.story.step("last"))
        await eventually(lambda: len(heard) == 4)
    assert [m.subject for m in heard] == [f"job.{tenant}.{told.ref.job}.event"] * 4
    assert [int((m.headers or {})["Nats-Sequence"]) for m in heard] == told.at
    assert [int((m.headers or {})["Nats-Last-Sequence"]) for m in heard] == [0, *told.at[:-1]]
    first = msgspec.json.decode(heard[0].data)
    assert (first["type"], first["seq"], first["v"]) == ("job.submitted", 1, 1)
    assert errors == []
    refused = [f"ev.0.{tenant}.x", f"job.{tenant}.x.event", "work.default.normal.x", "$JS.API.INFO"]
    for subject in [*refused, f"job.{tenant}.x.delta"]:
        before = len(errors)
        await client.publish(subject, b"{}")
        await client.flush()
        await eventually(lambda before=before: len(errors) > before)
    for subject in ("job.*.*.event", "job.somebodyelse.*.event", "_INBOX.>", "ev.>", f"_INBOX.{tenant}x.>", ">"):
        before = len(errors)
        await client.subscribe(subject)
        await client.flush()
        await eventually(lambda before=before: len(errors) > before)
    await client.close()


async def test_a_gateway_that_fell_behind_still_passes_deltas_and_events_in_their_order(
    nats_server: NatsServer, tenant: Tenant
) -> None:
    async def write(begun: list[Told]) -> None:
        async with connect(nats_server, "runner") as runner:
            deltas = Deltas(runner)
            told = await Told(EventLog(runner, 8), tenant).begin()
            begun.append(told)
            ready.set()
            await asyncio.to_thread(followed.wait)
            for number in range(20):
                deltas.publish(told.ref, b"%d" % number)
                await told.put(told.story.step(f"s{number}"))

    begun: list[Told] = []
    ready, followed = threading.Event(), threading.Event()
    async with connect(nats_server, "gateway") as gateway, Fanout.open(gateway) as fanout:
        writer = threading.Thread(target=lambda: asyncio.run(write(begun)))
        writer.start()
        await asyncio.to_thread(ready.wait)
        before = begun[0].last
        with fanout.follow(begun[0].ref) as inbox:
            followed.set()
            writer.join()  # this loop hears nothing until all of it has arrived
            frames: list[Frame | None] = []
            while len(frames) < 40:
                frame = await inbox.next(20)
                if not (isinstance(frame, LiveEvent) and frame.seq <= before):  # which may be on its way still
                    frames.append(frame)
    assert frames[::2] == [LiveDelta(b"%d" % number) for number in range(20)]
    assert all(isinstance(f, LiveEvent) for f in frames[1::2])
