"""Completes the rows of requests that a version before wrote, so that lists by assignee and tag find them.

They are those without `tags`: all that were there when migration 0006 came, and what a sweeper of the release before
writes until it is replaced.
"""

from typing import Final

from perdure import log as logs
from perdure.db.engine import Database
from perdure.db.requestrows import unlisted

ROWS: Final = 500  # a transaction

log = logs.get(__name__)


class Listing:
    """The duty; `run_once` completes all that there are."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run_once(self) -> int:
        """How many rows. Raises Unavailable."""
        done = 0
        while True:
            async with self._database.transaction() as conn:
                some = await unlisted(conn, limit=ROWS)
            done += some
            if some < ROWS:
                if done:
                    log.info("requests listed", rows=done)
                return done
