"""Requests: what is recorded when the code asks, what it gets when the request is settled, by whomever."""

import math
import re
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from perdure import Action, Answer, Context, OnTimeout, RequestExpired, RequestWithdrawn, Workflow
from perdure.core import event as ev
from perdure.core.alarm import due
from perdure.core.instant import later
from perdure.core.request import proposal_digest
from perdure.engine.attempt import Pass
from perdure.errors import Invalid, Malformed, TooLarge
from perdure.ids import request_id
from perdure.testing.memory import MemoryJob


def asks(**asking: Any) -> Workflow:
    """A workflow that asks once and returns what it was told."""

    async def body(ctx: Context) -> Any:
        answer = await ctx.ask("review", title="Publish?", **asking)
        return [answer.action, answer.payload, answer.proposal, answer.comment, answer.by, answer.timed_out]

    return Workflow("asks", body)


async def test_the_request_is_recorded_whole_and_the_job_sleeps() -> None:
    job = MemoryJob()
    flow = asks(message="Look", proposal={"b": 1, "a": [2]}, editable=["/a"], expires_in=timedelta(hours=1))
    asleep = await job.run(flow)
    asked_event = job.log[2]
    assert isinstance(asked_event, ev.InputRequested)
    asked = asked_event.data.request
    assert asked.id == request_id(job.ref.job, 3)
    assert (asked.job_id, asked.name, asked.occurrence, asked.path, asked.revision) == (job.ref.job, "review", 1, "", 1)
    assert (asked.kind, asked.title, asked.message, asked.asked_for) == ("approval", "Publish?", "Look", "user:ann")
    assert [a.id for a in asked.actions] == ["approve", "reject"]
    assert (asked.proposal, asked.editable) == ({"b": 1, "a": [2]}, ("/a",))
    assert asked.proposal_digest == proposal_digest("Publish?", "Look", {"a": [2], "b": 1})
    assert asked.expires_at == later(asked.asked_at, 3600)
    assert isinstance(asleep, ev.JobSuspended)
    assert asleep.status == "suspended"
    (wait,) = asleep.data.waiting
    assert (wait.kind, wait.name, wait.request_id, wait.until) == ("input", "review", asked.id, asked.expires_at)
    assert asleep.data.wake_at == asked.expires_at


async def test_the_id_names_the_place_that_the_request_got_in_the_log() -> None:
    job = MemoryJob()
    port = job.port()
    said: list[Any] = []

    def first_the_news(data: Any) -> None:
        if not said:
            said.append(job.signal("hello"))

    port.before_append = first_the_news
    one = Pass(asks(), port)
    await one.run()
    await one.close()
    (asked,) = job.events(ev.InputRequested)
    assert asked.request.id == request_id(job.ref.job, 4)


@pytest.mark.parametrize(
    ("edited", "approved"), [(None, {"amount": 5}), ({"amount": 3}, {"amount": 3})], ids=["as shown", "edited"]
)
async def test_the_answer_holds_what_was_said_and_approved(edited: Any, approved: Any) -> None:
    job, flow = MemoryJob(), asks(proposal={"amount": 5})
    await job.run(flow)
    job.answer("review", "approve", {"note": "ok"}, proposal=edited, comment="fine")
    await job.run(flow)
    assert job.outputs["result"] == ["approve", {"note": "ok"}, approved, "fine", "user:bob", False]


async def test_without_a_proposal_there_is_no_digest() -> None:
    job = MemoryJob()
    await job.run(asks())
    assert job.open_request("review").proposal_digest is None
    null = MemoryJob()
    await null.run(asks(proposal=None))
    assert null.open_request("review").proposal_digest == proposal_digest("Publish?", None, None)


@pytest.mark.parametrize(
    ("then", "result"),
    [
        (
            OnTimeout(do="answer", action="reject", payload={"auto": True}),
            ["reject", {"auto": True}, 1, None, None, True],
        ),
        (OnTimeout(do="branch"), [None, None, 1, None, None, True]),
    ],
    ids=["answer", "branch"],
)
async def test_a_request_that_nobody_answers_ends_as_it_was_asked_to(then: OnTimeout, result: list[Any]) -> None:
    job, flow = MemoryJob(), asks(proposal=1, expires_in=600, on_timeout=then)
    await job.run(flow)
    job.clock.advance(600)
    await job.run(flow)
    assert job.outputs["result"] == result
    assert job.events(ev.InputExpired)[0].outcome.do == then.do


async def test_a_request_that_nobody_answers_fails_the_job_by_default() -> None:
    job, flow = MemoryJob(), asks(expires_in=600)
    await job.run(flow)
    job.clock.advance(601)
    await job.run(flow)
    (failed,) = job.events(ev.JobFailed)
    assert failed.error.code == "request_expired"


async def test_a_request_that_expires_soon_is_waited_for_in_the_process() -> None:
    job = MemoryJob()
    end = await job.live(asks(expires_in=1.5, on_timeout=OnTimeout(do="branch")))
    assert end.status == "completed"
    assert job.events(ev.JobSuspended) == []


async def test_expiry_and_withdrawal_can_be_caught() -> None:
    async def body(ctx: Context) -> list[str]:
        told = []
        try:
            await ctx.ask("first", title="?", expires_in=60)
        except RequestExpired:
            told.append("expired")
        try:
            await ctx.ask("second", title="?")
        except RequestWithdrawn as exc:
            told.append(str(exc))
        return told

    flow, job = Workflow("flow", body), MemoryJob()
    await job.run(flow)
    job.clock.advance(60)
    await job.run(flow)
    job.withdraw("second", "not needed")
    await job.run(flow)
    assert job.outputs["result"] == ["expired", "request second was withdrawn: not needed"]


