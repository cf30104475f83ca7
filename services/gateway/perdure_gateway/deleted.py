"""Deleted jobs: from the DELETE on nobody sees them, although the log is there until the sweeper has purged it.

SQL owns the fact (`jobs.deleted_at`). A gateway keeps the ids in memory: what it deleted itself and what others tell it
(`revoke`) at once, the rest within FRESH_SECONDS; while SQL is away it goes by what it knows.
"""

import asyncio
from typing import Final

import structlog

from perdure.bus.entry import Stored
from perdure.bus.eventlog import EventLog
from perdure.bus.stream import BATCH_BYTES
from perdure.clock import Clock
from perdure.core.instant import Instant, later
from perdure.db.deletion import deleted_since
from perdure.errors import Unavailable
from perdure.ids import JobRef, StreamSeq
from perdure_gateway.archived import ArchivedLogs
from perdure_gateway.sql import Sql

FRESH_SECONDS: Final = 60.0
OVERLAP_SECONDS: Final = 60.0  # what clocks of gateways may differ by, and a transaction take
BEGIN: Final = Instant("0001-01-01T00:00:00.000Z")

log = structlog.get_logger(__name__)


class DeletedJobs:
    """The ids of deleted jobs."""

    def __init__(self, sql: Sql, clock: Clock) -> None:
        self._sql, self._clock = sql, clock
        self._refs: set[JobRef] = set()
        self._since = BEGIN
        self._read_at: float | None = None
        self._reading = asyncio.Lock()

    def note(self, ref: JobRef) -> None:
        """It was deleted just now."""
        self._refs.add(ref)

    async def has(self, ref: JobRef) -> bool:
        """Whether the job was deleted, as far as is known."""
        if ref not in self._refs and self._stale() and not self._sql.away:
            async with self._reading:
                if self._stale():
                    await self._read()
        return ref in self._refs

    def _stale(self) -> bool:
        return self._read_at is None or self._clock.monotonic() - self._read_at > FRESH_SECONDS

    async def _read(self) -> None:
        now = self._clock.broker_now()
        try:
            async with self._sql.reading() as conn:
                self._refs.update(await deleted_since(conn, self._since))
        except Unavailable as exc:
            log.warning("deleted jobs not read", error=str(exc))
        else:
            self._since = later(now, -OVERLAP_SECONDS)
        self._read_at = self._clock.monotonic()


class ShownLogs(ArchivedLogs):
    """Every log but those of deleted jobs, which read as empty. What is appended to is not hidden."""

    def __init__(self, inner: EventLog, sql: Sql, deleted: DeletedJobs) -> None:
        super().__init__(inner, sql)
        self._deleted = deleted

    async def read(self, ref: JobRef) -> list[Stored]:
        """The whole log. See EventLog."""
        return [] if await self._deleted.has(ref) else await super().read(ref)

    async def replay(self, ref: JobRef, after_seq: int = 0) -> list[Stored]:
        """The events after `after_seq`. See EventLog."""
        return [] if await self._deleted.has(ref) else await super().replay(ref, after_seq)

    async def page(
        self, ref: JobRef, after_seq: int, most: int, *, at: StreamSeq | None = None, most_bytes: int = BATCH_BYTES
    ) -> list[Stored]:
        """The first events after `after_seq`. See EventLog."""
        if await self._deleted.has(ref):
            return []
        return await super().page(ref, after_seq, most, at=at, most_bytes=most_bytes)

    async def tail(self, ref: JobRef) -> Stored | None:
        """The last event. See EventLog."""
        return None if await self._deleted.has(ref) else await super().tail(ref)
