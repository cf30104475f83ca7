"""People and replay: gates in branches, answers before the suspension, crashes at every event, code that changed."""

import asyncio
import contextlib
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from perdure import Answer, AskAgain, Context, RequestExpired, Workflow
from perdure.core import event as ev
from perdure.core import verify
from perdure.core.instant import later
from perdure.engine.attempt import Pass
from perdure.errors import Interrupted
from perdure.probe import SimulatedCrash
from perdure.testing.memory import MemoryJob
from perdure.testing.port import Crash


class Budget(Struct):
    """What the second gate's form asks."""

    amount: int


def gates(effects: Counter[str], hold: asyncio.Event | None = None) -> Workflow:
    """Two gates in parallel branches, one of which asks again, and a third branch that works meanwhile."""

    async def effect(text: str) -> str:
        effects[text] += 1
        return text

    async def slow(text: str) -> str:
        effects[text] += 1
        if hold is not None:
            await hold.wait()
        return text

    async def body(ctx: Context) -> dict[str, Any]:
        await ctx.step("prepare", effect, "prepared")

        async def approval() -> str:
            answer = await ctx.ask("gate", title="Go?", proposal={"to": "bob"}, editable=["/to"])

            async def act() -> str:
                answer.require(answer.proposal)
                return await effect(f"sent to {answer.proposal['to']}")

            return str(await ctx.step("act", act))

        async def budget() -> int:
            def small(answer: Answer[Budget]) -> None:
                if answer.payload.amount > 100:
                    raise AskAgain("too much", {"/payload/amount": "at most 100"})

            answer = await ctx.ask("gate", title="How much?", kind="input", schema=Budget, check=small)
            await ctx.step("act", effect, f"spent {answer.payload.amount}")
            return answer.payload.amount

        async def work() -> list[str]:
            return [str(await ctx.step("work", slow, f"work {i}")) for i in range(3)]

        sent, spent, worked = await ctx.gather(approval(), budget(), work())
        return {"sent": sent, "spent": spent, "worked": worked}

    return Workflow("gates", body)


async def turns() -> None:
    """As many turns of the loop as anything here takes to come to rest."""
    for _ in range(300):
        await asyncio.sleep(0)


RESULT = {"sent": "sent to zoe", "spent": 90, "worked": ["work 0", "work 1", "work 2"]}
EFFECTS = {"prepared": 1, "sent to zoe": 1, "spent 90": 1, "work 0": 1, "work 1": 1, "work 2": 1}


def answer_one(job: MemoryJob) -> bool:
    """Answer the first open request, as people would; whether there was one."""
    for asked in job.state.asked.values():
        if asked.kind == "approval":
            job.answer(asked.id, "approve", proposal={"to": "zoe"})
        else:
            job.answer(asked.id, "submit", {"amount": 90 if asked.reasks else 900})
        return True
    return False


async def to_its_end(job: MemoryJob, flow: Workflow, crash: Crash | None = None, at_seq: int | None = None) -> None:
    """Run `job` to its end; it dies at most once, and whoever is asked answers."""
    for _ in range(50):
        if job.state.terminal:
            return
        try:
            if crash is None:
                await job.run(flow)
            else:
                await job.live(flow, crash=crash, at_seq=at_seq)
        except (SimulatedCrash, Interrupted):
            crash = None
            continue
        answer_one(job)
    raise AssertionError(job.log[-1])


def judged(job: MemoryJob) -> None:
    assert job.state.status == "completed"
    assert job.outputs == {"result": RESULT}
    assert verify.log(job.log) == []
    asked = [d.request for d in job.events(ev.InputRequested)]
    assert len({r.id for r in asked}) == len(asked) == 3
    assert len({(r.path, r.name, r.occurrence) for r in asked}) == 3
    assert [r.reasks for r in asked].count(None) == 2


async def test_two_gates_open_while_a_third_branch_works_run_every_step_once() -> None:
    effects, hold = Counter[str](), asyncio.Event()
    job = MemoryJob()
    running = asyncio.create_task(job.live(gates(effects, hold)))
    await turns()
    assert (len(job.state.asked), effects["work 0"]) == (2, 1)
    assert job.state.status == "running"
    while answer_one(job):  # both gates, the second one twice, while the third branch is in its first step
        await turns()
    assert job.state.status == "running"
    assert effects == {"prepared": 1, "sent to zoe": 1, "spent 90": 1, "work 0": 1}
    hold.set()
    await running
    judged(job)
    assert effects == EFFECTS
    assert job.events(ev.JobSuspended) == []


