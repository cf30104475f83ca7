"""Time that stands still until a test moves it, and luck that a test decides."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from itertools import chain, repeat

from perdure.core.instant import Instant, instant, later, moment

BEGIN = Instant("2026-01-01T00:00:00.000Z")


class FakeClock:
    """A Clock. `advance` moves it; whoever sleeps until then wakes."""

    def __init__(self, begin: Instant = BEGIN) -> None:
        self._begin = moment(begin)
        self._now = self._begin
        self._moved: list[Callable[[], None]] = []

    def now(self) -> datetime:
        return self._now

    def broker_now(self) -> Instant:
        return instant(self._now)

    @property
    def broker_known(self) -> bool:
        return True

    def monotonic(self) -> float:
        return (self._now - self._begin).total_seconds()

    async def sleep(self, seconds: float) -> None:
        until = self._now + timedelta(seconds=seconds)
        while self._now < until:
            moved = asyncio.get_running_loop().create_future()
            self.on_move(lambda moved=moved: moved.done() or moved.set_result(None))  # type: ignore[misc]  # a default binds it
            await moved

    def on_move(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, when the clock moves next."""
        self._moved.append(callback)

    def advance(self, seconds: float) -> None:
        """Move on by `seconds`."""
        self.move_to(later(self.broker_now(), seconds))

    def move_to(self, at: Instant) -> None:
        """Move on to `at`; never back."""
        self._now = max(self._now, moment(at))
        callbacks, self._moved = self._moved, []
        for callback in callbacks:
            callback()


class FixedChance:
    """A Chance that gives the numbers it was made with, the last one for ever."""

    def __init__(self, numbers: Iterable[float] = (0.5,)) -> None:
        given = list(numbers)
        self._numbers: Iterator[float] = chain(given, repeat(given[-1]))

    def random(self) -> float:
        return next(self._numbers)