async def test_an_answer_before_the_suspension_is_delivered_in_this_pass() -> None:
    """A race of answers with suspension: the answer comes while `job.suspended` is about to be appended."""
    job = MemoryJob()
    port = job.port()

    def answer_first(data: Any) -> None:
        if isinstance(data, ev.SuspendedData) and job.state.asked:
            job.answer("review", "approve")

    port.before_append = answer_first
    one = Pass(asks(), port)
    end = await one.run()
    await one.close()
    assert end.status == "completed"
    assert [type(e).__name__ for e in job.log[2:]] == ["InputRequested", "InputAnswered", "JobCompleted"]


async def test_events_of_other_requests_do_nothing() -> None:
    async def body(ctx: Context) -> list[Any]:
        return await ctx.gather(ctx.ask("a", title="?"), ctx.ask("b", title="?"))

    async def actions(ctx: Context) -> list[Any]:
        return [a.action for a in await body(ctx)]

    flow, job = Workflow("flow", actions), MemoryJob()
    await job.run(flow)
    job.answer("b", "reject")
    asleep = await job.run(flow)
    assert isinstance(asleep, ev.JobSuspended)
    assert [w.name for w in asleep.data.waiting] == ["a"]
    job.answer("a", "approve")
    await job.run(flow)
    assert job.outputs["result"] == ["approve", "reject"]


async def test_a_restated_request_is_still_the_same_call() -> None:
    job, flow = MemoryJob(), asks(proposal=1)
    await job.run(flow)
    asked = job.open_request("review")
    job.append(ev.RequestedData(request=replace(asked, revision=2, proposal=2)))
    job.answer("review", "approve")
    await job.run(flow)
    assert job.outputs["result"][2] == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"actions": []},
        {"actions": ["a", "a"]},
        {"actions": ["Not An Id"]},
        {"actions": [f"a{i}" for i in range(13)]},
        {"kind": "choice"},
        {"on_timeout": OnTimeout(do="answer", action="other")},
        {"expires_in": -1},
        {"proposal": object()},
        {"message": "x" * 200_000},
        {"proposal": math.nan},
    ],
    ids=lambda value: re.sub("0x[0-9a-f]+", "", str(value)),
)
async def test_a_request_that_cannot_be_is_refused_before_anything_is_written(wrong: dict[str, Any]) -> None:
    async def body(ctx: Context) -> str:
        with pytest.raises((Malformed, Invalid)):
            await ctx.ask("review", title="?", **wrong)
        return "refused"

    job = MemoryJob()
    await job.run(Workflow("flow", body))
    assert job.outputs == {"result": "refused"}


async def test_kinds_bring_their_actions_and_own_ones_replace_them() -> None:
    job = MemoryJob()
    await job.run(asks(kind="tool_call", proposal={"name": "t", "arguments": {}}))
    assert [a.id for a in job.open_request("review").actions] == ["approve", "edit", "reject", "respond"]
    job = MemoryJob()
    await job.run(asks(kind="choice", actions=["red", Action(id="blue", label="Blue", requires=("comment",))]))
    assert [(a.id, a.label) for a in job.open_request("review").actions] == [("red", None), ("blue", "Blue")]


async def test_the_running_attempt_lets_a_request_expire_while_another_branch_works() -> None:
    job = MemoryJob()

    async def body(ctx: Context) -> list[Any]:
        async def work() -> str:
            job.clock.advance(700)
            return "worked"

        async def question() -> Answer[Any]:
            return await ctx.ask("review", title="?", expires_in=600, on_timeout=OnTimeout(do="branch"))

        async def step_after_asking() -> str:
            await ctx.sleep(1)
            return str(await ctx.step("work", work))

        answer, worked = await ctx.gather(question(), step_after_asking())
        return [answer.timed_out, worked]

    end = await job.live(Workflow("flow", body))
    assert end.status == "completed"
    assert job.outputs["result"] == [True, "worked"]
    assert due(job.state, job.clock.broker_now()) is None


async def test_a_request_that_is_too_large_for_an_event_is_raised_where_it_is_asked() -> None:
    async def body(ctx: Context) -> str:
        with pytest.raises(TooLarge):
            await ctx.ask("review", title="?", message="x" * 90_000, ui={"help": "x" * 90_000})
        return "refused"

    job = MemoryJob()
    await job.run(Workflow("flow", body))
    assert job.outputs == {"result": "refused"}


@pytest.mark.parametrize(
    ("then", "schema", "fits"),
    [
        (OnTimeout(do="answer", action="go", payload={"note": "late"}), {"required": ["note"]}, True),
        (OnTimeout(do="answer", action="go", payload={"note": 7}), {"properties": {"note": {"type": "string"}}}, False),
        (OnTimeout(do="answer", action="go"), {"type": "object", "required": ["note"]}, False),
        (OnTimeout(do="answer", action="strict"), None, False),
        (OnTimeout(do="answer", action="strict", payload={"why": "late"}), None, True),
    ],
    ids=str,
)
async def test_the_answer_of_a_time_out_is_held_to_the_schema_when_it_is_asked(
    then: OnTimeout, schema: dict[str, Any] | None, fits: bool
) -> None:
    async def body(ctx: Context) -> str:
        actions: list[Action | str] = ["go", Action(id="strict", requires=("why",))]
        try:
            answer = await ctx.ask(
                "go", title="?", actions=actions, response_schema=schema, expires_in=60, on_timeout=then
            )
        except Invalid as exc:
            return str(exc.faults[0].pointer)
        return f"{answer.action} by time-out"

    job = MemoryJob()
    while not job.state.terminal:
        await job.run(Workflow("flow", body))
        if not job.state.terminal:
            job.clock.advance(61)
    said = job.outputs["result"]
    assert said == f"{then.action} by time-out" if fits else said.startswith("/on_timeout/payload")
