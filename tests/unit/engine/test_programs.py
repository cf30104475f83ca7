"""Workflows that Hypothesis writes: with a crash at every event, and steps that end in any order, each ends as the
undisturbed run did, with the same effects, the same children and a log that the judge finds good.
"""

import asyncio
import itertools
import random
from collections import Counter
from typing import Any, Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct

from perdure import Context, Retryable, StepFailed, Terminal, Workflow
from perdure.core import verify
from perdure.core.alarm import due
from perdure.errors import Interrupted
from perdure.probe import SimulatedCrash
from perdure.testing.memory import MemoryJob
from perdure.testing.port import Crash

LONG: Final = 30 * 86400.0  # a sleep that loses every race
MOST_EVENTS: Final = 40  # of an undisturbed run whose every event is a place to die
Program = tuple["Op", ...]
SEEN: Final = Counter[str]()


class Op(Struct, frozen=True):
    """One line of a branch. `parts` are the branches of a group."""

    kind: str
    name: str = "a"
    parts: tuple["Program", ...] = ()


NAMES: Final = st.sampled_from(("a", "b"))
LEAVES: Final = st.builds(
    Op,
    st.sampled_from(
        ("step", "step", "thread", "flaky", "doomed", "ask", "sleep", "signal", "child", "detached", "output", "drawn")
    ),
    NAMES,
)


def side_by_side(inner: st.SearchStrategy[Program]) -> st.SearchStrategy[tuple[Program, ...]]:
    return st.lists(inner, min_size=2, max_size=3).map(tuple)


PROGRAMS: Final = st.recursive(
    st.lists(LEAVES, min_size=1, max_size=3).map(tuple),
    lambda inner: st.lists(
        st.one_of(
            LEAVES,
            st.builds(
                Op, st.sampled_from(("gather", "all")), NAMES, st.lists(inner, min_size=2, max_size=3).map(tuple)
            ),
            st.builds(Op, st.just("race"), NAMES, inner.map(lambda program: (program,))),
        ),
        min_size=1,
        max_size=3,
    ).map(tuple),
    max_leaves=8,
)


class World:
    """What is outside: effects by idempotency key, how often functions were called, in which order steps end."""

    def __init__(self, seed: int) -> None:
        self.effects: dict[str, str] = {}
        self.tries = Counter[str]()
        self.order = random.Random(seed)

    async def pause(self) -> None:
        for _ in range(self.order.randint(0, 9)):
            await asyncio.sleep(0)

    def act(self, key: str, text: str) -> str:
        self.tries[key] += 1
        return self.effects.setdefault(key, text)


def workflow(program: Program, world: World) -> Workflow:
    """The program as a workflow; what it returns does not depend on the order in which its steps end."""

    async def leaf(ctx: Context, op: Op, line: str) -> Any:
        text = f"{line} {op.kind}"

        async def acts() -> str:
            await world.pause()
            return world.act(ctx.idempotency_key, text)

        async def fails_twice() -> str:
            await world.pause()
            done = world.act(ctx.idempotency_key, text)
            if world.tries[ctx.idempotency_key] < 3:
                raise Retryable("again")
            return done

        def fails() -> None:
            raise Terminal("no", code="refused")

        match op.kind:
            case "step":
                return await ctx.step(op.name, acts)
            case "thread":
                return await ctx.step(op.name, lambda: world.act(ctx.idempotency_key, text))
            case "flaky":
                return await ctx.step(op.name, fails_twice)
            case "doomed":
                try:
                    await ctx.step(op.name, fails)
                except StepFailed as exc:
                    return exc.code
            case "ask":
                return (await ctx.ask(op.name, title="?", proposal=text)).proposal
            case "sleep":
                return await ctx.sleep(3600, name=op.name)
            case "signal":
                return await ctx.signal(op.name)
            case "child":
                return await ctx.child(op.name, "f", text)
            case "detached":
                return await ctx.child(op.name, "f", text, detached=True)
            case "output":
                return await ctx.output(op.name, "said")
            case "drawn":
                return [ctx.uuid(), ctx.random()]
            case _:
                raise AssertionError(op)

    async def run(ctx: Context, program: Program, line: str) -> list[Any]:
        found: list[Any] = []
        for number, op in enumerate(program):
            here = f"{line}.{number}"
            inner = [run(ctx, part, f"{here}/{i}") for i, part in enumerate(op.parts)]
            match op.kind:
                case "gather":
                    found.append(await ctx.gather(*inner))
                case "all":
                    found.append(await ctx.gather(*inner, return_exceptions=True))
                case "race":
                    found.append(await ctx.race(*inner, ctx.sleep(LONG, name=op.name)))
                case _:
                    found.append(await leaf(ctx, op, here))
        return found

    async def body(ctx: Context) -> None:
        await ctx.output("all", await run(ctx, program, ""))

    return Workflow("program", body)


