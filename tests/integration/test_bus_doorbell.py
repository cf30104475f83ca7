"""Doorbells and the standing pull on a real broker: bounded slots, urgency, hand-backs, alarms, and every way to
lose a pull.
"""

import asyncio
import shutil
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from perdure.bus import subject
from perdure.bus.connection import Bus
from perdure.bus.delivery import Delivery
from perdure.bus.doorbell import INLINE_BYTES, Doorbells
from perdure.bus.entry import Stored
from perdure.bus.eventlog import EventLog
from perdure.bus.pull import Pull
from perdure.bus.stream import Ask, leader_get, store
from perdure.bus.subject import Priority
from perdure.bus.topology import Topology, declare, ensure_queue
from perdure.core import event as ev
from perdure.core.alarm import Alarm
from perdure.core.instant import later
from perdure.ids import JobRef, Queue, Tenant, new_job_id
from perdure.local.server import NatsServer
from perdure.testing.logs import Told
from perdure.testing.servers import connect, frozen

Eventually = Callable[..., Awaitable[None]]
LONG = 600.0  # seconds of lease: whatever is delivered again within a test was handed back, and did not run out


@pytest.fixture
def queue() -> Queue:
    """A queue that no other test uses."""
    return Queue(f"q{uuid.uuid4().hex[:16]}")


@pytest.fixture
def doorbells(bus: Bus) -> Doorbells:
    return Doorbells(bus)


class Desk:
    """A handler that notes what it gets and, unless told otherwise, acks it at once."""

    def __init__(self) -> None:
        self.got: list[Delivery] = []
        self.most = self.now = 0
        self.open = asyncio.Event()
        self.open.set()

    async def handle(self, delivery: Delivery) -> None:
        self.got.append(delivery)
        self.now += 1
        self.most = max(self.most, self.now)
        await self.open.wait()
        await delivery.ack()
        self.now -= 1

    @property
    def jobs(self) -> list[str]:
        return [d.ref.job for d in self.got]


@asynccontextmanager
async def pulling(
    bus: Bus,
    desk: Desk,
    *queues: tuple[Queue, Priority],
    slots: int = 4,
    lease: float = LONG,
    heartbeat: float = 0.5,
    expires: float = 30.0,
) -> AsyncIterator[Pull]:
    """A pull that runs and is stopped at the end."""
    pull = Pull(
        bus, queues, slots, desk.handle, lease_seconds=lease, heartbeat_seconds=heartbeat, expires_seconds=expires
    )
    running = asyncio.create_task(pull.run())
    try:
        yield pull
    finally:
        desk.open.set()
        pull.stop()
        await running


async def held_or_waiting(bus: Bus, queue: Queue, priority: Priority = "normal") -> bool:
    return await leader_get(bus, "WORK", Ask(last_by_subj=subject.queue_filter(queue, priority))) is not None


async def test_a_ring_is_delivered_with_its_job_and_its_name(
    bus: Bus, doorbells: Doorbells, queue: Queue, tenant: Tenant, eventually: Eventually
) -> None:
    ref, desk = JobRef(tenant, new_job_id()), Desk()
    async with pulling(bus, desk, (queue, "normal"), lease=7.0):
        await doorbells.ring(ref, queue, "normal")
        await eventually(lambda: desk.got)
        delivery = desk.got[0]
        assert (delivery.ref, delivery.queue, delivery.priority, delivery.times) == (ref, queue, "normal", 1)
        assert (delivery.lease_seconds, delivery.submitted) == (7.0, None)
        await eventually(lambda: held_or_waiting_not(bus, queue))


async def held_or_waiting_not(bus: Bus, queue: Queue) -> bool:
    return not await held_or_waiting(bus, queue)


async def test_a_new_jobs_first_event_travels_in_its_doorbell_if_it_is_small(
    bus: Bus, eventlog: EventLog, doorbells: Doorbells, queue: Queue, tenant: Tenant, eventually: Eventually
) -> None:
    told, desk = Told(eventlog, tenant), Desk()
    await told.put(told.story.submitted())
    [stored] = await eventlog.read(told.ref)
    large = Stored(stored.ref, stored.at, stored.body + b" " * INLINE_BYTES, stored.event)
    async with pulling(bus, desk, (queue, "normal"), slots=1):
        await doorbells.ring(told.ref, queue, "normal", submitted=stored)
        await doorbells.ring(told.ref, queue, "normal", submitted=large)
        await eventually(lambda: len(desk.got) == 2)
    assert [d.submitted for d in desk.got] == [stored, None]