async def test_gates_that_sleep_are_answered_one_by_one_and_every_step_runs_once() -> None:
    effects = Counter[str]()
    job = MemoryJob()
    await to_its_end(job, gates(effects))
    judged(job)
    assert effects == EFFECTS
    assert len(job.events(ev.JobSuspended)) >= 2


async def test_an_answer_before_the_suspension_is_appended_is_never_lost() -> None:
    for moment in range(1, 4):
        effects, job = Counter[str](), MemoryJob()
        seen = Counter[str]()

        def first(data: Any, job: MemoryJob = job, seen: Counter[str] = seen, moment: int = moment) -> None:
            if isinstance(data, ev.SuspendedData):
                seen["suspensions"] += 1
                if seen["suspensions"] <= moment:
                    answer_one(job)

        while not job.state.terminal:
            port = job.port()
            port.before_append = first
            one = Pass(gates(effects), port)
            await one.run()
            await one.close()
            if seen["suspensions"] >= moment and job.state.suspension is not None:
                answer_one(job)
        judged(job)
        assert effects == EFFECTS


async def test_a_crash_at_every_event_around_asking_and_answering_changes_nothing() -> None:
    calm = MemoryJob()
    await to_its_end(calm, gates(Counter()))
    met = 0
    kinds: tuple[Crash, ...] = ("before", "after", "interrupt")
    for at_seq in range(3, calm.state.seq + 2):
        for kind in kinds:
            job, effects = MemoryJob(), Counter[str]()
            await to_its_end(job, gates(effects), kind, at_seq)
            judged(job)
            met += job.state.attempt > calm.state.attempt
            assert set(effects) == set(EFFECTS), (kind, at_seq)
    assert met > 10


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_lives_with_crashes_and_answers_in_any_order(seed: int) -> None:
    asyncio.run(one_life(random.Random(seed)))


async def one_life(rng: random.Random) -> None:
    job, effects = MemoryJob(), Counter[str]()
    kinds: tuple[Crash, ...] = ("before", "after", "interrupt")
    for _ in range(100):
        if job.state.terminal:
            break
        with contextlib.suppress(SimulatedCrash, Interrupted):
            await job.run(gates(effects), crash=rng.choice(kinds), at_seq=job.state.seq + rng.randint(2, 12))
        if rng.random() < 0.7:
            answer_one(job)
    judged(job)


def asks(title: str, **asking: Any) -> Workflow:
    async def body(ctx: Context) -> list[Any]:
        answer = await ctx.ask("review", title=title, **asking)
        payload = answer.payload.amount if isinstance(answer.payload, Budget) else answer.payload
        return [answer.action, payload, answer.proposal]

    return Workflow("asks", body)


async def test_code_that_asks_otherwise_now_gets_the_answer_to_what_was_asked() -> None:
    job = MemoryJob()
    await job.run(asks("Old?", proposal={"v": 1}))
    job.answer("review", "approve")
    await job.run(asks("New?", proposal={"v": 2}, actions=["yes", "no"], expires_in=5))
    assert job.outputs["result"] == ["approve", None, {"v": 1}]
    assert [d.request.title for d in job.events(ev.InputRequested)] == ["Old?"]


async def test_an_open_request_stays_as_it_was_asked_when_the_code_changes() -> None:
    job = MemoryJob()
    await job.run(asks("Old?"))
    asleep = await job.live(asks("New?", expires_in=5))
    assert isinstance(asleep, ev.JobSuspended)
    assert job.open_request("review").title == "Old?"
    assert asleep.data.wake_at is None


