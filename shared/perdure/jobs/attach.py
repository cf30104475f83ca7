"""Attaches a reader to a job: registered for what comes, with what there is; what is refused is refused at once."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from perdure.bus.eventlog import EventLog
from perdure.bus.fanout import Fanout, Inbox
from perdure.clock import Clock
from perdure.core.stream.adapter import StreamAdapter
from perdure.core.stream.offset import START, Offset
from perdure.errors import Expired, NotFound
from perdure.ids import JobRef
from perdure.jobs import follow
from perdure.jobs.backlog import page_to
from perdure.jobs.follow import Follower


@asynccontextmanager
async def attach(
    eventlog: EventLog,
    fanout: Fanout,
    clock: Clock,
    ref: JobRef,
    after: Offset | None,
    adapter: StreamAdapter,
    *,
    whole: bool = False,
) -> AsyncIterator[Follower]:
    """A Follower of `ref` behind the offset `after` (START: from the beginning, None: from now on). `whole`: the
    adapter is told events with their values, wherever those lie; bodies stay as they are stored.

    Everything that can be refused is refused here, before the first byte of an answer: raises NotFound, Expired
    (`offset-ahead`, or `offset-expired` when the events behind `after` are gone), Unavailable.
    """
    with fanout.follow(ref) as inbox:
        yield await _follower(eventlog, fanout, inbox, clock, ref, after, adapter, whole)


async def _follower(
    eventlog: EventLog,
    fanout: Fanout,
    inbox: Inbox,
    clock: Clock,
    ref: JobRef,
    after: Offset | None,
    adapter: StreamAdapter,
    whole: bool,
) -> Follower:
    tail = await eventlog.tail(ref)
    if tail is None:
        raise NotFound("no such job")
    head = tail.event.seq
    start = Offset(head) if after is None else after
    if start.seq > head:
        raise Expired("offset-ahead", "the job has no event of that number yet", {"latest": str(head)})
    backlog = await page_to(eventlog, ref, start.seq, head, follow.MOST_EVENTS, follow.MOST_BYTES)
    fresh = after is None or after == START
    return Follower(eventlog, fanout, inbox, clock, adapter, start, tail, backlog, fresh=fresh, whole=whole)
