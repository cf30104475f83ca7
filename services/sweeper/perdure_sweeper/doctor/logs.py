"""Logs against the judge, against their rows, against doorbells and alarms.

A live system is always a little ahead of its rows and doorbells. So whatever looks wrong and could be on its way is
looked at again after SETTLE_SECONDS, and only what is wrong then, and was so about the same event, is a finding.
"""

from typing import Final

from msgspec import Struct

from perdure.bus import subject as names
from perdure.bus.connection import Bus
from perdure.bus.entry import Stored
from perdure.bus.eventlog import EventLog
from perdure.bus.wanted import is_armed
from perdure.core import event as ev
from perdure.core import verify
from perdure.core.alarm import alarms, asleep, decides_at
from perdure.core.claim import ready_at, runnable
from perdure.core.instant import Instant, later
from perdure.core.machine import JobState, fold
from perdure.db import examine, jobs, positions
from perdure.db.engine import Database
from perdure.db.examine import Known
from perdure.errors import BrokenLog, Malformed, UnsupportedVersion
from perdure.ids import JobRef, StreamSeq
from perdure.jobs.alarms import arm
from perdure.jobs.desk import Desk
from perdure.jobs.joblog import JobLog
from perdure_sweeper.doctor.asked import wrong_requests
from perdure_sweeper.doctor.report import Pace, Report
from perdure_sweeper.duties.look import ring_if_runnable
from perdure_sweeper.folds import Folds
from perdure_sweeper.projector import write_rows

SETTLE_SECONDS: Final = 6.0  # two rounds of a sweeper and what an append takes
SOON_SECONDS: Final = 5.0  # an alarm so near may ring, or be taken, while we look


class Suspect(Struct, frozen=True):
    """A job that looked wrong at the event `seq`, and is looked at again."""

    ref: JobRef
    seq: int


class WrongRow(Struct, frozen=True):
    """A row that is not what its log says: how, and at which event it stands."""

    text: str
    seq: int


