"""What a reader missed: a job's log behind an event, whole or a page of it, from the archive too where the broker has
it no longer; and the deltas that LIVE still has.
"""

from collections.abc import Sequence

from perdure.bus.entry import Stored
from perdure.bus.eventlog import EventLog, within
from perdure.bus.fanout import Fanout
from perdure.core.event import AnyEvent
from perdure.core.stream.delta import Said, read_delta
from perdure.core.stream.reading import Reading
from perdure.errors import Expired
from perdure.ids import JobRef, StreamSeq


async def replay_to(eventlog: EventLog, ref: JobRef, after: int, head: int) -> list[Stored]:
    """The events behind `after`, at least up to `head`. Raises Expired (`offset-expired`) when they are gone."""
    if after >= head:
        return []
    entries = await eventlog.replay(ref, after)
    if not entries or entries[-1].event.seq < head:  # a direct read may be stale, the leader's is not
        entries = [stored for stored in await eventlog.read(ref) if stored.event.seq > after]
    if not entries or entries[0].event.seq != after + 1:
        facts = {"earliest": str(entries[0].event.seq if entries else head), "latest": str(head)}
        raise Expired("offset-expired", "the events behind this offset are no longer kept", facts)
    return entries


async def page_to(
    eventlog: EventLog, ref: JobRef, after: int, head: int, most: int, most_bytes: int, *, at: StreamSeq | None = None
) -> list[Stored]:
    """The first events behind `after`, within `most` and `most_bytes` but one at least, where there are some up to
    `head`. `at`: where `after` lies, where that is known. Raises Unavailable, Expired as `replay_to`.
    """
    if after >= head:
        return []
    found = await eventlog.page(ref, after, most, at=at, most_bytes=most_bytes)
    if not found or found[0].event.seq != after + 1:  # a replica that is behind, or a purged log
        found = await replay_to(eventlog, ref, after, head)
    return within(found, most, most_bytes)


async def kept_deltas(
    eventlog: EventLog, fanout: Fanout, ref: JobRef, reading: Reading, said: Sequence[Said] = ()
) -> tuple[list[Said], list[AnyEvent]]:
    """What LIVE has of the job, with `said`, and the events up to the reader's that may have settled some of it.

    Raises Unavailable.
    """
    kept = [found for body in await fanout.kept(ref) if (found := read_delta(body, ref.job))]
    kept += said
    oldest, head = reading.oldest(kept), reading.offset.seq
    if oldest is None or oldest >= head:
        return kept, []
    log = await replay_to(eventlog, ref, oldest, head)
    return kept, [stored.event for stored in log if stored.event.seq <= head]
