"""Does what time has decided and nobody else has done: requests that expire or escalate, timers, deadlines, the grace
of a cancel.

Alarms ring runners for the same, and have a moment in which to do it; this is the backstop when one was lost, when its
instant was too far to be armed, and for queues that nobody serves. Whoever appends first wins: the others meet it as
news and decide again.
"""

from collections.abc import Callable
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from perdure import log as logs
from perdure import probe
from perdure.core import event as ev
from perdure.core.alarm import due
from perdure.core.event import AnyData, type_of
from perdure.core.instant import later
from perdure.core.machine import JobState
from perdure.db import due as candidates
from perdure.db.engine import Database
from perdure.db.jobs import JobRow
from perdure.db.page import PageKey
from perdure.jobs.alarms import arm
from perdure.jobs.desk import Desk
from perdure_sweeper.duties.look import each, load, pages, ring_if_runnable

SEEN_TO: Final = (ev.ExpiredData, ev.TimerData, ev.AttemptData)

log = logs.get(__name__)


class Overdue:
    """The duty; `run_once` looks at every overdue row once. `clock_known` says whether the broker's time is known:
    while it is not, nothing is declared due. What is due for less than `grace_seconds` is left to its alarm.
    """

    def __init__(
        self, database: Database, desk: Desk, clock_known: Callable[[], bool], *, grace_seconds: float = 0.0
    ) -> None:
        self._database = database
        self._desk = desk
        self._clock_known = clock_known
        self._grace_seconds = grace_seconds

    async def run_once(self) -> int:
        """For how many jobs something was appended. Raises Unavailable."""
        if not self._clock_known():
            return 0
        done, since = 0, later(self._desk.clock.broker_now(), -self._grace_seconds)

        async def find(conn: AsyncConnection, limit: int, after: PageKey | None) -> list[JobRow]:
            return await candidates.overdue(conn, since, limit=limit, after=after)

        async for rows in pages(self._database, find, lambda row: (row.next_due_at or since, row.job_id)):
            done += sum(await each(rows, self._look))
        if done:
            log.info("overdue", jobs=done)
        return done

    async def _look(self, row: JobRow) -> bool:
        tail = await self._desk.eventlog.tail(row.ref)
        if tail is not None and tail.event.seq > row.seq and isinstance(tail.event.data, SEEN_TO):
            return False  # a runner was quicker, and the projection is behind: the log need not be read
        job = await load(self._desk, row.ref)
        if job is None:
            return False
        appended = 0
        while (stored := await job.append(self._due)) is not None:
            if isinstance(stored.event, ev.JobCancelled):
                probe.hit("cancel.after_grace")
            else:
                probe.hit("time.after_append")
            appended += 1
            log.debug("overdue", tenant=row.tenant, job_id=row.job_id, type=type_of(stored.event))
        if appended and not await ring_if_runnable(self._desk, job) and not job.state.terminal:
            # A restatement wakes nobody: what comes next for the request rings when nobody is there.
            await arm(self._desk.doorbells, job.ref, job.state, self._desk.clock.broker_now())
        return appended > 0

    def _due(self, state: JobState) -> AnyData | None:
        return due(state, self._desk.clock.broker_now())
