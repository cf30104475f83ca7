"""Effects: two branches call one step name, killed and resumed at every event and around every run of a step.

The outside world honours idempotency keys, as a payment service does. Each branch keeps its own results, and whatever
dies, each effect happens once.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import pytest

from perdure import Context, Workflow
from perdure.core import event as ev
from perdure.core import verify
from perdure.errors import Interrupted
from perdure.probe import SimulatedCrash, arm
from perdure.testing.memory import MemoryJob
from perdure.testing.port import Crash

ROUNDS: Final = 3
BRANCHES: Final = ("left", "right")


class Ledger:
    """What happened outside: one entry for each key, however often it is asked for."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}
        self.calls = 0

    def charge(self, key: str, text: str) -> str:
        self.calls += 1
        return self.entries.setdefault(key, text)


def charging(ledger: Ledger, turns: dict[str, int]) -> Workflow:
    """Two branches, one step name; `turns` of the loop decide which one's step ends first."""

    async def branch(ctx: Context, tag: str) -> list[str]:
        async def charge(n: int) -> str:
            for _ in range(turns[tag]):
                await asyncio.sleep(0)
            return ledger.charge(ctx.idempotency_key, f"{tag} {n}")

        def refund() -> str:  # in a thread
            return ledger.charge(ctx.idempotency_key, f"{tag} back")

        found = [await ctx.step("charge", charge, n) for n in range(ROUNDS)]
        await ctx.sleep(3600)
        return [*found, await ctx.step("charge", refund)]

    async def body(ctx: Context) -> Any:
        return await ctx.gather(*(branch(ctx, tag) for tag in BRANCHES))

    return Workflow("charging", body)


WANTED: Final = [[*(f"{tag} {n}" for n in range(ROUNDS)), f"{tag} back"] for tag in BRANCHES]
ORDERS: Final = ({"left": 0, "right": 0}, {"left": 0, "right": 9}, {"left": 9, "right": 0})


async def lived(job: MemoryJob, flow: Workflow, deaths: list[tuple[Crash, int]]) -> int:
    """Run the job to its end, dying as told; how many deaths came."""
    died = 0
    while not job.state.terminal:
        crash, at_seq = deaths[0] if deaths else (None, None)
        try:
            await (job.run(flow) if crash is None else job.live(flow, crash=crash, at_seq=at_seq))
        except (SimulatedCrash, Interrupted):
            died += 1
            deaths = deaths[1:]
        else:
            deaths = []
    return died


def judged(job: MemoryJob, ledger: Ledger) -> None:
    assert job.outputs == {"result": WANTED}
    assert sorted(ledger.entries.values()) == sorted(itertools.chain(*WANTED))  # each effect, once
    completed = Counter((d.path, d.step, d.occurrence) for d in job.events(ev.StepCompleted))
    assert set(completed.values()) == {1}
    assert len(completed) == len(BRANCHES) * (ROUNDS + 1)
    assert verify.log(job.log) == []


@pytest.mark.parametrize("turns", ORDERS, ids=["together", "left first", "right first"])
async def test_killed_at_every_event_each_branch_keeps_its_own_results_and_each_effect_happens_once(
    turns: dict[str, int],
) -> None:
    calm = MemoryJob()
    await lived(calm, charging(Ledger(), turns), [])
    again = 0
    kinds: tuple[Crash, ...] = ("before", "after", "interrupt")
    for at_seq, kind in itertools.product(range(3, len(calm.log) + 1), kinds):
        job, ledger = MemoryJob(), Ledger()
        await lived(job, charging(ledger, turns), [(kind, at_seq)])
        judged(job, ledger)
        again += ledger.calls - len(ledger.entries)
    assert again > 0  # some functions ran twice, and their second effect did not happen


async def test_killed_at_every_two_events_too() -> None:
    calm = MemoryJob()
    await lived(calm, charging(Ledger(), ORDERS[0]), [])
    points = range(3, len(calm.log) + 1)
    twice = 0
    for first, second in itertools.combinations(points, 2):
        job, ledger = MemoryJob(), Ledger()
        twice += await lived(job, charging(ledger, ORDERS[0]), [("before", first), ("after", second)]) == 2
        judged(job, ledger)
    assert twice > len(points)


@pytest.fixture
def disarmed() -> Iterator[None]:
    yield
    arm("")


@pytest.mark.parametrize("point", ["step.before_run", "step.after_run"])
@pytest.mark.usefixtures("disarmed")
async def test_killed_around_every_run_of_a_step_too(point: str) -> None:
    runs = len(BRANCHES) * (ROUNDS + 1)
    for nth in range(1, runs + 1):
        job, ledger = MemoryJob(), Ledger()
        arm(f"{point}=raise:n{nth}")
        died = await lived(job, charging(ledger, ORDERS[0]), [])
        assert died == 1
        judged(job, ledger)
        assert ledger.calls - len(ledger.entries) <= len(BRANCHES)  # only what ran when it died ran again


async def test_a_key_is_the_same_at_each_try_and_another_for_each_call() -> None:
    seen: list[tuple[str, str]] = []

    async def branch(ctx: Context, tag: str) -> None:
        def twice() -> None:
            seen.append((tag, ctx.idempotency_key))
            if len([t for t, _ in seen if t == tag]) < 2:
                raise ValueError("again")

        await ctx.step("same", twice)
        await ctx.step("same", lambda: seen.append((f"{tag} 2", ctx.idempotency_key)))

    async def body(ctx: Context) -> None:
        await ctx.gather(branch(ctx, "left"), branch(ctx, "right"))

    await MemoryJob().run(Workflow("keys", body))
    by_tag: dict[str, set[str]] = {}
    for tag, key in seen:
        by_tag.setdefault(tag, set()).add(key)
    assert {len(keys) for keys in by_tag.values()} == {1}
    assert len(set().union(*by_tag.values())) == len(by_tag) == 4
