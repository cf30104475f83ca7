"""Keeping leases, and believing in them: in a thread of its own with a connection of its own.

User code that blocks the main loop cannot starve the heartbeats. Every third of a lease its delivery's `+WPI` goes out
as a *request*: a published one "succeeds" into a broker that is frozen. The belief in a lease lasts until (send time
of the last confirmed one) + lease - margin, by the monotonic clock; when it has run out `lost` is set, the work stops
and nothing is acked.

A process whose main loop hangs must not keep its jobs for ever: when the loop has not ticked for 3 leases its
heartbeats stop, and `on_stalled` is told, so that the process ends and a new one starts.

None of it fences: the broker takes anybody's `+WPI`, also a late one. The belief only ends work early that the log
would refuse.
"""

import asyncio
import contextlib
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import TracebackType
from typing import Final, Self

from perdure import log as logs
from perdure import probe
from perdure.bus.belief import Lease
from perdure.bus.connection import Bus, OnClosed
from perdure.bus.delivery import Delivery
from perdure.clock import SystemClock
from perdure.errors import OutcomeUnknown, Unavailable

TICK_SECONDS: Final = 0.25
STALLED_LEASES: Final = 3
LAG_SECONDS: Final = 1.0  # a main loop that is held up for longer is worth a warning
FROZEN_SECONDS: Final = 1.0

log = logs.get(__name__)


