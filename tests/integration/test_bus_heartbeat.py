"""Leases: kept beyond the broker's patience, through a blocked main loop, not for ever, and disbelieved in time."""

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from perdure.bus.belief import Lease
from perdure.bus.connection import Bus
from perdure.bus.delivery import Delivery
from perdure.bus.doorbell import Doorbells
from perdure.bus.heartbeat import Heartbeats
from perdure.bus.pull import Pull
from perdure.clock import SystemClock
from perdure.errors import Unauthenticated
from perdure.ids import JobRef, Queue, Tenant, new_job_id
from perdure.local.server import NatsServer
from perdure.testing.servers import connect, frozen

Eventually = Callable[..., Awaitable[None]]


class Holder:
    """Takes deliveries, holds their leases and works until it is told to end."""

    def __init__(self, heartbeats: Heartbeats) -> None:
        self.heartbeats = heartbeats
        self.held: list[tuple[Delivery, Lease]] = []
        self.end = asyncio.Event()

    async def handle(self, delivery: Delivery) -> None:
        self.held.append((delivery, self.heartbeats.hold(delivery, delivery.lease_seconds)))
        await self.end.wait()

    @property
    def times(self) -> list[int]:
        """How often each delivery had been delivered."""
        return [d.times for d, _ in self.held]

    @property
    def lease(self) -> Lease:
        return self.held[0][1]


def heartbeats(server: NatsServer, stalled: Callable[[float], None] | None = None) -> Heartbeats:
    who = server.credentials["runner"]
    return Heartbeats(
        [server.url],
        user=who.user,
        password=who.password,
        name="test heartbeats",
        clock=SystemClock(),
        on_stalled=stalled,
    )


@asynccontextmanager
async def holding(
    server: NatsServer,
    tenant: Tenant,
    eventually: Eventually,
    lease: float,
    stalled: Callable[[float], None] | None = None,
) -> AsyncIterator[tuple[Bus, Holder]]:
    """A runner that holds one delivery of a queue with such a lease, and has a free slot to see a redelivery."""
    queue = Queue(f"q{uuid.uuid4().hex[:16]}")
    async with connect(server, "runner") as bus, heartbeats(server, stalled) as beats:
        holder = Holder(beats)
        pull = Pull(bus, [(queue, "normal")], 2, holder.handle, lease_seconds=lease, heartbeat_seconds=0.5)
        running = asyncio.create_task(pull.run())
        await Doorbells(bus).ring(JobRef(tenant, new_job_id()), queue, "normal")
        await eventually(lambda: holder.held)
        try:
            yield bus, holder
        finally:
            holder.end.set()
            pull.stop()
            await running
            for delivery, held in holder.held:
                held.release()
                await delivery.ack()


async def test_a_lease_is_kept_beyond_the_patience_of_the_broker(
    nats_server: NatsServer, tenant: Tenant, eventually: Eventually
) -> None:
    async with holding(nats_server, tenant, eventually, lease=2.0) as (_, holder):
        begin = holder.lease.believed_until
        await eventually(lambda: holder.lease.believed_until > begin + 3.0)
        assert holder.lease.believed
        assert holder.times == [1]


async def test_a_released_lease_runs_out(nats_server: NatsServer, tenant: Tenant, eventually: Eventually) -> None:
    async with holding(nats_server, tenant, eventually, lease=1.0) as (_, holder):
        holder.lease.release()
        holder.lease.release()
        await eventually(lambda: holder.times == [1, 2])


