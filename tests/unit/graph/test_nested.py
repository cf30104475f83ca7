"""Flows inside flows, and maps: what is refused, what runs under which path, and a crash at every event."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from perdure.core import event as ev
from perdure.core import verify
from perdure.core.event import type_of
from perdure.core.graph import nested, spec
from perdure.core.graph.catalogue import BUILTIN, extended
from perdure.core.graph.ports import ComponentSpec, InputPort, OutputPort
from perdure.core.graph.spec import GraphSpec
from perdure.engine.components.contract import Component, ComponentContext
from perdure.engine.components.registry import builtin
from perdure.engine.graph import graph_workflow
from perdure.engine.workflow import Workflow
from perdure.errors import Invalid, Retryable, Terminal
from perdure.probe import SimulatedCrash
from perdure.testing.memory import MemoryJob

SHOUT = ComponentSpec(
    name="shout",
    inputs=(
        InputPort(name="text", type="text", literal="text", required=True),
        InputPort(name="mark", type="text", literal="text"),
    ),
    outputs=(OutputPort(name="text", type="text"),),
)
CATALOGUE = extended([SHOUT])


class Shout:
    """Says its text in capitals; fails for good at texts that begin with `bad`, once at those that begin with `shy`."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.keys: list[str] = []
        self.running = self.most = 0

    async def run(self, context: ComponentContext, inputs: dict[str, str]) -> str:
        self.said.append(inputs["text"])
        self.keys.append(context.idempotency_key)
        self.running += 1
        self.most = max(self.most, self.running)
        for _ in range(len(inputs["text"])):  # longer texts take longer
            await asyncio.sleep(0)
        self.running -= 1
        if inputs["text"].startswith("bad"):
            raise Terminal("cannot say that", code="unspeakable")
        if inputs["text"].startswith("shy") and self.said.count(inputs["text"]) == 1:
            raise Retryable("not yet", code="shy")
        return inputs["text"].upper() + inputs.get("mark", "!")


def flow(graph: GraphSpec, shout: Shout | None = None) -> Workflow:
    component = Component(spec=SHOUT, inputs=dict, run=(shout or Shout()).run)
    return graph_workflow(graph, {**builtin(None), "shout": component}, CATALOGUE)


def definition(name: str, nodes: list[dict[str, Any]], *edges: str) -> dict[str, Any]:
    ends = [edge.split(" ") for edge in edges]
    return {
        "format": spec.FORMAT, "name": name, "nodes": nodes, "edges": [{"from": a, "to": b} for a, b in ends]
    }  # fmt: skip


def publish(what: dict[str, Any], known: Mapping[str, GraphSpec] | None = None) -> GraphSpec:
    """As a gateway does: references replaced by digests, then checked."""
    known = known or {}
    exact = {
        name: f"{name.partition('@')[0]}@{known[name].digest}" for name in nested.references(what) if name in known
    }
    return spec.parse(nested.resolved(what, exact), CATALOGUE, {exact[name]: known[name] for name in exact})


def faults(what: dict[str, Any], known: Mapping[str, GraphSpec] | None = None) -> set[tuple[str | None, str]]:
    with pytest.raises(Invalid) as caught:
        publish(what, known)
    return {(fault.pointer, fault.code) for fault in caught.value.faults}


LOUD = publish(
    definition(
        "loud",
        [
            {"id": "words", "component": "text_input"},
            {"id": "mark", "component": "text_input", "inputs": {"default": "?"}},
            {"id": "say", "component": "shout"},
            {"id": "out", "component": "text_output"},
        ],
        "words.text say.text",
        "mark.text say.mark",
        "say.text out.text",
    )
)
CHECKED = publish(
    definition(
        "checked",
        [
            {"id": "draft", "component": "text_input"},
            {"id": "review", "component": "ask", "inputs": {"title": "Good?"}},
            {"id": "yes", "component": "text_output"},
            {"id": "no", "component": "text_output"},
        ],
        "draft.text review.proposal",
        "review.approve yes.text",
        "review.reject no.text",
    )
)
KNOWN = {"loud": LOUD, "loud@3": LOUD, f"loud@{LOUD.digest}": LOUD, "checked": CHECKED}
OUTER = definition(
    "outer",
    [
        {"id": "hello", "component": "chat_input"},
        {"id": "first", "component": "subflow", "inputs": {"flow": "loud@3", "mark": "."}},
        {"id": "second", "component": "subflow", "inputs": {"flow": "checked"}},
        {"id": "sent", "component": "chat_output"},
        {"id": "dropped", "component": "text_output"},
    ],
    "hello.text first.words",
    "first.out second.draft",
    "second.yes sent.text",
    "second.no dropped.text",
)


