"""Each service's user may do what its code needs, and nothing beyond it; nobody speaks without a password."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import msgspec
import pytest

from perdure.bus import blob
from perdure.bus.connection import Bus
from perdure.bus.delivery import Delivery
from perdure.bus.delta import Deltas
from perdure.bus.doorbell import Doorbells
from perdure.bus.eventlog import EventLog
from perdure.bus.fanout import Fanout
from perdure.bus.heartbeat import Heartbeats
from perdure.bus.news import news
from perdure.bus.pull import Pull
from perdure.bus.stream import store
from perdure.bus.topology import Topology, compare, declare
from perdure.clock import SystemClock
from perdure.core.alarm import Alarm
from perdure.core.instant import later
from perdure.errors import Unauthenticated
from perdure.ids import JobRef, Queue, Tenant, new_job_id
from perdure.local.server import NatsServer
from perdure.testing.logs import Told

Eventually = Callable[..., Awaitable[None]]
ConnectAs = Callable[[str], AbstractAsyncContextManager[Bus]]
JOB = "0199aaaa-0000-7000-8000-00000000000c"


async def test_a_gateway_does_its_work(connect_as: ConnectAs, tenant: Tenant) -> None:
    async with connect_as("gateway") as bus:
        topology = await compare(bus)
        log, doorbells = EventLog(bus, topology.shards), Doorbells(bus)
        async with Fanout.open(bus) as fanout:
            told = Told(log, tenant)
            with fanout.follow(told.ref) as inbox:
                await told.begin(steps=1)
                assert await inbox.next(20) is not None
        assert [
            len(await log.read(told.ref)),
            len(await log.replay(told.ref, 1)),
            len(await log.look(told.ref, told.at[0])),
        ] == [3, 2, 2]
        assert await log.tail(told.ref) is not None
        await doorbells.ring(told.ref, Queue(tenant), "normal")
        assert await doorbells.exists(told.ref, Queue(tenant), "normal")
        await doorbells.arm(told.ref, Queue(tenant), "normal", [Alarm("q2", later(bus.clock.broker_now(), 3600))])
        await blob.get(bus, tenant, await blob.put(bus, tenant, b"flow"))
        await store(bus, f"audit.{tenant}", b"{}")
        await bus.measure_offset()
        await bus.publish(f"revoke.{tenant}", b"{}")
        await bus.flush()
        assert bus.errors == 0


async def test_a_runner_does_its_work(
    connect_as: ConnectAs, nats_server: NatsServer, tenant: Tenant, eventually: Eventually
) -> None:
    queue = Queue(f"q{uuid.uuid4().hex[:16]}")
    who = nats_server.credentials["runner"]
    beats = Heartbeats([nats_server.url], user=who.user, password=who.password, name="test", clock=SystemClock())
    async with connect_as("runner") as bus, beats:
        log, doorbells, done = EventLog(bus, (await compare(bus)).shards), Doorbells(bus), asyncio.Event()
        told = await Told(log, tenant).begin()

        async def handle(delivery: Delivery) -> None:
            lease = beats.hold(delivery, delivery.lease_seconds)
            begin = lease.believed_until
            async with news(bus, delivery.ref):
                assert len(await log.read(delivery.ref)) == 2
                await told.put(told.story.step("draft"))
                Deltas(bus).publish(delivery.ref, b"token")
                await blob.get(bus, tenant, await blob.put(bus, tenant, b"value"))
                assert await doorbells.holds(queue, "normal", delivery.ref, delivery.bell)
                await eventually(lambda: lease.believed_until > begin)
                await doorbells.arm(told.ref, queue, "normal", [Alarm("q2", later(bus.clock.broker_now(), 3600))])
            lease.release()
            if delivery.times == 1:
                await delivery.nak(0.01)
            await delivery.ack()
            done.set()

        pull = Pull(bus, [(queue, "high"), (queue, "normal")], 1, handle, lease_seconds=1.0)
        running = asyncio.create_task(pull.run())
        await doorbells.ring(told.ref, queue, "normal")
        await done.wait()
        pull.stop()
        await running
        await bus.measure_offset()
        await bus.publish(f"inbox.{tenant}.request", b"{}")
        await bus.publish("call.register", b"{}")
        await bus.flush()
        assert bus.errors == 0


async def test_a_sweeper_does_its_work(connect_as: ConnectAs, tenant: Tenant) -> None:
    async with connect_as("sweeper") as bus:
        await declare(bus, Topology())
        log, doorbells = EventLog(bus, 8), Doorbells(bus)
        told = await Told(log, tenant).begin()
        async with news(bus, told.ref):
            assert (await log.shards.info(0)).created_at
            await log.shards.scan(0, told.at[0])
            await doorbells.ring(told.ref, Queue(tenant), "normal")
            assert await doorbells.exists(told.ref, Queue(tenant), "normal")
        await store(bus, f"audit.{tenant}.seal", b"{}")
        await bus.publish(f"inbox.{tenant}.request", b"{}")
        purged = await bus.ask(
            f"$JS.API.STREAM.PURGE.EV_{int(told.ref.job[-1], 16) % 8}",
            msgspec.json.encode({"filter": f"ev.{int(told.ref.job[-1], 16) % 8}.{tenant}.{told.ref.job}", "keep": 1}),
        )
        assert msgspec.json.decode(purged)["purged"] == 1
        await bus.flush()
        assert bus.errors == 0


async def test_the_supervisor_publishes_canaries_only(connect_as: ConnectAs) -> None:
    async with connect_as("supervisor") as bus:
        assert await store(bus, "ev.0.canary.canary", b"{}") > 0
        assert await store(bus, "blob.canary.x.0", b"x") > 0
        assert await store(bus, "work.canary.normal.canary", b"{}") > 0
        await bus.flush()
        assert bus.errors == 0


# What a user may not publish, one line a reason: other services' writes, the API beyond reading, logs through a side
# door.
FORBIDDEN = {
    "gateway": [
        "$JS.API.STREAM.CREATE.X", "$JS.API.STREAM.UPDATE.EV_0", "$JS.API.STREAM.DELETE.EV_0",
        "$JS.API.STREAM.PURGE.EV_0", "$JS.API.STREAM.MSG.DELETE.EV_0", "$JS.API.CONSUMER.CREATE.EV_0.x",
        "$JS.API.CONSUMER.CREATE.WORK.x", "$JS.API.CONSUMER.MSG.NEXT.WORK.x", "$JS.API.STREAM.NAMES",
        "$JS.ACK.WORK.x.1.1.1.1.0", "audit.t1.seal", "job.t1.x.event", "job.t1.x.delta", "inbox.t1.request",
        "call.register", "_INBOX.t1.x", "$SYS.REQ.SERVER.PING",
    ],
    "runner": [
        "$JS.API.STREAM.CREATE.X", "$JS.API.STREAM.PURGE.EV_0", "$JS.API.STREAM.PURGE.WORK",
        "$JS.API.STREAM.DELETE.WORK", "$JS.API.STREAM.MSG.DELETE.EV_0", "$JS.API.CONSUMER.CREATE.EV_0.x",
        "$JS.API.CONSUMER.DELETE.WORK.x", "$JS.API.CONSUMER.DURABLE.CREATE.EV_0.x", "$JS.API.STREAM.RESTORE.EV_0",
        "audit.t1", "audit.t1.seal", "revoke.t1", "job.t1.x.event", "replay.t1.x", "_INBOX.t1.x", "_SVC.gateway.x",
        "$SYS.REQ.SERVER.PING",
    ],
    "sweeper": ["job.t1.x.event", "job.t1.x.delta", "revoke.t1", "call.register", "_INBOX.t1.x",
    "$JS.ACK.WORK.x.1.1.1.1.0"], "replay": ["ev.0.t1.x", "work.default.normal.x", "job.t1.x.event",
    "$JS.API.STREAM.MSG.GET.EV_0", "_INBOX.x", "audit.t1"], "supervisor": ["ev.0.t1.canary", "ev.0.canary.x",
    "work.default.normal.x", "$JS.API.STREAM.INFO.WORK", "audit.canary"],
}  # fmt: skip


@pytest.mark.parametrize(("user", "subject"), [(u, s) for u, subjects in FORBIDDEN.items() for s in subjects])
async def test_a_service_may_not_publish(
    connect_as: ConnectAs, eventually: Eventually, user: str, subject: str
) -> None:
    async with connect_as(user) as bus:
        await bus.publish(subject, b"{}")
        await eventually(lambda: bus.errors == 1)
        assert bus.connected


DEAF = {
    "gateway": ["ev.>", "work.>", "_SVC.runner.>", "_INBOX.>", ">", "$JS.EVENT.>", "replay.*.*", "audit.>", "call.*"],
    "runner": ["ev.>", "work.>", "job.*.*.delta", "inbox.>", "_SVC.gateway.>", "_SVC.>", ">", "call.*", "revoke.*"],
    "sweeper": ["ev.>", "job.*.*.delta", "_SVC.runner.>", "_INBOX.>", ">"],
    "replay": ["job.>", "ev.>", "_INBOX.>", "replay.*.*", ">"],
    "supervisor": ["job.>", ">", "_SVC.>", "ev.>"],
}


@pytest.mark.parametrize(("user", "subject"), [(u, s) for u, subjects in DEAF.items() for s in subjects])
async def test_a_service_may_not_hear(connect_as: ConnectAs, eventually: Eventually, user: str, subject: str) -> None:
    async with connect_as(user) as bus:
        await bus.nc.subscribe(subject)
        await eventually(lambda: bus.errors == 1)
        assert bus.connected


@pytest.mark.parametrize(
    ("user", "subject", "group"), [("gateway", "call.*", "gateways"), ("replay", "replay.*.*", "replay")]
)
async def test_some_subjects_are_heard_in_a_queue_group_only(
    connect_as: ConnectAs, user: str, subject: str, group: str
) -> None:
    async with connect_as(user) as bus:
        await bus.nc.subscribe(subject, queue=group)
        await bus.flush()
        assert bus.errors == 0


@pytest.mark.parametrize(
    ("user", "password"), [(None, None), ("gateway", None), ("gateway", "wrong"), ("nobody", "x"), ("sys", "")]
)
async def test_nobody_speaks_without_a_password(
    nats_server: NatsServer, user: str | None, password: str | None
) -> None:
    with pytest.raises(Unauthenticated):
        async with Bus.connect([nats_server.url], user=user, password=password, name="test", clock=SystemClock()):
            pass


async def test_no_two_users_share_a_password(nats_server: NatsServer) -> None:
    passwords = {c.password for c in nats_server.credentials.values()}
    assert len(passwords) == len(nats_server.credentials)
    assert all(len(p) >= 32 for p in passwords)


async def test_a_request_that_names_anothers_log_as_its_reply_writes_nothing(
    connect_as: ConnectAs, bus: Bus, tenant: Tenant, eventually: Eventually
) -> None:
    ref = JobRef(tenant, new_job_id())
    async with connect_as("supervisor") as supervisor:
        before = supervisor.errors
        await supervisor.publish("replay.t1.x", b"{}", reply=f"ev.0.{tenant}.{ref.job}")
        await eventually(lambda: supervisor.errors > before)
    assert await EventLog(bus, 8).tail(ref) is None
