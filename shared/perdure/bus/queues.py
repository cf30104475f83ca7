"""A queue as the broker says now: what waits in it, for people who look, and what it is done with."""

from typing import Final

import msgspec
from msgspec import Struct

from perdure.bus.connection import Bus
from perdure.bus.stream import Answer, Ask, leader_get, refusal
from perdure.bus.subject import WORK, Priority, consumer, queue_filter
from perdure.core.instant import Instant, instant
from perdure.ids import Queue, StreamSeq

NO_CONSUMER: Final = 10014


class Depth(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A queue at one priority: doorbells that nobody has, that runners hold, that were delivered again; the oldest."""

    queue: Queue
    priority: Priority
    waiting: int
    held: int
    redelivered: int
    oldest_at: Instant | None = None


class _Floor(Struct, frozen=True):
    stream_seq: int = 0


class _Info(Answer):
    num_pending: int = 0
    num_ack_pending: int = 0
    num_redelivered: int = 0
    ack_floor: _Floor = _Floor()


_info: Final = msgspec.json.Decoder(_Info)


async def depth(bus: Bus, queue: Queue, priority: Priority) -> Depth | None:
    """What waits in `queue` at `priority`; None when no runner has ever served it. Raises Unavailable."""
    info = await _told(bus, queue, priority)
    if info is None:
        return None
    oldest = None
    if info.num_pending or info.num_ack_pending:
        oldest = await leader_get(bus, WORK, Ask(seq=StreamSeq(1), next_by_subj=queue_filter(queue, priority)))
    return Depth(
        queue=queue,
        priority=priority,
        waiting=info.num_pending,
        held=info.num_ack_pending,
        redelivered=info.num_redelivered,
        oldest_at=instant(oldest.at) if oldest is not None else None,
    )


async def floor(bus: Bus, queue: Queue, priority: Priority) -> StreamSeq:
    """Up to which sequence of WORK the queue is done with its doorbells: what lies there all the same is delivered to
    nobody. 0 where no runner has ever served it. Raises Unavailable.

    A broker that was killed (nats-server 2.15.1, kill -9 twice within seconds) can lose the removal of messages, and
    the messages of its last moments, and yet know that its consumer has had them.
    """
    info = await _told(bus, queue, priority)
    return StreamSeq(0 if info is None else info.ack_floor.stream_seq)


async def _told(bus: Bus, queue: Queue, priority: Priority) -> _Info | None:
    info = _info.decode(await bus.ask(f"$JS.API.CONSUMER.INFO.{WORK}.{consumer(queue, priority)}", b""))
    if info.error is None:
        return info
    if info.error.err_code == NO_CONSUMER:
        return None
    raise refusal(info.error, f"queue {queue} {priority}")
