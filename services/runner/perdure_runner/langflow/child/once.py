"""One pass over a flow, in a child of its own: load, go on behind the journal, run, say how it ended."""

import asyncio
import os
from collections.abc import Callable
from typing import Any, Final, Protocol

from lfx.events.event_manager import create_default_event_manager
from lfx.exceptions.component import ComponentBuildError
from lfx.exceptions.tweaks import TweakRefusedError
from lfx.graph.exceptions import GraphPausedException
from lfx.run.hitl import request_id_targets_vertex

from perdure_runner.langflow.child.guard import GUARD, GateCannotPause, Requests
from perdure_runner.langflow.child.load import graph_of
from perdure_runner.langflow.child.memory import Memory
from perdure_runner.langflow.child.place import COMPONENT
from perdure_runner.langflow.child.saying import Saying
from perdure_runner.langflow.child.schedule import body, skipped, unfinished
from perdure_runner.langflow.child.shown import LFX, entry_of, failed_preview, kind_of, preview_of, type_of
from perdure_runner.langflow.child.threads import Threads
from perdure_runner.langflow.frames import (
    OUT_OF_MEMORY,
    PARENT_GONE,
    Asks,
    Begun,
    Broken,
    Done,
    Ended,
    FromChild,
    FromParent,
    Paused,
    Planned,
    Raised,
    Recall,
    Recalled,
    Start,
    Stop,
)

MOST_CHARS: Final = 2_000
NO_PLACE: Final = "HITL_UNSUPPORTED_PLACE"


class Sender(Protocol):
    """Takes what a pass says; a `Pipe` does."""

    def send(self, frame: FromChild) -> None: ...

    def glance(self) -> FromParent | None: ...

    def fileno(self) -> int: ...


