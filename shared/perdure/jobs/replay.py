"""A page of a job: the events behind an offset and, where they reach the end, the deltas that nothing has settled.

For those who hear a job live without us and mend what they missed: subscribe, take pages from 0 until `next` is at the
head, drop what is live and not behind the last event, take pages again where it does not follow on it.
"""

from collections.abc import Sequence
from typing import Final

from msgspec import Raw, Struct

from perdure.bus.entry import Stored
from perdure.bus.eventlog import EventLog
from perdure.bus.fanout import Fanout
from perdure.core.event import TERMINAL, Status
from perdure.core.stream.frame import Frame
from perdure.core.stream.native import Native
from perdure.core.stream.offset import START, Offset
from perdure.core.stream.reading import Reading, Reset, Show
from perdure.errors import Expired, NotFound, Unavailable
from perdure.ids import JobRef
from perdure.jobs.backlog import kept_deltas, page_to

ROOM_BYTES: Final = 1_024  # of a page, for everything but events and deltas


class Page(Struct, frozen=True):
    """`events` are the log's own bytes, `deltas` those to be shown behind them, which may begin with a `delta.reset`.
    `next` is the offset behind both, `head` and `status` are the log's, `done`: nothing will ever follow.
    """

    events: list[Raw]
    deltas: list[Raw]
    next: str
    head: int
    status: Status
    done: bool


async def page(eventlog: EventLog, fanout: Fanout, ref: JobRef, after: Offset, limit: int, most_bytes: int) -> Page:
    """At most `limit` events behind `after`, at least one where there is one, in at most `most_bytes`.

    Raises NotFound, Expired (`offset-ahead`, `offset-expired`), Unavailable.
    """
    tail = await eventlog.tail(ref)
    if tail is None:
        raise NotFound("no such job")
    head = tail.event.seq
    if after.seq > head:
        raise Expired("offset-ahead", "the job has no event of that number yet", {"latest": str(head)})
    room = most_bytes - ROOM_BYTES
    entries = _bounded(await page_to(eventlog, ref, after.seq, head, limit, room), room)
    last = entries[-1] if entries and entries[-1].event.seq >= head else tail
    reading = Reading(after, last.event.status, last.event.attempt, fresh=after == START)
    for stored in entries:
        reading.event(stored.event)
    reached = reading.offset
    deltas: list[Raw] = []
    if reached.seq >= last.event.seq and last.event.status is Status.RUNNING:
        shows = await _open(eventlog, fanout, ref, reading)
        room -= sum(len(stored.body) + 1 for stored in entries)
        fitting, reached = _fitting(ref, shows, room, Offset(reached.seq) if entries else after)
        if len(fitting) < len(shows) and len(entries) > 1:  # they come with the next page, which has room for them
            entries.pop()
            reached = Offset(entries[-1].event.seq)
        else:
            deltas = [Raw(frame.data) for frame in fitting]
    return Page(
        events=[Raw(stored.body) for stored in entries],
        deltas=deltas,
        next=str(reached),
        head=last.event.seq,
        status=last.event.status,
        done=last.event.status in TERMINAL and reached.seq >= last.event.seq,
    )


async def _open(eventlog: EventLog, fanout: Fanout, ref: JobRef, reading: Reading) -> Sequence[Show]:
    """What a reader that has every event is shown of the deltas; nothing where LIVE cannot be asked."""
    try:
        return reading.join(*await kept_deltas(eventlog, fanout, ref, reading))
    except Unavailable:
        return []


def _fitting(ref: JobRef, shows: Sequence[Show], room: int, at: Offset) -> tuple[list[Frame], Offset]:
    """The first of `shows` that fit, and the offset behind them; `at` is that before them."""
    adapter, frames = Native(ref.job), list[Frame]()
    for show in shows:
        [frame] = adapter.on_reset(show) if isinstance(show, Reset) else adapter.on_delta(show.said, show.at)
        room -= len(frame.data) + 1
        if room < 0:
            break
        frames.append(frame)
        at = at if show.at is None else show.at
    return frames, at


def _bounded(entries: Sequence[Stored], room: int) -> list[Stored]:
    """The first of `entries` that fit, at least one: an event always fits."""
    found: list[Stored] = []
    for stored in entries:
        room -= len(stored.body) + 1
        if found and room < 0:
            break
        found.append(stored)
    return found
