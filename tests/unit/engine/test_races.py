"""Races and signals: who wins, who is closed, who reads which signal; the same in every pass."""

import asyncio
import contextlib
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure import Closed, Context, StepFailed, Terminal, Workflow
from perdure.core import event as ev
from perdure.engine.attempt import Pass
from perdure.errors import Interrupted
from perdure.probe import SimulatedCrash
from perdure.testing.memory import MemoryJob
from perdure.testing.port import Crash


def flow(body: Any) -> Workflow:
    return Workflow("flow", body)


# -------------------------------------------------------------------------------------------------- races


async def test_the_first_that_ends_wins_and_the_others_are_closed() -> None:
    heard: list[str] = []

    async def body(ctx: Context) -> Any:
        async def loses() -> None:
            try:
                await ctx.ask("never", title="?")
            except Closed:
                heard.append("closed")
                raise

        won = await ctx.race(loses(), ctx.step("fast", lambda: "fast"), ctx.sleep(60))
        await ctx.sleep(3600)
        return won

    job = MemoryJob()
    await job.run(flow(body))
    assert job.outputs == {"result": [1, "fast"]}
    assert heard[0] == "closed"
    assert [d.reason for d in job.events(ev.InputWithdrawn)] == ["branch_closed"]
    assert [d.name for d in job.events(ev.TimerFired)] == ["sleep"]


async def test_the_error_of_the_first_is_raised_and_later_ones_are_nobodys() -> None:
    async def body(ctx: Context) -> Any:
        def bad() -> None:
            raise Terminal("no")

        async def worse() -> None:
            try:
                await ctx.sleep(60)
            finally:
                raise ValueError("on the way out")

        with pytest.raises(StepFailed):
            await ctx.race(ctx.step("bad", bad), worse())
        return await ctx.race(worse(), ctx.step("good", lambda: "good"))

    job = MemoryJob()
    await job.run(flow(body))
    assert job.outputs == {"result": [1, "good"]}


async def test_a_race_of_nobody_is_refused() -> None:
    async def body(ctx: Context) -> None:
        await ctx.race()

    job = MemoryJob()
    await job.run(flow(body))
    assert "no winner" in job.events(ev.JobFailed)[0].error.message


async def test_the_loser_of_a_race_does_not_run_again_in_a_later_pass() -> None:
    runs: Counter[str] = Counter()

    async def body(ctx: Context) -> Any:
        async def slow() -> str:
            runs["slow"] += 1
            await asyncio.Event().wait()
            return "slow"

        async def fast() -> str:
            runs["fast"] += 1
            return "fast"

        won = await ctx.race(ctx.step("slow", slow), ctx.step("fast", fast))
        await ctx.ask("go", title="?")
        return won

    job = MemoryJob()
    await job.run(flow(body))
    job.answer("go", "approve")
    await job.run(flow(body))
    assert job.outputs == {"result": [1, "fast"]}
    assert runs == {"slow": 1, "fast": 1}


# -------------------------------------------------------------------------------------------------- signals


async def test_a_signal_is_heard_whether_it_comes_before_or_after_the_call() -> None:
    async def body(ctx: Context) -> list[Any]:
        first = await ctx.signal("go")
        await ctx.ask("meanwhile", title="?")
        return [first, await ctx.signal("go"), await ctx.signal("go")]

    job = MemoryJob()
    asleep = await job.run(flow(body))
    assert isinstance(asleep, ev.JobSuspended)
    assert [(w.kind, w.name, w.until) for w in asleep.data.waiting] == [("signal", "go", None)]
    job.signal("other", 0)
    job.signal("go", 1)
    await job.run(flow(body))
    job.signal("go", 2)
    job.answer("meanwhile", "approve")
    await job.run(flow(body))
    job.signal("go", 3)
    await job.run(flow(body))
    assert job.outputs == {"result": [1, 2, 3]}


async def test_branches_side_by_side_hear_the_same_and_the_parent_goes_on_after_them() -> None:
    async def body(ctx: Context) -> list[Any]:
        async def two() -> list[Any]:
            return [await ctx.signal("go"), await ctx.signal("go")]

        heard = await ctx.gather(two(), ctx.signal("go"))
        return [heard, await ctx.signal("go")]

    job = MemoryJob()
    for i in range(3):
        await job.run(flow(body))
        job.signal("go", i)
    await job.run(flow(body))
    assert job.outputs == {"result": [[[0, 1], 0], 2]}


async def test_a_loop_around_a_race_reads_no_signal_twice() -> None:
    async def body(ctx: Context) -> list[Any]:
        return [await ctx.race(ctx.signal("go"), ctx.sleep(3600)) for _ in range(3)]

    job = MemoryJob()
    await job.live(flow(body))
    job.signal("go", 1)
    await job.live(flow(body))
    job.signal("go", 2)
    await job.live(flow(body))
    job.clock.advance(4000)
    await job.run(flow(body))
    assert job.outputs == {"result": [[0, 1], [0, 2], [1, None]]}


