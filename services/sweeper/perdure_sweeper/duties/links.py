"""Forgets answer links some time after they have expired. Until then whoever comes with one is told what became of it
(410: used, revoked, expired); after that it is a link that nobody knows (404).

A link that was used or revoked stays as long: its token is good until it expires, and only its row says no.
"""

from collections.abc import Callable
from typing import Final

from perdure import log as logs
from perdure.clock import Clock
from perdure.core.retention import before
from perdure.db.engine import Database
from perdure.db.links import forget_links

KEEP_DAYS: Final = 30.0
ROWS: Final = 500  # a transaction

log = logs.get(__name__)


class OldLinks:
    """The duty; `run_once` forgets all that are old. `clock_known` says whether the broker's time is known."""

    def __init__(self, database: Database, clock: Clock, clock_known: Callable[[], bool]) -> None:
        self._database = database
        self._clock = clock
        self._clock_known = clock_known

    async def run_once(self) -> int:
        """How many. Raises Unavailable."""
        if not self._clock_known():
            return 0
        done, old = 0, before(self._clock.broker_now(), KEEP_DAYS)
        while True:
            async with self._database.transaction() as conn:
                some = await forget_links(conn, old, limit=ROWS)
            done += some
            if some < ROWS:
                if done:
                    log.info("links forgotten", rows=done)
                return done
