"""Waits for a job on behalf of a client that said `Prefer: wait`. No wait loses work, and none outlives its seconds."""

import asyncio
from collections.abc import Callable

from aiohttp import web

from perdure.bus.fanout import Inbox, LiveDelta
from perdure.core.event import Status
from perdure.core.machine import JobState
from perdure.ids import JobRef
from perdure.jobs.joblog import JobLog
from perdure_gateway.keys import DESK, FANOUT, SERVICE

LOOK_SECONDS = 1.0  # how often the service's end, and an event that was lost on its way, are looked for


def settled(job: JobState) -> bool:
    """Whether nothing is to be expected before somebody outside acts: it has ended, or waits for something outside."""
    return job.terminal or job.status is Status.SUSPENDED


async def until(
    request: web.Request, ref: JobRef, job: JobState, seconds: float, enough: Callable[[JobState], bool]
) -> JobState:
    """The job as soon as it is `enough`, or as it is when the seconds are over, or this gateway stops.

    Raises Unavailable.
    """
    desk, stopping = request.app[DESK], request.app[SERVICE].stopping
    if enough(job):
        return job
    ends_at = desk.clock.monotonic() + seconds
    with request.app[FANOUT].follow(ref) as inbox:
        log = await JobLog.load(desk.eventlog, ref, desk.clock)  # what came before the registration
        while not enough(log.state) and not stopping.is_set():
            left = ends_at - desk.clock.monotonic()
            if left <= 0:
                break
            await _news(inbox, min(left, LOOK_SECONDS))
            await log.refresh()
        return log.state


async def _news(inbox: Inbox, seconds: float) -> None:
    """Return when something else than a delta came, or nothing for `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            while isinstance(await inbox.next(None), LiveDelta):
                continue
    except TimeoutError:
        return