async def test_no_more_is_handled_at_once_than_there_are_slots_and_all_of_it_is(
    bus: Bus, doorbells: Doorbells, queue: Queue, tenant: Tenant, eventually: Eventually
) -> None:
    refs, desk = [JobRef(tenant, new_job_id()) for _ in range(60)], Desk()
    priorities: list[Priority] = ["high", "normal", "low"]
    for number, ref in enumerate(refs):
        await doorbells.ring(ref, queue, priorities[number % 3])
    desk.open.clear()
    async with pulling(bus, desk, *((queue, p) for p in priorities), slots=5):
        await eventually(lambda: desk.now == 5)
        desk.open.set()
        await eventually(lambda: set(desk.jobs) == {r.job for r in refs})
    assert desk.most == 5
    for priority in priorities:
        assert not await held_or_waiting(bus, queue, priority)


async def test_a_free_slot_goes_to_the_more_urgent_doorbell(
    bus: Bus, doorbells: Doorbells, queue: Queue, tenant: Tenant, eventually: Eventually
) -> None:
    for _ in range(20):
        await doorbells.ring(JobRef(tenant, new_job_id()), queue, "low")
        await doorbells.ring(JobRef(tenant, new_job_id()), queue, "high")
    desk = Desk()
    async with pulling(bus, desk, (queue, "high"), (queue, "low"), slots=1):
        await eventually(lambda: len({d.bell.ring for d in desk.got}) == 40)
    order = [d.priority for d in desk.got]
    last_high = len(order) - 1 - order[::-1].index("high")
    assert order[:last_high].count("low") <= 21  # at least every second slot was theirs


async def test_a_surplus_delivery_goes_back_to_whoever_has_a_slot(
    bus: Bus, doorbells: Doorbells, queue: Queue, tenant: Tenant, eventually: Eventually
) -> None:
    busy, idle = Desk(), Desk()
    busy.open.clear()
    low = JobRef(tenant, new_job_id())
    async with pulling(bus, busy, (queue, "high"), (queue, "low"), slots=1) as pull:
        await eventually(lambda: pull.standing)
        await doorbells.ring(JobRef(tenant, new_job_id()), queue, "high")
        await eventually(lambda: busy.now == 1)
        await doorbells.ring(low, queue, "low")  # its request is still open: it is delivered into the full pull
        async with pulling(bus, idle, (queue, "low")):
            await eventually(lambda: low.job in idle.jobs)  # although the lease would last for minutes
    assert low.job not in busy.jobs


async def test_what_arrives_while_a_pull_stops_goes_back_at_once(
    bus: Bus, doorbells: Doorbells, queue: Queue, tenant: Tenant, eventually: Eventually
) -> None:
    refs = [JobRef(tenant, new_job_id()) for _ in range(200)]
    first, second = Desk(), Desk()
    pull = Pull(bus, [(queue, "normal")], 50, first.handle, lease_seconds=LONG)
    running = asyncio.create_task(pull.run())
    await eventually(lambda: pull.standing)
    ringing = asyncio.gather(*(doorbells.ring(r, queue, "normal") for r in refs))
    await eventually(lambda: first.got)
    pull.stop()
    await asyncio.gather(running, ringing)
    async with pulling(bus, second, (queue, "normal"), slots=50):
        await eventually(lambda: {*first.jobs, *second.jobs} == {r.job for r in refs})
        await eventually(lambda: held_or_waiting_not(bus, queue))


async def test_stop_waits_for_what_is_being_handled(
    bus: Bus, doorbells: Doorbells, queue: Queue, tenant: Tenant, eventually: Eventually
) -> None:
    desk = Desk()
    desk.open.clear()
    pull = Pull(bus, [(queue, "normal")], 1, desk.handle, lease_seconds=LONG)
    running = asyncio.create_task(pull.run())
    await doorbells.ring(JobRef(tenant, new_job_id()), queue, "normal")
    await eventually(lambda: desk.now == 1)
    pull.stop()
    await eventually(lambda: not pull.standing or pull.busy == 1)
    assert not running.done()
    desk.open.set()
    await running
    assert desk.now == 0


async def test_a_doorbell_whose_handler_failed_comes_again(
    bus: Bus, doorbells: Doorbells, queue: Queue, tenant: Tenant, eventually: Eventually
) -> None:
    times: list[int] = []

    async def handle(delivery: Delivery) -> None:
        times.append(delivery.times)
        if len(times) == 1:
            raise ValueError("a bug")
        await delivery.ack()

    pull = Pull(bus, [(queue, "normal")], 1, handle, lease_seconds=1.0)
    running = asyncio.create_task(pull.run())
    await doorbells.ring(JobRef(tenant, new_job_id()), queue, "normal")
    await eventually(lambda: len(times) == 2)
    pull.stop()
    await running
    assert times == [1, 2]


