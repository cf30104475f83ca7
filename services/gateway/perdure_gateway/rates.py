"""Rates: how many requests a key may send, and how often an address may come with a key that is none.

Token buckets, in each gateway: what a key may send in a minute at most it may send at once, then it is refilled
steadily.
"""

from collections import OrderedDict
from math import ceil
from typing import Final

from aiohttp import web

from perdure.clock import Clock
from perdure_gateway.problems import Problem

WINDOW_SECONDS: Final = 60.0
PER_MINUTE: Final = 120_000  # a client of its own may well keep a gateway busy
REFUSALS_PER_MINUTE: Final = 300
MOST_BUCKETS: Final = 10_000
RATE: Final = web.RequestKey("rate", str)


class Buckets:
    """A bucket for each name; the one that was not used for longest goes when there are too many."""

    def __init__(self, clock: Clock, per_minute: int) -> None:
        self.size = per_minute
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens left, and when that was so

    def left(self, name: str) -> float:
        """How much it may still do now."""
        now = self._clock.monotonic()
        tokens, at = self._buckets.get(name, (float(self.size), now))
        return min(float(self.size), tokens + (now - at) * self.size / WINDOW_SECONDS)

    def take(self, name: str) -> float:
        """Take one; how much is left, below 0 when there was none."""
        left = self.left(name) - 1
        self._buckets[name] = (max(left, 0.0) if left < 0 else left, self._clock.monotonic())
        self._buckets.move_to_end(name)
        while len(self._buckets) > MOST_BUCKETS:
            self._buckets.popitem(last=False)
        return left

    def wait_seconds(self, left: float) -> int:
        """How long until there is one again."""
        return max(1, ceil((1 - left) * WINDOW_SECONDS / self.size))


class Rates:
    """The rates of one gateway. `per_minute`: requests of a key."""

    def __init__(self, clock: Clock, per_minute: int = PER_MINUTE) -> None:
        self._keys = Buckets(clock, per_minute)
        self._refused = Buckets(clock, REFUSALS_PER_MINUTE)

    @property
    def policy(self) -> str:
        """`RateLimit-Policy`."""
        return f'"default";q={self._keys.size};w={WINDOW_SECONDS:g}'

    def count(self, request: web.Request, key_id: str) -> None:
        """One request of a key; the answer will say what is left. Raises Problem (`rate-limited`)."""
        left = self._keys.take(key_id)
        full = ceil((self._keys.size - max(left, 0.0)) * WINDOW_SECONDS / self._keys.size)
        request[RATE] = f'"default";r={max(0, int(left))};t={full}'
        if left < 0:
            retry = {"Retry-After": str(self._keys.wait_seconds(left))}
            raise Problem("rate-limited", f"a key may send {self._keys.size} requests a minute", headers=retry)

    def admit(self, request: web.Request) -> None:
        """Before a key is looked at. Raises Problem (`rate-limited`) for an address of too many bad ones."""
        left = self._refused.left(request.remote or "")
        if left < 1:
            retry = {"Retry-After": str(self._refused.wait_seconds(left))}
            raise Problem("rate-limited", "too many calls without a valid key", headers=retry)

    def refused(self, request: web.Request) -> None:
        """The key was none."""
        self._refused.take(request.remote or "")
