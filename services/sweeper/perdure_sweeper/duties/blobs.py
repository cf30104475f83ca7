"""Collects blobs that nothing names any more: no log, no archived log, no flow.

    list what is there ─ read what is named ─ look at each that is not: newest chunk older than a day? ─ purge up to it

A blob is put before the event that names it. Whoever puts one that is younger than 12 hours leaves it, an older one is
written again: so what is a day old and unnamed has no writer in between, and a copy that is written while we look lies
behind the newest chunk that we saw, which a purge does not touch. Any number of sweepers may collect at once.
"""

from datetime import timedelta
from typing import Final

from perdure import log as logs
from perdure.bus import inventory
from perdure.bus.connection import Bus
from perdure.bus.inventory import Name
from perdure.bus.purge import purge_blob
from perdure.clock import Clock
from perdure.core.instant import moment
from perdure.db import blobs, duties
from perdure.db.engine import Database

DUTY: Final = "blobs"
DAY_SECONDS: Final = 86_400.0
OLD: Final = timedelta(days=1)

log = logs.get(__name__)


class UnnamedBlobs:
    """The duty; `run_once` collects when a day has gone by since any sweeper last began to."""

    def __init__(self, database: Database, bus: Bus, clock: Clock, shards: int) -> None:
        self._database, self._bus, self._clock, self._shards = database, bus, clock, shards

    async def run_once(self) -> int:
        """How many blobs were collected. Raises Unavailable."""
        began = self._clock.broker_now()
        async with self._database.transaction() as conn:
            if not await duties.begin(conn, DUTY, began, DAY_SECONDS):
                return 0
        collected = await self.collect()
        async with self._database.transaction() as conn:
            await duties.end(conn, DUTY, began, self._clock.broker_now())
        return collected

    async def collect(self) -> int:
        """Collect now; how many. Raises Unavailable."""
        there = await inventory.blobs(self._bus)
        unnamed = set(there) - await self.named()
        collected = 0
        for name in sorted(unnamed):
            collected += await self._collect(name, there[name])
        if collected:
            log.info("blobs collected", collected=collected, left=len(there) - collected)
        return collected

    async def named(self) -> set[Name]:
        """Every blob that something names. Raises Unavailable."""
        async with self._database.read() as conn:
            found = await blobs.references(conn, guessed=True)
        for shard in range(self._shards):
            async for some in inventory.named(self._bus, shard):
                found.update(some)
        return found

    async def _collect(self, name: Name, highest: int) -> bool:
        newest = await inventory.newest(self._bus, name, highest)
        if newest is None or moment(self._clock.broker_now()) - newest.stored_at < OLD:
            return False
        await purge_blob(self._bus, *name, newest.at)
        return True
