"""Wakes whoever projects a shard: "something was appended there", never what. What it is stands in the stream.

Where much is appended nobody needs to hear each event: after MANY it is deaf for DEAF_SECONDS, and then wakes all.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from perdure.bus import subject as names
from perdure.bus.connection import Bus
from perdure.errors import Malformed
from perdure.ids import JobId

MANY: Final = 64
DEAF_SECONDS: Final = 0.4


@asynccontextmanager
async def shard_news(bus: Bus, shards: int, on_ended: Callable[[str], None]) -> AsyncGenerator[Sequence[asyncio.Event]]:
    """An Event for each shard, set whenever one of its logs may have grown: one subscription for all. A message can be
    lost, so look now and then, too. Raises Unavailable when the connection is closed for ever.

    When it ends before the context does, nobody would be woken any more: then `on_ended(reason)` is told, once.
    """
    grown = [asyncio.Event() for _ in range(shards)]
    count, many = 0, asyncio.Event()

    def heard(message: Msg) -> None:
        nonlocal count
        count += 1
        if count == MANY:
            many.set()
        try:
            shard = names.shard_of(JobId(message.subject.split(".")[2]), shards)
        except (Malformed, IndexError):  # nobody's log: the pattern matches more than we write
            return
        grown[shard].set()

    async def hearing(subscription: Subscription) -> None:
        nonlocal count
        try:
            while True:
                began = bus.clock.monotonic()
                await many.wait()
                if (left := DEAF_SECONDS - (bus.clock.monotonic() - began)) > 0:
                    await bus.unsubscribe(subscription)
                    await bus.clock.sleep(left)
                    subscription = await bus.listen(names.EVERY_EVENT, heard)
                    for event in grown:  # what was appended meanwhile lies anywhere
                        event.set()
                many.clear()
                count = 0
        finally:
            await bus.unsubscribe(subscription)

    def ended(listening: "asyncio.Task[None]") -> None:
        if not listening.cancelled():
            on_ended(f"nothing wakes the projectors any more: {listening.exception()!r}")

    listening = asyncio.create_task(hearing(await bus.listen(names.EVERY_EVENT, heard)))
    listening.add_done_callback(ended)
    try:
        yield grown
    finally:
        listening.cancel()
        await asyncio.wait([listening])
