"""A graph runs on the engine: branches, skips, edits, failures, and a crash at every event."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from perdure.core import event as ev
from perdure.core import verify
from perdure.core.event import AnyEvent, type_of
from perdure.core.graph import spec
from perdure.core.graph.catalogue import BUILTIN, DEFAULT_ACTIONS
from perdure.core.graph.ports import outputs_of
from perdure.engine.components.chat_model import ModelInputs
from perdure.engine.components.contract import Component, ComponentContext, Components
from perdure.engine.components.registry import builtin
from perdure.engine.graph import graph_workflow
from perdure.engine.result import Result
from perdure.engine.workflow import Workflow
from perdure.errors import Retryable, Terminal
from perdure.probe import SimulatedCrash
from perdure.testing.memory import MemoryJob

EXAMPLES = Path(__file__).parents[3] / "examples"
APPROVAL = json.loads((EXAMPLES / "content_approval.json").read_text())
TWO = json.loads((EXAMPLES / "two_drafts.json").read_text())


class Model:
    """A chat model without a network: says its prompt in capitals, and fails as told, one entry for each call."""

    def __init__(self, *failures: Exception | None) -> None:
        self.prompts: list[str] = []
        self._failures = list(failures)

    async def run(self, context: ComponentContext, inputs: ModelInputs) -> Result[str]:
        self.prompts.append(inputs.prompt)
        failure = self._failures.pop(0) if self._failures else None
        for piece in (inputs.prompt[:2].upper(), inputs.prompt[2:].upper()):
            context.delta(piece)
            if failure is not None:
                raise failure
        return Result(inputs.prompt.upper(), usage=ev.Usage(output_tokens=1))

    @property
    def components(self) -> Components:
        component = Component(spec=BUILTIN["chat_model"], inputs=ModelInputs, run=self.run)
        return {**builtin(None), "chat_model": component}


def flow(definition: object, model: Model | None = None) -> Workflow:
    return graph_workflow(spec.parse(definition), (model or Model()).components)


def graph(nodes: list[dict[str, Any]], *edges: str) -> dict[str, Any]:
    ends = [edge.split(" ") for edge in edges]
    return {
        "format": spec.FORMAT, "name": "n", "nodes": nodes, "edges": [{"from": a, "to": b} for a, b in ends]
    }  # fmt: skip


def keyed(log: list[AnyEvent]) -> list[tuple[str, str]]:
    """(type, node) of what the nodes left in the log, in its order; each one's path and occurrence are checked."""
    found = []
    for event in log:
        match event.data:
            case ev.StepCompletedData() | ev.StepFailedData() | ev.StepSkippedData() as data:
                name, path, occurrence = data.step, data.path, data.occurrence
            case ev.RequestedData(request=request):
                name, path, occurrence = request.name, request.path, request.occurrence
            case ev.OutputData() as data:
                name, path, occurrence = data.name, data.path, data.occurrence
            case _:
                continue
        assert (path, occurrence) == (f"/{name}", 1)
        found.append((type_of(event), name))
    return found


async def test_an_approved_draft_is_the_output_and_the_other_end_is_skipped() -> None:
    job = MemoryJob(input={"brief": "tea"})
    asleep = await job.run(flow(APPROVAL))
    assert isinstance(asleep, ev.JobSuspended)
    assert job.open_request("review").proposal == "TEA"
    job.answer("review", "approve")
    done = await job.run(flow(APPROVAL))
    assert isinstance(done, ev.JobCompleted)
    assert done.data.outputs == {"post": "TEA"}
    *first, fourth, fifth = keyed(job.log)
    assert first == [("step.completed", "brief"), ("step.completed", "draft"), ("input.requested", "review")]
    assert {fourth, fifth} == {("step.completed", "post"), ("step.skipped", "bin")}
    completed = {data.step: data for data in job.events(ev.StepCompleted)}
    assert completed["post"].output == ev.Named(name="post", kind="message")
    assert completed["draft"].output is None
    assert completed["draft"].usage == ev.Usage(output_tokens=1)
    assert {name: data.component for name, data in completed.items()} == {
        "brief": "chat_input",
        "draft": "chat_model",
        "post": "chat_output",
    }
    assert job.events(ev.StepSkipped)[0].component == "text_output"


