"""The logs: append by compare-and-set, look, read, replay.

An append carries the stream sequence of the event before it; the broker refuses it when that is no longer the job's
last. It carries no message id: the fence and the event id in the body do all of that, alike on one and on three
replicas. No answer means unknown, never no: `look` tells. What is decided on is read from the stream's leader; a
direct read may be behind.
"""

from collections.abc import Sequence
from typing import Final

from perdure import log as logs
from perdure.bus import subject as names
from perdure.bus.blob import Blobs
from perdure.bus.connection import Bus
from perdure.bus.entry import Stored, stored
from perdure.bus.shards import Shards
from perdure.bus.stream import BATCH_BYTES, Ask, direct_batch, direct_get, leader_get, store
from perdure.core import codec
from perdure.core.event import AnyEvent
from perdure.errors import Unavailable
from perdure.ids import JobId, JobRef, StreamSeq

BISECT_FROM: Final = 500  # events; a shorter log is read whole and skipped

log = logs.get(__name__)


class EventLog:
    """Every job's log, over one connection and the shard count that the streams were made with (`topology.compare`)."""

    def __init__(self, bus: Bus, shards: int) -> None:
        self._bus, self._count = bus, shards
        self.blobs = Blobs(bus)
        """Where values lie that are too large for their events."""
        self.shards = Shards(bus)
        """The streams in which the logs lie, as a whole."""

    async def append(self, ref: JobRef, event: AnyEvent, after: StreamSeq, body: bytes | None = None) -> StreamSeq:
        """Append `event` if the job's log still ends at `after` (0: it is empty); the stream sequence it got. One try,
        2 s. `body` is the event encoded, by whoever has done that already.

        Raises TailMoved when somebody appended first, OutcomeUnknown when no answer came (it may be stored, now or
        later: `look`, then decide), Unavailable when nothing was sent or the stream refuses for the moment,
        StreamFull, and before anything is sent TooLarge and Malformed. One append of a job may be in flight at a time.
        """
        headers = {"Nats-Expected-Last-Subject-Sequence": str(after)}
        encoded = codec.encode(event) if body is None else body
        return await store(self._bus, names.event_subject(self._count, ref), encoded, headers)

    async def look(self, ref: JobRef, after: StreamSeq) -> list[Stored]:
        """Every event after the stream sequence `after`, from the leader. Raises Unavailable."""
        stream, subject = self._where(ref)
        found: list[Stored] = []
        at = after
        while (read := await leader_get(self._bus, stream, Ask(seq=at + 1, next_by_subj=subject))) is not None:
            found.append(stored(ref, read))
            at = read.seq
        return found

    async def tail(self, ref: JobRef) -> Stored | None:
        """The last event, from the leader; None for an empty log. Raises Unavailable."""
        return await self._tail(ref)

    async def _tail(self, ref: JobRef) -> Stored | None:
        """The broker's, whatever `tail` finds elsewhere."""
        stream, subject = self._where(ref)
        read = await leader_get(self._bus, stream, Ask(last_by_subj=subject))
        return None if read is None else stored(ref, read)

    async def read(self, ref: JobRef) -> list[Stored]:
        """The whole log to its true end: the end from the leader, what lies before it from any replica.

        Raises Unavailable.
        """
        last = await self._tail(ref)
        found = [] if last is None else await self.upto(ref, last)
        if last is None or (found and found[-1].at >= last.at):
            return found
        return found + await self.look(ref, found[-1].at if found else StreamSeq(0))

    async def replay(self, ref: JobRef, after_seq: int = 0) -> list[Stored]:
        """The events after the job's own `seq`, from any replica, so perhaps not the very last ones.

        Raises Unavailable.
        """
        stream, subject = self._where(ref)
        if after_seq >= BISECT_FROM:
            reads = await direct_batch(self._bus, stream, subject, await self._find(ref, after_seq))
            return [s for s in (stored(ref, r) for r in reads) if s.event.seq > after_seq]
        read = await direct_get(self._bus, stream, Ask(last_by_subj=subject))
        found = [] if read is None else await self.upto(ref, stored(ref, read))
        return [s for s in found if s.event.seq > after_seq]

    async def upto(self, ref: JobRef, last: Stored) -> list[Stored]:
        """The log as far as `last`, one of its events; a replica that is behind may not reach it. Raises Unavailable.

        The number of events is asked for, since the broker looks for the next one of a subject message by message:
        what a job wrote after a long sleep lies behind all that others wrote meanwhile (20,000 of them: 1 ms of CPU).
        """
        if (count := last.event.seq - 1) == 0:
            return [last]
        stream, subject = self._where(ref)
        before = [stored(ref, r) for r in await direct_batch(self._bus, stream, subject, 0, count)]
        if before and before[-1].event.seq == count:
            return [*before, last]
        return before  # all there is when the log's beginning is purged, else what the replica has

    async def page(
        self, ref: JobRef, after_seq: int, most: int, *, at: StreamSeq | None = None, most_bytes: int = BATCH_BYTES
    ) -> list[Stored]:
        """The first events after the job's own `seq`, at most `most` (500) and, beyond one batch of `most_bytes`, no
        more: see `replay`, of which this is the beginning at the cost of what is returned. `at`: where that `seq` lies,
        where it is known.

        Raises Unavailable.
        """
        stream, subject = self._where(ref)
        start = at
        if start is None:
            start = await self._find(ref, after_seq) if after_seq else StreamSeq(0)
        reads = await direct_batch(self._bus, stream, subject, start, most, batches=1, most_bytes=most_bytes)
        return [s for s in (stored(ref, r) for r in reads) if s.event.seq > after_seq]

    def shard_of(self, job: JobId) -> int:
        """The shard in which the log of a job lies. Raises Malformed."""
        return names.shard_of(job, self._count)

    async def _find(self, ref: JobRef, seq: int) -> StreamSeq:
        """A stream sequence behind which lie all events after the job's `seq`, and few before it. About 12 reads.

        A log rises in both numbers, so it can be bisected by stream sequence although the stream holds other jobs'
        events in between.
        """
        stream, subject = self._where(ref)
        last = await self._tail(ref)
        if last is None or last.event.seq <= seq:
            return last.at if last is not None else StreamSeq(0)
        low, high = 0, int(last.at)  # no event at or before `low` is wanted; all after `high` are
        while low < high:
            middle = (low + high) // 2
            read = await direct_get(self._bus, stream, Ask(seq=middle + 1, next_by_subj=subject))
            if read is None:  # the leader has a later one
                raise Unavailable(f"{stream} is behind")
            found = stored(ref, read)
            if found.event.seq > seq:
                high = middle
            else:
                low = found.at
        return StreamSeq(low)

    def _where(self, ref: JobRef) -> tuple[str, str]:
        subject = names.event_subject(self._count, ref)
        return names.event_stream(names.shard_of(ref.job, self._count)), subject


def within(entries: Sequence[Stored], most: int, most_bytes: int) -> list[Stored]:
    """The first of `entries` within both bounds, but one at least."""
    size, found = 0, list[Stored]()
    for entry in entries[:most]:
        size += len(entry.body)
        if found and size > most_bytes:
            break
        found.append(entry)
    return found
