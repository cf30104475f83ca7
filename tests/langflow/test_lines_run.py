"""Flow files run: outputs, branches, failures; and how people are asked."""

from typing import Any

import pytest
from tests.langflow.bench import Bench, contents

from perdure.core import event as ev
from perdure.core.event import Status

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_an_echo_runs_to_its_end_with_its_journal(bench: Bench, flows: dict[str, Any]) -> None:
    async with bench.runner():
        ref = await bench.submit(flows["echo"], "hi")
        events = await bench.reached(ref)
    end = events[-1]
    assert isinstance(end, ev.JobCompleted)
    assert end.data.outputs["ChatOutput-out01"]["content"] == "hi"
    assert contents(events) == {"out01": "hi"}
    steps = [e.data for e in events if isinstance(e, ev.StepCompleted)]
    assert [step.step for step in steps] == ["ChatInput-in001", "ChatOutput-out01"]
    assert steps[1].output == ev.Named(name="ChatOutput-out01", kind="message")
    assert steps[1].preview["output_meta"]["is_terminal"] is True
    said = [e.data for e in events if isinstance(e, ev.Message)]
    assert [(m.role, m.text, m.step) for m in said] == [
        ("user", "hi", "ChatInput-in001"),
        ("assistant", "hi", "ChatOutput-out01"),
    ]
    begun = next(e.data for e in events if isinstance(e, ev.Progress))
    assert (begun.name, begun.total, begun.data["ids"]) == ("langflow.pass", 2, ["ChatInput-in001"])


@pytest.mark.parametrize(("text", "taken", "left"), [("yes", "yes01", "no001"), ("else", "no001", "yes01")])
async def test_a_router_takes_one_branch_and_the_other_is_skipped(
    bench: Bench, flows: dict[str, Any], text: str, taken: str, left: str
) -> None:
    async with bench.runner():
        events = await bench.reached(await bench.submit(flows["router"], text))
    assert list(contents(events)) == [taken]
    assert [e.data.step for e in events if isinstance(e, ev.StepSkipped)] == [f"ChatOutput-{left}"]


async def test_a_component_that_raises_fails_the_job_at_once(bench: Bench, flows: dict[str, Any]) -> None:
    async with bench.runner():
        events = await bench.reached(await bench.submit(flows["failing"]), Status.FAILED)
    end = events[-1]
    assert isinstance(end, ev.JobFailed)
    assert (end.data.error.code, end.data.error.step) == ("component_failed", "Sleeper-bad01")
    assert (end.data.error.message, end.data.error.details) == ("boom", {"error_type": "ValueError"})
    assert [e.data.step for e in events if isinstance(e, ev.StepCompleted)] == ["ChatInput-in001"]
    assert sum(isinstance(e, ev.AttemptStarted) for e in events) == 1


@pytest.mark.parametrize(("action", "branch"), [("approve", "ok001"), ("reject", "no001")])
async def test_a_gate_suspends_and_its_answer_takes_only_its_branch(
    bench: Bench, flows: dict[str, Any], action: str, branch: str
) -> None:
    async with bench.runner():
        ref = await bench.submit(flows["hitl_minimal"], "ship it?")
        events = await bench.reached(ref, Status.SUSPENDED)
        asleep = events[-1]
        assert isinstance(asleep, ev.JobSuspended)
        assert asleep.data.resume == "all"
        request = next(e.data.request for e in events if isinstance(e, ev.InputRequested))
        assert (request.name, request.message) == ("HumanInput-gate1", "ship it?")
        assert [a.id for a in request.actions] == ["approve", "reject"]
        assert request.external_ids["langflow"] == f"HumanInput-gate1:{ref.job}"
        assert contents(events) == {}
        await bench.answer(ref, gate1=action)
        events = await bench.reached(ref)
    assert contents(events) == {branch: "ship it?"}