def keys(job: MemoryJob) -> set[tuple[str, str, str]]:
    """(type, path, name) of everything that nodes left in the log."""
    found = set()
    for event in job.log:
        match event.data:
            case ev.StepCompletedData() | ev.StepSkippedData() as data:
                found.add((type_of(event), data.path, data.step))
            case ev.RequestedData(request=request):
                found.add((type_of(event), request.path, request.name))
            case ev.OutputData() as data:
                found.add((type_of(event), data.path, data.name))
            case _:
                pass
    return found


# ------------------------------------------------------------------------------------------ definitions


def test_a_stored_definition_names_its_sub_flows_by_digest() -> None:
    assert nested.references(OUTER) == ("loud@3", "checked")
    exact = {"loud@3": f"loud@{LOUD.digest}", "checked": f"checked@{CHECKED.digest}"}
    stored = nested.resolved(OUTER, exact)
    flows = [node["inputs"]["flow"] for node in stored["nodes"] if node["component"] == "subflow"]
    assert flows == list(exact.values())
    assert nested.resolved(stored, {name: name for name in flows}) == stored
    assert nested.target(flows[0]) == ("loud", None, LOUD.digest)
    assert (nested.target("loud@3"), nested.target("loud")) == (("loud", 3, None), ("loud", None, None))
    assert OUTER["nodes"][1]["inputs"]["flow"] == "loud@3"
    graph = publish(OUTER, KNOWN)
    assert set(nested.digests(graph)) == {LOUD.digest, CHECKED.digest}
    assert (graph.depth, graph.whole) == (2, 5 + 4 + 4)
    top = publish(sub(flow="outer", hello="x"), {"outer": graph})
    assert nested.digests(top) == (graph.digest, LOUD.digest, CHECKED.digest)
    assert nested.names(top) == {"outer", "loud", "checked"}


def sub(**inputs: Any) -> dict[str, Any]:
    return definition("n", [{"id": "s", "component": "subflow", "inputs": inputs}])


def each(*edges: str, nodes: tuple[dict[str, Any], ...] = (), **inputs: Any) -> dict[str, Any]:
    return definition("n", [{"id": "each", "component": "map", "inputs": {"items": [], **inputs}}, *nodes], *edges)


AT = "/nodes/0/inputs"


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (sub(flow="quiet", words="x"), {(f"{AT}/flow", "unknown-flow")}),
        (sub(flow="Loud!", words="x"), {(f"{AT}/flow", "invalid-value")}),
        (sub(flow=7), {(f"{AT}/flow", "invalid-value")}),
        (sub(), {(f"{AT}/flow", "missing")}),
        (sub(flow="loud"), {(f"{AT}/words", "missing")}),
        (sub(flow="loud", words=7), {(f"{AT}/words", "wrong-type")}),
        (sub(flow="loud", words="x", wrds="y"), {(f"{AT}/wrds", "unknown-input")}),
        (each(), {(AT, "missing")}),
        (each(flow="loud", component="shout"), {(AT, "ambiguous")}),
        (each(component="whisper"), {(f"{AT}/component", "unknown-component")}),
        (each(component="ask"), {(f"{AT}/component", "unknown-component")}),
        (each(component="branch"), {(f"{AT}/component", "unknown-component")}),
        (each(component=[]), {(f"{AT}/component", "wrong-type")}),
        (each(flow="quiet"), {(f"{AT}/flow", "unknown-flow")}),
        (each(flow="loud", words="x"), {(f"{AT}/item", "missing")}),
        (each(flow="loud", item="word"), {(f"{AT}/item", "unknown-input"), (f"{AT}/words", "missing")}),
        (each(component="template", template="{{a}} {{b}}"), {(f"{AT}/item", "missing"), (f"{AT}/a", "missing"),
                                                             (f"{AT}/b", "missing")}),
        (each(component="template", template="{{a}}", item="template"), {(f"{AT}/item", "unknown-input"),
                                                                         (f"{AT}/a", "missing")}),
        (each(component="shout", width=0), {(f"{AT}/width", "out-of-range")}),
        (each(component="shout", on_error="ignore"), {(f"{AT}/on_error", "invalid-value")}),
        (each("each.text out.text", component="shout", nodes=({"id": "out", "component": "text_output"},)),
         {("/edges/0/from", "unknown-port")}),
    ],
)  # fmt: skip
def test_what_is_refused_and_where(what: dict[str, Any], expected: set[tuple[str, str]]) -> None:
    assert faults(what, KNOWN) == expected


