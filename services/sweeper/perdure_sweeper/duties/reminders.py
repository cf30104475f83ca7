"""Tells `inbox.<tenant>.request` of every reminder whose time has come, under the id that whoever got its alarm told it
under too: receivers drop the second.

A reminder leaves no event. The row of its request remembers which one comes next, and is moved on after the broker has
seen the others: a sweeper that dies in between, or two at once, tell a reminder again, and none is missed.
"""

from collections.abc import Callable, Sequence

from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure import probe
from perdure.bus.inbox import Tell, reminded
from perdure.core.alarm import Reminder, reminders_of
from perdure.core.instant import Instant
from perdure.db import reminders as rows_of
from perdure.db.engine import Database
from perdure.db.page import PageKey
from perdure.db.reminders import Reminding
from perdure.jobs.desk import Desk
from perdure_sweeper.duties.look import each, load, pages


class _Due(Struct, frozen=True):
    """What is to be told of a request whose job is at `seq`, and when the reminder after that falls."""

    row: Reminding
    seq: int
    reminders: tuple[Reminder, ...]
    then: Instant | None


class Reminders:
    """The duty; `run_once` tells everything that is due once. `clock_known` says whether the broker's time is known."""

    def __init__(self, database: Database, desk: Desk, tell: Tell, clock_known: Callable[[], bool]) -> None:
        self._database = database
        self._desk = desk
        self._tell = tell
        self._clock_known = clock_known

    async def run_once(self) -> int:
        """For how many requests something was told. Raises Unavailable."""
        if not self._clock_known():
            return 0
        done, now = 0, self._desk.clock.broker_now()

        async def find(conn: AsyncConnection, limit: int, after: PageKey | None) -> list[Reminding]:
            return await rows_of.reminding(conn, now, limit=limit, after=after)

        async for rows in pages(self._database, find, lambda row: (row.remind_at, row.request_id)):
            done += await self._some(rows, now)
        return done

    async def _some(self, rows: Sequence[Reminding], now: Instant) -> int:
        """Tell what `rows` call for, then note that it was told."""

        async def look(row: Reminding) -> _Due:
            return await self._look(row, now)

        found = await each(rows, look)
        news = [(due.row.tenant, reminded(reminder, due.seq)) for due in found for reminder in due.reminders]
        if news:
            await self._tell(news)
            probe.hit("remind.after_tell")
        if found:
            async with self._database.transaction() as conn:
                for due in found:
                    await rows_of.reminded(conn, due.row, due.then)
        return sum(bool(due.reminders) for due in found)

    async def _look(self, row: Reminding, now: Instant) -> _Due:
        job = await load(self._desk, row.ref)
        asked = None if job is None else job.state.asked.get(row.request_id)
        if job is None or asked is None:  # settled, or nobody's: the projection says so in a moment
            return _Due(row, 0, (), None)
        left = [reminder for reminder in reminders_of(asked) if reminder.at >= row.remind_at]
        over = asked.expires_at is not None and asked.expires_at <= now
        due = () if over else tuple(reminder for reminder in left if reminder.at <= now)
        return _Due(row, job.state.seq, due, next((reminder.at for reminder in left if reminder.at > now), None))
