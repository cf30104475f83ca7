"""SQL within bounds: a database that takes connections and answers nothing must not hold a caller for longer.

Whoever finds it away says so to the others for AWAY_SECONDS: those who remember what they would ask for do not ask, and
nobody queues up behind its time-outs. Any call that succeeds ends that.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.clock import Clock
from perdure.db.engine import Database
from perdure.errors import Unavailable

SECONDS: Final = 3.0
AWAY_SECONDS: Final = 10.0


class Sql:
    """The gateway's database."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._away_until = 0.0

    @property
    def away(self) -> bool:
        """Whether it could not be reached a moment ago."""
        return self._clock.monotonic() < self._away_until

    def reading(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A connection for reading. Raises Unavailable, also when the block takes longer than SECONDS."""
        return self._bounded(self._database.read())

    def writing(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A transaction. Raises Unavailable, also when the block takes longer than SECONDS: it may be committed."""
        return self._bounded(self._database.transaction())

    @asynccontextmanager
    async def _bounded(self, opened: AbstractAsyncContextManager[AsyncConnection]) -> AsyncGenerator[AsyncConnection]:
        try:
            async with asyncio.timeout(SECONDS), opened as conn:
                yield conn
        except TimeoutError as exc:
            self._away_until = self._clock.monotonic() + AWAY_SECONDS
            raise Unavailable("the database does not answer") from exc
        except Unavailable:
            self._away_until = self._clock.monotonic() + AWAY_SECONDS
            raise
        else:
            self._away_until = 0.0
