"""A workflow takes in every pass the way that it took in the first, wherever the passes before it died."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure import Context, Retryable, StepFailed, Workflow
from perdure.core import event as ev
from perdure.core.alarm import due
from perdure.core.machine import fold
from perdure.errors import Interrupted
from perdure.probe import SimulatedCrash
from perdure.testing.memory import MemoryJob
from perdure.testing.port import Crash

Pause = Callable[[], Awaitable[None]]
PEOPLE = ("one", "two", "three")


async def no_pause() -> None:
    pass


def everything(effects: Counter[str], pause: Pause = no_pause) -> Workflow:
    """A workflow with branches that share step names, a variable, a lock and a queue, people, failures and sleeps.

    `effects` counts what its steps do; `pause` is awaited inside each, so that a test decides in which order they end.
    """

    async def effect(text: str) -> str:
        await pause()
        effects[text] += 1
        return text

    async def flaky(text: str) -> str:
        await pause()
        effects[text] += 1
        if effects[text] < 3:
            raise Retryable("again")
        return text

    async def broken() -> None:
        raise ValueError("no")

    async def body(ctx: Context, people: list[str]) -> dict[str, Any]:
        seen: list[str] = []
        two = asyncio.Semaphore(2)
        handed: asyncio.Queue[str] = asyncio.Queue()

        async def branch(tag: str, rounds: int) -> list[str]:
            out = []
            for i in range(rounds):
                async with two:
                    out.append(await ctx.step("fetch", effect, f"{tag}{i}"))
                seen.append(out[-1])
                out.append(await ctx.step("charge", effect, f"{tag}{i} after {len(seen)}"))
            await handed.put(tag)
            return out

        async def listener() -> list[str]:
            first = await handed.get()
            told = await ctx.step("told", effect, f"first {first}")
            return [told, await handed.get(), await handed.get()]

        async def person(name: str) -> str:
            answer = await ctx.ask("allow", title=f"Allow {name}?", proposal={"name": name})
            seen.append(f"{name} {answer.action}")
            inner = await ctx.gather(*(ctx.step("note", effect, f"{name} {i} {len(seen)}") for i in range(2)))
            return f"{name} {answer.action} {inner}"

        async def doomed() -> str:
            try:
                return str(await ctx.step("doomed", broken, retry=None))
            except StepFailed as exc:
                return exc.code

        both = await ctx.gather(branch("a", 2), branch("b", 1), branch("c", 3), listener())
        await ctx.progress(1, 3, "fetched")
        drawn = [ctx.uuid(), ctx.random(), ctx.now().isoformat()]
        answers = await ctx.gather(*map(person, people), ctx.sleep(3600), doomed())
        await ctx.output("seen", list(seen))
        last = await ctx.step("last", flaky, f"last of {len(seen)}")
        return {"both": both, "drawn": drawn, "answers": answers, "last": last}

    async def whole(ctx: Context, people: list[str]) -> None:
        await ctx.output("all", await body(ctx, people))

    return Workflow("everything", whole)


async def live_through(job: MemoryJob, flow: Workflow, crash: Crash | None = None, at_seq: int | None = None) -> None:
    """Run `job` to its end: it dies at most once, is taken over, and whoever is asked answers."""
    passes = 0
    while not job.state.terminal:
        passes += 1
        assert passes < 100, job.log[-1]
        try:
            if crash is None:
                await job.run(flow)
            else:
                await job.live(flow, crash=crash, at_seq=at_seq)
        except (SimulatedCrash, Interrupted):
            crash = None
            continue
        if job.state.asked:
            job.answer("allow", "approve")
        elif crash is not None and job.state.suspension is not None:
            job.clock.move_to(job.state.suspension.data.wake_at or job.log[-1].at)


def recorded_once(job: MemoryJob) -> None:
    keys = Counter((d.path, d.step, d.occurrence) for d in job.events(ev.StepCompleted))
    assert {key: n for key, n in keys.items() if n > 1} == {}
    asked = Counter((d.request.path, d.request.occurrence) for d in job.events(ev.InputRequested))
    assert set(asked.values()) == {1}
    assert fold(job.log) == job.state


async def test_an_undisturbed_life_ends_with_its_outputs() -> None:
    job, effects = MemoryJob(PEOPLE), Counter[str]()
    await live_through(job, everything(effects))
    assert job.state.status == "completed"
    result = job.outputs["all"]
    assert [r[0] for r in result["both"][:3]] == ["a0", "b0", "c0"]
    assert [a.split()[:2] for a in result["answers"][:3]] == [[p, "approve"] for p in PEOPLE]
    assert result["answers"][3:] == [None, "step_failed"]
    assert {text: n for text, n in effects.items() if n > 1} == {f"last of {len(job.outputs['seen'])}": 3}


async def test_a_crash_at_any_event_changes_nothing() -> None:
    calm, effects = MemoryJob(PEOPLE), Counter[str]()
    await live_through(calm, everything(effects))
    points = range(3, calm.state.seq + 1)
    kinds: tuple[Crash, ...] = ("before", "after", "interrupt")
    met = 0
    for at_seq in points:
        for kind in kinds:
            job, again = MemoryJob(PEOPLE), Counter[str]()
            await live_through(job, everything(again), kind, at_seq)
            assert job.state.status == "completed", (kind, at_seq)
            recorded_once(job)
            met += job.state.attempt > calm.state.attempt
            assert honest(job.outputs["all"]) == "", (kind, at_seq)
    assert met > len(points)  # most of the points were met in the first pass, and each cost an attempt


async def test_a_pass_over_a_finished_log_appends_nothing_and_sees_the_same() -> None:
    job, effects = MemoryJob(PEOPLE), Counter[str]()
    await live_through(job, everything(effects))
    before = dict(effects)
    again = job.copy(job.state.seq - 1)  # without its end, and another attempt looks at it
    end = await again.live(everything(effects))
    assert end.seq == job.state.seq + 1  # only attempt.started is new
    assert again.outputs == job.outputs
    assert effects == before


def honest(result: dict[str, Any]) -> str:
    """What must hold of a result on its own: each branch got what it asked for, one at a time saw the shared list."""
    order = []
    for tag, out in zip("abc", result["both"], strict=False):
        for i in range(0, len(out), 2):
            if out[i] != f"{tag}{i // 2}" or not out[i + 1].startswith(f"{tag}{i // 2} after "):
                return f"branch {tag} got {out}"
            order.append(int(out[i + 1].rsplit(" ", 1)[1]))
    if sorted(order) != list(range(1, 7)):
        return f"the shared list was seen at {order}"
    told = result["both"][3]
    if sorted([told[0].removeprefix("first "), *told[1:]]) != ["a", "b", "c"]:
        return f"the queue gave {told}"
    for name, answer in zip(PEOPLE, result["answers"], strict=False):
        if not answer.startswith(f"{name} approve"):
            return f"{name} got {answer}"
    return ""


def wandering(rng: random.Random) -> Pause:
    """A pause of some turns of the loop: steps end in another order in each pass."""

    async def pause() -> None:
        for _ in range(rng.randint(0, 12)):
            await asyncio.sleep(0)

    return pause


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_lives_with_crashes_in_any_order_of_ends(seed: int) -> None:
    asyncio.run(_one_life(seed))


async def _one_life(seed: int) -> None:
    rng = random.Random(seed)
    job, effects = MemoryJob(PEOPLE), Counter[str]()
    flow = everything(effects, wandering(rng))
    kinds: tuple[Crash, ...] = ("before", "after", "interrupt")
    for _ in range(200):
        if job.state.terminal:
            break
        try:
            await job.live(flow, crash=rng.choice(kinds), at_seq=job.state.seq + rng.randint(2, 20))
        except (SimulatedCrash, Interrupted):
            continue
        for request in list(job.state.asked.values()):
            if rng.random() < 0.5:
                job.answer(request.id, "approve")
        if rng.random() < 0.5:
            job.clock.advance(3600)
        what_time_decided(job)
    assert job.state.status == "completed"
    recorded_once(job)
    assert honest(job.outputs["all"]) == ""
    again = job.copy(job.state.seq - 1)
    await again.live(everything(effects, wandering(rng)))
    assert again.outputs == job.outputs
    assert len(again.log) == len(job.log) + 1


def what_time_decided(job: MemoryJob) -> None:
    """What a runner does before it claims: append what time has decided."""
    while (data := due(job.state, job.clock.broker_now())) is not None:
        job.append(data)


@pytest.mark.parametrize("turns", range(0, 12, 3))
async def test_two_branches_with_one_step_name_keep_their_own_results(turns: int) -> None:
    async def body(ctx: Context) -> list[Any]:
        async def slow(text: str, wait: int) -> str:
            for _ in range(wait):
                await asyncio.sleep(0)
            return text

        return await ctx.gather(ctx.step("same", slow, "left", turns), ctx.step("same", slow, "right", 6))

    job = MemoryJob()
    with pytest.raises(SimulatedCrash):
        await job.live(Workflow("two", body), crash="after", at_seq=3)
    await job.run(Workflow("two", body))
    assert job.outputs == {"result": ["left", "right"]}
