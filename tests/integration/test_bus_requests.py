"""Requests of our own over nats-py's connection: what is written, what is refused, who is answered."""

import asyncio

import nats.errors
import pytest
from nats.aio.msg import Msg

from perdure.bus.connection import Bus
from perdure.bus.delta import Deltas
from perdure.bus.natspy import write
from perdure.errors import OutcomeUnknown, Unavailable
from perdure.ids import JobRef, Tenant, new_job_id
from perdure.local.server import NatsServer
from perdure.testing.servers import connect, frozen


async def test_each_of_many_requests_gets_its_own_answer(bus: Bus, tenant: Tenant) -> None:
    async def echo(message: Msg) -> None:
        await bus.nc.publish(message.reply, (message.headers or {})["Name"].encode() + b":" + message.data)

    await bus.subscribe(f"call.{tenant}", echo)
    asked = [bus.request(f"call.{tenant}", b"%d" % n, headers={"Name": f"n{n}"}) for n in range(500)]
    assert [message.data for message in await asyncio.gather(*asked)] == [b"n%d:%d" % (n, n) for n in range(500)]
    assert not bus.requests.answered


async def test_a_request_is_written_behind_what_was_published_before_it(bus: Bus, tenant: Tenant) -> None:
    heard: list[bytes] = []

    async def hear(message: Msg) -> None:
        heard.append(message.data)
        if message.reply:
            await bus.nc.publish(message.reply, b"heard")

    await bus.subscribe(f"call.{tenant}", hear)
    for _ in range(3):
        await bus.publish(f"call.{tenant}", b"first")
    await bus.request(f"call.{tenant}", b"second")
    assert heard == [b"first", b"first", b"first", b"second"]


async def test_nobody_there_is_told_at_once_and_a_late_answer_reaches_nobody(
    own_nats_server: NatsServer, tenant: Tenant
) -> None:
    async with connect(own_nats_server) as bus:
        with pytest.raises(OutcomeUnknown):
            await bus.request(f"call.{tenant}", b"", within=600.0)
        with frozen(own_nats_server), pytest.raises(OutcomeUnknown):
            await bus.request("$JS.API.STREAM.INFO.WORK", b"", within=0.05)
        await bus.flush()  # behind the late answer
        assert b'"name":"WORK"' in await bus.ask("$JS.API.STREAM.INFO.WORK", b"")


async def test_requests_go_on_after_a_reconnect_and_are_refused_before_it(own_nats_server: NatsServer) -> None:
    async with connect(own_nats_server) as bus:
        back = asyncio.Event()
        bus.on_reconnect(back.set)
        own_nats_server.kill()
        async with asyncio.timeout(20):
            while bus.connected:  # noqa: ASYNC110  # nothing tells it
                await asyncio.sleep(0.01)
        with pytest.raises(Unavailable):
            await bus.request("$JS.API.STREAM.INFO.WORK", b"")
        own_nats_server.start()
        async with asyncio.timeout(20):
            await back.wait()
        assert b'"name":"WORK"' in await bus.ask("$JS.API.STREAM.INFO.WORK", b"")


@pytest.mark.parametrize("subject", ["", "a b", "a\r\nPUB x 0", "a\tb", "a\n"])
async def test_a_subject_that_would_end_its_command_is_refused(bus: Bus, subject: str) -> None:
    sent = bus.nc.stats["out_msgs"]
    with pytest.raises(nats.errors.BadSubjectError):
        write(bus.nc, subject, b"", "", None)
    assert bus.nc.stats["out_msgs"] == sent


@pytest.mark.parametrize("headers", [{"A": "b\r\nC: d"}, {"A\r\nB": "c"}, {"A": "b\n"}, {"A": "b\r"}])
async def test_a_header_that_would_begin_another_is_refused(bus: Bus, headers: dict[str, str]) -> None:
    with pytest.raises(nats.errors.BadHeaderError):
        write(bus.nc, "inbox.nobody.request", b"", "", headers)


async def test_a_transport_that_is_closed_before_anybody_knows_is_no_connection(
    bus: Bus, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvloop refuses to write to one; the reading loop notices a turn later."""

    def refuse(*_: object) -> None:
        raise RuntimeError("the handler is closed")

    deltas, heard = Deltas(bus), asyncio.Event()
    with monkeypatch.context() as patch:
        patch.setattr(bus.nc._transport, "write", refuse)
        patch.setattr(bus.nc._transport, "writelines", refuse)
        with pytest.raises(Unavailable):
            await bus.request("$JS.API.STREAM.INFO.WORK", b"")
        with pytest.raises(Unavailable):
            await bus.publish(f"inbox.{tenant}.request", b"")
        with pytest.raises(Unavailable):
            await bus.flush()
        deltas.publish(JobRef(tenant, new_job_id()), b"{}")
        assert deltas.dropped == 1
        subscription = await bus.listen(f"inbox.{tenant}.request", lambda _: heard.set())
        gone = await bus.listen(f"inbox.{tenant}.request", lambda _: None)
        await bus.unsubscribe(gone)
    await bus.publish(f"inbox.{tenant}.request", b"")
    async with asyncio.timeout(20):
        await heard.wait()
    await bus.unsubscribe(subscription)
