"""The workflows that are measured: loaded by the runner with `--app benchmarks.flows`."""

import asyncio
import time
from datetime import UTC, datetime

from perdure import Context, OnTimeout, workflow


@workflow
async def bench_noop(ctx: Context) -> str:
    """Nothing: what is left is the protocol."""
    return "done"


@workflow
async def bench_steps(ctx: Context, given: dict[str, int]) -> int:
    """`given["steps"]` steps, one after the other."""

    def one(number: int) -> int:
        return number + 1

    number = 0
    for _ in range(given["steps"]):
        number = await ctx.step("one", one, number)
    return number


@workflow
async def bench_ask(ctx: Context) -> str:
    """One request."""
    answer = await ctx.ask("go", title="Go on?")
    return str(answer.action)


@workflow
async def bench_tokens(ctx: Context, given: dict[str, int]) -> str:
    """`given["words"]` words on each of `given["channels"]` channels, one every 41 ms: as often as they are sent."""

    async def speak() -> str:
        begin = time.monotonic()
        for word in range(given["words"]):
            for channel in range(given["channels"]):
                ctx.delta(f"{word} ", f"m-{channel}")
            await asyncio.sleep(max(0.0, begin + (word + 1) * 0.0405 - time.monotonic()))
        return "said"

    return str(await ctx.step("speak", speak))


@workflow
async def bench_large(ctx: Context, given: dict[str, int]) -> str:
    """One request, then `given["steps"]` steps with results of `given["chars"]` characters."""

    def one(number: int) -> str:
        return "x" * given["chars"]

    await ctx.ask("go", title="Go on?")
    for number in range(given["steps"]):
        await ctx.step("one", one, number)
    return "done"


@workflow
async def bench_expire(ctx: Context, given: dict[str, str]) -> str:
    """One request that expires at `given["at"]`."""

    def left() -> float:
        return (datetime.fromisoformat(given["at"]) - datetime.now(UTC)).total_seconds()

    answer = await ctx.ask(
        "go",
        title="Go on?",
        expires_in=await ctx.step("left", left),
        on_timeout=OnTimeout(do="answer", action="reject"),
    )
    return str(answer.action)