class Pass:
    """The pass that a parent's `Start` asks for."""

    def __init__(self, pipe: Sender, start: Start) -> None:
        self._pipe, self._start = pipe, start
        self._saying = Saying(pipe.send)
        self._threads = Threads(start.threads)
        self._requests = Requests(self._asked)
        self._failed: Raised | None = None
        self._stop: str | None = None
        self._graph: Any = None
        self._recalled: asyncio.Future[list[Any]] | None = None

    async def run(self) -> None:
        """Run, and say at last how it ended."""
        running = asyncio.current_task()
        assert running is not None, "within a loop"
        asyncio.get_running_loop().add_reader(self._pipe.fileno(), self._hear, running)
        try:
            self._pipe.send(await self.end())
        except MemoryError:
            os._exit(OUT_OF_MEMORY)

    async def end(self) -> Ended | Paused | Broken:
        """Run; how it ended."""
        start = self._start
        if (other := next((s.entry.lfx for s in start.journal if s.entry.lfx != LFX), None)) is not None:
            return Broken(code="code_changed", message=f"lfx {other} began the job, this is lfx {LFX}")
        GUARD.begin(self._requests, start.tweaks)
        Memory(start.messages, self._recall).install()
        try:
            self._graph = graph = await graph_of(start)
        except MemoryError:
            raise
        except TweakRefusedError as exc:
            return Broken(code="tweaks_refused", message=_text(exc), error_type=type(exc).__name__)
        except Exception as exc:  # noqa: BLE001  # flow code: whatever it raises while it is loaded, it does not load
            return unloadable(exc)
        self._threads.install(graph)
        graph.pause_probe = self._probe
        graph.build_vertex = self._watched(graph.build_vertex)
        try:
            if not self._over(graph):
                await self._process(graph)
        except GraphPausedException:
            return Paused()
        except asyncio.CancelledError:
            return Paused()
        except MemoryError:
            raise
        except GateCannotPause as exc:
            return Broken(code=NO_PLACE, message=_text(exc))
        except Exception as exc:  # noqa: BLE001  # flow code
            return self._broken(exc)
        if missing := unfinished(graph):
            return Broken(code="incomplete", message=f"the run ended and these never ran: {', '.join(missing)}")
        gone = skipped(graph) - body(graph)
        return Ended(skipped=tuple(v.id for v in graph.vertices if v.id in gone and not v.built))

    def _over(self, graph: Any) -> bool:
        """Whether the journal is that of a whole run: lfx would start components that nobody waits for."""
        return bool(graph.resumed_from_checkpoint and not graph.resume_first_layer())

    async def _process(self, graph: Any) -> None:
        self._bind(graph)
        manager = create_default_event_manager(queue=self._saying)
        await graph.process(fallback_to_env_vars=False, event_manager=manager)

    def _bind(self, graph: Any) -> None:
        """Have the plan told once it is made, and a partial run begin and end where it is to."""
        sort, resume, start = graph.sort_vertices, graph.resume_first_layer, self._start

        def sort_vertices(*_: Any, **__: Any) -> Any:
            first = sort(start_component_id=start.start_component_id, stop_component_id=start.stop_component_id)
            self._plan(graph, first)
            return first

        def resume_first_layer() -> Any:
            first = resume()
            self._plan(graph, first)
            return first

        graph.sort_vertices, graph.resume_first_layer = sort_vertices, resume_first_layer

    def _plan(self, graph: Any, first: list[str]) -> None:
        inner = body(graph)
        todo = [v.id for v in graph.vertices if v.id not in inner]
        to_run = [name for name in todo if name in graph.vertices_to_run] if graph.vertices_to_run else todo
        self._pipe.send(Planned(first=tuple(first), to_run=tuple(to_run), total=len(todo)))

    def _watched(self, build: Callable[..., Any]) -> Callable[..., Any]:
        """`build_vertex`, reporting. A gate that asks is not finished: it holds a placeholder."""

        async def build_vertex(vertex_id: str, **arguments: Any) -> Any:
            COMPONENT.set(vertex_id)
            graph, vertex = self._graph, self._graph.get_vertex(vertex_id)
            self._pipe.send(Begun(vertex_id))
            try:
                result = await build(vertex_id=vertex_id, **arguments)
            except MemoryError:
                os._exit(OUT_OF_MEMORY)
            except Exception as exc:
                self._raised(vertex, exc)
                raise
            self._saying.settle(vertex_id)
            if not any(request_id_targets_vertex(asked, vertex_id, graph.run_id) for asked in self._requests.open):
                self._pipe.send(done(graph, vertex, result))
            return result

        return build_vertex

    def _raised(self, vertex: Any, exc: BaseException) -> None:
        cause = exc
        while cause.__cause__ is not None or (isinstance(cause, ComponentBuildError) and cause.__context__ is not None):
            cause = cause.__cause__ or cause.__context__ or cause
        if isinstance(cause, MemoryError):
            os._exit(OUT_OF_MEMORY)
        self._saying.settle(vertex.id)
        text = _text(cause)
        raised = Raised(
            component=vertex.id,
            type=type_of(vertex),
            error=text,
            error_type=type(cause).__name__,
            package=cause.name if isinstance(cause, ImportError) else None,
            preview=failed_preview(self._graph, vertex, text),
        )
        self._failed = self._failed or raised
        self._pipe.send(raised)

    def _broken(self, exc: BaseException) -> Broken:
        if self._failed is not None:
            failed = self._failed
            code = NO_PLACE if failed.error_type == GateCannotPause.__name__ else "component_failed"
            return Broken(
                code=code,
                message=failed.error,
                error_type=failed.error_type,
                component=failed.component,
                package=failed.package,
            )
        return Broken(code="component_failed", message=_text(exc), error_type=type(exc).__name__)

    def _asked(self, request: dict[str, Any]) -> None:
        component = COMPONENT.get()
        self._pipe.send(Asks(component=component, request=request, thread=self._threads.of(component)))

    async def _probe(self, _job: str) -> str:
        return {"cancel": "cancel", "drain": "pause", None: "run"}[self._stop]

    def _hear(self, running: asyncio.Task[Any]) -> None:
        """What the parent says while the flow runs. A parent that has gone leaves nobody to run for."""
        try:
            said = self._pipe.glance()
        except (EOFError, OSError):
            os._exit(PARENT_GONE)
        match said:
            case Stop(how=how):
                self._stop = how
                if how == "cancel":
                    running.cancel()
            case Recalled(messages=messages) if self._recalled is not None:
                self._recalled.set_result(messages)
            case _:
                pass

    async def _recall(self) -> list[Any]:
        self._recalled = asyncio.get_running_loop().create_future()
        self._pipe.send(Recall())
        return await self._recalled


def done(graph: Any, vertex: Any, result: Any) -> Done:
    """What is told of a component that has just finished."""
    entry, used = entry_of(graph, vertex), result.result_dict.token_usage
    return Done(
        component=vertex.id,
        type=type_of(vertex),
        entry=entry,
        kind=kind_of(entry.output),
        preview=preview_of(graph, vertex, result),
        input_tokens=getattr(used, "input_tokens", None) or 0,
        output_tokens=getattr(used, "output_tokens", None) or 0,
    )


def unloadable(exc: BaseException) -> Broken:
    """What is wrong with a flow that does not load."""
    cause = exc
    while cause.__cause__ is not None:
        cause = cause.__cause__
    package = cause.name if isinstance(cause, ImportError) else None
    return Broken(
        code="INVALID_FLOW_DATA",
        message=_text(exc),
        error_type=type(cause).__name__,
        component=COMPONENT.get() or None,
        package=package,
    )


def _text(exc: BaseException) -> str:
    text = str(exc) or type(exc).__name__
    return text if len(text) <= MOST_CHARS else f"{text[:MOST_CHARS]} …"
