"""Logs to rows, one shard: a batch of events and the position behind it in one transaction, so none is lost or skipped.

    scan after `applied` ─ fold ─ [ lock the position: still the same? ─ rows, each guarded by its seq ─ position ]
    ─ commit ─ announce: `inbox.<tenant>.request`, AUDIT, parents, orphans ─ [ `announced` ]

Any number of projectors may work on a shard: who finds the position moved drops its batch and reads on from there. A
crash before the commit repeats the batch, one after it repeats what is announced (receivers drop by id). A stream that
is another one than the position says (made anew, or a restored backup) is projected again from 0 in the next *epoch*:
rows of an older epoch give way whatever their seq, for the log is the truth even when it has become shorter.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure import log as logs
from perdure import probe
from perdure.bus import subject as names
from perdure.bus.connection import Bus
from perdure.bus.entry import Stored
from perdure.bus.shards import Extent
from perdure.db import due, jobs, positions, requestrows
from perdure.db.engine import Database
from perdure.db.family import open_children
from perdure.db.positions import Position
from perdure.db.requestrows import Asking
from perdure.errors import Unavailable
from perdure.ids import JobRef, StreamSeq
from perdure.jobs.desk import Desk
from perdure_sweeper.announce import Announcement, announce, announcement, parents_ended
from perdure_sweeper.folds import Entry, Folded, Folds, Stuck

BATCH: Final = 500

log = logs.get(__name__)


class Projector:
    """The projection of one shard."""

    def __init__(self, database: Database, desk: Desk, bus: Bus, shard: int, shards: int) -> None:
        self.shard = shard
        self.healthy = False  # whether the last step went through
        self._database = database
        self._desk = desk
        self._eventlog = desk.eventlog
        self._bus = bus
        self._shards = shards
        self._folds = Folds(desk.eventlog)
        self._position: Position | None = None  # None: look, and check the stream, first
        self._at_end = False  # whether the last look found nothing
        self._read_to: Extent | None = None  # how the stream was when nothing was left to project
        self._behind: StreamSeq | None = None  # where `announced` was found behind `applied`, waiting for who tells

    def recheck(self) -> None:
        """The broker was away: before the next step see whether the stream is still the same."""
        self._position = self._read_to = None

    async def step(self) -> int:
        """Project one batch; how many entries it held, 0 at the end of the stream. Raises Unavailable: do it again."""
        try:
            done = await self._step()
        except Unavailable:
            self.healthy = False
            self._position = None  # the commit may have happened
            raise
        self.healthy = True
        return done

    async def _step(self) -> int:
        if self._position is None:
            self._position = await self._check()
        position = self._position
        batch = await self._unread(position)
        probe.hit("project.after_read")
        self._at_end = not batch
        if not batch:
            if position.announced < position.applied:
                await self._catch_up()
            return 0
        folded = await self._folds.fold(batch)
        self._position, announced = await self._commit(position, batch, folded)
        if announced is not None and self._position is not None:
            probe.hit("project.after_commit")
            self._folds.keep(folded)
            await self._tell(position.applied, self._position, announced)
        return len(batch)

    async def _unread(self, position: Position) -> Sequence[Entry]:
        """The next batch. At the end of the stream the leader is asked first whether there is more: reads, even of
        nothing, keep megabytes of a shard's last block in the broker's memory while one comes every few seconds.
        """
        extent = await self._eventlog.shards.extent(self.shard) if self._at_end else None
        if extent is not None and self._read_to is not None and extent.grew_by_canaries(self._read_to):
            return ()
        found = await self._eventlog.shards.scan(self.shard, position.applied, BATCH)
        told_all = extent is not None and not found.entries and found.upto >= extent.last  # else a replica is behind
        self._read_to = extent if told_all else None
        return found.entries

    async def _commit(
        self, read_at: Position, batch: Sequence[Entry], folded: Mapping[JobRef, Folded | Stuck]
    ) -> tuple[Position | None, Announcement | None]:
        """Write the rows and move the position; what is to be announced then. Where another sweeper was quicker
        nothing is written (None), and the position is as that one left it, None when the shard is projected anew
        meanwhile.
        """
        last = batch[-1]
        async with self._database.transaction() as conn:
            position = await positions.get(conn, self.shard, lock=True)
            if position is None or position.epoch != read_at.epoch:
                return None, None
            if position.applied != read_at.applied:
                return position, None
            await write_rows(conn, folded, position.epoch)
            # A child whose row is not there yet comes later, and reads then that its parent has ended.
            what = announcement(folded, await open_children(conn, parents_ended(folded)))
            nothing_to_tell = position.announced >= position.applied and what.empty
            position = replace(
                position,
                applied=last.at,
                event_id=last.event.id if isinstance(last, Stored) else None,
                announced=last.at if nothing_to_tell else position.announced,
            )
            await positions.put(conn, position)
            probe.hit("project.before_commit")
        return position, what

    async def _tell(self, after: StreamSeq, moved: Position, what: Announcement) -> None:
        """Announce the batch that was committed behind `after`, then that it was announced."""
        if what.empty:
            return
        await announce(self._bus, self._desk, what)
        probe.hit("project.after_announce")
        if moved.announced < after:  # somebody else has not told what came before: whoever catches up tells both
            return
        async with self._database.transaction() as conn:
            await positions.announce(conn, self.shard, moved.epoch, moved.applied)
        self._position = replace(moved, announced=moved.applied)

    async def _catch_up(self) -> None:
        """Announce what was projected and perhaps not announced, by a sweeper that died or lost the broker in between.

        At the first look it waits for the next one: the sweeper that committed may be telling it just now.
        """
        async with self._database.read() as conn:
            position = await positions.get(conn, self.shard)
        self._position = position
        if position is None or position.announced >= position.applied or position.announced != self._behind:
            self._behind = None if position is None else position.announced
            return
        found = await self._eventlog.shards.scan(self.shard, position.announced, BATCH)
        batch = [entry for entry in found.entries if entry.at <= position.applied]
        folded = await Folds(self._eventlog).fold(batch)
        async with self._database.read() as conn:
            what = announcement(folded, await open_children(conn, parents_ended(folded)))
        await announce(self._bus, self._desk, what)
        upto = batch[-1].at if batch else position.applied
        async with self._database.transaction() as conn:
            await positions.announce(conn, self.shard, position.epoch, upto)
        self._position, self._behind = replace(position, announced=upto), upto

    async def _check(self) -> Position:
        """The position of the shard, set back to 0 in the next epoch when the stream is another one than it says."""
        info = await self._eventlog.shards.info(self.shard)
        async with self._database.transaction() as conn:
            position = await positions.ensure(conn, self.shard, info.created_at)
        if position.stream_created_at != info.created_at:
            position = await self._start_again(position, info.created_at, StreamSeq(0))
        elif position.applied > info.last or await self._is_another(position):
            position = await self._start_again(position, info.created_at, min(position.announced, info.last))
        self._folds.clear()
        await self._retry_unsupported(position.epoch)
        return position

    async def _is_another(self, position: Position) -> bool:
        """Whether another event lies at `applied` than the one that was projected. A purged one is no sign of it."""
        if position.event_id is None:
            return False
        return await self._eventlog.shards.same(self.shard, position.applied, position.event_id) is False

    async def _start_again(self, old: Position, created_at: str, announced: StreamSeq) -> Position:
        async with self._database.transaction() as conn:
            found = await positions.get(conn, self.shard, lock=True)
            if found is not None and found != old:  # another sweeper has seen it too, or has gone on
                return found
            log.error("stream replaced, projecting it again", shard=self.shard, epoch=old.epoch + 1)
            position = Position(
                shard=self.shard,
                epoch=old.epoch + 1,
                applied=StreamSeq(0),
                event_id=None,
                stream_created_at=created_at,
                announced=announced,
            )
            await requestrows.forget_pending(conn, self.shard, self._shards)
            await positions.put(conn, position)
        return position

    async def _retry_unsupported(self, epoch: int) -> None:
        """Fold again what an older version could not: this one may."""
        async with self._database.read() as conn:
            refs = [ref for ref in await due.unsupported(conn) if names.shard_of(ref.job, self._shards) == self.shard]
        for ref in refs:
            if (folded := await self._folds.again(ref)) is not None:
                async with self._database.transaction() as conn:
                    await write_rows(conn, {ref: folded}, epoch)


async def write_rows(conn: AsyncConnection, folded: Mapping[JobRef, Folded | Stuck], epoch: int) -> None:
    """Write the rows of a batch, each unless it is further already."""
    told = {ref: job for ref, job in folded.items() if isinstance(job, Folded)}
    written = await jobs.upsert_all(conn, [(ref, job.state, job.at) for ref, job in told.items()], epoch=epoch)
    asking = [
        Asking(ref, job.state.submitted.flow, job.state.submitted.tags, job.changes)
        for ref, job in told.items()
        if ref in written and job.changes and job.state.submitted is not None
    ]
    await requestrows.write(conn, asking)
    for ref, stuck in folded.items():
        if isinstance(stuck, Stuck) and await jobs.quarantine(
            conn, ref, stuck.why, stuck.noticed_at, stuck.at, epoch=epoch
        ):
            log.error("log quarantined", tenant=ref.tenant, job_id=ref.job, why=stuck.why, detail=stuck.detail)
