"""The workflows that are measured: loaded by the runner with `--app benchmarks.flows`."""

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