async def test_a_time_out_takes_no_signal() -> None:
    async def body(ctx: Context) -> list[Any]:
        with pytest.raises(TimeoutError):
            await ctx.signal("go", timeout=60)
        return [await ctx.signal("go", timeout=60)]

    job = MemoryJob()
    await job.live(flow(body))
    job.clock.advance(61)
    await job.run(flow(body))
    job.signal("go", "late")
    await job.run(flow(body))
    assert job.outputs == {"result": ["late"]}
    assert len(job.events(ev.TimerFired)) == 1


async def test_a_signal_and_its_time_out_that_cross_are_heard_in_log_order_in_every_pass() -> None:
    async def body(ctx: Context) -> Any:
        got = await ctx.signal("go", timeout=1)
        await ctx.ask("go on", title="?")
        return got

    job = MemoryJob()
    port = job.port()
    crossed: list[Any] = []

    def signal_first(data: Any) -> None:
        if isinstance(data, ev.TimerData) and not crossed:
            crossed.append(job.signal("go", "just in time"))

    port.before_append = signal_first
    one = Pass(flow(body), port)
    await one.run()
    await one.close()
    assert [type(e).__name__ for e in job.log[2:5]] == ["SignalReceived", "TimerFired", "InputRequested"]
    job.answer("go on", "approve")
    await job.run(flow(body))
    assert job.outputs == {"result": "just in time"}


# -------------------------------------------------------------------------------------------------- lives


def lively(rng: random.Random, effects: Counter[str]) -> Workflow:
    """Branches with a lock and a shared list, races between a signal and a step, a width that a race decides."""

    async def body(ctx: Context) -> None:
        seen: list[str] = []
        two = asyncio.Semaphore(2)

        async def effect(text: str) -> str:
            for _ in range(rng.randint(0, 8)):
                await asyncio.sleep(0)
            effects[text] += 1
            return text

        async def one(tag: str, rounds: int) -> list[str]:
            out = []
            for i in range(rounds):
                async with two:
                    out.append(await ctx.step("fetch", effect, f"{tag}{i}"))
                seen.append(out[-1])
                out.append(await ctx.step("charge", effect, f"{tag}{i} after {len(seen)}"))
            return out

        both = await ctx.gather(one("a", 2), one("b", 1), one("c", 3))
        told = [await ctx.race(ctx.signal("go"), ctx.step("patience", effect, "out")) for _ in range(3)]
        width = 2 + 2 * told[0][0]
        more = await ctx.gather(*(ctx.step("charge", effect, f"round {i}, {told[0][0]}") for i in range(width)))
        last = await ctx.step("charge", effect, "end")
        await ctx.output("all", {"both": both, "seen": seen, "told": told, "more": more, "last": last})

    return Workflow("lively", body)


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_lives_with_races_and_signals_in_any_order(seed: int) -> None:
    asyncio.run(_one_life(seed))


async def _one_life(seed: int) -> None:
    rng = random.Random(seed)
    job, effects = MemoryJob(), Counter[str]()
    signals = rng.randint(0, 3)
    kinds: tuple[Crash, ...] = ("before", "after", "interrupt")
    for _ in range(100):
        if job.state.terminal:
            break
        port = job.port(crash=rng.choice(kinds), at_seq=job.state.seq + rng.randint(2, 15))

        def sometimes(data: Any) -> None:
            nonlocal signals
            if signals and rng.random() < 0.2:
                signals -= 1
                job.signal("go", signals)

        port.before_append = sometimes
        one = Pass(lively(rng, effects), port)
        try:
            await one.run()
        except (SimulatedCrash, Interrupted):
            continue
        await one.close()
    assert job.state.status == "completed"
    keys = Counter((d.path, d.step, d.occurrence) for d in job.events(ev.StepCompleted))
    assert set(keys.values()) == {1}
    result = job.outputs["all"]
    heard = [value for who, value in result["told"] if who == 0]
    assert heard == [s.payload for s in job.events(ev.SignalReceived)][: len(heard)]
    assert [m.split(",")[0] for m in result["more"]] == [f"round {i}" for i in range(len(result["more"]))]
    assert result["last"] == "end"
    again = job.copy(job.state.seq - 1)
    await again.live(lively(rng, effects))
    assert again.outputs == job.outputs
    assert len(again.log) == len(job.log) + 1


async def test_news_that_comes_in_place_of_a_withdrawal_is_told_before_a_step_starts() -> None:
    ran: list[str] = []

    async def body(ctx: Context) -> Any:
        async def asking() -> None:
            await ctx.ask("q", title="?")

        async def failing() -> None:
            await ctx.signal("fail")
            raise ValueError

        with contextlib.suppress(ValueError):
            await ctx.gather(asking(), failing())
        return await ctx.race(ctx.step("effect", lambda: ran.append("effect")), ctx.signal("stop"))

    job = MemoryJob()
    await job.live(flow(body))
    job.signal("fail")
    port = job.port(reason="resumed")

    def others_first(data: object) -> None:
        if isinstance(data, ev.WithdrawnData) and job.state.asked:
            job.answer("q", "approve")
            job.signal("stop")

    port.before_append = others_first
    one = Pass(flow(body), port)
    end = await one.run()
    await one.close()
    assert end.status == "completed"
    assert ran == []