def somebody_comes(job: MemoryJob) -> None:
    """Whatever the job waits for comes: everything at once, time last and only as far as the next instant."""
    asleep = job.state.suspension
    if asleep is None or asleep.causes:
        return
    waits = asleep.data.waiting
    for name in sorted({w.name or "" for w in waits if w.kind == "signal"}):
        job.signal(name, f"signal {name}")
    for wait in waits:
        if wait.kind == "input" and wait.request_id is not None:
            job.answer(wait.request_id, "approve")
        elif wait.kind == "child" and wait.name is not None:
            job.end_child(
                wait.name, {"result": [wait.path, wait.occurrence]}, path=wait.path, occurrence=wait.occurrence or 1
            )
    if all(w.kind in ("timer", "backoff", "runner") for w in waits) and asleep.data.wake_at is not None:
        job.clock.move_to(asleep.data.wake_at)


async def lived(program: Program, seed: int, deaths: list[tuple[Crash, int]]) -> tuple[MemoryJob, World]:
    """A life to its end. `deaths` come one in each pass, each at so many events after the last one of the log then."""
    job, world = MemoryJob(), World(seed)
    flow = workflow(program, world)
    for _ in range(300):
        if job.state.terminal:
            return job, world
        while (data := due(job.state, job.clock.broker_now())) is not None:
            job.append(data)
        crash, after = deaths.pop(0) if deaths else (None, 0)
        try:
            await job.live(flow, crash=crash, at_seq=job.state.seq + 1 + after)
        except (SimulatedCrash, Interrupted):
            SEEN[f"died {crash}"] += 1
        if not job.state.terminal:
            somebody_comes(job)
    raise AssertionError([type(e).__name__ for e in job.log[-10:]])


def outcome(job: MemoryJob, world: World) -> tuple[Any, ...]:
    children = {child: (c.key, c.given, c.detached) for child, c in job.children.items()}
    return job.state.status, job.outputs, world.effects, children


async def judged(program: Program, job: MemoryJob, world: World, calm: tuple[Any, ...]) -> None:
    """It ended as the undisturbed run did; one more pass over its log sees the same and appends nothing."""
    assert outcome(job, world) == calm
    assert verify.log(job.log) == []
    again = job.copy(job.state.seq - 1)  # without its end
    await again.live(workflow(program, World(99)))
    assert outcome(again, world) == calm
    assert len(again.log) == len(job.log) + 1  # its attempt.started is new, nothing else


async def _every_place(program: Program) -> None:
    job, world = await lived(program, 0, [])
    SEEN.update(type(e).__name__ for e in job.log)
    calm = outcome(job, world)
    assert job.state.status == "completed"
    if len(job.log) > MOST_EVENTS:
        return
    kinds: tuple[Crash, ...] = ("before", "after", "interrupt")
    for at, kind in itertools.product(range(1, len(job.log) - 1), kinds):
        job, world = await lived(program, at, [(kind, at)])
        await judged(program, job, world, calm)


async def _many_deaths(program: Program, seed: int, deaths: list[tuple[Crash, int]]) -> None:
    job, world = await lived(program, 0, [])
    calm = outcome(job, world)
    job, world = await lived(program, seed, deaths)
    await judged(program, job, world, calm)


SLOW: Final = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=SLOW)
@given(program=PROGRAMS)
def _a_crash_at_every_event(program: Program) -> None:
    asyncio.run(_every_place(program))


def test_a_crash_at_every_event_of_a_program_changes_nothing() -> None:
    SEEN.clear()
    _a_crash_at_every_event()
    assert SEEN["died before"] > 50
    assert SEEN["died after"] > 50
    assert SEEN["died interrupt"] > 50
    assert {
        "StepCompleted", "StepFailed", "InputRequested", "InputAnswered", "TimerFired", "SignalReceived", "ChildEnded",
        "Output", "JobSuspended", "JobCompleted",
    } <= set(SEEN)  # fmt: skip


@settings(max_examples=100, deadline=None, suppress_health_check=SLOW)
@given(
    program=PROGRAMS,
    seed=st.integers(0, 2**32),
    deaths=st.lists(st.tuples(st.sampled_from(("before", "after", "interrupt")), st.integers(1, 6)), max_size=12),
)
def test_any_number_of_deaths_and_any_order_of_ends_change_nothing(
    program: Program, seed: int, deaths: list[tuple[Crash, int]]
) -> None:
    asyncio.run(_many_deaths(program, seed, deaths))
