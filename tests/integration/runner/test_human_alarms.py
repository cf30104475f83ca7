"""What time does to requests where runners serve: on time by alarms, by whoever gets the doorbell, and waking nobody
who is not to wake.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from nats.aio.msg import Msg
from tests.integration.runner.bench import BOB, Bench, Eventually

from perdure.bus.inbox import News
from perdure.bus.stream import Ask, leader_get
from perdure.bus.subject import WORK, alarm_subject
from perdure.core import event as ev
from perdure.core import verify
from perdure.core.alarm import Alarm, due
from perdure.core.event import Status, type_of
from perdure.core.instant import Instant, later, seconds_between
from perdure.core.request import Answer
from perdure.core.standing import Standing
from perdure.engine.context import Context
from perdure.engine.workflow import Workflow
from perdure.errors import Conflict, Expired
from perdure.ids import RequestId, Tenant, request_id
from perdure.jobs.answer import answer
from perdure.jobs.desk import Desk
from perdure.testing.factory import OWNER, RUNNER

LEADS = ev.Assignees(groups=("leads",))
BELL = ev.Bell(seq=1, ring="gone")
ROUNDS = 200


async def asleep(bench: Bench, **members: Any) -> RequestId:
    """Submit a job and take it to where it waits for a person, asked just now."""
    await bench.submit()
    asked = request_id(bench.ref.job, 3)
    request = ev.Request(
        id=asked,
        job_id=bench.ref.job,
        name="review",
        occurrence=1,
        revision=1,
        kind="approval",
        title="?",
        asked_at=bench.now(),
        asked_for=OWNER,
        actions=(ev.Action(id="approve"), ev.Action(id="reject")),
    )
    await bench.append(
        ev.AttemptData(runner=RUNNER, doorbell=BELL, reason="first"),
        ev.RequestedData(request=replace(request, **members)),
        ev.SuspendedData(waiting=(ev.Waiting(kind="input", name="review", occurrence=1, request_id=asked),)),
    )
    return asked


async def types(bench: Bench) -> list[str]:
    events = (await bench.log()).events
    assert verify.log(events) == []
    return [type_of(event) for event in events]


async def armed(bench: Bench, name: str) -> bool:
    return await leader_get(bench.bus, WORK, Ask(last_by_subj=alarm_subject(bench.ref.job, name))) is not None


@asynccontextmanager
async def hearing(bench: Bench, tenant: Tenant) -> AsyncIterator[list[News]]:
    """What is told of the tenant's requests."""
    found: list[News] = []

    async def hear(message: Msg) -> None:
        found.append(msgspec.json.decode(message.data, type=News))

    subscription = await bench.bus.subscribe(f"inbox.{tenant}.request", hear)
    await bench.bus.flush()
    yield found
    await bench.bus.unsubscribe(subscription)


async def test_the_doorbell_of_a_sleeping_job_arms_all_that_is_to_come(bench: Bench, eventually: Eventually) -> None:
    await asleep(
        bench,
        expires_at=later(bench.now(), 3000),
        reminders=(600.0, 1200.0, 200_000.0),
        escalations=(ev.Escalation(after_seconds=1800, add=LEADS),),
    )
    async with bench.runner():
        await bench.ring()
        await eventually(bench.empty)
    assert [name for name in ("q3", "q3-r1", "q3-r2", "q3-r3", "q3-e1", "q3-e2") if await armed(bench, name)] == [
        "q3", "q3-r1", "q3-r2", "q3-e1",
    ]  # fmt: skip


async def test_an_escalation_comes_within_a_second_and_starts_no_attempt(bench: Bench, eventually: Eventually) -> None:
    chain = (ev.Escalation(after_seconds=1.0, add=LEADS), ev.Escalation(after_seconds=1.5, add=LEADS))
    request = await asleep(bench, escalations=chain, expires_at=later(bench.now(), 3000))
    async with bench.runner() as runner:
        await bench.ring()
        await eventually(bench.empty)

        async def escalated() -> bool:
            return (await bench.log()).state.asked[request].escalated == 2

        await eventually(escalated)
        await eventually(bench.empty)
        assert runner.started.empty()
        assert await armed(bench, "q3")
    log = await bench.log()
    assert (await types(bench))[3:] == ["job.suspended", "input.requested", "input.requested"]
    assert log.state.status is Status.SUSPENDED
    asked = log.state.asked[request]
    for event, after in zip(log.events[4:], (1.0, 1.5), strict=True):
        assert 0 <= seconds_between(later(asked.asked_at, after), event.at) < 1.0


async def test_a_reminder_is_told_within_a_second_leaves_no_event_and_starts_no_attempt(
    bench: Bench, eventually: Eventually, tenant: Tenant
) -> None:
    request = await asleep(bench, reminders=(1.0,))
    async with bench.runner() as runner, hearing(bench, tenant) as heard:
        await bench.ring()
        await eventually(lambda: heard)
        told_at = bench.now()
        await eventually(bench.empty)
        assert runner.started.empty()
    (news,) = heard
    assert (news.kind, news.id, news.request.id) == ("reminded", f"{request}:remind:1", request)
    assert 0 <= seconds_between(news.at, told_at) < 1.0
    assert len(await types(bench)) == 4


