"""What of a restored graph is still to run, and what starts first: lfx restores its schedule as it was saved.

It then waits for components that will not run: those already built, those on a branch that was not taken, a loop's own
body. And it starts some that a fresh run would never reach.
"""

from collections.abc import Iterable, Mapping
from typing import Any


def body(graph: Any) -> set[str]:
    """Components on a cycle but for the loops: a loop runs them inside its own step, so they never finish themselves.
    Loops of old flow files, and cycles without a loop, run them as steps.
    """
    return {name for name in graph.cycle_vertices if not graph.get_vertex(name).is_loop}


def skipped(graph: Any) -> set[str]:
    """Components that will not run: on branches not taken, tools that nobody has, the body of a finished loop."""
    looped = any(graph.get_vertex(name).is_loop and graph.get_vertex(name).built for name in graph.cycle_vertices)
    gone: set[str] = set(graph.inactivated_vertices) | set(graph.conditionally_excluded_vertices)
    return gone | set(graph._orphaned_tool_vertex_ids()) | (body(graph) if looped else set())


def repair(graph: Any) -> None:
    """Make the schedule of a restored graph right."""
    built, gone = {vertex.id for vertex in graph.vertices if vertex.built}, skipped(graph)
    for name in built | gone:  # else a join whose other input was cut off never runs
        graph.run_manager.remove_vertex_from_runnables(name)
    wanted = set(graph.vertices_to_run)  # all, or those up to where a partial run ends
    reached = _closure(_closure(built | set(graph._first_layer), graph.successor_map), graph.predecessor_map)

    def ready(vertex: Any) -> bool:
        own_body = graph.cycle_vertices if vertex.is_loop else ()
        before = [name for name in graph.predecessor_map.get(vertex.id, []) if name not in own_body]
        return not before or (any(name in built for name in before) and all(n in built | gone for n in before))

    graph.resume_first_layer = lambda: sorted(
        v.id for v in graph.vertices if v.id in (reached & wanted) - built - gone and v.is_active() and ready(v)
    )


def unfinished(graph: Any) -> list[str]:
    """Components that should have run and did not. lfx returns as if all were well when its schedule runs dry."""
    reached = _closure(
        {name for v in graph.vertices if v.built for name in graph.successor_map.get(v.id, [])}, graph.successor_map
    )
    gone, wanted = skipped(graph), set(graph.vertices_to_run)
    return sorted(v.id for v in graph.vertices if v.id in (reached & wanted) - gone and not v.built and v.is_active())


def before_open_cycle(graph: Any, finished: list[str]) -> int:
    """How many of the finished components count. lfx cannot restore inside a cycle whose components ran as steps and
    whose consumers have not all run: then those before the cycle. A loop that runs its body inside has no such moment.
    """
    done, cycle = set(finished), set(graph.cycle_vertices)
    consumers = {name for v in cycle for name in graph.successor_map.get(v, [])} - cycle
    if not body(graph) & done or consumers <= done:
        return len(finished)
    return next(place for place, name in enumerate(finished) if name in cycle)


def _closure(start: Iterable[str], neighbours: Mapping[str, Iterable[str]]) -> set[str]:
    found, waiting = set(start), list(start)
    while waiting:
        more = set(neighbours.get(waiting.pop(), ())) - found
        found |= more
        waiting.extend(more)
    return found
