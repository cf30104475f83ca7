"""Random graphs with branches: by the planner alone, and by the engine with a crash somewhere."""

import asyncio
import contextlib
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.core import event as ev
from perdure.core import verify
from perdure.core.graph.catalogue import BUILTIN
from perdure.core.graph.plan import Planner
from perdure.core.graph.ports import ComponentSpec, InputPort, OutputPort
from perdure.core.graph.spec import FORMAT, GraphSpec, parse
from perdure.engine.components.contract import Component
from perdure.engine.graph import graph_workflow
from perdure.probe import SimulatedCrash
from perdure.testing.memory import MemoryJob

NODE = ComponentSpec(
    name="node",
    inputs=(
        InputPort(name="me", type="text", literal="text", required=True),
        InputPort(name="need", type="any", literal="json", required=True),
        InputPort(name="may", type="any", literal="json"),
    ),
    outputs=(OutputPort(name="a", type="any", branch=True), OutputPort(name="b", type="any", branch=True)),
)
CATALOGUE = {**BUILTIN, "node": NODE}


@st.composite
def graphs(draw: st.DrawFn) -> GraphSpec:
    """A random DAG of nodes with two branches; edges lead from earlier to later places of a hidden order."""
    count = draw(st.integers(1, 9))
    order = draw(st.permutations(range(count)))
    edges = draw(
        st.lists(
            st.tuples(
                st.integers(0, count - 1),
                st.integers(0, count - 1),
                st.sampled_from("ab"),
                st.sampled_from(["need", "may"]),
            ),
            max_size=20,
            unique=True,
        ).map(lambda edges: [e for e in edges if e[0] < e[1]])
    )
    wired = {target for _, target, _, port in edges if port == "need"}
    nodes = [
        {
            "id": f"n{place}",
            "component": "node",
            "inputs": {"me": f"n{place}"} | ({} if place in wired else {"need": 1}),
        }
        for place in order
    ]
    ends = [{"from": f"n{source}.{out}", "to": f"n{target}.{port}"} for source, target, out, port in edges]
    return parse({"format": FORMAT, "name": "n", "nodes": nodes, "edges": ends}, CATALOGUE)


def live(node_id: str, seed: int) -> dict[str, Any]:
    """Which branches a node takes: a function of the node alone."""
    taken = random.Random(f"{node_id}{seed}").sample("ab", k=random.Random(f"k{node_id}{seed}").randint(0, 2))
    return {port: f"{node_id}.{port}" for port in taken}


def run(graph: GraphSpec, seed: int, order: random.Random) -> tuple[dict[str, dict[str, Any]], set[str]]:
    """Run the graph to its end, ending one begun node after the other: inputs of the started ones, and the skipped."""
    planner = Planner(graph, CATALOGUE)
    ended: dict[str, dict[str, Any]] = {}
    begun: set[str] = set()
    started: dict[str, dict[str, Any]] = {}
    skipped: set[str] = set()
    while not (step := planner.next(ended, begun)).done:
        for node_id in step.start:
            assert node_id not in begun
            started[node_id] = planner.inputs(node_id, ended)
            begun.add(node_id)
        for node_id in step.skip:
            assert node_id not in begun
            skipped.add(node_id)
            begun.add(node_id)
        open_nodes = sorted(begun - ended.keys())
        assert open_nodes, "nothing runs, and the flow is not done"
        ending = order.choice(open_nodes)
        ended[ending] = live(ending, seed) if ending in started else {}
    return started, skipped


@given(graphs(), st.integers(0, 1000), st.randoms(use_true_random=False))
def test_every_node_ends_once_and_the_order_of_the_past_does_not_matter(
    graph: GraphSpec, seed: int, order: random.Random
) -> None:
    started, skipped = run(graph, seed, random.Random(0))
    assert started.keys() | skipped == {node.id for node in graph.nodes}
    assert not started.keys() & skipped
    assert run(graph, seed, order) == (started, skipped)


@given(graphs(), st.integers(0, 1000))
def test_who_is_started_has_what_it_needs_and_who_is_skipped_has_not(graph: GraphSpec, seed: int) -> None:
    started, skipped = run(graph, seed, random.Random(1))
    fed: dict[str, set[str]] = {node.id: set() for node in graph.nodes}
    for edge in graph.edges:
        if edge.source.node in started and edge.source.port in live(edge.source.node, seed):
            fed[edge.target.node].add(edge.target.port)
    for node in graph.nodes:
        lead_here = any(edge.target.node == node.id for edge in graph.edges)
        can_run = ("need" in node.inputs or "need" in fed[node.id]) and (bool(fed[node.id]) or not lead_here)
        assert (node.id in started) == can_run
        assert (node.id in skipped) == (not can_run)
        if node.id in started:
            assert started[node.id].keys() == node.inputs.keys() | fed[node.id]


class Nodes:
    """The component behind the nodes: takes the branches that `live` says, and keeps which node ran with what."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.ran: list[tuple[str, dict[str, Any]]] = []

    async def run(self, _context: object, inputs: dict[str, Any]) -> dict[str, Any]:
        self.ran.append((inputs["me"], inputs))
        for _ in range(random.Random(inputs["me"]).randint(0, 3)):  # some take longer
            await asyncio.sleep(0)
        return live(inputs["me"], self.seed)


@settings(max_examples=60)
@given(graphs(), st.integers(0, 1000), st.integers(2, 24), st.sampled_from(["before", "after"]))
async def test_the_engine_runs_what_the_planner_says_with_a_crash_anywhere(
    graph: GraphSpec, seed: int, at_seq: int, when: Any
) -> None:
    started, skipped = run(graph, seed, random.Random(2))
    nodes = Nodes(seed)
    workflow = graph_workflow(graph, {"node": Component(spec=NODE, inputs=dict, run=nodes.run)}, CATALOGUE)
    job = MemoryJob(input={})
    with contextlib.suppress(SimulatedCrash):
        await job.live(workflow, crash=when, at_seq=at_seq)
    recorded, before = {data.step for data in job.events(ev.StepCompleted)}, len(nodes.ran)
    end = await job.run(workflow)
    assert isinstance(end, ev.JobCompleted)
    assert [event.status in ev.TERMINAL for event in job.log].count(True) == 1
    assert verify.log(job.log) == []
    completed = [data.step for data in job.events(ev.StepCompleted)]
    assert sorted(completed) == sorted(started)
    assert sorted(data.step for data in job.events(ev.StepSkipped)) == sorted(skipped)
    assert all(inputs == started[node_id] for node_id, inputs in nodes.ran)
    assert recorded.isdisjoint(node_id for node_id, _ in nodes.ran[before:])  # what is recorded never runs again
    terminal = {node.id for node in graph.nodes} - {edge.source.node for edge in graph.edges}
    assert end.data.outputs == {node_id: live(node_id, seed) for node_id in terminal & started.keys()}
