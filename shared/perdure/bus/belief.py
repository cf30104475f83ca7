"""The belief in one lease: until when it lasts, and that it never comes back once it is over."""

import asyncio
import threading
from collections.abc import Callable
from typing import Final

from perdure.bus.delivery import Delivery
from perdure.clock import SystemClock

MARGIN_SECONDS: Final = 1.0  # how much earlier than the broker we stop believing; a quarter of a lease below 4 s


class Lease:
    """The belief in one delivery. Made by `Heartbeats.hold`; `release` ends its heartbeats."""

    def __init__(self, delivery: Delivery, lease_seconds: float, clock: SystemClock) -> None:
        self.delivery, self.lease_seconds = delivery, lease_seconds
        self.margin_seconds = min(MARGIN_SECONDS, lease_seconds / 4)
        self.believed_until = delivery.received_at + lease_seconds - self.margin_seconds
        self.lost = asyncio.Event()  # of the main loop
        self._clock = clock
        self._lock = (
            threading.Lock()
        )  # between the main loop, which may end the belief, and the thread, which prolongs it
        self._over = False
        self._kept = False  # whether the thread has taken it
        self._released = False
        self._release: Callable[[], None] | None = None

    @property
    def believed(self) -> bool:
        """Whether the job may be worked on now."""
        return self._clock.monotonic() < self.believed_until

    def _prolong(self, until: float) -> bool:
        """Believe until then, unless the belief is over: it never comes back, because somebody may have acted on its
        end.
        """
        with self._lock:
            self._over = self._over or self._clock.monotonic() >= self.believed_until
            if not self._over:
                self.believed_until = until
            return not self._over

    def _give_up(self) -> None:
        with self._lock:
            self._over = True
            self.believed_until = min(self.believed_until, self._clock.monotonic())

    def release(self) -> None:
        """No more heartbeats: acked, handed back, or given up. May be called again."""
        if self._release is not None:
            self._release()
