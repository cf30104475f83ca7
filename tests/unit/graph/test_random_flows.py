"""Random flows of branches, waits, questions, sub-flows and maps: a crash at every event changes nothing.

Each flow runs undisturbed first. Then it lives again for every event of that run, and dies there, before the event is
stored or after; whoever takes it over must come to the same outputs, by the same entries of the log.
"""

import asyncio
from collections import Counter
from hashlib import sha256
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.core import event as ev
from perdure.core import verify
from perdure.core.event import type_of
from perdure.core.graph.catalogue import extended
from perdure.core.graph.nested import interface
from perdure.core.graph.ports import ComponentSpec, InputPort, OutputPort
from perdure.core.graph.spec import FORMAT, GraphSpec, parse
from perdure.engine.components.contract import Component, ComponentContext
from perdure.engine.components.registry import builtin
from perdure.engine.graph import graph_workflow
from perdure.engine.workflow import Workflow
from perdure.errors import Retryable, Terminal
from perdure.probe import SimulatedCrash
from perdure.testing.memory import MemoryJob

ANY = InputPort(name="x", type="any", literal="json", required=True)
NAME = InputPort(name="me", type="text", literal="text", required=True)
WORK = ComponentSpec(  # takes one way, two or none
    name="work",
    inputs=(NAME, ANY, InputPort(name="may", type="any", literal="json")),
    outputs=(OutputPort(name="a", type="any", branch=True), OutputPort(name="b", type="any", branch=True)),
    output_kind="data",
)
SPREAD = ComponentSpec(  # makes a list
    name="spread", inputs=(NAME, ANY), outputs=(OutputPort(name="list", type="data"),), output_kind="data"
)
NEXT = ComponentSpec(name="next", inputs=(ANY,), outputs=(OutputPort(name="y", type="any"),), output_kind="data")
CATALOGUE = extended([WORK, SPREAD, NEXT])
CASES = [
    {"id": "low", "when": {"any": [{"at": "/n", "below": 2}, {"is": "list"}]}},
    {"id": "even", "when": {"at": "/n", "one_of": [2, 4]}},
]
PORTS = {
    "data_input": ["data"],
    "work": ["a", "b"],
    "branch": ["low", "even", "default"],
    "wait": ["value"],
    "ask": ["approve", "reject", "payload"],
    "spread": ["list"],
    "map": ["results", "errors"],
}
TAKES = {
    "work": "x",
    "branch": "value",
    "wait": "value",
    "ask": "proposal",
    "spread": "x",
    "subflow": "in",
    "map": "items",
}


def number(*parts: object) -> int:
    """A number that is the same whenever it is asked for."""
    return int.from_bytes(sha256(repr(parts).encode()).digest()[:4])


class Effects:
    """What the components did to the world, by the idempotency key under which they did it."""

    def __init__(self) -> None:
        self.tries: Counter[str] = Counter()
        self.done: dict[str, Any] = {}

    async def _act(self, context: ComponentContext, said: object) -> int:
        """Each effect takes a while; one in three fails at the first try."""
        key = context.idempotency_key
        self.tries[key] += 1
        for _ in range(number(said) % 4):
            await asyncio.sleep(0)
        if number(said) % 3 == 0 and self.tries[key] == 1:
            raise Retryable("not yet", code="shy")
        assert self.done.setdefault(key, said) == said  # one key, one effect
        return number(said)

    async def work(self, context: ComponentContext, inputs: dict[str, Any]) -> dict[str, Any]:
        ways = await self._act(context, ("work", inputs["me"], inputs["x"], inputs.get("may"))) % 4
        value = {"n": ways, "from": inputs["me"]}
        return {port: value for port, taken in (("a", ways != 0), ("b", ways > 1)) if taken}

    async def spread(self, context: ComponentContext, inputs: dict[str, Any]) -> list[Any]:
        count = await self._act(context, ("spread", inputs["me"], inputs["x"])) % 4
        return [{"n": place, "from": inputs["me"]} for place in range(count)]

    async def next(self, context: ComponentContext, inputs: dict[str, Any]) -> Any:
        chance = await self._act(context, ("next", inputs["x"]))
        if chance % 5 == 0:
            raise Terminal("this one cannot", code="unlucky")
        return {"n": chance % 5}

    @property
    def components(self) -> dict[str, Component]:
        return {
            **builtin(None),
            "work": Component(spec=WORK, inputs=dict, run=self.work),
            "spread": Component(spec=SPREAD, inputs=dict, run=self.spread),
            "next": Component(spec=NEXT, inputs=dict, run=self.next),
        }


