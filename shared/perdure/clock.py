"""Time and chance: the only module that reads a clock, sleeps or draws a number. Both are arguments everywhere else."""

import asyncio
import random
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

from perdure.core.instant import Instant, instant


class Clock(Protocol):
    """What a service asks about time."""

    def now(self) -> datetime:
        """This machine's wall clock, aware: for log lines only, never to decide what is due."""

    def broker_now(self) -> Instant:
        """The broker's clock: the one that decides what is due (own clock + measured offset)."""

    def monotonic(self) -> float:
        """Seconds that only rise: durations and the belief in a lease."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""


class Chance(Protocol):
    """What a service asks about luck."""

    def random(self) -> float:
        """A number in [0, 1)."""


class SystemClock:
    """The machine's clocks. `offset` is broker minus machine, set by whoever measures it (`bus.connection`)."""

    def __init__(self) -> None:
        self.offset = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC)

    def broker_now(self) -> Instant:
        return instant(datetime.now(UTC) + self.offset)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class SystemChance:
    """Unseeded pseudo-random numbers: jitter only, nothing secret and nothing that an author sees."""

    def random(self) -> float:
        return random.random()