async def test_the_model_s_tokens_are_shown_as_they_come() -> None:
    job = MemoryJob(input="hello")
    await job.run(flow(APPROVAL))
    said = [data for kind, data in job.deltas if kind == "delta.text"]
    assert [data["text"] for data in said] == ["HE", "LLO"]
    assert all((data["step"], data["path"], data["channel"]) == ("draft", "/draft", "m-1") for data in said)


async def test_a_rejected_draft_goes_the_other_way() -> None:
    job = MemoryJob(input="tea")
    await job.run(flow(APPROVAL))
    job.answer("review", "reject")
    await job.run(flow(APPROVAL))
    assert job.outputs == {"bin": "TEA"}
    assert [data.step for data in job.events(ev.StepSkipped)] == ["post"]


async def test_an_edited_proposal_is_what_flows_on() -> None:
    job = MemoryJob(input="tea")
    await job.run(flow(APPROVAL))
    job.answer("review", "approve", proposal="coffee")
    await job.run(flow(APPROVAL))
    assert job.outputs == {"post": "coffee"}


async def test_an_edit_of_another_type_fails_the_step_that_cannot_take_it() -> None:
    job = MemoryJob(input="tea")
    await job.run(flow(APPROVAL))
    job.answer("review", "approve", proposal={"text": "coffee"})
    end = await job.run(flow(APPROVAL))
    assert isinstance(end, ev.JobFailed)
    assert (end.data.error.step, end.data.error.code) == ("post", "invalid_input")
    assert [data.final for data in job.events(ev.StepFailed)] == [True]
    assert "coffee" not in end.data.error.message


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_crash_at_any_event_changes_nothing(when: Any) -> None:
    """Every event of the undisturbed run is once the place of death; nothing recorded runs again."""
    whole = await _approved(MemoryJob(input="tea"), Model())
    for seq in range(2, whole.state.seq + 1):
        model, job = Model(), MemoryJob(input="tea")
        died = await _approved(job, model, crash=when, at_seq=seq)
        assert died.outputs == {"post": "TEA"}, seq
        assert sorted(keyed(died.log)) == sorted(keyed(whole.log)), seq
        drafted = next(e.seq for e in whole.log if isinstance(e.data, ev.StepCompletedData) and e.data.step == "draft")
        assert len(model.prompts) == (2 if (when, seq) == ("before", drafted) else 1), seq
        assert sum(e.status in ev.TERMINAL for e in died.log) == 1
        assert verify.log(died.log) == []


async def _approved(job: MemoryJob, model: Model, **crash: Any) -> MemoryJob:
    """Run to the end, approving when asked; the first pass that reaches the place dies there."""
    dead = not crash
    for _ in range(20):
        if job.state.status in ev.TERMINAL:
            return job
        if not dead and job.state.seq >= crash["at_seq"]:
            dead = True  # the event was nobody's append but the test's own
        try:
            await (job.run(flow(APPROVAL, model)) if dead else job.live(flow(APPROVAL, model), **crash))
        except SimulatedCrash:
            dead = True
        if any(request.name == "review" for request in job.state.asked.values()) and job.state.suspension:
            job.answer("review", "approve")
    raise AssertionError("no end")


async def test_independent_nodes_start_in_document_order_and_join_again() -> None:
    model = Model()
    job = MemoryJob(input=None)
    await job.run(flow(TWO, model))
    assert model.prompts == ["the sea", "the sea"]
    assert job.outputs == {"result": "On the sea.\n\nSober:\nTHE SEA\n\nCheerful:\nTHE SEA\n"}
    starts = [data["step"] for kind, data in job.deltas if kind == "delta.step"]
    assert starts.index("sober") < starts.index("cheerful") < starts.index("both")


