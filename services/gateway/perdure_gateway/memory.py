"""What a gateway remembers of SQL, so that known keys and flows go on while SQL is away.

An entry is taken as it is for FRESH_SECONDS, then read again. While SQL cannot be reached it stays good for the outage
time, counted from its last reading; what is not in memory is Unavailable.
"""

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
            value = await read()
        except Unavailable:
            if held is not None and good:
                return held[0]
            raise
        if value is None:
            self.forget(key)
            return None
        self._entries[key] = (value, now)
        self._entries.move_to_end(key)
        while len(self._entries) > MOST_ENTRIES:
            self._entries.popitem(last=False)
        return value

    def forget(self, key: K) -> None:
        """Read `key` anew the next time."""
        self._entries.pop(key, None)