@pytest.mark.parametrize("name", ["q3-r1", "q3-r3", "q9-r1", "q3-e1", "q3", "q3-r", "wake"])
async def test_an_alarm_that_names_no_reminder_that_waits_tells_nothing(
    bench: Bench, eventually: Eventually, tenant: Tenant, name: str
) -> None:
    request = await asleep(bench, reminders=(600.0, 1200.0))
    if name == "q3-r1":  # settled meanwhile
        await bench.append(
            ev.WithdrawnData(request_id=request, reason="no", by=BOB),
            ev.AttemptData(runner=RUNNER, doorbell=BELL, reason="rung"),
            ev.SuspendedData(waiting=(ev.Waiting(kind="signal", name="go", occurrence=1),)),
        )
    async with bench.runner() as runner, hearing(bench, tenant) as heard:
        await bench.doorbells.arm(bench.ref, bench.queue, "normal", [Alarm(name, later(bench.now(), -1.0))])

        async def rang() -> bool:
            return not await armed(bench, name) and await bench.empty()

        await eventually(rang)
        await bench.bus.flush()
        assert heard == []
        assert runner.started.empty()


async def test_a_request_beside_a_branch_that_works_expires_on_time(bench: Bench, eventually: Eventually) -> None:
    done = asyncio.Event()

    async def body(ctx: Context, given: object) -> object:
        async def ask() -> str:
            answer = await ctx.ask(
                "review", title="?", expires_in=1.0, on_timeout=ev.OnTimeout(do="answer", action="reject")
            )
            return str(answer.action)

        async def work() -> None:
            await ctx.step("long", done.wait)

        said, _ = await ctx.gather(ask(), work())
        return said

    await bench.submit()
    async with bench.runner(Workflow(name="story", fn=body)):
        await bench.ring()

        async def expired() -> bool:
            return "input.expired" in await types(bench)

        await eventually(expired)
        done.set()

        async def ended() -> bool:
            return (await bench.log()).state.terminal

        await eventually(ended)
    log = await bench.log()
    (expiry,) = [event for event in log.events if isinstance(event, ev.InputExpired)]
    (asked,) = [event for event in log.events if isinstance(event, ev.InputRequested)]
    until = asked.data.request.expires_at
    assert until is not None
    assert 0 <= seconds_between(until, expiry.at) < 1.0
    assert [type_of(event) for event in log.events].count("attempt.started") == 1  # the branch was not run twice
    assert log.state.status is Status.COMPLETED


async def test_where_many_are_due_at_once_all_are_written_down_before_any_runs(
    bench: Bench, eventually: Eventually
) -> None:
    await asleep(bench, expires_at=later(bench.now(), -1.0))
    async with bench.runner() as runner:
        busy = [True]
        runner.intake.crowded = lambda: busy[0]
        await bench.ring()
        claimed = await runner.started.get()  # its second doorbell, which only starts
        assert (await types(bench))[3:] == ["job.suspended", "input.expired", "attempt.started"]
        assert claimed.delivery.doorbell.alarm is None
        assert claimed.joblog.state.attempt_data is not None
        assert claimed.joblog.state.attempt_data.cause == "expiry"


async def test_an_answer_and_the_deadline_at_the_same_instant_have_one_outcome(bench: Bench, tenant: Tenant) -> None:
    """ROUNDS times: a person answers just when the request expires, and two who look write the expiry down."""
    outcomes = set()
    for _ in range(ROUNDS):
        bench.renew()
        request = await asleep(bench, expires_at=later(bench.now(), 0.03))
        outcomes.add(await _race(bench, tenant, request))
    assert outcomes == {"input.answered", "input.expired"}, "both were to win now and then"


async def _race(bench: Bench, tenant: Tenant, request: RequestId) -> str:
    desk = Desk(bench.eventlog, bench.doorbells, bench.clock)
    until = (await bench.log()).state.asked[request].expires_at
    assert until is not None

    async def reply(ahead: float) -> bool:
        await _until(bench, later(until, -ahead))
        who = Standing(BOB, rights=frozenset({"answer", "execute"}))
        try:
            await answer(desk, tenant, request, who, Answer(action="approve"), ev.Via(channel="api"))
        except (Expired, Conflict):
            return False
        return True

    async def look() -> None:
        log = await bench.log()
        await _until(bench, until)
        await log.append(lambda job: due(job, bench.now()))

    won, _, _ = await asyncio.gather(reply(0.003), look(), look())
    settling = [name for name in await types(bench) if name in ("input.answered", "input.expired")]
    assert len(settling) == 1
    assert won == (settling == ["input.answered"])
    return settling[0]


async def _until(bench: Bench, at: Instant) -> None:
    """The very instant, by the broker's clock: what races here is time itself."""
    left = seconds_between(bench.now(), at)
    if left > 0:
        await bench.clock.sleep(left)
