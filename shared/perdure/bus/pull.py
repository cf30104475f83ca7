"""The standing pull: deliveries from several queues into a bounded number of slots, through whatever the broker goes
through.

Each queue has one inbox and a pull request for every free slot. Requests to several queues may bring more than there
are slots: the surplus waits a moment for one, the first queue's before the others', then goes back to the broker.
Never more is taken than there are slots for, because a message that waits in a client runs out its lease.

An expired request says how much of it was left. Any other refusal, silence for 2.5 heartbeats or a reconnect throws the
inbox away (the broker drops requests that nobody listens for) and begins anew, after a pause: a stream without a leader
refuses at once. The consumer is made again on that occasion, if it is gone.
"""

import asyncio
import contextlib
import heapq
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec
from msgspec import Struct
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from perdure import log as logs
from perdure.bus import subject as names
from perdure.bus.connection import Bus
from perdure.bus.delivery import Delivery, read
from perdure.bus.layout import SECOND
from perdure.bus.subject import WORK, Priority
from perdure.bus.topology import ensure_queue
from perdure.errors import Unavailable
from perdure.ids import Queue

EXPIRES_SECONDS: Final = 30.0
HEARTBEAT_SECONDS: Final = 5.0
PATIENCE_SECONDS: Final = 0.2  # of a surplus delivery for a slot
FIRST_PAUSE_SECONDS: Final = 0.05
LONGEST_PAUSE_SECONDS: Final = 2.0
NEWER_SECONDS: Final = 5.0  # until a doorbell of a newer format is offered again

log = logs.get(__name__)


Handle = Callable[[Delivery], Awaitable[None]]


class _Source:
    """One queue of a pull."""

    def __init__(self, rank: int, queue: Queue, priority: Priority) -> None:
        self.rank, self.queue, self.priority = rank, queue, priority
        self.lease_seconds = 0.0
        self.inbox = ""
        self.subscription: Subscription | None = None
        self.armed = 0
        self.heard = 0.0
        self.pause = FIRST_PAUSE_SECONDS
        self.renew = asyncio.Event()


class _Ask(Struct):
    batch: int
    expires: int
    idle_heartbeat: int


