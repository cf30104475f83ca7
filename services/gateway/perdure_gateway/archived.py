"""Logs for reading, wherever they are: with the broker, or in the archive after retention has purged them there.

The ids are the same: an event's is its `seq`. What is appended to is not read from here: nothing follows an end.
"""

from perdure.bus.entry import Stored
from perdure.bus.eventlog import EventLog, within
from perdure.bus.stream import BATCH_BYTES
from perdure.core import codec
from perdure.db import archive
from perdure.errors import Unavailable
from perdure.ids import JobRef, StreamSeq
from perdure_gateway.sql import Sql


class ArchivedLogs(EventLog):
    """An EventLog whose `read`, `replay`, `page` and `tail` go on in the archive where the broker has a tombstone or
    nothing.

    They raise Unavailable where only the database could tell and it is away. `look` is the broker's word alone.
    """

    def __init__(self, inner: EventLog, sql: Sql) -> None:
        super().__init__(inner._bus, inner._count)
        self._sql = sql

    async def read(self, ref: JobRef) -> list[Stored]:
        """The whole log. See EventLog."""
        found = await super().read(ref)
        if found and found[0].event.seq == 1:
            return found
        return await self._archived(ref) or found

    async def replay(self, ref: JobRef, after_seq: int = 0) -> list[Stored]:
        """The events after `after_seq`. See EventLog."""
        found = await super().replay(ref, after_seq)
        if not found or found[0].event.seq == after_seq + 1:  # nothing: at its end, or `read` will say more
            return found
        return [stored for stored in await self._archived(ref) if stored.event.seq > after_seq] or found

    async def page(
        self, ref: JobRef, after_seq: int, most: int, *, at: StreamSeq | None = None, most_bytes: int = BATCH_BYTES
    ) -> list[Stored]:
        """The first events after `after_seq`. See EventLog."""
        found = await super().page(ref, after_seq, most, at=at, most_bytes=most_bytes)
        if not found or found[0].event.seq == after_seq + 1:
            return found
        kept = [stored for stored in await self._archived(ref) if stored.event.seq > after_seq]
        return within(kept, most, most_bytes) or found

    async def tail(self, ref: JobRef) -> Stored | None:
        """The last event. See EventLog."""
        found = await super().tail(ref)
        if found is not None:
            return found
        whole = await self._archived(ref)
        return whole[-1] if whole else None

    async def _archived(self, ref: JobRef) -> list[Stored]:
        """The log as the archive has it, empty where it has none."""
        if self._sql.away:
            raise Unavailable("the database is away, and the broker does not have the whole log")
        async with self._sql.reading() as conn:
            bodies = await archive.events_of(conn, ref)
        return [Stored(ref, StreamSeq(n), body, codec.decode(body)) for n, body in enumerate(bodies or (), start=1)]
