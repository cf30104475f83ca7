"""What is changed about lfx before any flow code runs: gates, the bodies of loops, who it is that does not load.

lfx keeps one slot for a request, so that of two gates in a layer one is asked; and where it does not stop (the body of
a loop, a nested flow) it runs every branch. A loop builds its body from the flow's raw nodes, which tweaks do not
reach. Errors of loading name no component.
"""

import contextlib
import copy
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from lfx.graph.graph.base import Graph
from lfx.graph.vertex.base import Vertex
from lfx.processing.process import apply_tweaks

from perdure_runner.langflow.child.place import COMPONENT

Tweaks = dict[str, dict[str, Any]]


class GateCannotPause(RuntimeError):
    """Somebody was asked where the run cannot be suspended."""


class Requests:
    """The requests of one pass, by lfx's id. `asked` is told of each once, as soon as it is made."""

    def __init__(self, asked: Callable[[dict[str, Any]], None]) -> None:
        self.open: dict[str, dict[str, Any]] = {}
        self._asked = asked

    def add(self, request: dict[str, Any]) -> None:
        """Note a request. A gate asks once for each of its branches: the first one counts."""
        if request["request_id"] not in self.open:
            self.open[request["request_id"]] = request
            self._asked(request)


class Guard:
    """Stands between lfx and its flows; one for the process, `begin` says for which pass."""

    def __init__(self) -> None:
        self._requests: Requests | None = None
        self._tweaks: Tweaks = {}

    def begin(self, requests: Requests, tweaks: Tweaks) -> None:
        """From now on requests and loop bodies are those of this pass."""
        self._requests, self._tweaks = requests, tweaks

    def install(self) -> None:
        """Change lfx, once in a process."""
        pause, create, make = Graph.request_pause, Graph.create_subgraph, Vertex.instantiate_component

        def request_pause(graph: Any, reason: str = "pause_requested", data: dict[str, Any] | None = None) -> None:
            if not graph.checkpointing_enabled:
                raise GateCannotPause("a gate inside a loop or a nested flow: the run cannot be suspended there")
            if data and "request_id" in data and self._requests is not None:
                self._requests.add(data)
            pause(graph, reason, data)

        @contextlib.asynccontextmanager
        async def create_subgraph(graph: Any, vertex_ids: set[str]) -> AsyncIterator[Any]:
            nodes = graph._vertices
            graph._vertices = [self._tweaked(node) for node in nodes if node["id"] in vertex_ids]
            made = create(graph, vertex_ids)
            try:
                subgraph = await made.__aenter__()  # reads the nodes before anything else can run
            finally:
                graph._vertices = nodes
            try:
                yield subgraph
            finally:
                await made.__aexit__(None, None, None)

        def instantiate_component(vertex: Any, *arguments: Any, **more: Any) -> Any:
            before = COMPONENT.set(vertex.id)
            made = make(vertex, *arguments, **more)
            COMPONENT.reset(before)  # not where it raises: then it is the one
            return made

        Graph.request_pause, Graph.create_subgraph = request_pause, create_subgraph
        Vertex.instantiate_component = instantiate_component

    def _tweaked(self, node: dict[str, Any]) -> dict[str, Any]:
        """A copy of a node of a loop's body, tweaked: the loop writes its items into that, not into the flow's."""
        node = copy.deepcopy(node)
        fields = self._tweaks.get(node["id"], {})
        apply_tweaks(node, fields)
        template = node["data"]["node"]["template"]
        for field in fields.keys() & template.keys():
            template[field]["show"] = True  # hidden fields, such as keys, are not passed on
        return node


GUARD: Final = Guard()
