"""Calls on a real broker: answers, errors by their class, any gateway of the group, runners' inboxes alone."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import msgspec
import pytest
from msgspec import Struct

from perdure.bus.call import Calls, answering
from perdure.bus.connection import Bus
from perdure.errors import (
    Conflict,
    Expired,
    Fault,
    Forbidden,
    Invalid,
    Malformed,
    NotFound,
    OutcomeUnknown,
    PerdureError,
    TooLarge,
    Unavailable,
    UnsupportedVersion,
)

ConnectAs = Callable[[str], AbstractAsyncContextManager[Bus]]
Eventually = Callable[..., Awaitable[None]]


class Ask(Struct):
    text: str


class Told(Struct):
    text: str


async def shout(body: bytes) -> Told:
    return Told(msgspec.json.decode(body, type=Ask).text.upper())


async def test_a_runner_asks_and_a_gateway_answers(connect_as: ConnectAs) -> None:
    async with connect_as("gateway") as gateway, connect_as("runner") as runner:
        async with answering(gateway, {"shout": shout}):
            await gateway.flush()
            assert await Calls(runner).ask("shout", Ask("hello"), Told) == Told("HELLO")
        assert (gateway.errors, runner.errors) == (0, 0)


@pytest.mark.parametrize(
    "error",
    [
        NotFound("no such flow"),
        Forbidden("not yours", "not-assignee"),
        Invalid([Fault("required", "is required", pointer="/input/a~1b")], "invalid-input"),
        Conflict("name-taken", "taken", {"version": 3}),
        Expired("offset-expired", "gone", {"latest": "7"}),
        Malformed("no"),
        TooLarge("large"),
        UnsupportedVersion("newer"),
        OutcomeUnknown("perhaps", "0199aaaa-0000-7000-8000-00000000000c"),
        Unavailable("away"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_an_error_is_raised_again_as_what_it_was(connect_as: ConnectAs, error: PerdureError) -> None:
    async def fails(_: bytes) -> Told:
        raise error

    async with connect_as("gateway") as gateway, connect_as("runner") as runner, answering(gateway, {"x": fails}):
        await gateway.flush()
        with pytest.raises(PerdureError) as caught:
            await Calls(runner).ask("x", Ask(""), Told)
    assert type(caught.value) is type(error)
    assert str(caught.value) == str(error)
    assert vars(caught.value) == vars(error)


async def test_a_fault_of_the_gateway_is_worth_another_try_and_ends_nothing(connect_as: ConnectAs) -> None:
    async def fails(_: bytes) -> Told:
        raise ZeroDivisionError

    async with (
        connect_as("gateway") as gateway,
        connect_as("runner") as runner,
        answering(gateway, {"fails": fails, "shout": shout}),
    ):
        await gateway.flush()
        with pytest.raises(Unavailable):
            await Calls(runner).ask("fails", Ask(""), Told)
        assert await Calls(runner).ask("shout", Ask("on"), Told) == Told("ON")


async def test_nobody_there_and_an_unknown_verb_are_told_apart(connect_as: ConnectAs) -> None:
    async with connect_as("gateway") as gateway, connect_as("runner") as runner:
        with pytest.raises(Unavailable):
            await Calls(runner).ask("shout", Ask("hello"), Told)
        async with answering(gateway, {"shout": shout}):
            await gateway.flush()
            with pytest.raises(UnsupportedVersion):
                await Calls(runner).ask("whisper", Ask("hello"), Told)


async def test_a_reply_of_another_shape_is_of_another_version(connect_as: ConnectAs) -> None:
    class Other(Struct):
        number: int

    async with connect_as("gateway") as gateway, connect_as("runner") as runner, answering(gateway, {"shout": shout}):
        await gateway.flush()
        with pytest.raises(UnsupportedVersion):
            await Calls(runner).ask("shout", Ask("hello"), Other)


@pytest.mark.parametrize("verb", ["", "*", ">", "a.b", "Register", "a b", "x" * 33])
async def test_a_verb_that_is_no_token_reaches_no_subject(connect_as: ConnectAs, verb: str) -> None:
    async with connect_as("runner") as runner:
        with pytest.raises(Malformed):
            await Calls(runner).ask(verb, Ask("hello"), Told)


async def test_what_is_too_large_is_refused_before_the_connection(connect_as: ConnectAs) -> None:
    heard: list[int] = []

    async def huge(body: bytes) -> Told:
        heard.append(len(body))
        return Told("x" * 1_000_000)

    async with connect_as("gateway") as gateway, connect_as("runner") as runner, answering(gateway, {"huge": huge}):
        await gateway.flush()
        with pytest.raises(TooLarge):
            await Calls(runner).ask("huge", Ask("x" * 900 * 1024), Told)
        assert heard == []
        with pytest.raises(TooLarge):  # the reply is: the gateway says so, and its connection lives
            await Calls(runner).ask("huge", Ask("small"), Told)
        assert len(heard) == 1
        assert (gateway.errors, runner.errors) == (0, 0)
        assert gateway.connected
        assert runner.connected


async def test_each_call_is_answered_by_one_gateway_and_a_slow_one_holds_up_no_other(connect_as: ConnectAs) -> None:
    calls: list[str] = []
    release = asyncio.Event()

    async def slow(body: bytes) -> Told:
        text = msgspec.json.decode(body, type=Ask).text
        calls.append(text)
        if text == "slow":
            await release.wait()
        return Told(text)

    async with (
        connect_as("gateway") as first,
        connect_as("gateway") as second,
        connect_as("runner") as runner,
        answering(first, {"slow": slow}),
        answering(second, {"slow": slow}),
    ):
        await first.flush()
        await second.flush()
        waiting = asyncio.create_task(Calls(runner).ask("slow", Ask("slow"), Told))
        for number in range(20):
            assert (await Calls(runner).ask("slow", Ask(str(number)), Told)).text == str(number)
        release.set()
        assert (await waiting).text == "slow"
    assert sorted(calls) == sorted(["slow", *map(str, range(20))])


async def test_a_call_that_is_being_answered_is_answered_before_the_end(
    connect_as: ConnectAs, eventually: Eventually
) -> None:
    entered, release = asyncio.Event(), asyncio.Event()

    async def slow(_: bytes) -> Told:
        entered.set()
        await release.wait()
        return Told("done")

    async with connect_as("gateway") as gateway, connect_as("runner") as runner:
        context = answering(gateway, {"slow": slow})
        await context.__aenter__()
        await gateway.flush()
        asked = asyncio.create_task(Calls(runner).ask("slow", Ask(""), Told))
        await entered.wait()
        ending = asyncio.create_task(context.__aexit__(None, None, None))
        release.set()
        assert (await asked).text == "done"
        await ending


@pytest.mark.parametrize("reply", ["ev.0.t1.0199aaaa-0000-7000-8000-00000000000c", "_SVC.gateway.x", "_INBOX.t1.x", ""])
async def test_a_reply_goes_to_runners_and_to_nobody_else(
    connect_as: ConnectAs, eventually: Eventually, reply: str
) -> None:
    heard: list[bytes] = []
    worked: list[bytes] = []

    async def works(body: bytes) -> Told:
        worked.append(body)
        return Told("")

    async def note(message: object) -> None:
        heard.append(b"")

    async with (
        connect_as("gateway") as gateway,
        connect_as("runner") as runner,
        connect_as("admin") as admin,
        answering(gateway, {"works": works}),
    ):
        if reply:
            await admin.subscribe(reply, note)
        await admin.flush()
        await gateway.flush()
        await runner.publish("call.works", b"{}", reply=reply)
        await Calls(runner).ask("works", Ask(""), Told)  # the group's next call: the one before was looked at
        await admin.flush()
    assert len(worked) == 1
    assert heard == []
