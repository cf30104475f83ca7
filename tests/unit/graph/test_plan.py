"""The planner: who runs, who is skipped, whatever the order in which nodes end."""

import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from perdure.core.graph.catalogue import BUILTIN, ComponentSpec, InputPort, OutputPort
from perdure.core.graph.plan import Next, Planner
from perdure.core.graph.spec import FORMAT, GraphSpec, parse

ASK = {"title": "?", "actions": [{"id": "yes"}, {"id": "no"}]}


def graph(nodes: list[dict[str, Any]], *edges: str) -> GraphSpec:
    ends = (edge.split(" ") for edge in edges)
    return parse(
        {
            "format": FORMAT,
            "name": "n",
            "nodes": nodes,
            "edges": [{"from": source, "to": target} for source, target in ends],
        }
    )


def text(node_id: str, **inputs: str) -> dict[str, Any]:
    return {"id": node_id, "component": "template", "inputs": {"template": "x", **inputs}}


def model(node_id: str, **inputs: str) -> dict[str, Any]:
    return {"id": node_id, "component": "chat_model", "inputs": inputs}


def ask(node_id: str) -> dict[str, Any]:
    return {"id": node_id, "component": "ask", "inputs": ASK}


def test_nodes_without_incoming_edges_start_at_once_in_document_order() -> None:
    planner = Planner(graph([text("c"), text("a"), model("b")], "a.text b.prompt"))
    assert planner.next({}, ()) == Next(start=("c", "a"))
    assert planner.next({"c": {"text": ""}}, {"c", "a"}) == Next()
    assert planner.next({"c": {"text": ""}, "a": {"text": ""}}, {"c", "a"}) == Next(start=("b",))
    assert planner.next({"c": {"text": ""}, "a": {"text": ""}, "b": {"text": ""}}, {"c", "a", "b"}) == Next(done=True)


def test_a_branch_that_was_not_taken_is_skipped_to_its_end() -> None:
    planner = Planner(
        graph(
            [ask("q"), model("m"), model("after"), model("no")],
            "q.yes m.prompt",
            "m.text after.prompt",
            "q.no no.prompt",
        )
    )
    ended: dict[str, dict[str, Any]] = {"q": {"no": None}}
    assert planner.next(ended, {"q"}) == Next(start=("no",), skip=("m",))
    ended["m"] = {}
    assert planner.next(ended, {"q", "m", "no"}) == Next(skip=("after",))


def test_branches_join_again_in_the_live_one() -> None:
    planner = Planner(graph([ask("q"), model("m")], "q.yes m.prompt", "q.no m.prompt"))
    ended = {"q": {"no": "text"}}
    assert planner.next(ended, {"q"}) == Next(start=("m",))
    assert planner.inputs("m", ended) == {"prompt": "text"}


def test_of_several_live_edges_into_one_input_the_first_in_the_document_counts() -> None:
    planner = Planner(graph([text("a"), text("b"), model("m")], "b.text m.prompt", "a.text m.prompt"))
    assert planner.inputs("m", {"a": {"text": "A"}, "b": {"text": "B"}}) == {"prompt": "B"}


def test_an_optional_input_without_a_live_edge_is_absent() -> None:
    planner = Planner(graph([ask("q"), text("t"), model("m")], "t.text m.prompt", "q.yes m.system"))
    ended: dict[str, dict[str, Any]] = {"q": {"no": None}, "t": {"text": "T"}}
    assert planner.next(ended, {"q", "t"}) == Next(start=("m",))
    assert planner.inputs("m", ended) == {"prompt": "T"}


def test_a_node_whose_every_edge_is_dead_is_skipped_even_if_it_needs_none_of_them() -> None:
    """Else the second person would be asked although the first one did not choose that way."""
    planner = Planner(graph([ask("q"), ask("again")], "q.no again.proposal"))
    assert planner.next({"q": {"yes": None}}, {"q"}) == Next(skip=("again",))


def test_a_node_waits_until_all_its_edges_are_settled() -> None:
    planner = Planner(graph([ask("q"), text("t"), model("m")], "t.text m.prompt", "q.yes m.prompt"))
    assert planner.next({"t": {"text": "T"}}, {"q", "t"}) == Next()


# ------------------------------------------------------------------------------------------- random graphs

NODE = ComponentSpec(
    name="node",
    inputs=(
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
        {"id": f"n{place}", "component": "node", "inputs": {} if place in wired else {"need": 1}} for place in order
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