class Logs:
    """Examines the logs of all shards, or one job's. `repair`: rows are made anew, doorbells rung, alarms armed."""

    def __init__(
        self, report: Report, database: Database, desk: Desk, bus: Bus, shards: int, pace: Pace, *, repair: bool
    ) -> None:
        self._report, self._database, self._desk, self._bus = report, database, desk, bus
        self._shards, self._pace, self._repair = shards, pace, repair
        self._eventlog: EventLog = desk.eventlog
        self._suspects: list[Suspect] = []
        self.seen: set[JobRef] = set()

    async def shard(self, shard: int, since: Instant | None) -> None:
        """Every log of a shard; with `since` those that an event was appended to since then. Raises Unavailable."""
        after = StreamSeq(0)
        while batch := (await self._eventlog.shards.scan(shard, after)).entries:
            after = batch[-1].at
            await self._pace.spend()
            self._report.count("events", len(batch))
            for entry in batch:
                at = entry.event.at if isinstance(entry, Stored) else entry.stored_at
                if entry.ref not in self.seen and (since is None or at >= since):
                    self.seen.add(entry.ref)
                    await self.job(entry.ref)

    async def job(self, ref: JobRef) -> None:
        """One job. Raises Unavailable."""
        self.seen.add(ref)
        self._report.count("jobs")
        await self._pace.spend(3)
        if (log := await self._read(ref)) is None:
            return
        for found in verify.log([stored.event for stored in log]):
            self._report.add("log", found.text, ref=ref, invariant=found.invariant, seq=found.seq)
        try:
            state = fold(stored.event for stored in log)
        except BrokenLog:
            await self._quarantined(ref, "broken", log[-1] if log else None)
            return
        if (
            await self._wrong_row(ref, state, log)
            or await self._wrong_alarms(ref, state)
            or await self._unrung(ref, state)
        ):
            self._suspects.append(Suspect(ref, state.seq))

    async def settle(self) -> None:
        """Look again at what looked wrong. Raises Unavailable."""
        if not self._suspects:
            return
        await self._desk.clock.sleep(SETTLE_SECONDS)
        suspects, self._suspects = self._suspects, []
        for suspect in suspects:
            await self._pace.spend(3)
            await self._again(suspect)

    async def rows(self) -> None:
        """Rows whose log was not met: call it when all shards were read. Raises Unavailable."""
        after: JobRef | None = None
        while True:
            async with self._database.read() as conn:
                page = await examine.known(conn, after)
            for row in page:
                if row.ref not in self.seen and row.purged_at is None and row.deleted_at is None:
                    await self._without_log(row)
            if not page:
                return
            after = page[-1].ref

    async def _read(self, ref: JobRef) -> list[Stored] | None:
        """The log; None, with a finding, when it holds what is no event to this version."""
        try:
            return await self._eventlog.read(ref)
        except UnsupportedVersion as exc:
            await self._quarantined(ref, "unsupported", None)
            self._report.add("log", f"an event that only a newer version can read: {exc}", ref=ref)
        except Malformed as exc:
            self._report.add("log", str(exc), ref=ref, invariant="I3")
            await self._quarantined(ref, "broken", None)
        return None

    async def _quarantined(self, ref: JobRef, why: jobs.Quarantine, last: Stored | None) -> None:
        """A log that cannot be folded must not be rung: its row says so."""
        async with self._database.read() as conn:
            row = await examine.one(conn, ref)
        if row is not None and row.quarantined is not None:
            return
        self._report.add("row", "not quarantined, although its log cannot be folded", ref=ref, repaired=self._repair)
        if self._repair:
            now = self._desk.clock.broker_now()
            async with self._database.transaction() as conn:
                at = last.at if last is not None else StreamSeq(0)
                await jobs.quarantine(conn, ref, why, now, at)

    async def _without_log(self, row: Known) -> None:
        if await self._eventlog.tail(row.ref) is not None:  # it came while we read
            return
        async with self._database.read() as conn:
            again = await examine.one(conn, row.ref)
        if again is None or again.purged_at is not None or again.deleted_at is not None:
            return
        open_ = again.ended_at is None and again.quarantined is None
        self._report.add(
            "row", "there is no log of this job", ref=row.ref, invariant="I1", repaired=self._repair and open_
        )
        if self._repair and open_:
            async with self._database.transaction() as conn:
                await jobs.quarantine(conn, row.ref, "broken", row.updated_at, StreamSeq(0))

    async def _again(self, suspect: Suspect) -> None:
        log = await self._read(suspect.ref)
        if log is None:
            return
        try:
            state = fold(stored.event for stored in log)
        except BrokenLog:
            return
        ref = suspect.ref
        wrong = await self._wrong_row(ref, state, log)
        if wrong is not None and (state.seq == suspect.seq or not suspect.seq <= wrong.seq <= state.seq):
            repaired = self._repair and await self._write(ref)
            self._report.add("row", wrong.text, ref=ref, invariant="I11", repaired=repaired)
        if missing := await self._wrong_alarms(ref, state):
            self._report.add("alarm", f"not armed: {', '.join(missing)}", ref=ref, repaired=self._repair)
            if self._repair:
                await arm(self._desk.doorbells, ref, state, self._desk.clock.broker_now())
        if await self._unrung(ref, state):
            rung = self._repair and await ring_if_runnable(
                self._desk, JobLog(self._eventlog, ref, self._desk.clock, log)
            )
            self._report.add("doorbell", f"{state.status}, and no doorbell is in its queue", ref=ref, repaired=rung)

    async def _wrong_row(self, ref: JobRef, state: JobState, log: list[Stored]) -> WrongRow | None:
        """How the row of a job is not what its log says; None when it is."""
        async with self._database.read() as conn:
            row, known = await jobs.get_row(conn, ref), await examine.one(conn, ref)
            wrong_requests_of = await wrong_requests(conn, ref, log, self._desk.clock.broker_now())
        if known is not None and (known.purged_at is not None or known.deleted_at is not None):
            return None  # the archive's
        if state.submitted is None:
            if known is not None and known.archived and known.ended_at is not None:
                return None  # purged, and about to be marked
            return WrongRow("a tombstone that no archive knows", 0)
        if row is None:
            return WrongRow(f"no row for {state.seq} events", 0)
        if row.seq != state.seq:
            how = "ahead of" if row.seq > state.seq else "behind"
            return WrongRow(f"the row is at {row.seq}, {how} its log at {state.seq}", row.seq)
        wrong = [name for name, wanted in _wanted(state).items() if getattr(row, name) != wanted]
        if row.quarantined is not None:
            wrong.append("quarantined")
        wrong += wrong_requests_of
        return WrongRow(f"the row says otherwise than its log: {', '.join(wrong)}", row.seq) if wrong else None

    async def _wrong_alarms(self, ref: JobRef, state: JobState) -> list[str]:
        """The alarms of a sleeping job that nobody will ring."""
        now = self._desk.clock.broker_now()
        if state.terminal or not asleep(state, now):
            return []
        wanted = [alarm for alarm in alarms(state, now) if alarm.at > later(now, SOON_SECONDS)]
        return [alarm.name for alarm in wanted if not await is_armed(self._bus, ref.job, alarm.name)]

    async def _unrung(self, ref: JobRef, state: JobState) -> bool:
        asked = state.submitted
        if asked is None or not runnable(state, self._desk.clock.broker_now()):
            return False
        return not await self._desk.doorbells.exists(ref, asked.queue, asked.priority)

    async def _write(self, ref: JobRef) -> bool:
        """Make the rows of a job anew. Under the lock of its shard's position, so no projector is faster or slower."""
        async with self._database.transaction() as conn:
            position = await positions.get(conn, names.shard_of(ref.job, self._shards), lock=True)
            folded = await Folds(self._eventlog).again(ref)
            if folded is None or folded.state.submitted is None:
                return False
            before = await examine.one(conn, ref)
            await examine.drop(conn, ref)
            await write_rows(conn, {ref: folded}, position.epoch if position is not None else 1)
            if before is not None and before.deleted_at is not None:
                await examine.set_deleted(conn, ref, before.deleted_at)
        return True


def _wanted(state: JobState) -> dict[str, object]:
    """What the columns of a row must say, by the fold."""
    return {
        "status": state.status, "attempt": state.attempt, "failures": state.failures,
        "created_at": state.submitted_at, "started_at": state.started_at, "updated_at": state.updated_at,
        "ended_at": state.ended_at, "fingerprint": state.fingerprint, "next_due_at": decides_at(state),
        "ready_at": ready_at(state), "deadline_at": None if state.submitted is None else state.submitted.deadline_at,
        "outputs": state.end.outputs if isinstance(state.end, ev.CompletedData) else None,
    }  # fmt: skip
