"""A flush that is given up must not make its connection deaf: nats-py answers a ping without looking who waits."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

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


async def test_a_flush_asks_behind_what_was_sent_before_it(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """nats-py writes its ping at once and leaves commands to a task of its own: alone it would overtake them."""
    wire: list[bytes] = []
    transport = bus.nc._transport
    assert transport is not None
    write, writelines = transport.write, transport.writelines

    def written(payload: bytes) -> None:
        wire.append(payload)
        write(payload)

    def lines_written(payload: list[bytes]) -> None:
        wire.extend(payload)
        writelines(payload)

    monkeypatch.setattr(transport, "write", written)
    monkeypatch.setattr(transport, "writelines", lines_written)
    await bus.nc._send_command(b"SUB inbox.nobody.request 4711\r\n")  # its flusher has not had its turn yet
    await bus.flush()
    assert wire == [b"SUB inbox.nobody.request 4711\r\n", b"PING\r\n"]


async def test_a_connection_is_closed_although_somebody_gave_up_waiting_for_its_end(nats_server: NatsServer) -> None:
    async with connect(nats_server) as bus:
        transport = bus.nc._transport
        assert transport is not None, "connected"
        waiting = asyncio.create_task(transport.wait_closed())  # type: ignore[no-untyped-call]  # of nats-py
        await asyncio.sleep(0)
        waiting.cancel()  # as nats-py does with its tasks when it loses the connection
        await asyncio.wait([waiting])
    assert bus.nc.is_closed
