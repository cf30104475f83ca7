"""The Python flows of the fault tests, as an author would write them: `perdure up --app tests.faults.flows`.

Each effect is one line in the file FAULTS_LEDGER, written before the step returns: job, step, attempt.
"""

import asyncio
import os
import time
from typing import Any

from perdure import Context, workflow


def note(ctx: Context, what: str) -> None:
    """Put the effect on record, in one write."""
    line = f"{ctx.job_id} {what} {ctx.attempt}\n".encode()
    handle = os.open(os.environ["FAULTS_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, line)
    finally:
        os.close(handle)


@workflow
async def poison(ctx: Context) -> str:
    """Kills the process that runs it."""

    async def die() -> None:
        os._exit(9)

    await ctx.step("die", die)
    return "never"


@workflow
async def sleeper(ctx: Context, seconds: float) -> str:
    """One step that takes `seconds` and lets others work."""

    async def rest() -> str:
        await asyncio.sleep(seconds)
        note(ctx, "rest")
        return "rested"

    return str(await ctx.step("rest", rest))


@workflow
async def blocker(ctx: Context, seconds: float) -> str:
    """One step that lets nobody else work for `seconds`: what authors should not do, and do."""

    async def block() -> str:
        time.sleep(seconds)  # noqa: ASYNC251  # the point of it
        note(ctx, "block")
        return "blocked"

    return str(await ctx.step("block", block))


LARGE = 150_000  # characters: beyond what may lie in an event


@workflow
async def twig(ctx: Context, text: str) -> str:
    """A child."""

    async def grow() -> str:
        note(ctx, "grow")
        return text + " grown"

    return str(await ctx.step("grow", grow))


@workflow
async def journey(ctx: Context, text: str) -> dict[str, Any]:
    """Passes everything that a runner may die at: steps, deltas, a blob, a child, a race, a sleep, a person."""

    async def first() -> str:
        ctx.delta(text)
        note(ctx, "first")
        await asyncio.sleep(1.5)  # long enough for a heartbeat and for a drain to find it
        return text

    async def large() -> str:
        note(ctx, "large")
        return "x" * LARGE

    async def quick() -> str:
        note(ctx, "quick")
        return "quick"

    async def unasked() -> str:
        return str((await ctx.ask("unasked", title="Too late?")).action)

    async def quicker() -> str:
        await ctx.sleep(0.1)
        return str(await ctx.step("quick", quick))

    said = await ctx.step("first", first)
    length = len(await ctx.step("large", large))
    grown = await ctx.child("grown", "twig", text)
    _, won = await ctx.race(unasked(), quicker())
    await ctx.sleep(2.5)
    answer = await ctx.ask("review", title="Go on?", proposal=said)
    return {"said": said, "length": length, "grown": grown, "won": won, "action": answer.action}


SPEECHES = 3
WORDS = 6


def speech(text: str, number: int) -> list[str]:
    """What `chatter` says in its step of that occurrence, word by word."""
    return [f"{text} {number}.{word}, " for word in range(1, WORDS + 1)]


@workflow
async def chatter(ctx: Context, text: str) -> str:
    """Speaks for about nine seconds: words as they come, then the whole of each speech as a step's result."""

    async def speak(number: int) -> str:
        for word in speech(text, number):
            ctx.delta(word)
            await asyncio.sleep(0.5)
        return "".join(speech(text, number))

    return "".join([await ctx.step("speak", speak, number) for number in range(1, SPEECHES + 1)])


@workflow
async def stubborn(ctx: Context) -> str:
    """Is cancelled, and tidies up for longer than it is given."""

    async def work(what: str) -> str:
        note(ctx, what)
        await asyncio.sleep(60)
        return what

    try:
        return str(await ctx.step("work", work, "work"))
    finally:
        await ctx.step("tidy", work, "tidy")