class Pull:
    """Hands deliveries of `queues` (the most urgent first) to `handle`, at most `slots` at a time.

    `lease_seconds` is for queues that nobody has served yet. What `handle` raises is logged and its doorbell left to be
    redelivered; a BaseException ends `run`.
    """

    def __init__(
        self,
        bus: Bus,
        queues: Sequence[tuple[Queue, Priority]],
        slots: int,
        handle: Handle,
        *,
        lease_seconds: float = 10.0,
        expires_seconds: float = EXPIRES_SECONDS,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        self._bus, self._slots, self._handle = bus, slots, handle
        self._sources = [_Source(rank, queue, priority) for rank, (queue, priority) in enumerate(queues)]
        self._lease, self._expires, self._heartbeat = lease_seconds, expires_seconds, heartbeat_seconds
        self._busy = 0
        self._arrived = 0
        self._surplus: list[tuple[int, int, Delivery]] = []  # a heap: rank, order of arrival
        self._stopping = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None

    @property
    def busy(self) -> int:
        """How many deliveries are being handled."""
        return self._busy

    @property
    def standing(self) -> bool:
        """Whether every queue is being pulled or all slots are taken: for readiness."""
        return self._busy >= self._slots or all(s.subscription is not None for s in self._sources)

    def stop(self) -> None:
        """Take nothing new; `run` returns when what is being handled has ended."""
        self._stopping.set()
        for source in self._sources:
            source.renew.set()

    async def run(self) -> None:
        """Pull until `stop`. What arrives while stopping goes back to the broker at once."""
        forget = self._bus.on_reconnect(self._reconnected)
        try:
            async with asyncio.TaskGroup() as self._tasks:
                for source in self._sources:
                    self._tasks.create_task(self._tend(source))
                await self._stopping.wait()
                while self._surplus:
                    await heapq.heappop(self._surplus)[2].nak()
        finally:
            forget()

    def _reconnected(self) -> None:
        for source in self._sources:
            source.pause = FIRST_PAUSE_SECONDS
            source.renew.set()

    async def _tend(self, source: _Source) -> None:
        while not self._stopping.is_set():
            source.renew.clear()
            try:
                await self._open(source)
                await self._watch(source)
            except Unavailable as exc:
                log.info("queue not pulled", queue=source.queue, priority=source.priority, error=str(exc))
            finally:
                await self._close(source)
            if not self._stopping.is_set():
                await self._rest(source)

    async def _open(self, source: _Source) -> None:
        source.lease_seconds = await ensure_queue(self._bus, source.queue, source.priority, self._lease)
        source.inbox, source.armed = self._bus.nc.new_inbox(), 0

        async def heard(message: Msg, inbox: str = source.inbox) -> None:
            await self._heard(source, inbox, message)

        source.subscription = await self._bus.subscribe(source.inbox, heard)
        await self._arm(source)

    async def _watch(self, source: _Source) -> None:
        """Return when the source has to begin anew: told so, or its requests have gone quiet."""
        while not source.renew.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._heartbeat):
                    await source.renew.wait()
            quiet = self._bus.clock.monotonic() - source.heard
            if source.armed > 0 and quiet > 2.5 * self._heartbeat:
                return

    async def _close(self, source: _Source) -> None:
        subscription, source.subscription, source.armed = source.subscription, None, 0
        if subscription is None:
            return
        if self._stopping.is_set():
            # What is on its way still arrives, and goes back at once instead of waiting for its lease to run out.
            await self._bus.drain(subscription)
        else:
            await self._bus.unsubscribe(subscription)

    async def _rest(self, source: _Source) -> None:
        pause, source.pause = source.pause, min(2 * source.pause, LONGEST_PAUSE_SECONDS)
        source.renew.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await source.renew.wait()

    async def _arm(self, source: _Source) -> None:
        """Ask for as many deliveries as there are free slots without a request."""
        wanted = self._slots - self._busy - source.armed
        if wanted <= 0 or source.subscription is None or self._stopping.is_set():
            return
        if source.armed == 0:
            source.heard = self._bus.clock.monotonic()
        source.armed += wanted
        ask = _Ask(wanted, int(self._expires * SECOND), int(self._heartbeat * SECOND))
        next_ = f"$JS.API.CONSUMER.MSG.NEXT.{WORK}.{names.consumer(source.queue, source.priority)}"
        try:
            await self._bus.publish(next_, msgspec.json.encode(ask), reply=source.inbox)
        except Unavailable:
            source.renew.set()

    async def _heard(self, source: _Source, inbox: str, message: Msg) -> None:
        current = inbox == source.inbox  # what a thrown-away inbox still brings says nothing about the new one
        if current:
            source.heard = self._bus.clock.monotonic()
        headers = message.headers or {}
        status = headers.get("Status")
        if status == "100":
            return
        if status is not None and not current:
            return
        if status is not None:
            left = headers.get("Nats-Pending-Messages")
            if left is None:
                source.renew.set()
            else:
                source.armed -= int(left)
                await self._arm(source)
            return
        source.armed, source.pause = source.armed - current, FIRST_PAUSE_SECONDS
        delivery = await read(self._bus, message, source.lease_seconds)
        if delivery is None:
            await self._arm(source)
        elif self._stopping.is_set():
            await delivery.nak()
        elif self._busy < self._slots:
            self._start(delivery)
        else:
            self._arrived += 1
            entry = (source.rank, self._arrived, delivery)
            heapq.heappush(self._surplus, entry)
            asyncio.get_running_loop().call_later(PATIENCE_SECONDS, self._give_back, entry)

    def _give_back(self, entry: tuple[int, int, Delivery]) -> None:
        if entry in self._surplus and self._tasks is not None:
            self._surplus.remove(entry)
            heapq.heapify(self._surplus)
            self._tasks.create_task(entry[2].nak())

    def _start(self, delivery: Delivery) -> None:
        if self._tasks is None:
            raise RuntimeError("a delivery outside run()")
        self._busy += 1
        self._tasks.create_task(self._work(delivery))

    async def _work(self, delivery: Delivery) -> None:
        try:
            await self._handle(delivery)
        except Exception:
            log.exception("a delivery failed; it comes back when its lease runs out", job_id=delivery.ref.job)
        finally:
            self._busy -= 1
        if self._surplus and not self._stopping.is_set():
            self._start(heapq.heappop(self._surplus)[2])
        for source in self._sources:
            await self._arm(source)
