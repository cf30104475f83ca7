"""What a gateway remembers of SQL, so that known keys and flows go on while SQL is away.

An entry is taken as it is for FRESH_SECONDS, then read again. While SQL cannot be reached it stays good for the outage
time, counted from its last reading; what is not in memory is Unavailable.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, TypeVar

from perdure.clock import Clock
from perdure.errors import Unavailable

FRESH_SECONDS: Final = 60.0
MOST_ENTRIES: Final = 10_000

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Memory(Generic[K, V]):
    """Values by key. `outage_seconds`: how long one is good without SQL; `away`: whether SQL is known to be away."""

    def __init__(self, clock: Clock, outage_seconds: float, away: Callable[[], bool]) -> None:
        self._clock = clock
        self._outage_seconds = outage_seconds
        self._away = away
        self._entries: OrderedDict[K, tuple[V, float]] = OrderedDict()
        self._reading: dict[K, asyncio.Future[V | None]] = {}

    async def get(self, key: K, read: Callable[[], Awaitable[V | None]]) -> V | None:
        """The value of `key`, from memory or by `read`; None when there is none. Raises Unavailable.

        What is not there is not remembered: it may appear at any moment.
        """
        now = self._clock.monotonic()
        held = self._entries.get(key)
        if held is not None and now - held[1] < FRESH_SECONDS:
            return held[0]
        good = held is not None and now - held[1] < self._outage_seconds
        if self._away():
            if held is not None and good:
                return held[0]
            raise Unavailable("the database did not answer a moment ago")
        try:
            return await self._read(key, read)
        except Unavailable:
            if held is not None and good:
                return held[0]
            raise

    async def _read(self, key: K, read: Callable[[], Awaitable[V | None]]) -> V | None:
        """One reading of a key at a time, for all who ask meanwhile: a thousand streams may come back at once."""
        reading = self._reading.get(key)
        if reading is None:
            reading = self._reading[key] = asyncio.ensure_future(self._once(key, read))
            reading.add_done_callback(lambda done: done.cancelled() or done.exception())  # heard, whoever still waits
        return await asyncio.shield(reading)

    async def _once(self, key: K, read: Callable[[], Awaitable[V | None]]) -> V | None:
        began_at, me = self._clock.monotonic(), asyncio.current_task()
        try:
            value = await read()
            if self._reading.get(key) is me:  # else it was forgotten meanwhile: what was read may be what was revoked
                self._keep(key, value, began_at)
            return value
        finally:
            if self._reading.get(key) is me:
                del self._reading[key]

    def _keep(self, key: K, value: V | None, read_at: float) -> None:
        self._entries.pop(key, None)
        if value is None:
            return
        self._entries[key] = (value, read_at)
        while len(self._entries) > MOST_ENTRIES:
            self._entries.popitem(last=False)

    def forget(self, key: K) -> None:
        """Read `key` anew the next time; a reading that is under way is not kept."""
        self._entries.pop(key, None)
        self._reading.pop(key, None)
