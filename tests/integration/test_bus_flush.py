"""A flush that is given up must not make its connection deaf: nats-py answers a ping without looking who waits."""

import asyncio
from collections.abc import Awaitable, Callable

from perdure.bus.connection import Bus
from perdure.local.server import NatsServer
from perdure.testing.servers import connect, frozen


async def test_a_connection_hears_on_after_a_flush_that_was_cancelled_or_ran_out_of_time(
    own_nats_server: NatsServer, eventually: Callable[..., Awaitable[None]]
) -> None:
    async with connect(own_nats_server) as bus:
        with frozen(own_nats_server):
            cancelled = asyncio.ensure_future(bus.flush())
            timed = asyncio.ensure_future(bus.flush(within=0.05))
            await asyncio.wait([timed])
            cancelled.cancel()
            await asyncio.wait([cancelled])
        assert cancelled.cancelled()
        assert timed.exception() is not None
        await bus.flush()
        await answers(bus)


async def answers(bus: Bus) -> None:
    assert b'"name":"WORK"' in await bus.ask("$JS.API.STREAM.INFO.WORK", b"")
