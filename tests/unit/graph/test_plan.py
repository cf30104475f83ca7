"""The planner: who runs, who is skipped, whatever the order in which nodes end."""

from typing import Any

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