def test_a_sub_flow_s_input_may_not_hide_behind_a_setting() -> None:
    inner = publish(definition("inner", [{"id": "flow", "component": "text_input"}]))
    assert faults(sub(flow="inner"), {"inner": inner}) == {(f"{AT}/flow", "reserved-name")}
    items = publish(definition("items", [{"id": "items", "component": "text_input"},
                                         {"id": "x", "component": "text_input"}]))  # fmt: skip
    assert (f"{AT}/flow", "reserved-name") in faults(each(flow="items", item="x"), {"items": items})


def test_tries_and_time_outs_belong_to_the_nodes_of_a_sub_flow() -> None:
    what = sub(flow="loud", words="x")
    what["nodes"][0] |= {"timeout_seconds": 5, "retry": {"max_failures": 1}}
    assert faults(what, KNOWN) == {("/nodes/0/timeout_seconds", "not-allowed"), ("/nodes/0/retry", "not-allowed")}
    timed = each(component="shout")
    timed["nodes"][0] |= {"timeout_seconds": 5, "retry": {"max_failures": 1}}
    assert publish(timed).nodes[0].timeout_seconds == 5


def test_flows_do_not_nest_without_end_nor_grow_beyond_their_bound() -> None:
    graph = publish(definition("leaf", [{"id": "a", "component": "text_input", "inputs": {"default": "x"}}]))
    for _ in range(nested.MAX_DEPTH - 1):
        graph = publish(sub(flow="inner"), {"inner": graph})
    assert faults(sub(flow="inner"), {"inner": graph}) == {("/nodes", "too-deep")}
    wide = publish(definition("wide", [{"id": f"n{i}", "component": "text_input"} for i in range(100)]))
    many = definition("many", [{"id": f"s{i}", "component": "subflow", "inputs": {"flow": "wide"} | {
        f"n{k}": "x" for k in range(100)}} for i in range(20)])  # fmt: skip
    assert faults(many, {"wide": wide}) == {("/nodes", "too-long")}
    small = {f"s{i}": publish(definition(f"s{i}", [{"id": f"a{i}", "component": "text_input"}])) for i in range(101)}
    every = definition("every", [{"id": name, "component": "subflow", "inputs": {"flow": name, f"a{i}": "x"}}
                                 for i, name in enumerate(small)])  # fmt: skip
    assert ("/nodes", "too-many-flows") in faults(every, small)


# ------------------------------------------------------------------------------------------ sub-flows


async def test_a_sub_flow_runs_in_the_job_under_the_path_of_its_node() -> None:
    graph = publish(OUTER, KNOWN)
    job = MemoryJob(input="tea")
    await job.run(flow(graph))
    asked = job.open_request("review")
    assert (asked.path, asked.proposal) == ("/second/review", "TEA.")
    job.answer("review", "approve")
    end = await job.run(flow(graph))
    assert isinstance(end, ev.JobCompleted)
    assert end.data.outputs == {"sent": "TEA."}
    assert keys(job) == {
        ("step.completed", "/hello", "hello"),
        ("step.completed", "/first/words", "words"),
        ("step.completed", "/first/mark", "mark"),
        ("step.completed", "/first/say", "say"),
        ("step.completed", "/first/out", "out"),
        ("step.completed", "/second/draft", "draft"),
        ("input.requested", "/second/review", "review"),
        ("step.completed", "/second/yes", "yes"),
        ("step.skipped", "/second/no", "no"),
        ("step.completed", "/sent", "sent"),
        ("step.skipped", "/dropped", "dropped"),
    }
    assert verify.log(job.log) == []