class Heartbeats:
    """The thread. An async context manager of the main loop; its arguments are those of `Bus.connect`.

    `on_closed(reason)` and `on_stalled(seconds)` are called in the thread, because the main loop may be the one that
    hangs.
    """

    def __init__(
        self,
        servers: Sequence[str],
        *,
        user: str | None,
        password: str | None,
        name: str,
        clock: SystemClock,
        inbox_prefix: str | None = None,
        on_closed: OnClosed | None = None,
        on_stalled: Callable[[float], None] | None = None,
    ) -> None:
        self._connect: Callable[[], AbstractAsyncContextManager[Bus]] = partial(
            Bus.connect,
            servers,
            user=user,
            password=password,
            name=name,
            clock=clock,
            inbox_prefix=inbox_prefix,
            on_closed=on_closed,
            measure=False,
        )
        self._clock, self._on_closed, self._on_stalled = clock, on_closed, on_stalled
        self._thread = threading.Thread(target=self._run, name="heartbeats", daemon=True)
        self._held: set[Lease] = set()  # the main loop's
        self._fresh: deque[Lease] = deque()  # held, and not yet seen by the thread
        self._kept: dict[Lease, asyncio.Task[None]] = {}  # the thread's
        self._ticked = 0.0
        self._longest = 0.0  # lease that was ever held here
        self._told = False
        self._lagged = 0.0  # the tick behind which a lag was told

    async def __aenter__(self) -> Self:
        """Start the thread and wait for its connection. Raises Unauthenticated."""
        self._main, self._main_thread = asyncio.get_running_loop(), threading.get_ident()
        self._ready: asyncio.Future[None] = self._main.create_future()
        self._ticked = self._clock.monotonic()
        self._ticking = asyncio.create_task(self._tick())
        self._own = asyncio.new_event_loop()
        self._thread.start()
        try:
            await self._ready
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    def hold(self, delivery: Delivery, lease_seconds: float) -> Lease:
        """Keep `delivery` from being redelivered, from now on. On the main loop.

        The thread takes it at its next tick, long before the first heartbeat is due: most doorbells are seen to by
        then, and waking another thread twice for each is a tenth of what they cost.
        """
        lease = Lease(delivery, lease_seconds, self._clock)
        lease._release = partial(self._released, lease)
        self._longest = max(self._longest, lease_seconds)
        self._held.add(lease)
        self._fresh.append(lease)
        if lease_seconds / 3 < 2 * TICK_SECONDS:
            self._call(self._take_fresh)
        return lease

    # -------------------------------------------------------------------------------------------- the main loop

    async def _tick(self) -> None:
        """Show the thread that this loop lives, and see for itself which beliefs are over: the thread may be the
        dead one.
        """
        while True:
            self._ticked = now = self._clock.monotonic()
            for lease in [h for h in self._held if h.believed_until <= now]:
                self._lose(lease)
            await self._clock.sleep(TICK_SECONDS)

    def _lose(self, lease: Lease) -> None:
        if lease in self._held:
            lease._give_up()
            self._released(lease)
            log.warning("lease lost", job_id=lease.delivery.ref.job, lease_seconds=lease.lease_seconds)
            lease.lost.set()

    def _released(self, lease: Lease) -> None:
        self._held.discard(lease)
        lease._released = True
        if lease._kept:  # else the thread finds it released
            self._call(self._let_go, lease)

    async def _end(self) -> None:
        self._ticking.cancel()
        await asyncio.wait((self._ticking,))
        self._call(self._stop)
        await asyncio.to_thread(self._thread.join)

    def _call(self, function: Callable[..., object], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the thread has ended: its leases are lost or released already
            self._own.call_soon_threadsafe(function, *args)

    # -------------------------------------------------------------------------------------------- the thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._own)
        self._serving = self._own.create_task(self._serve())
        try:
            self._own.run_until_complete(self._serving)
        except asyncio.CancelledError:
            pass
        except BaseException as exc:  # noqa: BLE001 - the thread's last word: without it the process must not go on
            self._failed(exc)
        finally:
            self._own.close()

    def _failed(self, exc: BaseException) -> None:
        log.error("the heartbeat thread ended", error=repr(exc))
        self._tell_main(self._refuse, exc)
        if self._on_closed is not None:
            self._on_closed(f"the heartbeat thread ended: {exc!r}")

    def _refuse(self, exc: BaseException) -> None:
        if not self._ready.done():
            self._ready.set_exception(exc)

    async def _serve(self) -> None:
        async with self._connect() as self._bus, asyncio.TaskGroup() as self._tasks:
            self._tell_main(self._accept)
            await self._watch()

    def _warn(self, silent: float) -> None:
        """Say who holds up the main loop: the task that runs there, and the line that it is at. Once each time."""
        ticked = self._ticked
        if silent <= LAG_SECONDS or ticked == self._lagged:
            return
        self._lagged = ticked
        task, frame = asyncio.current_task(self._main), sys._current_frames().get(self._main_thread)
        log.warning(
            "the main loop is held up",
            seconds=round(silent, 1),
            task=None if task is None else task.get_name(),
            at=None if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}",
        )

    async def _watch(self) -> None:
        """Give everything up, and say so once, when the main loop has hung for 3 of the longest leases. For ever."""
        looked = self._clock.monotonic()
        while True:
            await self._clock.sleep(TICK_SECONDS)
            now = self._clock.monotonic()
            if now - looked > FROZEN_SECONDS:  # this thread was stopped as well (SIGSTOP, a machine that slept)
                self._ticked = now
            looked, silent = now, now - self._ticked
            self._take_fresh()
            self._warn(silent)
            if self._longest and silent > STALLED_LEASES * self._longest and not self._told:
                self._told = True
                log.error("the main loop hangs", seconds=round(silent, 1))
                for lease in list(self._kept):
                    lease._give_up()
                    self._let_go(lease)
                    self._tell_main(self._lose, lease)
                if self._on_stalled is not None:
                    self._on_stalled(silent)

    def _stop(self) -> None:
        self._serving.cancel()

    def _accept(self) -> None:
        if not self._ready.done():
            self._ready.set_result(None)

    def _take_fresh(self) -> None:
        while self._fresh:
            lease = self._fresh.popleft()
            lease._kept = True  # before the look: whoever releases it now does see one of the two
            if not lease._released:
                self._kept[lease] = self._tasks.create_task(self._keep(lease))

    def _let_go(self, lease: Lease) -> None:
        if (task := self._kept.pop(lease, None)) is not None:
            task.cancel()

    async def _keep(self, lease: Lease) -> None:
        """Heartbeats of one lease until it is released, or the belief in it has run out, or the main loop hangs."""
        every, most = lease.lease_seconds / 3, lease.lease_seconds / 6
        at = lease.delivery.received_at + every
        while True:
            await self._clock.sleep(max(0.0, min(at, lease.believed_until) - self._clock.monotonic()))
            sent = self._clock.monotonic()
            left = lease.believed_until - sent
            if left <= 0 or sent - self._ticked > STALLED_LEASES * lease.lease_seconds:
                break
            probe.hit("heartbeat.before_request")
            try:
                await self._bus.request(lease.delivery.reply, b"+WPI", within=min(most, left))
            except (Unavailable, OutcomeUnknown):
                at = max(self._clock.monotonic(), sent + most / 2)
                continue
            if not lease._prolong(sent + lease.lease_seconds - lease.margin_seconds):  # confirmed too late
                break
            at = sent + every
        self._kept.pop(lease, None)
        self._tell_main(self._lose, lease)

    def _tell_main(self, function: Callable[..., object], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the main loop is closed: nobody is left to be told
            self._main.call_soon_threadsafe(function, *args)
