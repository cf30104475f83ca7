"""How full the logs are: new jobs are refused early, so that those which run can go on to their ends."""

from typing import Final

from perdure.bus.eventlog import EventLog
from perdure.clock import Clock
from perdure.errors import Unavailable
from perdure.ids import JobId
from perdure_gateway.problems import Problem

REFUSE_RATIO: Final = 0.8
FRESH_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 30


class Fullness:
    """What the streams of the logs hold of what they may hold, looked at again after FRESH_SECONDS."""

    def __init__(self, eventlog: EventLog, clock: Clock) -> None:
        self._eventlog, self._clock = eventlog, clock
        self._known: dict[int, tuple[float, float]] = {}

    async def full(self, job: JobId) -> bool:
        """Whether the log of a new job would lie in a stream that is nearly full; not when the broker is away."""
        shard, now = self._eventlog.shard_of(job), self._clock.monotonic()
        ratio, at = self._known.get(shard, (0.0, -FRESH_SECONDS))
        if now - at >= FRESH_SECONDS:
            try:
                ratio = (await self._eventlog.shards.info(shard)).fill_ratio
            except Unavailable:
                return False  # whoever appends will be told
            self._known[shard] = (ratio, now)
        return ratio >= REFUSE_RATIO


def refused() -> Problem:
    """What a submit is told."""
    headers = {"Retry-After": str(RETRY_SECONDS)}
    return Problem("unavailable", "the logs are nearly full: running jobs come first", headers=headers)