async def test_a_doorbell_that_is_handed_back_comes_again_at_once_or_later(
    bus: Bus, doorbells: Doorbells, queue: Queue, tenant: Tenant, eventually: Eventually
) -> None:
    got: list[Delivery] = []

    async def handle(delivery: Delivery) -> None:
        got.append(delivery)
        if delivery.times == 1:
            await delivery.nak()
        elif delivery.times == 2:
            await delivery.nak(0.3)
        else:
            await delivery.ack()

    pull = Pull(bus, [(queue, "normal")], 1, handle, lease_seconds=LONG)
    running = asyncio.create_task(pull.run())
    await doorbells.ring(JobRef(tenant, new_job_id()), queue, "normal")
    await eventually(lambda: len(got) == 3)
    pull.stop()
    await running
    assert len({(d.bell.seq, d.bell.ring) for d in got}) == 1


async def test_what_is_no_doorbell_is_taken_out_and_a_newer_one_is_kept(
    bus: Bus, doorbells: Doorbells, queue: Queue, tenant: Tenant, eventually: Eventually
) -> None:
    job, desk = new_job_id(), Desk()
    newer = subject.work_subject(queue, "high", new_job_id())
    await store(bus, subject.work_subject(queue, "normal", job), b"junk")
    stranger = f'{{"v":1,"tenant":"{tenant}","job":"{new_job_id()}","ring":"{new_job_id()}"}}'
    await store(bus, subject.work_subject(queue, "normal", job), stranger.encode())
    await store(bus, newer, b'{"v":2,"tenant":"t","job":"j","ring":"r"}')
    async with pulling(bus, desk, (queue, "high"), (queue, "normal"), slots=2):
        good = JobRef(tenant, new_job_id())
        await doorbells.ring(good, queue, "normal")
        await eventually(lambda: desk.jobs == [good.job])
        await eventually(lambda: held_or_waiting_not(bus, queue))
    assert await leader_get(bus, "WORK", Ask(last_by_subj=newer)) is not None


async def test_a_doorbell_exists_and_is_held_until_it_is_acked(
    bus: Bus, doorbells: Doorbells, queue: Queue, tenant: Tenant, eventually: Eventually
) -> None:
    ref, other, desk = JobRef(tenant, new_job_id()), JobRef(tenant, new_job_id()), Desk()
    assert not await doorbells.exists(ref, queue, "normal")
    desk.open.clear()
    async with pulling(bus, desk, (queue, "normal")):
        await doorbells.ring(ref, queue, "normal")
        await eventually(lambda: desk.now == 1)
        bell = desk.got[0].bell
        assert await doorbells.exists(ref, queue, "normal")
        assert await doorbells.holds(queue, "normal", ref, bell)
        assert not await doorbells.holds(queue, "normal", other, bell)
        assert not await doorbells.holds(queue, "normal", ref, ev.Bell(seq=bell.seq, ring=str(new_job_id())))
        assert not await doorbells.holds(queue, "normal", ref, ev.Bell(seq=bell.seq + 1_000_000, ring=bell.ring))
        desk.open.set()
        await eventually(lambda: held_or_waiting_not(bus, queue))
        assert not await doorbells.holds(queue, "normal", ref, bell)
        assert not await doorbells.exists(ref, queue, "normal")


async def test_an_alarm_rings_as_a_doorbell_and_a_later_one_of_its_name_replaces_it(
    bus: Bus, doorbells: Doorbells, queue: Queue, tenant: Tenant, eventually: Eventually
) -> None:
    now, desk = bus.clock.broker_now(), Desk()
    past, soon, moved = (JobRef(tenant, new_job_id()) for _ in range(3))
    async with pulling(bus, desk, (queue, "low")):
        await doorbells.arm(moved, queue, "low", [Alarm("wake", later(now, 2.0)), Alarm("q3", later(now, 0.6))])
        await doorbells.arm(moved, queue, "low", [Alarm("wake", later(now, 3600))])
        await doorbells.arm(past, queue, "low", [Alarm("deadline", later(now, -5))])
        await doorbells.arm(soon, queue, "low", [Alarm("wake", later(now, 2.5))])
        await eventually(lambda: soon.job in desk.jobs)
    assert Counter(desk.jobs) == {past.job: 1, moved.job: 1, soon.job: 1}
    assert await leader_get(bus, "WORK", Ask(last_by_subj=subject.alarm_subject(moved.job, "wake"))) is not None
    assert await leader_get(bus, "WORK", Ask(last_by_subj=subject.alarm_subject(moved.job, "q3"))) is None


async def test_a_pull_asks_again_when_its_request_has_expired(
    bus: Bus, doorbells: Doorbells, queue: Queue, tenant: Tenant, eventually: Eventually
) -> None:
    desk = Desk()
    async with pulling(bus, desk, (queue, "normal"), heartbeat=0.2, expires=0.5) as pull:
        await eventually(lambda: pull.standing)
        asked = bus.nc.stats["out_msgs"]
        await eventually(lambda: bus.nc.stats["out_msgs"] >= asked + 3)  # nothing else is published on this connection
        await doorbells.ring(JobRef(tenant, new_job_id()), queue, "normal")
        await eventually(lambda: desk.got)


