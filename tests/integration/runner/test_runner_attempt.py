"""Attempts on a real broker: suspend and resume, news while running, drain, a lease that is lost."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tests.integration.runner.bench import BOB, Bench, Eventually

from perdure.bus.fanout import Fanout, LiveDelta
from perdure.core import event as ev
from perdure.core import verify
from perdure.core.event import Status, type_of
from perdure.engine.context import Context
from perdure.engine.workflow import Workflow
from perdure.ids import RequestId
from perdure.testing.factory import FINGERPRINT
from perdure_runner import attempt


async def types(bench: Bench) -> list[str]:
    log = await bench.log()
    assert verify.log(log.events) == []
    return [type_of(event) for event in log.events]


def answered(request: RequestId, action: str = "approve") -> ev.AnsweredData:
    return ev.AnsweredData(
        request_id=request, revision=1, action=action, payload=None, by=BOB, via=ev.Via(channel="api")
    )


def noted(calls: list[str], name: str, result: str) -> Callable[[], str]:
    """A step function that notes its call."""

    def step() -> str:
        calls.append(name)
        return result

    return step


def flow(fn: Any) -> Workflow:
    return Workflow(name="flow", fn=fn)


async def test_a_job_runs_suspends_holding_nothing_and_goes_on_with_the_answer(
    bench: Bench, eventually: Eventually
) -> None:
    calls: list[str] = []

    async def body(ctx: Context, given: Any) -> str:
        drafted = await ctx.step("draft", noted(calls, "draft", f"{given}!"))
        answer = await ctx.ask("review", title="Publish?", proposal=drafted)
        return str(await ctx.step("post", noted(calls, "post", f"{answer.action}: {drafted}")))

    await bench.submit()
    async with bench.runner(flow(body)):
        await bench.ring()
        await eventually(bench.empty)
        log = await bench.log()
        assert log.state.status is Status.SUSPENDED
        (asked,) = log.state.asked
        await bench.append(answered(asked))
        await bench.ring()
        await eventually(bench.empty)
    assert await types(bench) == [
        "job.submitted",
        "attempt.started",
        "step.completed",
        "input.requested",
        "job.suspended",
        "input.answered",
        "attempt.started",
        "step.completed",
        "job.completed",
    ]
    assert calls == ["draft", "post"]
    assert (await bench.log()).state.outputs == {"result": "approve: hi!"}


async def test_an_answer_that_comes_before_the_suspension_is_not_missed(bench: Bench, eventually: Eventually) -> None:
    """Another branch is still at work, so the job has not suspended when the answer is appended and nobody rings."""
    others, done = asyncio.Event(), asyncio.Event()

    async def body(ctx: Context, given: Any) -> list[Any]:
        async def ask() -> str:
            answer = await ctx.ask("review", title="?")
            done.set()
            return str(answer.action)

        async def work() -> str:
            async def wait() -> str:
                await others.wait()
                return "worked"

            return str(await ctx.step("work", wait))

        return list(await ctx.gather(ask(), work()))

    await bench.submit()
    async with bench.runner(flow(body)):
        await bench.ring()

        async def asked() -> bool:
            return bool((await bench.log()).state.asked)

        await eventually(asked)
        (request,) = (await bench.log()).state.asked
        await bench.append(answered(request))
        await done.wait()  # heard while running, without a doorbell
        others.set()
        await eventually(bench.empty)
    seen = await types(bench)
    assert "job.suspended" not in seen
    assert (await bench.log()).state.outputs == {"result": ["approve", "worked"]}


async def test_a_cancel_reaches_a_running_step_and_ends_the_job(bench: Bench, eventually: Eventually) -> None:
    running, stopped = asyncio.Event(), asyncio.Event()

    async def forever() -> None:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async def body(ctx: Context, given: Any) -> None:
        await ctx.step("forever", forever)

    await bench.submit()
    async with bench.runner(flow(body)):
        await bench.ring()
        await running.wait()
        await bench.append(ev.CancelData(by=BOB, grace_seconds=30.0))
        await stopped.wait()
        await eventually(bench.empty)
    assert (await bench.log()).state.status is Status.CANCELLED


async def test_an_end_by_somebody_else_stops_the_attempt_and_its_doorbell_is_acked(
    bench: Bench, eventually: Eventually
) -> None:
    running = asyncio.Event()

    async def forever() -> None:
        running.set()
        await asyncio.Event().wait()

    async def body(ctx: Context, given: Any) -> None:
        await ctx.step("forever", forever)

    await bench.submit()
    async with bench.runner(flow(body)) as runner:
        await bench.ring()
        await running.wait()
        await bench.append(ev.CancelledData(fingerprint=FINGERPRINT, by=BOB))
        await eventually(bench.empty)
        await eventually(lambda: runner.executor.running == 0)
    assert (await types(bench))[-1] == "job.cancelled"


@pytest.mark.parametrize("patient", [True, False], ids=["the step ends in time", "the grace is over"])
async def test_a_drain_hands_the_job_on_and_loses_nothing(bench: Bench, eventually: Eventually, patient: bool) -> None:
    running, finish = asyncio.Event(), asyncio.Event()
    calls: list[str] = []

    async def slow() -> str:
        calls.append("slow")
        running.set()
        await finish.wait()
        return "slow"

    async def body(ctx: Context, given: Any) -> list[str]:
        first = await ctx.step("slow", slow)
        return [first, await ctx.step("after", noted(calls, "after", "after"))]

    await bench.submit()
    async with bench.runner(flow(body)) as leaving:
        await bench.ring()
        await running.wait()
        leaving.intake.stopping = True
        leaving.pull.stop()
        leaving.executor.drain()
        if patient:
            finish.set()
        else:
            leaving.executor.halt()

        async def handed_on() -> bool:
            return (await bench.log()).state.status is Status.RETRYING

        await eventually(handed_on)
        finish.set()
        async with bench.runner(flow(body)):
            await eventually(bench.empty)
    log = await bench.log()
    assert log.state.status is Status.COMPLETED
    assert log.state.crashes == 0
    assert calls == (["slow", "after"] if patient else ["slow", "slow", "after"])
    assert [e.data.reason for e in log.events if isinstance(e, ev.AttemptStarted)] == ["first", "retry"]
    assert verify.log(log.events) == []


async def test_a_runner_that_lost_its_lease_writes_nothing_and_acks_nothing(
    bench: Bench, eventually: Eventually
) -> None:
    """The lease is in doubt while a step runs: its result is dropped, the next attempt runs the step again."""
    running: asyncio.Queue[int] = asyncio.Queue()
    gates = [asyncio.Event(), asyncio.Event()]
    calls: list[int] = []

    async def slow() -> int:
        number = len(calls)
        calls.append(number)
        await running.put(number)
        await gates[number].wait()
        return number

    async def body(ctx: Context, given: Any) -> Any:
        return await ctx.step("slow", slow)

    await bench.submit()
    async with bench.runner(flow(body)) as runner:
        await bench.ring()
        claimed = await runner.started.get()
        assert await running.get() == 0
        claimed.lease.release()  # heartbeats stop: the belief runs out, the broker redelivers
        claimed.lease.believed_until = 0.0
        claimed.lease.lost.set()
        gates[0].set()
        assert await running.get() == 1
        gates[1].set()
        await eventually(bench.empty)
    log = await bench.log()
    assert log.state.outputs == {"result": 1}
    assert [type_of(e) for e in log.events] == [
        "job.submitted",
        "attempt.started",
        "attempt.started",
        "step.completed",
        "job.completed",
    ]


async def test_tokens_reach_a_follower_while_the_step_runs(bench: Bench) -> None:
    finish = asyncio.Event()

    async def body(ctx: Context, given: Any) -> str:
        async def talk() -> str:
            ctx.delta("hel")
            ctx.delta("lo")
            await finish.wait()
            return "hello"

        return str(await ctx.step("talk", talk))

    await bench.submit()
    async with Fanout.open(bench.bus) as fanout, bench.runner(flow(body)):
        with fanout.follow(bench.ref) as inbox:
            await bench.ring()
            heard = ""
            while heard != "hello":
                live = await inbox.next(20.0)
                assert live is not None
                if isinstance(live, LiveDelta) and b'"delta.text"' in live.body:
                    heard += msgspec.json.decode(live.body)["text"]
            finish.set()


async def test_a_runner_that_froze_before_its_ack_leaves_the_doorbell_to_whoever_has_it_now(
    bench: Bench, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen, thawed, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def froze(*_: object) -> None:
        frozen.set()
        await thawed.wait()

    async def asking(ctx: Context, given: Any) -> None:
        await ctx.ask("review", title="?")

    async def going_on(ctx: Context, given: Any) -> None:
        await ctx.ask("review", title="?")
        await ctx.step("post", done.wait)

    monkeypatch.setattr(attempt, "arm", froze)
    await bench.submit()
    async with bench.runner(flow(asking)) as first, bench.runner(flow(going_on)) as second:
        second.intake.stopping = True  # nothing for it yet: it hands back what it gets
        await bench.ring()
        claimed = await first.started.get()
        await frozen.wait()  # asleep in the log, its doorbell not acked
        first.intake.stopping, second.intake.stopping = True, False
        claimed.lease._give_up()
        claimed.lease.release()
        (asked,) = (await bench.log()).state.asked
        await bench.append(answered(asked))
        resumed = await second.started.get()  # the same doorbell, after the lease
        assert resumed.delivery.bell == claimed.delivery.bell
        thawed.set()
        await eventually(lambda: first.pull.busy == 0)
        await bench.bus.flush()
        still_there = await bench.doorbells.holds(bench.queue, "normal", bench.ref, resumed.delivery.bell)
        done.set()
        assert still_there
        await eventually(bench.empty)
    assert (await types(bench))[-3:] == ["attempt.started", "step.completed", "job.completed"]