async def test_a_sub_flow_without_successors_gives_its_only_output_or_all_that_it_gave() -> None:
    job = MemoryJob(input={})
    await job.run(flow(publish(sub(flow="loud", words="x"), KNOWN)))
    assert job.outputs == {"s": "X?"}
    two = MemoryJob(input={})
    await two.run(flow(publish(sub(flow="checked", draft="x"), KNOWN)))
    two.answer("review", "reject")
    await two.run(flow(publish(sub(flow="checked", draft="x"), KNOWN)))
    assert two.outputs == {"s": {"no": "x"}}


async def test_a_value_that_a_sub_flow_cannot_take_fails_the_job() -> None:
    what = definition(
        "n",
        [{"id": "d", "component": "data_input"}, {"id": "b", "component": "branch", "inputs": {
            "cases": [{"id": "x", "when": {"equals": 1}}]}},
         {"id": "s", "component": "subflow", "inputs": {"flow": "loud"}}],
        "d.data b.value",
        "b.default s.words",
    )  # fmt: skip
    end = await MemoryJob(input={"d": [7]}).run(flow(publish(what, KNOWN)))
    assert isinstance(end, ev.JobFailed)
    assert end.data.error.code == "invalid_input"


async def test_a_failure_inside_a_sub_flow_ends_the_job_and_closes_what_runs_beside_it() -> None:
    what = definition(
        "n",
        [
            {"id": "s", "component": "subflow", "inputs": {"flow": "loud", "words": "bad"}},
            {"id": "q", "component": "subflow", "inputs": {"flow": "checked", "draft": "x"}},
        ],
    )
    job = MemoryJob(input={})
    end = await job.run(flow(publish(what, KNOWN)))
    assert isinstance(end, ev.JobFailed)
    assert (end.data.error.code, end.data.error.step) == ("unspeakable", "say")
    assert not job.state.asked
    assert verify.log(job.log) == []


# ------------------------------------------------------------------------------------------ maps


async def test_a_map_keeps_the_order_of_its_items_and_its_width() -> None:
    shout = Shout()
    words = ["long enough", "b", "shy", "dddd", "e"]
    what = each(component="shout", items=words, width=2, mark="")
    job = MemoryJob(input={})
    await job.run(flow(publish(what), shout))
    assert job.outputs == {"each": [word.upper() for word in words]}
    assert shout.most == 2
    assert [data.path for data in job.events(ev.StepFailed)] == ["/each[3]"]
    assert {(data.path, data.step) for data in job.events(ev.StepCompleted)} == {
        (f"/each[{place}]", "each") for place in range(1, 6)
    }
    assert len(set(shout.keys)) == 5


async def test_a_map_of_nothing_is_an_empty_list() -> None:
    job = MemoryJob(input={})
    await job.run(flow(publish(each(component="shout"))))
    assert job.outputs == {"each": []}


@pytest.mark.parametrize("items", [{"a": 1}, "abc", None])
async def test_what_is_no_list_fails_the_job(items: Any) -> None:
    end = await MemoryJob(input={}).run(flow(publish(each(component="shout", items=items))))
    assert isinstance(end, ev.JobFailed)
    assert end.data.error.code == "invalid_input"


async def test_too_many_items_fail_the_job_before_one_of_them_runs() -> None:
    shout = Shout()
    end = await MemoryJob(input={}).run(flow(publish(each(component="shout", items=["x"] * 1001)), shout))
    assert isinstance(end, ev.JobFailed)
    assert end.data.error.code == "too_many_items"
    assert shout.said == []


async def test_the_first_item_that_fails_ends_the_job() -> None:
    end = await MemoryJob(input={}).run(flow(publish(each(component="shout", items=["a", "bad", "c"]))))
    assert isinstance(end, ev.JobFailed)
    assert end.data.error.code == "unspeakable"


