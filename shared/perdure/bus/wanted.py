"""Whether what ought to be in WORK is there: consumers and alarms, for who examines a system."""

from typing import Final

import msgspec

from perdure.bus import subject as names
from perdure.bus.connection import Bus
from perdure.bus.stream import Answer, Ask, leader_get, refusal
from perdure.bus.subject import WORK, Priority
from perdure.ids import JobId, Queue

NO_CONSUMER: Final = 10014


async def has_consumer(bus: Bus, queue: Queue, priority: Priority) -> bool:
    """Whether a queue has its consumer at this priority. Raises Unavailable."""
    reply = await bus.ask(f"$JS.API.CONSUMER.INFO.{WORK}.{names.consumer(queue, priority)}", b"")
    error = msgspec.json.decode(reply, type=Answer).error
    if error is not None and error.err_code != NO_CONSUMER:
        raise refusal(error, f"queue {queue} {priority}")
    return error is None


async def is_armed(bus: Bus, job: JobId, name: str) -> bool:
    """Whether the broker will ring the alarm `name` of a job. Raises Unavailable."""
    return await leader_get(bus, WORK, Ask(last_by_subj=names.alarm_subject(job, name))) is not None
