"""Wakes whoever projects a shard: "something was appended there", never what. What it is stands in the stream."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from nats.aio.msg import Msg

from perdure.bus import subject as names
from perdure.bus.connection import Bus
from perdure.errors import Malformed
from perdure.ids import JobId


@asynccontextmanager
async def shard_news(bus: Bus, shards: int) -> AsyncGenerator[Sequence[asyncio.Event]]:
    """An Event for each shard, set whenever one of its logs may have grown: one subscription for all. A message can be
    lost, so look now and then, too. Raises Unavailable when the connection is closed for ever.
    """
    grown = [asyncio.Event() for _ in range(shards)]

    def heard(message: Msg) -> None:
        try:
            shard = names.shard_of(JobId(message.subject.split(".")[2]), shards)
        except (Malformed, IndexError):  # nobody's log: the pattern matches more than we write
            return
        grown[shard].set()

    subscription = await bus.listen(names.EVERY_EVENT, heard)
    try:
        yield grown
    finally:
        await bus.unsubscribe(subscription)
