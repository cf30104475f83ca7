"""The examples do what they say, with a model that needs no network, and through a crash at every event."""

import json
from pathlib import Path
from typing import Any

import pytest

from perdure.core import event as ev
from perdure.core import verify
from perdure.core.graph import spec
from perdure.core.graph.catalogue import BUILTIN
from perdure.engine.components.chat_model import ModelInputs
from perdure.engine.components.contract import Component, ComponentContext
from perdure.engine.components.registry import builtin
from perdure.engine.graph import graph_workflow
from perdure.engine.workflow import Workflow
from perdure.errors import Retryable, Terminal
from perdure.probe import SimulatedCrash
from perdure.testing.memory import MemoryJob

EXAMPLES = Path(__file__).parents[3] / "examples"


class Model:
    """Says its prompt again; each prompt fails once before, one that holds `poison` always and for good."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def run(self, _context: ComponentContext, inputs: ModelInputs) -> str:
        self.asked.append(inputs.prompt)
        if "poison" in inputs.prompt:
            raise Terminal("no", code="model_refused")
        if self.asked.count(inputs.prompt) == 1:
            raise Retryable("busy", code="model_rate_limited", after_seconds=1)
        return f"<{inputs.prompt}>"


def flow(name: str, model: Model) -> Workflow:
    graph = spec.parse(json.loads((EXAMPLES / f"{name}.json").read_text()))
    component = Component(spec=BUILTIN["chat_model"], inputs=ModelInputs, run=model.run)
    return graph_workflow(graph, {**builtin(None), "chat_model": component})


async def triage(text: str, action: str, **crash: Any) -> MemoryJob:
    """A ticket to its end; the first pass that reaches the place of the crash dies there."""
    job, model, dead = MemoryJob(input=text), Model(), not crash
    for _ in range(20):
        if job.state.status in ev.TERMINAL:
            return job
        dead = dead or job.state.seq >= crash["at_seq"]
        try:
            await job.run(flow("support_triage", model), **({} if dead else crash))
        except SimulatedCrash:
            dead = True
        if job.state.asked and job.state.suspension is not None:
            job.answer("approve_refund", action, comment="because")
    raise AssertionError("no end")


@pytest.mark.parametrize(("action", "output"), [("approve", "reply"), ("reject", "refused")])
async def test_a_refund_is_drafted_and_decided_by_a_person(action: str, output: str) -> None:
    job = await triage("I want a refund", action)
    task = "The customer wants a refund (<I want a refund>). Draft a reply.\n\nI want a refund"
    assert job.outputs == {output: f"<{task}>"}
    assert [data.error.code for data in job.events(ev.StepFailed)] == ["model_rate_limited"] * 2
    assert verify.log(job.log) == []


async def test_everything_else_is_answered_without_a_person() -> None:
    job = await triage("Where is my parcel?", "approve")
    assert job.outputs == {"answer": "Thank you for your message. We read it as: <Where is my parcel?>"}
    assert job.events(ev.InputRequested) == []


async def test_a_refund_that_nobody_decides_is_overdue() -> None:
    job, model = MemoryJob(input="refund"), Model()
    await job.run(flow("support_triage", model))
    job.clock.advance(7 * 86_400 + 1)
    await job.run(flow("support_triage", model))
    assert list(job.outputs) == ["overdue"]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_crash_at_any_event_of_a_refund_changes_nothing(when: Any) -> None:
    whole = await triage("refund!", "approve")
    for seq in range(2, whole.state.seq + 1):
        died = await triage("refund!", "approve", crash=when, at_seq=seq)
        assert died.outputs == whole.outputs, seq
        assert sum(event.status in ev.TERMINAL for event in died.log) == 1
        assert verify.log(died.log) == [], seq


async def test_every_text_is_translated_and_what_fails_is_named() -> None:
    job, model = MemoryJob(input={"texts": ["a", "poison", "b"]}), Model()
    await job.run(flow("translate_all", model))
    assert job.outputs["translations"] == ["<a>", "<b>"]
    assert [(error["item"], error["code"]) for error in job.outputs["failed"]] == [(2, "model_refused")]
