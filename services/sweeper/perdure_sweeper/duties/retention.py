"""What becomes of logs after their end: archived in SQL, then purged from the broker, at last forgotten.

    log_days after the end      archive row ─ commit ─ purge: all but the terminal event, the tombstone, stays where the
                                id could be asked for again (a key, a parent's call); a random id is purged whole
    deleted by somebody         purged whole at once; the row keeps that it was, and the key's fingerprint
    archive_days after the end  tombstone, archive row and row go together

Purged is only what has ended, is projected, announced, archived and old; by the exact subject, and up to the terminal
event that was read. Each step may be repeated, by any number of sweepers at once.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from msgspec import Struct

from perdure import log as logs
from perdure import probe
from perdure.bus import subject as names
from perdure.bus.connection import Bus
from perdure.bus.purge import purge_log
from perdure.core.instant import Instant, later
from perdure.core.retention import Kept, before, keeps_tombstone, kept
from perdure.db import archive, positions
from perdure.db.archive import Ended
from perdure.db.engine import Database
from perdure.db.page import PageKey
from perdure.errors import BrokenLog, Malformed, UnsupportedVersion
from perdure.jobs.desk import Desk

ROWS: Final = 200  # a query
AT_ONCE: Final = 4  # logs in memory

log = logs.get(__name__)

Find = Callable[[PageKey | None], Awaitable[list[Ended]]]


class Keep(Struct, frozen=True):
    """How long: logs, and then what is left of them, in days after the end."""

    log_days: float = 7.0
    archive_days: float = 90.0


class Retention:
    """The duty; `run_once` looks at every candidate once."""

    def __init__(self, database: Database, desk: Desk, bus: Bus, shards: int, keep: Keep) -> None:
        self._database, self._desk, self._bus, self._shards, self._keep = database, desk, bus, shards, keep
        self._announced: dict[int, positions.Position] = {}

    async def run_once(self) -> int:
        """How many logs were purged or forgotten. Raises Unavailable."""
        now = self._desk.clock.broker_now()
        async with self._database.read() as conn:
            found = [await positions.get(conn, shard) for shard in range(self._shards)]
        self._announced = {position.shard: position for position in found if position is not None}
        old, oldest = before(now, self._keep.log_days), before(now, max(self._keep.archive_days, self._keep.log_days))

        async def deleted(after: PageKey | None) -> list[Ended]:
            async with self._database.read() as conn:
                return await archive.deleted(conn, limit=ROWS, after=after)

        async def ended(after: PageKey | None) -> list[Ended]:
            async with self._database.read() as conn:
                return await archive.kept(conn, old, limit=ROWS, after=after)

        async def purged(after: PageKey | None) -> list[Ended]:
            async with self._database.read() as conn:
                return await archive.purged(conn, oldest, limit=ROWS, after=after)

        done = await self._each(deleted, self._delete)
        done += await self._each(ended, self._retire)
        return done + await self._each(purged, self._forget)

    async def _each(self, find: Find, do: Callable[[Ended], Awaitable[bool]]) -> int:
        gate, done = asyncio.Semaphore(AT_ONCE), 0
        after: PageKey | None = None

        async def one(job: Ended) -> bool:
            async with gate:
                return await do(job)

        while True:
            rows = await find(after)
            probe.hit("retention.after_scan")
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(one(job)) for job in rows if self._is_announced(job)]
            except BaseExceptionGroup as errors:  # what is away for one is away for the others
                raise errors.exceptions[0] from errors
            done += sum(task.result() for task in tasks)
            if len(rows) < ROWS:
                return done
            after = (rows[-1].ended_at, rows[-1].job_id)

    def _is_announced(self, job: Ended) -> bool:
        """Whether all that its end calls for is done: a parent may need the log until then."""
        if job.purged_at is not None:
            return True
        position = self._announced.get(names.shard_of(job.job_id, self._shards))
        return position is not None and position.epoch == job.epoch and job.stream_seq <= position.announced

    async def _retire(self, job: Ended) -> bool:
        """Archive an old log, then purge it."""
        try:
            found = await self._desk.eventlog.read(job.ref)
        except (BrokenLog, Malformed, UnsupportedVersion) as exc:
            log.warning("log not archived", tenant=job.tenant, job_id=job.job_id, why=type(exc).__name__)
            return False
        stage, now = kept([stored.event for stored in found], job.seq), self._desk.clock.broker_now()
        async with self._database.read() as conn:
            archived = await archive.holds(conn, job.ref)
        if stage is Kept.OTHER or (stage is Kept.GONE and not archived):
            log.warning("log not archived", tenant=job.tenant, job_id=job.job_id, why=stage)
            return False
        if (
            not archived
        ):  # a tombstone without an archive row: an older database was restored; it says how the job ended
            packed = await asyncio.to_thread(archive.pack, [stored.body for stored in found])
            refs = {ref for stored in found for ref in stored.event.refs}
            async with self._database.transaction() as conn:
                await archive.put(conn, job, packed, refs, now)
        probe.hit("retention.after_archive")
        if stage is not Kept.GONE:
            upto = found[-1].at
            probe.hit("retention.before_purge")
            await purge_log(self._bus, self._shards, job.ref, upto, tombstone=keeps_tombstone(job.job_id))
        async with self._database.transaction() as conn:
            await archive.mark_purged(conn, job, now)
        return True

    async def _delete(self, job: Ended) -> bool:
        """Purge the log of a deleted job, and take its users' words out of the rows."""
        probe.hit("retention.before_purge")
        await purge_log(self._bus, self._shards, job.ref, job.stream_seq, tombstone=False)
        async with self._database.transaction() as conn:
            await archive.put(conn, job, None, (), self._desk.clock.broker_now())
            await archive.empty(conn, job.ref)
            await archive.mark_purged(conn, job, self._after(job))
        log.info("deleted job purged", tenant=job.tenant, job_id=job.job_id)
        return True

    def _after(self, job: Ended) -> Instant:
        """Now, and surely later than the deletion, by whichever clock that was."""
        now = self._desk.clock.broker_now()
        return now if job.deleted_at is None else max(now, later(job.deleted_at, 0.001))

    async def _forget(self, job: Ended) -> bool:
        """The end of the id's last trace. In one transaction: a projector that meets the id again waits for it, or its
        new row would be held back by this one's higher `seq`.
        """
        async with self._database.transaction() as conn:
            await archive.forget(conn, job.ref)
            await purge_log(self._bus, self._shards, job.ref, job.stream_seq, tombstone=False)
        return True
