"""Flows that ship with Langflow, with a stand-in for their models: they run, and no model is paid twice."""

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from tests.langflow import shipped
from tests.langflow.bench import Bench, contents, cut_places, kill
from tests.langflow.standin import StandIn

from perdure.core import event as ev
from perdure.core.event import AnyEvent, Status
from perdure.core.langflow.overrides import Overrides
from perdure.ids import JobRef
from perdure_runner.langflow.run import LangflowRun

pytestmark = pytest.mark.asyncio(loop_scope="session")

QUESTION = "What is 2+2?"
CALLS = {
    "Basic Prompting": 1,
    "Image Sentiment Analysis": 1,
    "Twitter Thread Generator": 1,
    "SEO Keyword Generator": 2,
    "Simple Agent": 2,
    "Multi Agent Flow": 3,
    "Blog Writer": 2,
    "Social Media Agent": 2,
    "Memory Chatbot": 2,
    "Custom Component Generator": 2,
    "SaaS Pricing": 2,
    "Instagram Copywriter": 4,
    "TranslationFlow": 1,
    "Sequential Tasks Agents": 6,
}


@pytest.fixture(scope="session")
def flows_shipped(request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    cache = request.config.cache
    assert cache is not None, "the cache plugin is on"
    try:
        return shipped.fetch(cache.mkdir("langflow"))
    except OSError as exc:
        pytest.skip(str(exc))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def model() -> Any:
    async with StandIn().serve() as model:
        yield model


class Keys:
    """A key of its own for each job."""

    def __init__(self, bench: Bench, model: StandIn, flow: dict[str, Any]) -> None:
        self._bench, self._model, self._flow = bench, model, flow

    async def submit(self, cut: tuple[dict[JobRef, int], int] | None = None) -> tuple[JobRef, str]:
        """Submit a job whose models have a key that begins with this."""
        key = f"sk-{uuid.uuid4().hex}"
        globals_ = {"OPENAI_API_KEY": key, "OPENAI_BASE_URL": f"{self._model.url}/v1"}
        overrides = Overrides(tweaks=shipped.tweaks(self._flow, key), globals=globals_)
        return await self._bench.submit(self._flow, QUESTION, cut=cut, sealed=msgspec.to_builtins(overrides)), key


@pytest.mark.parametrize("name", CALLS)
async def test_s1_s5_a_shipped_flow_runs(
    bench: Bench, model: StandIn, flows_shipped: dict[str, Any], name: str
) -> None:
    async with bench.runner():
        ref, key = await Keys(bench, model, flows_shipped[name]).submit()
        events = await bench.reached(ref)
    assert model.made(key) == CALLS[name]
    assert model.said(key)[-1] in contents(events).values()
    assert key not in str(events[1:])


def gated(flows_shipped: dict[str, Any], name: str) -> dict[str, Any]:
    return shipped.gate_before_output(flows_shipped[name])


async def cuts(bench: Bench, model: StandIn, keys: Keys, whole: list[AnyEvent], actions: dict[str, str]) -> list[Any]:
    """For each event of `whole` a job whose child is killed there: its log, its key, the components that ran then."""
    places: dict[JobRef, int] = {}
    running: dict[JobRef, list[str]] = {}

    def watch(run: LangflowRun, event: AnyEvent) -> None:
        ref = run._port.ref
        if places.get(ref) == event.seq and ref not in running:
            begun = [] if run._recording is None else list(run._recording.running)
            running[ref] = begun if kill(run) else []

    async def cut(seq: int) -> Any:
        ref, key = await keys.submit((places, seq))
        return await bench.play(ref, actions), key, running.get(ref, [])

    bench.watch = watch
    return await asyncio.gather(*(cut(seq) for seq in cut_places(whole)))


@pytest.mark.parametrize("name", ["Basic Prompting", "SEO Keyword Generator", "Simple Agent", "Multi Agent Flow"])
async def test_s3_no_model_is_paid_twice_for_a_component_that_had_finished(
    bench: Bench,
    model: StandIn,
    flows_shipped: dict[str, Any],
    name: str,
    record_property: Callable[[str, object], None],
) -> None:
    keys = Keys(bench, model, flows_shipped[name])
    async with bench.runner():
        ref, price = await keys.submit()
        whole = await bench.play(ref, {})
        found = await cuts(bench, model, keys, whole, {})
    cost = model.by_component(price)
    record_property("kills", len(found))
    for events, key, running in found:
        assert events[-1].status is Status.COMPLETED
        most = CALLS[name] + sum(cost.get(component, 0) for component in running)
        assert model.made(key) <= most, (running, model.by_component(key))
        assert model.said(key)[-1] in contents(events).values()
    assert any(isinstance(e, ev.StepFailed) for events, _, _ in found for e in events)


@pytest.mark.parametrize("name", ["Simple Agent", "Multi Agent Flow", "Sequential Tasks Agents"])
async def test_s4_what_was_approved_is_what_is_delivered(
    bench: Bench, model: StandIn, flows_shipped: dict[str, Any], name: str
) -> None:
    keys = Keys(bench, model, gated(flows_shipped, name))
    async with bench.runner():
        ref, key = await keys.submit()
        events = await bench.reached(ref, Status.SUSPENDED)
        calls = model.made(key)
        asked = next(e.data.request for e in events if isinstance(e, ev.InputRequested))
        assert asked.message == model.said(key)[-1]
        await bench.answer(ref, gate1="approve")
        whole = await bench.reached(ref)
        assert model.made(key) == calls == CALLS[name]
        assert [text for text in contents(whole).values()] == [asked.message]
        found = await cuts(bench, model, keys, whole, {"gate1": "approve"}) if name == "Simple Agent" else []
    for events, key, running in found:
        (request,) = [e.data.request for e in events if isinstance(e, ev.InputRequested)]
        assert list(contents(events).values()) == [request.message]
        assert model.made(key) <= CALLS[name] * (1 + bool(running))


async def test_096_a_tool_approval_survives_kills_with_two_model_calls_in_all(
    bench: Bench, model: StandIn, flows_shipped: dict[str, Any]
) -> None:
    flow = shipped.approve_tools(flows_shipped["Simple Agent"], "URLComponent")
    flow = shipped.approve_tools(flow, "UnifiedWebSearch")
    agent = next(name for name, kind, _ in shipped.components(flow) if kind == "Agent").partition("-")[2]
    keys = Keys(bench, model, flow)
    async with bench.runner():
        ref, key = await keys.submit()
        events = await bench.reached(ref, Status.SUSPENDED)
        (request,) = [e.data.request for e in events if isinstance(e, ev.InputRequested)]
        assert request.kind == "tool_call"
        assert model.made(key) == 1
        killed: list[bool] = []

        def watch(run: LangflowRun, event: AnyEvent) -> None:
            if run._port.ref == ref and not killed:
                killed.append(kill(run))  # right after the first event behind the answer

        bench.watch = watch
        await bench.answer(ref, **{agent: "approve"})
        whole = await bench.reached(ref)
    assert killed == [True]
    assert model.made(key) <= 3  # the call that ran when the child died is made again, no other
    assert sum(isinstance(e, ev.InputRequested) for e in whole) == 1
    thread = request.external_ids["agent_thread"]
    assert any(thread in event.refs for event in whole if isinstance(event, ev.InputRequested))
    assert model.said(key)[-1] in contents(whole).values()


async def test_s2_tokens_are_told_live_and_joined_they_are_the_text(
    bench: Bench, model: StandIn, flows_shipped: dict[str, Any]
) -> None:
    said: dict[str, str] = {}
    async with bench.runner(), bench.deltas() as heard:
        ref, key = await Keys(bench, model, flows_shipped["Simple Agent"]).submit()
        await bench.reached(ref)
        await bench.clock.sleep(0)
        for delta in heard:
            if delta["type"] == "delta.text" and delta["job_id"] == ref.job:
                said[delta["channel"]] = said.get(delta["channel"], "") + delta["text"]
    assert model.said(key)[-1] in said.values()


FAILING = {
    "Knowledge Retrieval": "requires Langflow's application services",
    "Vector Store RAG": "requires Langflow's application services",
    "Document Q&A": "requires Langflow's application services",
    "Meeting Summary": "AssemblyAI API Key is required.",
    "Content Aggregator": "No module named 'langflow'",
    "Financial Report Parser": "No files to process.",
    "Portfolio Website Code Generator": "No files to process.",
    "Hybrid Search RAG": "astrapy",
}


@pytest.mark.parametrize("name", FAILING)
async def test_a_shipped_flow_that_cannot_run_fails_cleanly(
    bench: Bench, model: StandIn, flows_shipped: dict[str, Any], name: str
) -> None:
    async with bench.runner():
        ref, _ = await Keys(bench, model, flows_shipped[name]).submit()
        events = await bench.reached(ref, Status.FAILED)
    end = events[-1]
    assert isinstance(end, ev.JobFailed)
    assert FAILING[name] in end.data.error.message + str(end.data.error.details)
    assert end.data.error.step is not None
    assert end.attempt == 1
