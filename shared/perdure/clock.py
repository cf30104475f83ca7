"""Time and chance: the only module that reads a clock, sleeps or draws a number. Both are arguments everywhere else."""

import asyncio
import random
import time
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from perdure.core.instant import Instant, instant

GOOD_SECONDS: Final = 600.0  # how long the broker's word about its time is believed
_BOOT: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock(Protocol):
    """What a service asks about time."""

    def now(self) -> datetime:
        """This machine's wall clock, aware: for log lines only, never to decide what is due."""

    def broker_now(self) -> Instant:
        """The broker's clock: the one that decides what is due."""

    @property
    def broker_known(self) -> bool:
        """Whether the broker has told its time lately. While it has not, nothing may be declared over by its clock."""

    def monotonic(self) -> float:
        """Seconds that only rise: durations and the belief in a lease."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""


class Chance(Protocol):
    """What a service asks about luck."""

    def random(self) -> float:
        """A number in [0, 1)."""


class SystemClock:
    """The machine's clocks, and the broker's as it was last told (`bus.connection`), carried on by one that no setting
    of the wall clock moves: else an hour's step here would let requests expire until the next measurement.
    """

    def __init__(self) -> None:
        self._told: tuple[datetime, float] | None = None

    def now(self) -> datetime:
        return datetime.now(UTC)

    def broker_now(self) -> Instant:
        return instant(self._broker())

    @property
    def broker_known(self) -> bool:
        return self._told is not None and self.elapsed() - self._told[1] < GOOD_SECONDS

    @property
    def offset(self) -> timedelta:
        """Broker minus machine; 0 while the broker's time is not known."""
        return timedelta(0) if self._told is None else self._broker() - self.now()

    def tell(self, broker: datetime, at: float) -> None:
        """The broker's clock said `broker` (aware) at the instant `at` of `elapsed`."""
        self._told = broker, at

    def elapsed(self) -> float:
        """Seconds that only rise and go on while the machine sleeps, which `monotonic` does not everywhere."""
        return time.clock_gettime(_BOOT)

    def _broker(self) -> datetime:
        if self._told is None:
            return self.now()
        broker, at = self._told
        return broker + timedelta(seconds=self.elapsed() - at)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class SystemChance:
    """Unseeded pseudo-random numbers: jitter only, nothing secret and nothing that an author sees."""

    def random(self) -> float:
        return random.random()
