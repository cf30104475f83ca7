"""Flows that ask people, for the fault tests: `perdure up --app tests.faults.people`. Effects as in `flows.py`."""

import asyncio
import os
from typing import Any, Final

from tests.faults.flows import note

from perdure import Context, workflow
from perdure.core import event as ev

WORD: Final[dict[str, Any]] = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}
HOUR: Final = 3600.0  # seconds: an alarm is armed, and rings after the test
VOTERS: Final = ("user:bob", "user:zoe", "user:eve")


async def noting(ctx: Context, what: str) -> str:
    """A step of one effect."""
    note(ctx, what)
    return what


@workflow
async def gate(ctx: Context, text: str) -> dict[str, Any]:
    """A step, a person, a step."""
    await ctx.step("draft", noting, ctx, "draft")
    answer = await ctx.ask("review", title="Go on?", proposal=text, response_schema=WORD, expires_in=HOUR)
    await ctx.step("publish", noting, ctx, "publish")
    return {"action": answer.action, "word": answer.payload["word"], "text": answer.proposal}


@workflow
async def gates(ctx: Context, door: str) -> dict[str, Any]:
    """Two persons in two branches, beside a third that works until the file `door` is there."""

    async def ask(name: str) -> str:
        answer = await ctx.ask(name, title="Go on?", response_schema=WORD)
        await ctx.step(f"after_{name}", noting, ctx, f"after_{name}")
        return str(answer.payload["word"])

    async def hold() -> str:
        while not os.path.exists(door):  # noqa: ASYNC110, ASYNC240  # opened by another process; a look costs nothing
            await asyncio.sleep(0.01)
        return await noting(ctx, "hold")

    async def work() -> None:
        await ctx.step("early", noting, ctx, "early")
        await ctx.step("hold", hold)
        await ctx.step("late", noting, ctx, "late")

    left, right, _ = await ctx.gather(ask("left"), ask("right"), work())
    return {"left": left, "right": right}


@workflow
async def board(ctx: Context) -> dict[str, Any]:
    """Two of three have to say the same."""
    quorum = ev.Quorum(n=2, of=None)
    answer = await ctx.ask("board", title="Buy it?", proposal=120, assignees=VOTERS, quorum=quorum)
    await ctx.step("buy", noting, ctx, "buy")
    return {"action": answer.action, "votes": [[vote.by, vote.action] for vote in answer.votes]}


@workflow
async def dated(ctx: Context, seconds: float) -> dict[str, Any]:
    """A person who has so many seconds."""
    then = ev.OnTimeout(do="branch")
    answer = await ctx.ask("dated", title="Still on?", expires_in=seconds, on_timeout=then, response_schema=WORD)
    await ctx.step("act", noting, ctx, "act")
    return {"timed_out": answer.timed_out, "word": None if answer.timed_out else answer.payload["word"]}