async def test_an_answer_that_new_code_cannot_take_is_asked_for_again() -> None:
    job = MemoryJob()
    await job.run(asks("How much?", kind="input", response_schema={"type": "object"}))
    job.answer("review", "submit", {"sum": 5})
    flow = asks("How much?", kind="input", schema=Budget)
    await job.run(flow)
    asked = job.open_request("review")
    assert asked.occurrence == 2
    assert asked.defaults == {"sum": 5}
    job.answer("review", "submit", {"amount": 5})
    await job.run(flow)
    assert job.outputs["result"] == ["submit", 5, None]


async def test_new_code_that_would_ask_again_behind_recorded_steps_waits_for_the_old_one() -> None:
    def flow(strict: bool) -> Workflow:
        async def body(ctx: Context) -> str:
            def check(answer: Answer[Any]) -> None:
                if strict:
                    raise AskAgain("no")

            await ctx.ask("review", title="?", check=check)
            await ctx.step("act", lambda: None)
            await ctx.sleep(3600)
            return "done"

        return Workflow("flow", body)

    job = MemoryJob()
    await job.run(flow(strict=False))
    job.answer("review", "approve")
    await job.live(flow(strict=False))
    waiting = await job.live(flow(strict=True))
    assert isinstance(waiting, ev.JobSuspended)
    [wait] = waiting.data.waiting
    assert (wait.kind, wait.expected, wait.found) == ("code", "step act#1", "ask review#2")
    assert wait.until is not None
    job.clock.move_to(wait.until)
    await job.run(flow(strict=False))
    assert job.outputs["result"] == "done"


async def test_a_pass_over_a_finished_log_appends_nothing_and_sees_the_same() -> None:
    job, effects = MemoryJob(), Counter[str]()
    await to_its_end(job, gates(effects))
    again = job.copy(job.state.seq - 1)
    await again.live(gates(effects))
    assert again.outputs == job.outputs
    assert len(again.log) == len(job.log) + 1  # attempt.started alone is new
    assert effects == EFFECTS


@pytest.mark.parametrize("seconds", [0.5, 3600.0])
async def test_a_deadline_of_one_gate_leaves_the_other_open(seconds: float) -> None:
    async def body(ctx: Context) -> list[str]:
        async def short() -> str:
            try:
                await ctx.ask("gate", title="?", expires_in=seconds)
            except RequestExpired as exc:
                return exc.cause
            return "answered"

        async def long() -> str:
            return str((await ctx.ask("gate", title="?")).action)

        return await ctx.gather(short(), long())

    job, flow = MemoryJob(), Workflow("flow", body)
    await job.run(flow)
    job.clock.move_to(later(job.clock.broker_now(), seconds))
    await job.run(flow)
    assert [r.path for r in job.state.asked.values()] == ["/1.2"]
    job.answer("gate", "approve")
    await job.run(flow)
    assert job.outputs["result"] == ["deadline", "approve"]


async def test_an_escalation_acts_while_another_branch_works() -> None:
    job, hold = MemoryJob(), asyncio.Event()

    async def body(ctx: Context) -> str:
        async def work() -> None:
            await hold.wait()

        answer, _ = await ctx.gather(
            ctx.ask("gate", title="?", assignees=["user:bob"], escalations={60: ["user:zoe"]}), ctx.step("work", work)
        )
        return str(answer.action)

    running = asyncio.create_task(job.live(Workflow("flow", body)))
    await turns()
    job.clock.advance(60)
    await turns()
    asked = job.open_request("gate")
    assert (asked.revision, asked.escalated, asked.assignees) == (2, 1, ev.Assignees(users=("bob", "zoe")))
    job.answer("gate", "approve")
    hold.set()
    await running
    assert job.outputs == {"result": "approve"}
    assert verify.log(job.log) == []


async def test_an_escalation_of_a_sleeping_job_wakes_nobody() -> None:
    job, flow = MemoryJob(), asks("?", assignees=["user:bob"], escalations={60: ["user:zoe"], 120: ["group:leads"]})
    await job.run(flow)
    job.clock.advance(200)
    asleep = await job.run(flow)
    assert isinstance(asleep, ev.InputRequested)
    assert len(job.events(ev.AttemptStarted)) == 1
    assert job.open_request("review").assignees == ev.Assignees(users=("bob", "zoe"), groups=("leads",))
    job.answer("review", "approve")
    await job.run(flow)
    assert job.outputs["result"][0] == "approve"
