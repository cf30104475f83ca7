"""News about one job, for whoever runs it: "something was appended", never what. What it is stands in the log."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from nats.aio.msg import Msg

from perdure.bus.connection import Bus
from perdure.bus.subject import public_event_subject
from perdure.errors import Unavailable
from perdure.ids import JobRef


@asynccontextmanager
async def news(bus: Bus, ref: JobRef) -> AsyncGenerator[asyncio.Event]:
    """An Event that is set whenever the job's log may have grown, and at the start: clear it, then read the log.

    It is set after each reconnect too. A message can be lost all the same, so read the tail now and then (each
    heartbeat).
    """
    changed = asyncio.Event()
    changed.set()

    async def heard(_: Msg) -> None:
        changed.set()

    forget = bus.on_reconnect(changed.set)
    try:
        subscription = await bus.subscribe(public_event_subject(ref), heard)
        try:
            with contextlib.suppress(Unavailable):  # not connected: the reconnect subscribes and sets the Event
                await bus.flush()
            yield changed
        finally:
            await bus.unsubscribe(subscription)
    finally:
        forget()