async def test_a_model_that_fails_twice_is_asked_again() -> None:
    model = Model(Retryable("500", code="model_unavailable"), Retryable("500", code="model_unavailable"))
    job = MemoryJob(input="tea")
    await job.run(flow(APPROVAL, model))
    assert [(d.step, d.failures, d.final, d.error.code) for d in job.events(ev.StepFailed)] == [
        ("draft", 1, False, "model_unavailable"),
        ("draft", 2, False, "model_unavailable"),
    ]
    assert job.open_request("review").proposal == "TEA"


async def test_a_node_s_own_policy_limits_its_tries() -> None:
    model = Model(*[Retryable("500")] * 10)
    job = MemoryJob(input="tea")
    end = await job.run(flow(TWO, model))
    assert isinstance(end, ev.JobFailed)
    assert {d.failures for d in job.events(ev.StepFailed) if d.final} == {3}
    assert max(Counter(d.step for d in job.events(ev.StepFailed)).values()) == 3


async def test_a_node_that_fails_for_good_ends_the_job_and_withdraws_what_its_neighbours_ask() -> None:
    definition = graph(
        [
            {"id": "q", "component": "ask", "inputs": {"title": "?"}},
            {"id": "m", "component": "chat_model", "inputs": {"prompt": "x"}},
        ]
    )
    job = MemoryJob(input={})
    end = await job.run(flow(definition, Model(Terminal("no", code="model_refused"))))
    assert isinstance(end, ev.JobFailed)
    assert (end.data.error.code, end.data.error.step) == ("model_refused", "m")
    assert not job.state.asked


async def test_a_question_beside_a_running_node_is_asked_at_once_and_both_flow_together() -> None:
    definition = graph(
        [
            {"id": "q", "component": "ask", "inputs": {"title": "Which tone?", "kind": "input"}},
            {"id": "m", "component": "chat_model", "inputs": {"prompt": "draft"}},
            {"id": "t", "component": "template", "inputs": {"template": "{{tone.word}}: {{draft}}"}},
        ],
        "q.submit t.tone",
        "m.text t.draft",
    )
    job = MemoryJob(input={})
    await job.run(flow(definition))
    assert ("step.completed", "m") in keyed(job.log)
    job.answer("q", "submit", {"word": "dry"})
    await job.run(flow(definition))
    assert job.outputs == {"t": "dry: DRAFT"}


async def test_payload_and_comment_are_live_when_they_were_given() -> None:
    definition = graph(
        [
            {"id": "q", "component": "ask", "inputs": {"title": "?", "proposal": {"sum": 1}}},
            {"id": "p", "component": "data_output"},
            {"id": "c", "component": "text_output"},
            {"id": "a", "component": "data_output"},
        ],
        "q.payload p.data",
        "q.comment c.text",
        "q.approve a.data",
    )
    job = MemoryJob(input={})
    await job.run(flow(definition))
    job.answer("q", "approve", {"by": "Friday"}, comment="soon")
    await job.run(flow(definition))
    assert job.outputs == {"p": {"by": "Friday"}, "c": "soon", "a": {"sum": 1}}
    bare = MemoryJob(input={})
    await bare.run(flow(definition))
    bare.answer("q", "reject")
    end = await bare.run(flow(definition))
    assert isinstance(end, ev.JobCompleted)
    assert end.data.outputs == {}
    assert [data.step for data in bare.events(ev.StepSkipped)] == ["p", "c", "a"]


async def test_an_ask_without_successor_gives_the_decision_as_the_output() -> None:
    definition = graph([{"id": "q", "component": "ask", "inputs": {"title": "?", "proposal": "tea", "editable": [""]}}])
    job = MemoryJob(input={})
    await job.run(flow(definition))
    job.answer("q", "approve", proposal="coffee", comment="strong")
    end = await job.run(flow(definition))
    assert isinstance(end, ev.JobCompleted)
    assert end.data.outputs == {"q": {"action": "approve", "proposal": "coffee", "comment": "strong"}}
    assert spec.outputs(spec.parse(definition)) == (ev.Named(name="q", kind="data"),)