async def test_a_consumer_or_stream_that_was_deleted_is_pulled_from_again(
    own_nats_server: NatsServer, queue: Queue, tenant: Tenant, eventually: Eventually
) -> None:
    async with connect(own_nats_server) as bus, connect(own_nats_server, "runner") as runner:
        doorbells, desk = Doorbells(bus), Desk()
        async with pulling(runner, desk, (queue, "normal"), lease=9.0) as pull:
            await eventually(lambda: pull.standing)
            await bus.ask(f"$JS.API.CONSUMER.DELETE.WORK.{queue}_normal", b"")
            first = JobRef(tenant, new_job_id())
            await doorbells.ring(first, queue, "normal")
            await eventually(lambda: first.job in desk.jobs)
            assert await ensure_queue(bus, queue, "normal", 5.0) == 9.0
            await bus.ask("$JS.API.STREAM.DELETE.WORK", b"")
            await declare(bus, Topology())
            second = JobRef(tenant, new_job_id())
            await doorbells.ring(second, queue, "normal")
            await eventually(lambda: second.job in desk.jobs)


async def test_a_pull_survives_a_kill_of_the_broker(
    own_nats_server: NatsServer, queue: Queue, tenant: Tenant, eventually: Eventually
) -> None:
    async with connect(own_nats_server) as bus, connect(own_nats_server, "runner") as runner:
        doorbells, desk = Doorbells(bus), Desk()
        # A short lease: a kill may take the stream back to a sequence that the consumer has delivered and waits an ack
        # for. The doorbell that gets this sequence next is delivered when the lease of the lost one runs out.
        async with pulling(runner, desk, (queue, "normal"), lease=1.0) as pull:
            for _ in range(3):
                await eventually(lambda: pull.standing and runner.connected)
                own_nats_server.kill()
                await eventually(lambda: not bus.connected and not runner.connected)
                own_nats_server.start()
                await eventually(lambda: bus.connected)
                ref = JobRef(tenant, new_job_id())
                await doorbells.ring(ref, queue, "normal")
                await eventually(lambda ref=ref: ref.job in desk.jobs)


async def test_a_pull_into_a_broker_that_froze_goes_on_when_it_thaws(
    own_nats_server: NatsServer, queue: Queue, tenant: Tenant, eventually: Eventually
) -> None:
    async with connect(own_nats_server) as bus, connect(own_nats_server, "runner") as runner:
        doorbells, desk = Doorbells(bus), Desk()
        async with pulling(runner, desk, (queue, "normal"), heartbeat=0.2, expires=30.0) as pull:
            await eventually(lambda: pull.standing)
            with frozen(own_nats_server):
                await eventually(lambda: not pull.standing)  # its heartbeats stay out: it begins anew
            ref = JobRef(tenant, new_job_id())
            await doorbells.ring(ref, queue, "normal")
            await eventually(lambda: ref.job in desk.jobs)


async def test_a_doorbell_that_the_broker_believes_delivered_is_none(
    own_nats_server: NatsServer, queue: Queue, tenant: Tenant, eventually: Eventually
) -> None:
    """As it is after kill -9 at a bad moment: the stream has what its consumer has acked, and nobody gets it again."""
    ref, desk, server = JobRef(tenant, new_job_id()), Desk(), own_nats_server
    async with connect(server) as bus:
        await ensure_queue(bus, queue, "normal", LONG)
        await Doorbells(bus).ring(ref, queue, "normal")
    server.stop()
    [messages] = server.folder.glob("jetstream/jetstream/*/streams/WORK/msgs")
    shutil.copytree(messages, kept := server.folder / "kept")
    server.start()
    async with connect(server) as bus, pulling(bus, desk, (queue, "normal")):
        await eventually(lambda: len(desk.got) == 1)
        await eventually(lambda: held_or_waiting_not(bus, queue))
    server.stop()
    shutil.rmtree(messages)
    kept.rename(messages)
    server.start()
    async with connect(server) as bus:
        bells = Doorbells(bus)
        assert await leader_get(bus, "WORK", Ask(last_by_subj=subject.work_subject(queue, "normal", ref.job)))
        assert not await bells.exists(ref, queue, "normal")
        assert not await bells.holds(queue, "normal", ref, desk.got[0].bell)
        async with pulling(bus, desk, (queue, "normal")):
            await bells.ring(ref, queue, "normal")
            await eventually(lambda: len(desk.got) == 2)
        assert desk.got[1].bell != desk.got[0].bell
