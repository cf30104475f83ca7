"""What time decides about the gates of a flow, and what somebody else decides while it runs."""

import copy
from typing import Any

import pytest
from tests.langflow import flowfiles
from tests.langflow.bench import Bench, contents

from perdure.core import event as ev
from perdure.core.event import Status
from perdure.ids import Principal

pytestmark = pytest.mark.asyncio(loop_scope="session")


def hurried(flow: dict[str, Any], *, fallback: bool) -> dict[str, Any]:
    """The flow with minutes that last a second."""
    flow = copy.deepcopy(flow)
    for node in flow["data"]["nodes"]:
        if node["data"]["type"] == "HumanInput":
            template = node["data"]["node"]["template"]
            template["code"]["value"] = template["code"]["value"].replace('"Minutes": 60', '"Minutes": 1')
            template["enable_fallback"]["value"] = fallback
    return flow


async def test_056_a_deadline_takes_the_fallback_unasked(bench: Bench, flows: dict[str, Any]) -> None:
    async with bench.runner():
        events = await bench.reached(await bench.submit(hurried(flows["hitl_fallback"], fallback=True), "x"))
    assert contents(events) == {"fb001": "x"}
    (expired,) = [e.data for e in events if isinstance(e, ev.InputExpired)]
    assert expired.outcome == ev.Outcome(do="answer", action="fallback")


async def test_056_a_deadline_without_a_fallback_fails_the_job(bench: Bench, flows: dict[str, Any]) -> None:
    async with bench.runner():
        ref = await bench.submit(hurried(flows["hitl_fallback"], fallback=False), "x")
        events = await bench.reached(ref, Status.FAILED)
    end = events[-1]
    assert isinstance(end, ev.JobFailed)
    assert end.data.error.code == "request_expired"
    assert contents(events) == {}


async def test_a_request_that_is_withdrawn_fails_the_job(bench: Bench, flows: dict[str, Any]) -> None:
    async with bench.runner():
        ref = await bench.submit(flows["hitl_minimal"], "x")
        await bench.reached(ref, Status.SUSPENDED)
        log = await bench.log(ref)
        (request,) = log.state.asked
        gone = ev.WithdrawnData(request_id=request, reason="a mistake", by=Principal("user:bob"))
        assert await log.append(lambda job: gone) is not None
        await bench.doorbells.ring(ref, bench.queue, "normal")
        events = await bench.reached(ref, Status.FAILED)
    end = events[-1]
    assert isinstance(end, ev.JobFailed)
    assert end.data.error.code == "request_withdrawn"


async def test_045_046_a_pause_waits_for_its_layer_and_outputs_before_it_are_there(
    bench: Bench, flows: dict[str, Any]
) -> None:
    async with bench.runner():
        ref = await bench.submit(flows["hitl_parallel"], "x")
        events = await bench.reached(ref, Status.SUSPENDED)
        assert "Sleeper-side1" in [e.data.step for e in events if isinstance(e, ev.StepCompleted)]
        await bench.answer(ref, gate1="approve")
        events = await bench.reached(ref)
    assert contents(events) == {"side1": "slept:x", "ok001": "x"}
    assert sum(isinstance(e, ev.StepCompleted) and e.data.step == "Sleeper-side1" for e in events) == 1


async def test_053_one_of_two_answers_wakes_nobody(bench: Bench, flows: dict[str, Any]) -> None:
    async with bench.runner():
        ref = await bench.submit(flows["hitl_two_parallel_gates"], "x")
        await bench.reached(ref, Status.SUSPENDED)
        await bench.answer(ref, gate1="approve")
        await bench.emptied(ref)
        job = (await bench.log(ref)).state
        assert (job.status, job.attempt, len(job.asked)) == (Status.SUSPENDED, 1, 1)
        await bench.answer(ref, gate2="reject")
        events = await bench.reached(ref)
    assert contents(events) == {"ok001": "x", "no002": "x"}


async def test_an_answer_before_the_suspension_is_taken(bench: Bench, flows: dict[str, Any]) -> None:
    async with bench.runner():
        ref = await bench.submit(flowfiles.flows(seconds=1.5)["hitl_parallel"], "x")
        await bench.heard(ref, lambda e: isinstance(e, ev.InputRequested))
        await bench.answer(ref, gate1="reject")
        events = await bench.reached(ref)
    assert contents(events) == {"side1": "slept:x", "no001": "x"}
    assert not any(isinstance(e, ev.JobSuspended) for e in events)
    assert sum(isinstance(e, ev.AttemptStarted) for e in events) == 1


async def test_098_a_private_address_is_refused_unless_the_operator_allows_it(bench: Bench) -> None:
    body = (
        "try:\n"
        "    validate_url_for_ssrf(text)\n"
        "    text = 'allowed'\n"
        "except SSRFProtectionError as exc:\n"
        "    text = 'refused'"
    )
    imports = "from lfx.utils.ssrf_protection import SSRFProtectionError, validate_url_for_ssrf"
    async with bench.runner():
        events = await bench.reached(await bench.submit(flowfiles.custom(body, imports), "http://10.1.2.3/v1"))
    assert contents(events) == {"out01": "refused"}
