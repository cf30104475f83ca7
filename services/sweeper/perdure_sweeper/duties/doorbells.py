"""Rings the doorbells that were lost: for each open job that is runnable by its fold and has no doorbell in WORK.

No leader: rows name the candidates, the broker says whether a doorbell is there, the log says whether
one must be. Two sweepers at the same instant may ring twice, which is one doorbell too many and no harm.
"""

from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.core.instant import END, later
from perdure.db import due as candidates
from perdure.db.engine import Database
from perdure.db.jobs import JobRow
from perdure.db.page import PageKey
from perdure.jobs.desk import Desk
from perdure_sweeper.duties.look import each, load, pages, ring_if_runnable


class LostDoorbells:
    """The duty; `run_once` looks at every candidate once whose log has been still for `grace_seconds`: so long has
    whoever made the job runnable to ring, and a runner to start it.
    """

    def __init__(self, database: Database, desk: Desk, *, grace_seconds: float = 0.0) -> None:
        self._database = database
        self._desk = desk
        self._grace_seconds = grace_seconds

    async def run_once(self) -> int:
        """How many doorbells were rung. Raises Unavailable."""
        rung, now = 0, self._desk.clock.broker_now()
        since = later(now, -self._grace_seconds) if self._grace_seconds else END

        async def find(conn: AsyncConnection, limit: int, after: PageKey | None) -> list[JobRow]:
            return await candidates.ready(conn, now, limit=limit, after=after)

        async for rows in pages(self._database, find, lambda row: (row.ready_at or now, row.job_id)):
            rung += sum(await each([row for row in rows if row.updated_at <= since], self._look))
        return rung

    async def _look(self, row: JobRow) -> bool:
        if row.queue is None or row.priority is None:
            return False
        if await self._desk.doorbells.exists(row.ref, row.queue, row.priority):
            return False
        job = await load(self._desk, row.ref)
        return job is not None and await ring_if_runnable(self._desk, job)
