"""The examples with people in them: the expense that two approve, the agent whose calls are decided on.

Jobs are in memory; what people say goes through `core.request.settle`, and the model is the local one.
"""

import importlib
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET

from perdure import Workflow
from perdure.clock import SystemClock
from perdure.core import event as ev
from perdure.core import verify
from perdure.core.request import Answer, settle
from perdure.core.standing import Standing
from perdure.core.vote import Replayed
from perdure.errors import Forbidden, Invalid
from perdure.ids import Principal
from perdure.probe import SimulatedCrash
from perdure.testing.chatmodel import ChatModel, answer_to
from perdure.testing.memory import MemoryJob
from perdure.testing.port import Crash

EXAMPLES = Path(__file__).parents[2] / "examples"
FINANCE = frozenset({"finance"})


@pytest.fixture
def example(request: pytest.FixtureRequest) -> Iterator[Any]:  # Any: a module
    """The module of the example whose name is the parameter."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        yield importlib.import_module(request.param)
    finally:
        sys.path.remove(str(EXAMPLES))


def say(
    job: MemoryJob,
    user: str,
    action: str,
    payload: Any = UNSET,
    *,
    groups: frozenset[str] = FINANCE,
    proposal: Any = UNSET,
    comment: str | None = None,
) -> ev.AnyEvent | None:
    """What the gateway does with an answer to the one open request. Raises what it refuses with."""
    [asked] = job.state.asked.values()
    who = Standing(Principal(f"user:{user}"), groups, frozenset({"read", "execute", "answer"}))
    answer = Answer(
        action=action, payload=payload, proposal=proposal, proposal_digest=asked.proposal_digest, comment=comment
    )
    data = settle(job.state, asked, who, ev.Via(channel="api"), answer, job.clock.broker_now())
    assert isinstance(data, ev.AnsweredData | ev.VotedData | ev.ExpiredData | Replayed)
    return None if isinstance(data, Replayed) else job.append(data)


# ------------------------------------------------------------------------------------------------ the expense

TRIP = {"employee": "ann", "purpose": "Train to Berlin", "amount": 480}
TRAVEL = {"cost_centre": "travel"}
expenses = pytest.mark.parametrize("example", ["expense_approval"], indirect=True)


@expenses
async def test_a_small_expense_is_paid_at_once(example: Any) -> None:
    job = MemoryJob(TRIP | {"amount": 20})
    await job.run(example.expense)
    assert job.outputs["result"]["status"] == "paid"
    assert job.events(ev.InputRequested) == []


@expenses
async def test_an_expense_is_paid_as_two_of_finance_approved_it(example: Any) -> None:
    job = MemoryJob(TRIP)
    await job.run(example.expense)
    lowered = TRIP | {"amount": 450}
    with pytest.raises(Invalid) as caught:
        say(job, "bob", "approve", {"cost_centre": "yachts"})
    assert caught.value.faults[0].pointer == "/payload/cost_centre"
    with pytest.raises(Forbidden):
        say(job, "zoe", "approve", TRAVEL, groups=frozenset())
    with pytest.raises(Forbidden) as own:
        say(job, "ann", "approve", TRAVEL)
    assert own.value.code == "self-answer-forbidden"
    assert isinstance(say(job, "bob", "approve", TRAVEL, proposal=lowered), ev.InputVoted)
    assert isinstance(say(job, "zoe", "approve", TRAVEL, proposal=lowered), ev.InputAnswered)
    await job.run(example.expense)
    assert job.outputs["result"] == {
        "status": "paid",
        "amount": 450,
        "cost_centre": "travel",
        "approved_by": ["user:bob", "user:zoe"],
        "reason": None,
    }
    assert next(d.result for d in job.events(ev.StepCompleted) if d.step == "pay").endswith("of 450.00 to ann")
    assert verify.log(job.log) == []


@expenses
async def test_a_budget_that_cannot_bear_it_is_asked_about_again(example: Any) -> None:
    job = MemoryJob(TRIP)
    await job.run(example.expense)
    [first] = job.state.asked
    for user in ("bob", "zoe"):
        say(job, user, "approve", {"cost_centre": "equipment"})
    await job.run(example.expense)
    [second] = job.state.asked.values()
    assert second.reasks == first
    assert [(e.pointer, e.detail) for e in second.errors] == [
        ("", "equipment has 300.00 left"), ("/payload/cost_centre", "cannot bear this amount")
    ]  # fmt: skip
    assert second.defaults == {"cost_centre": "equipment"}
    for user in ("bob", "zoe"):
        say(job, user, "approve", TRAVEL)
    await job.run(example.expense)
    assert job.outputs["result"]["cost_centre"] == "travel"
    assert verify.log(job.log) == []


@expenses
async def test_leads_are_asked_too_after_hours(example: Any) -> None:
    job = MemoryJob(TRIP)
    await job.run(example.expense)
    leads = frozenset({"leads"})
    with pytest.raises(Forbidden):
        say(job, "zoe", "approve", TRAVEL, groups=leads)
    say(job, "bob", "approve", TRAVEL)
    job.clock.advance(4 * 3600)
    await job.run(example.expense)
    [asked] = job.state.asked.values()
    assert (asked.revision, asked.escalated) == (2, 1)
    say(job, "zoe", "approve", TRAVEL, groups=leads)
    await job.run(example.expense)
    assert job.outputs["result"]["approved_by"] == ["user:bob", "user:zoe"]


@expenses
async def test_one_who_rejects_is_enough_and_says_why(example: Any) -> None:
    job = MemoryJob(TRIP)
    await job.run(example.expense)
    say(job, "bob", "approve", TRAVEL)
    with pytest.raises(Invalid):
        say(job, "zoe", "reject")
    assert isinstance(say(job, "zoe", "reject", comment="no receipt"), ev.InputAnswered)
    await job.run(example.expense)
    assert job.outputs["result"]["status"] == "refused"
    assert job.outputs["result"]["reason"] == "no receipt"


@expenses
async def test_nobody_in_three_days_is_an_outcome(example: Any) -> None:
    job = MemoryJob(TRIP)
    await job.run(example.expense)
    job.clock.advance(3 * 86_400)
    await job.run(example.expense)
    assert (job.outputs["result"]["status"], job.outputs["result"]["reason"]) == ("nobody decided", "deadline")


# ------------------------------------------------------------------------------------------------ the agent

TASK = """Please:
look_up {"order": 9}
send_mail {"to": "ann@example.com", "text": "Hello"}
refund {"order": 9, "amount": 120}
send_mail {"to": "bob@example.com", "text": "Bye"}
refund {"order": "nine"}"""
agents = pytest.mark.parametrize("example", ["agent_with_approval"], indirect=True)


@pytest.fixture
async def model(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ChatModel]:
    async with ChatModel(SystemClock()).serve() as server:
        monkeypatch.setenv("PERDURE_MODEL_URL", server.url)
        yield server


async def decided(job: MemoryJob, flow: Workflow, crash: Crash | None = None, at_seq: int | None = None) -> list[str]:
    """Run the agent to its end, as three people decide on its calls; what they were asked."""
    asked: list[str] = []
    for _ in range(20):
        try:
            await job.run(flow, **({} if crash is None else {"crash": crash, "at_seq": at_seq}))
        except SimulatedCrash:
            crash = None
            continue
        if job.state.terminal:
            return asked
        [request] = job.state.asked.values()
        asked.append(f"{request.proposal['name']} {request.proposal['arguments']}")
        match len(job.events(ev.InputRequested)):
            case 1:
                say(job, "bob", "approve")
            case 2:
                edited = {"name": "refund", "arguments": {"order": 9, "amount": 100}}
                say(job, "bob", "edit", proposal=edited)
            case _:
                say(job, "bob", "reject", comment="He left.")
    raise AssertionError("no end")


@agents
async def test_an_agent_s_calls_are_approved_edited_and_rejected(example: Any, model: ChatModel) -> None:
    job = MemoryJob(TASK)
    asked = await decided(job, example.agent)
    assert job.state.status == "completed"
    assert asked == [
        "send_mail {'to': 'ann@example.com', 'text': 'Hello'}",
        "refund {'order': 9, 'amount': 120}",
        "send_mail {'to': 'bob@example.com', 'text': 'Bye'}",
    ]
    said = job.outputs["result"].splitlines()
    assert said[2] == 'look_up: found {"order": 9}'
    assert said[3].startswith("send_mail: sent to ann@example.com: Hello (")
    assert said[4].startswith("refund: refunded 100.00 for order 9 (")
    assert said[5] == "send_mail: The call was rejected by a person and not made. He left."
    assert said[6].startswith("refund: These arguments cannot be: /proposal/arguments/")
    steps = [data.step for data in job.events(ev.StepCompleted)]
    assert steps == ["think", "look_up", "think", "send_mail", "think", "refund", "think", "think", "think"]
    assert len(model.calls) == 6
    assert verify.log(job.log) == []


@agents
async def test_a_call_that_a_person_answers_is_not_made(example: Any, model: ChatModel) -> None:
    job = MemoryJob('refund {"order": 9, "amount": 120}')
    await job.run(example.agent)
    [asked] = job.state.asked.values()
    assert (asked.kind, asked.external_ids) == ("tool_call", {"tool_call": "call_0_1"})
    say(job, "bob", "respond", comment="Done by hand.")
    await job.run(example.agent)
    assert job.outputs["result"] == answer_to("refund: Done by hand.")
    assert "refund" not in [data.step for data in job.events(ev.StepCompleted)]


@agents
@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_agent_that_dies_at_any_event_makes_no_recorded_call_again(
    example: Any, model: ChatModel, when: Crash
) -> None:
    calm = MemoryJob(TASK)
    await decided(calm, example.agent)
    for at_seq in range(3, calm.state.seq + 1):
        job = MemoryJob(TASK)
        await decided(job, example.agent, when, at_seq)
        assert job.outputs == calm.outputs, at_seq
        assert verify.log(job.log) == []