def _timed(**on_timeout: Any) -> dict[str, Any]:
    inputs = {"title": "?", "proposal": "tea", "expires_in_seconds": 60, "on_timeout": on_timeout}
    return graph(
        [
            {"id": "q", "component": "ask", "inputs": inputs},
            {"id": "yes", "component": "text_output"},
            {"id": "late", "component": "text_output"},
        ],
        "q.approve yes.text",
        "q.timeout late.text",
    )


@pytest.mark.parametrize(
    ("on_timeout", "outputs"),
    [({"do": "branch"}, {"late": "tea"}), ({"do": "answer", "action": "approve"}, {"yes": "tea"})],
)
async def test_nobody_answered_in_time(on_timeout: dict[str, Any], outputs: dict[str, Any]) -> None:
    job = MemoryJob(input={})
    await job.run(flow(_timed(**on_timeout)))
    job.clock.advance(61)
    end = await job.run(flow(_timed(**on_timeout)))
    assert isinstance(end, ev.JobCompleted)
    assert end.data.outputs == outputs


async def test_nobody_answered_in_time_and_that_fails_the_job() -> None:
    job = MemoryJob(input={})
    await job.run(flow(_timed(do="fail")))
    job.clock.advance(61)
    assert isinstance(await job.run(flow(_timed(do="fail"))), ev.JobFailed)


@pytest.mark.parametrize("kind", [kind for kind, actions in DEFAULT_ACTIONS.items() if actions])
async def test_the_actions_that_a_kind_brings_are_the_ports_of_its_node(kind: str) -> None:
    node = {"id": "q", "component": "ask", "inputs": {"title": "?", "kind": kind}}
    job = MemoryJob(input={})
    await job.run(flow(graph([node])))
    offered = [action.id for action in job.open_request("q").actions]
    assert [*offered, "payload", "comment", "timeout"] == list(outputs_of(BUILTIN["ask"], node["inputs"]))  # type: ignore[arg-type]  # the literal above


async def test_everything_that_an_ask_node_says_is_in_the_request() -> None:
    inputs = {
        "title": "Refund?",
        "message": "Order 9",
        "kind": "choice",
        "proposal": {"amount": 120},
        "actions": [{"id": "full", "label": "All of it", "style": "primary"}, {"id": "none", "requires": ["comment"]}],
        "editable": ["/amount"],
        "expires_in_seconds": 3600,
        "on_timeout": {"do": "answer", "action": "none"},
    }
    job = MemoryJob(input={})
    await job.run(flow(graph([{"id": "q", "component": "ask", "inputs": inputs}])))
    asked = job.open_request("q")
    assert (asked.title, asked.message, asked.kind) == ("Refund?", "Order 9", "choice")
    assert asked.actions == (
        ev.Action(id="full", label="All of it", style="primary"),
        ev.Action(id="none", requires=("comment",)),
    )
    assert (asked.proposal, asked.editable) == ({"amount": 120}, ("/amount",))
    assert asked.expires_at is not None
    assert asked.on_timeout == ev.OnTimeout(do="answer", action="none")


async def test_an_input_that_does_not_fit_fails_the_job_and_asks_no_model() -> None:
    model = Model()
    end = await MemoryJob(input={"breif": "tea"}).run(flow(APPROVAL, model))
    assert isinstance(end, ev.JobFailed)
    assert model.prompts == []


async def test_a_template_whose_path_leads_nowhere_fails_its_step_for_good() -> None:
    definition = graph(
        [{"id": "t", "component": "template", "inputs": {"template": "{{a.b}}", "a": {"c": 1}}}],
    )
    end = await MemoryJob(input={}).run(flow(definition))
    assert isinstance(end, ev.JobFailed)
    assert (end.data.error.code, end.data.error.step) == ("template_failed", "t")


def test_every_component_of_the_catalogue_that_is_a_step_has_its_function() -> None:
    components = builtin(None)
    assert components.keys() == {name for name, component in BUILTIN.items() if component.role in ("input", "step")}
    assert all(component.spec is BUILTIN[name] for name, component in components.items())