async def test_items_that_fail_may_be_skipped_and_are_named() -> None:
    what = each(
        "each.results t.results",
        "each.errors t.errors",
        component="shout",
        items=["a", "bad", 7, "c"],
        on_error="skip",
        nodes=({"id": "t", "component": "template", "inputs": {"template": "{{results}} {{errors.0.item}} "
                "{{errors.0.code}} {{errors.1.item}}"}},),
    )  # fmt: skip
    shout = Shout()
    component = Component(spec=SHOUT, inputs=dict[str, str], run=shout.run)
    job = MemoryJob(input={})
    await job.run(graph_workflow(publish(what), {**builtin(None), "shout": component}, CATALOGUE))
    assert job.outputs == {"t": '["A!","C!"] 2 unspeakable 3'}


async def test_a_map_of_flows_asks_once_for_each_item_and_waits_for_all() -> None:
    graph = publish(each(flow="checked", items=["a", "b", "c"], width=3), KNOWN)
    job = MemoryJob(input={})
    await job.run(flow(graph))
    assert [request.path for request in job.state.asked.values()] == [f"/each[{i}]/review" for i in (1, 2, 3)]
    for request in list(job.state.asked.values()):
        job.answer(request.id, "reject" if request.proposal == "b" else "approve")
        await job.run(flow(graph))
    assert job.outputs == {"each": [{"yes": "a"}, {"no": "b"}, {"yes": "c"}]}


async def test_a_map_whose_items_are_refused_by_the_flow_may_go_on_without_them() -> None:
    graph = publish(each(flow="loud", item="words", items=["a", 7, "b"], on_error="skip"), KNOWN)
    job = MemoryJob(input={})
    await job.run(flow(graph))
    assert job.outputs == {"each": ["A?", "B?"]}


async def test_maps_nest_through_flows() -> None:
    inner = publish(
        definition("inner", [{"id": "list", "component": "data_input"},
                             {"id": "m", "component": "map", "inputs": {"component": "shout"}}], "list.data m.items")
    )  # fmt: skip
    graph = publish(each(flow="inner", items=[["a", "b"], [], ["c"]]), {"inner": inner})
    job = MemoryJob(input={})
    await job.run(flow(graph))
    assert job.outputs == {"each": [["A!", "B!"], [], ["C!"]]}
    assert {data.path for data in job.events(ev.StepCompleted) if data.step == "m"} == {
        "/each[1]/m[1]", "/each[1]/m[2]", "/each[3]/m[1]"
    }  # fmt: skip


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_crash_at_any_event_of_a_map_of_flows_changes_nothing(when: Any) -> None:
    graph = publish(
        definition(
            "n",
            [
                {"id": "in", "component": "data_input"},
                {"id": "each", "component": "map", "inputs": {"component": "shout", "width": 2}},
                {"id": "sure", "component": "map", "inputs": {"flow": "checked"}},
                {"id": "nap", "component": "wait", "inputs": {"seconds": 60}},
            ],
            "in.data each.items", "each.results sure.items", "sure.results nap.value",
        ),
        KNOWN,
    )  # fmt: skip

    async def lived(**crash: Any) -> MemoryJob:
        job, dead, shout = MemoryJob(input={"in": ["a", "shy", "ccc"]}), not crash, Shout()
        for _ in range(20):
            if job.state.status in ev.TERMINAL:
                return job
            dead = dead or job.state.seq >= crash["at_seq"]
            try:
                await job.run(flow(graph, shout), **({} if dead else crash))
            except SimulatedCrash:
                dead = True
            if job.state.suspension is not None:
                for request in list(job.state.asked.values())[:1]:
                    job.answer(request.id, "approve")
        raise AssertionError("no end")

    whole = await lived()
    expected = {"nap": [{"yes": "A!"}, {"yes": "SHY!"}, {"yes": "CCC!"}]}
    assert whole.outputs == expected
    for seq in range(2, whole.state.seq + 1):
        died = await lived(crash=when, at_seq=seq)
        assert died.outputs == expected, seq
        assert keys(died) == keys(whole), seq
        assert verify.log(died.log) == [], seq


def test_users_components_are_declared_beside_the_built_in_ones() -> None:
    assert CATALOGUE["shout"] is SHOUT
    assert set(CATALOGUE) == set(BUILTIN) | {"shout"}