def grown(draw: Random, name: str, inner: tuple[GraphSpec, ...] = ()) -> GraphSpec:
    """A flow over one input `in`: every other node takes its value from an earlier one."""
    nodes: list[dict[str, Any]] = [{"id": "in", "component": "data_input"}]
    edges: list[dict[str, str]] = []
    flows = {f"{graph.name}@{graph.digest}": graph for graph in inner}
    ports: list[str] = ["in.data"]
    lists: list[str] = []
    kinds = ["work", "work", "branch", "wait", "ask", "spread", *(["subflow", "map"] * 2 if inner else ["map"])]
    for place in range(draw.randint(3, 9)):
        kind = draw.choice(kinds)
        if kind == "map" and not lists:
            kind = "spread"
        node: dict[str, Any] = {"id": f"{kind}{place}", "component": kind, "inputs": {}}
        match kind:
            case "work" | "spread":
                node["inputs"] = {"me": node["id"]}
                node["retry"] = {"max_failures": 5}
            case "branch":
                node["inputs"] = {"cases": CASES}
            case "wait":
                node["inputs"] = {"seconds": draw.choice([0, 1, 90])}
            case "ask":
                node["inputs"] = {"title": "Go on?"}
            case "subflow":
                node["inputs"] = {"flow": draw.choice(list(flows))}
            case _:
                flow = draw.choice([None, *flows])
                node["inputs"] = {"width": draw.randint(1, 3), "on_error": "skip"}
                node["inputs"] |= {"component": "next"} if flow is None else {"flow": flow}
        source = draw.choice(lists if kind == "map" else ports[-6:])
        edges.append({"from": source, "to": f"{node['id']}.{TAKES[kind]}"})
        if kind == "work" and draw.random() < 0.5:
            edges.append({"from": draw.choice(ports), "to": f"{node['id']}.may"})
        if kind == "subflow":
            gives = [port.name for port in interface(flows[node["inputs"]["flow"]], CATALOGUE).outputs]
        else:
            gives = PORTS[kind]
        ports += [f"{node['id']}.{port}" for port in gives]
        lists += [f"{node['id']}.{port}" for port in gives if port in ("list", "results")]
        nodes.append(node)
    definition = {"format": FORMAT, "name": name, "nodes": nodes, "edges": edges}
    used = {str(node["inputs"]["flow"]) for node in nodes if "flow" in node.get("inputs", {})}
    return parse(definition, CATALOGUE, {reference: flows[reference] for reference in used})


def nested_flow(seed: int) -> GraphSpec:
    """A flow of flows of flows. Grown from a number and not drawn: hypothesis likes flows of two nodes best."""
    draw = Random(seed)
    leaves = tuple(grown(draw, f"leaf{place}") for place in range(draw.randint(1, 2)))
    middle = grown(draw, "middle", leaves)
    return grown(draw, "top", (*leaves, middle))


def flow(graph: GraphSpec, effects: Effects) -> Workflow:
    return graph_workflow(graph, effects.components, CATALOGUE)


def entries(job: MemoryJob) -> set[tuple[str, str, str, int]]:
    """(type, path, name, occurrence) of everything final that the nodes left in the log."""
    found = set()
    for event in job.log:
        match event.data:
            case ev.StepCompletedData() | ev.StepSkippedData() as data:
                found.add((type_of(event), data.path, data.step, data.occurrence))
            case ev.StepFailedData(final=True) as data:
                found.add((type_of(event), data.path, data.step, data.occurrence))
            case ev.RequestedData(request=asked):
                found.add((type_of(event), asked.path, asked.name, asked.occurrence))
            case ev.OutputData() | ev.TimerData() as data:
                found.add((type_of(event), data.path, data.name, data.occurrence))
            case _:
                pass
    return found


async def lived(graph: GraphSpec, seed: int, **crash: Any) -> tuple[MemoryJob, Effects]:
    """The job at its end; with `crash`, the first pass that comes to its place dies there."""
    job, effects, dead = MemoryJob(input={"in": {"n": seed % 5}}), Effects(), not crash
    for _ in range(300):
        if job.state.status in ev.TERMINAL:
            return job, effects
        dead = dead or job.state.seq >= crash["at_seq"]
        try:
            await job.run(flow(graph, effects), **({} if dead else crash))
        except SimulatedCrash:
            dead = True
        if job.state.suspension is not None:
            for request in list(job.state.asked.values())[:1]:
                say = "approve" if number(request.path, seed) % 3 else "reject"
                job.answer(request.id, say, {"n": 1} if number(request.path) % 2 else None)
    raise AssertionError("no end")


def judge(job: MemoryJob, effects: Effects) -> None:
    assert verify.log(job.log) == []
    assert sum(event.status in ev.TERMINAL for event in job.log) == 1
    done = [data for data in job.events(ev.StepCompleted) if data.component in ("work", "spread", "next")]
    failed = [data for data in job.events(ev.StepFailed) if data.final]
    assert len(effects.done) == len(done) + len(failed)  # one key for each step of the flow


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["before", "after"]))
async def test_a_crash_at_every_event_changes_nothing(seed: int, when: Any) -> None:
    graph = nested_flow(seed)
    whole, effects = await lived(graph, seed)
    judge(whole, effects)
    for seq in range(2, whole.state.seq + 1):
        died, again = await lived(graph, seed, crash=when, at_seq=seq)
        assert (died.state.status, died.outputs) == (whole.state.status, whole.outputs), seq
        assert entries(died) == entries(whole), seq
        judge(died, again)