async def test_what_is_over_before_a_heartbeat_is_due_wakes_no_thread(
    nats_server: NatsServer, tenant: Tenant, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with holding(nats_server, tenant, eventually, lease=10.0) as (_, holder):
        woken: list[object] = []
        monkeypatch.setattr(holder.heartbeats, "_call", lambda *what: woken.append(what))
        delivery = holder.held[0][0]
        for _ in range(100):
            holder.heartbeats.hold(delivery, 10.0).release()
        assert woken == []
        kept = holder.heartbeats.hold(delivery, 10.0)
        await eventually(lambda: kept._kept)  # at the thread's next tick
        kept.release()
        assert len(woken) == 1
        monkeypatch.undo()


async def test_a_main_loop_that_is_blocked_for_less_than_three_leases_keeps_its_lease(
    nats_server: NatsServer, tenant: Tenant, eventually: Eventually
) -> None:
    stalled: list[float] = []
    async with holding(nats_server, tenant, eventually, lease=2.0, stalled=stalled.append) as (bus, holder):
        threading.Event().wait(4.5)  # the author's code that never awaits
        assert holder.lease.believed
        await bus.flush()
        assert holder.times == [1]
    assert not stalled


async def test_who_holds_up_the_main_loop_for_over_a_second_is_named_once(
    nats_server: NatsServer, capfd: pytest.CaptureFixture[str]
) -> None:
    async def blocks() -> None:
        threading.Event().wait(2.0)

    async with heartbeats(nats_server):
        await asyncio.create_task(blocks(), name="step / draft#1 of job 7")
    said = "".join(capfd.readouterr())
    assert said.count("the main loop is held up") == 1
    assert "step / draft#1 of job 7" in said
    assert "threading.py:" in said


async def test_a_main_loop_that_hangs_loses_its_leases_and_somebody_is_told(
    nats_server: NatsServer, tenant: Tenant, eventually: Eventually
) -> None:
    told = threading.Event()
    async with holding(nats_server, tenant, eventually, lease=0.5, stalled=lambda _: told.set()) as (_, holder):
        told.wait(30.0)  # blocks the loop, as a hang does, until the thread has spoken
        assert told.is_set()
        await eventually(holder.lease.lost.is_set)
        assert not holder.lease.believed
        await eventually(lambda: 2 in holder.times)


async def test_a_hang_is_told_even_when_the_leases_were_lost_before(
    own_nats_server: NatsServer, tenant: Tenant, eventually: Eventually
) -> None:
    told = threading.Event()
    async with holding(own_nats_server, tenant, eventually, lease=1.0, stalled=lambda _: told.set()) as (_, holder):
        with frozen(own_nats_server):
            await eventually(holder.lease.lost.is_set)
            told.wait(30.0)  # the hang
            assert told.is_set()


async def test_a_process_that_was_stopped_as_a_whole_is_not_taken_for_one_that_hangs(nats_server: NatsServer) -> None:
    stalled: list[float] = []
    async with heartbeats(nats_server, stalled.append) as beats:
        beats._longest = 0.5
        resumed = threading.Event()
        beats._call(threading.Event().wait, 2.0)  # the thread does not run, nor does the main loop
        beats._call(beats._own.call_later, 0.5, resumed.set)
        assert resumed.wait(30.0)  # by now the thread has looked, before the main loop could tick
    assert stalled == []


async def test_a_frozen_broker_confirms_nothing_so_the_belief_ends_in_time(
    own_nats_server: NatsServer, tenant: Tenant, eventually: Eventually
) -> None:
    clock = SystemClock()
    async with holding(own_nats_server, tenant, eventually, lease=1.2) as (_, holder):
        with frozen(own_nats_server):
            until = clock.monotonic() + 1.2 - holder.lease.margin_seconds
            await eventually(holder.lease.lost.is_set)
            assert holder.lease.believed_until <= until  # nothing that was sent into the freeze has prolonged it
            assert not holder.lease.believed
        await eventually(lambda: 2 in holder.times)


async def test_a_lost_lease_does_not_come_back(
    own_nats_server: NatsServer, tenant: Tenant, eventually: Eventually
) -> None:
    async with holding(own_nats_server, tenant, eventually, lease=1.2) as (_, holder):
        with frozen(own_nats_server):
            await eventually(holder.lease.lost.is_set)
        first = holder.lease
        await eventually(lambda: len(holder.held) == 2)
        second = holder.held[1][1]
        begin = second.believed_until
        await eventually(lambda: second.believed_until > begin)
        assert not first.believed


async def test_a_restart_of_the_broker_within_the_lease_does_not_lose_it(
    own_nats_server: NatsServer, tenant: Tenant, eventually: Eventually
) -> None:
    async with holding(own_nats_server, tenant, eventually, lease=6.0) as (_, holder):
        begin = holder.lease.believed_until
        await eventually(lambda: holder.lease.believed_until > begin)  # so it is on the disk
        own_nats_server.stop()
        own_nats_server.start()
        again = holder.lease.believed_until
        await eventually(lambda: holder.lease.believed_until > again)
        assert holder.lease.believed
        assert set(holder.times) == {1}


async def test_heartbeats_with_a_wrong_password_do_not_start(nats_server: NatsServer) -> None:
    wrong = Heartbeats([nats_server.url], user="runner", password="wrong", name="test", clock=SystemClock())
    with pytest.raises(Unauthenticated):
        async with wrong:
            pass


async def test_the_thread_ends_with_its_context(nats_server: NatsServer) -> None:
    before = threading.active_count()
    async with heartbeats(nats_server):
        assert threading.active_count() == before + 1
    assert threading.active_count() <= before + 1  # the pool's thread that waited for it may stay
    assert not [t for t in threading.enumerate() if t.name == "heartbeats"]


async def test_a_start_that_is_given_up_ends_the_thread(own_nats_server: NatsServer) -> None:
    own_nats_server.stop()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5), heartbeats(own_nats_server):
            pass
    assert not [t for t in threading.enumerate() if t.name == "heartbeats"]


async def test_a_belief_ends_in_time_though_the_thread_that_should_say_so_is_gone(
    nats_server: NatsServer, tenant: Tenant, eventually: Eventually
) -> None:
    async with holding(nats_server, tenant, eventually, lease=1.0) as (_, holder):
        beats = holder.heartbeats
        beats._call(beats._stop)
        await eventually(lambda: not beats._thread.is_alive())
        await eventually(holder.lease.lost.is_set)
        assert not holder.lease.believed
        late = beats.hold(
            holder.held[0][0], 1.0
        )  # into a dead thread: believed as long as the delivery allows, no longer
        await eventually(late.lost.is_set)
        assert not late.believed


async def test_a_confirmation_that_meets_the_end_of_the_belief_does_not_bring_it_back(
    nats_server: NatsServer, tenant: Tenant, eventually: Eventually
) -> None:
    async with holding(nats_server, tenant, eventually, lease=600.0) as (_, holder):
        lease = holder.lease
        holder.heartbeats._lose(lease)
        assert lease.lost.is_set()
        assert not lease.believed
        assert not lease._prolong(lease.believed_until + 1000)
        assert not lease.believed
