"""What a log says in Langflow's words: each event and each delta as event names and data of its stream, in order.

What its engine runs tells its own passes, messages and components; of other flows they are made here.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import Struct

from perdure.core import event as ev
from perdure.core.event import AnyEvent, UserValue
from perdure.core.instant import Instant, seconds_between
from perdure.core.langflow import messages, outputs, requests, vertices
from perdure.core.langflow.bodies import PASS, WARNING
from perdure.core.langflow.messages import Names
from perdure.core.langflow.shape import Component, FlowShape, workflow_output
from perdure.core.machine import EMPTY, JobState, apply
from perdure.core.output import text_of
from perdure.core.stream.delta import Said
from perdure.ids import JobId

GRAPH_ONLY: Final = frozenset({"vertices_sorted", "end_vertex", "log"})
NO_SHAPE: Final = FlowShape(())
Told = tuple[str, dict[str, UserValue]]


class Line(Struct, frozen=True):
    """As much of a log line as is shown."""

    level: str = "info"
    fields: dict[str, Any] = {}  # Any: users' values


class Telling:
    """One job as it is told, event by event from the first. `narrowed`: without the graph, whatever the job says."""

    def __init__(self, job: JobId, shape: FlowShape | None, *, narrowed: bool) -> None:
        self.job: JobState = EMPTY
        self.live = False  # whether everything was told that was there when the reader came
        self._job_id, self._shape, self._narrowed = job, shape or NO_SHAPE, narrowed
        self._names = Names("", "", job)
        self._failed: list[dict[str, UserValue]] = []  # components that failed for good: told behind the error
        self._outputs: set[str] = set()
        self._planned: set[str] = set()  # what this pass runs
        self._ended: set[str] = set()  # components that were built, or skipped
        self._open: dict[str, str] = {}  # messages of which pieces were told
        self._again: set[str] = set()  # those that were told before a reset

    @property
    def hides(self) -> bool:
        """Whether the graph is not shown."""
        asked = self.job.submitted
        return self._narrowed or asked is None or not asked.source.graph_state

    def event(self, event: AnyEvent) -> list[Told]:
        """What an event says."""
        before, self.job = self.job, apply(self.job, event)
        return [each for each in self._all(before, event) if self._shown(each)]

    def delta(self, said: Said) -> list[Told]:
        """What a delta says: tokens, log lines, the starts of components."""
        return [each for each in self._pieces(said) if self._shown(each)]

    def planned(self, told: Told) -> bool:
        """Whether this is the start of a component of the flow itself."""
        name, data = told
        return name == "build_start" and self._shape.find(str(data.get("id"))) is not None

    def reset(self) -> None:
        """The pieces so far come once more, under the ids of their messages."""
        self._again |= self._open.keys()
        self._open.clear()

    def _shown(self, told: Told) -> bool:
        return not (self.hides and told[0] in GRAPH_ONLY)

    def _all(self, before: JobState, event: AnyEvent) -> Iterator[Told]:
        match event:
            case ev.JobSubmitted(data=data):
                self._names = Names(data.session_id or data.flow.id, data.flow.id, self._job_id)
            case ev.AttemptStarted(data=started) if not self._own_engine:
                yield from self._pass(before, started, event.at)
            case ev.Progress(data=data) if data.name == PASS:
                plan = _fields(data.data)
                self._planned = set(plan.get("to_run") or ())
                yield "vertices_sorted", plan
                yield "build_start", {}
            case ev.Progress(data=data) if data.name == WARNING:
                yield "warning", _fields(data.data)
            case ev.StepCompleted(data=data):
                yield from self._built(data, event.at)
            case ev.StepSkipped(data=data):
                self._ended.add(data.step)
            case ev.StepFailed(data=data) if data.final and isinstance(data.preview, dict):
                self._failed.append(data.preview)
            case ev.Output(data=data):
                component = self._shape.find(data.name) or workflow_output(data.name, data.kind)
                yield self._output(component, outputs.described(component, data.value))
            case ev.Message(data=data):
                yield self._message(data, event.at)
            case ev.InputRequested(data=data) if data.request.revision == 1:
                gate = self._shape.find(data.request.name)
                if gate is not None and requests.own(data.request) and data.request.kind != "tool_call":
                    yield "end_vertex", vertices.waiting(gate, data.request, event.at)
                named = None if self.job.submitted is None else self.job.submitted.session_id
                about = requests.About(self._job_id, self._names.flow, named, self.job.submitted_at)
                yield "human_input_required", requests.asked(data.request) | requests.row(data.request, about)
            case ev.JobCompleted() | ev.JobFailed() | ev.JobCancelled() | ev.JobTimedOut():
                yield from self._end(event)
            case _:
                pass

    @property
    def _own_engine(self) -> bool:
        """Whether Langflow's engine runs the job, which says itself where a pass begins."""
        return self.job.submitted is not None and self.job.submitted.flow.kind == "langflow"

    def _pass(self, before: JobState, started: ev.AttemptData, at: Instant) -> Iterator[Told]:
        """The begin of a pass of a flow of ours; an attempt that only goes on is none."""
        if started.reason not in ("first", "resumed"):
            return
        shape = self._shape
        ids = [component.id for component in shape.components if component.first]
        if started.reason == "resumed" and before.suspension is not None:
            waits = before.suspension.data.waiting
            ids = [w.name for w in waits if w.name is not None and w.request_id not in self.job.asked]
        yield "vertices_sorted", {"ids": ids, "to_run": [component.id for component in shape.components]}
        yield "build_start", {}
        text = _said(self.job.submitted)
        if started.reason == "first" and text is not None:
            yield self._said(messages.record(self._names, f"{self._job_id}:input", "user", text, at))

    def _built(self, data: ev.StepCompletedData, at: Instant) -> Iterator[Told]:
        named = data.output
        if self._own_engine:
            self._ended.add(data.step)
            if isinstance(data.preview, dict):
                yield "end_vertex", vertices.completed(data.preview, data, at, self._following(data), self._job_id)
            shown = outputs.at(data.result, ("output",)) if named is not None else None
            if named is not None and isinstance(shown, dict):
                told = {**shown, "component_id": named.name}
                if not self.hides or vertices.is_output(data.preview):
                    yield "output", told
            return
        component = self._shape.find(data.step)
        if component is None or data.path != f"/{data.step}":
            return
        if named is not None and component.output_type in outputs.STRINGS:
            text = text_of(data.result)
            if text is not None:
                source: dict[str, UserValue] = {"id": component.id, "display_name": component.display_name}
                source["source"] = component.display_name
                message_id = f"{self._job_id}:{component.id}"
                yield self._said(messages.record(self._names, message_id, "assistant", text, at, source=source))
        yield "end_vertex", vertices.made(component, data, at)
        if named is not None:
            yield self._output(component, outputs.described(component, data.result))

    def _following(self, data: ev.StepCompletedData) -> list[str]:
        """The components that can start now that this one has ended."""
        component = self._shape.find(data.step)
        if component is None:
            return []
        names = [name for name in component.leads_to if not self._planned or name in self._planned]
        return [name for name in names if self._ready(name)]

    def _ready(self, name: str) -> bool:
        component = self._shape.find(name)
        return component is not None and all(one in self._ended for one in component.comes_from)

    def _output(self, component: Component, shown: outputs.Shown) -> Told:
        self._outputs.add(component.id)
        return "output", {**shown, "component_id": component.id}

    def _message(self, data: ev.MessageData, at: Instant) -> Told:
        self._open.pop(data.message_id, None)
        self._again.discard(data.message_id)
        if data.removed:
            return "remove_message", {"id": data.message_id}
        if isinstance(data.original, dict):
            return self._said(messages.completed(data.original, self._job_id))
        source = self._source(data.step)
        return self._said(messages.record(self._names, data.message_id, data.role, data.text, at, source=source))

    def _said(self, record: dict[str, UserValue]) -> Told:
        return "add_message", messages.anonymous(record) if self.hides else record

    def _source(self, step: str | None) -> dict[str, UserValue]:
        if step is None:
            return messages.NOBODY
        component = self._shape.find(step)
        name = step if component is None else component.display_name
        return {"id": step, "display_name": name, "source": name}

    def _end(self, event: ev.JobCompleted | ev.JobFailed | ev.JobCancelled | ev.JobTimedOut) -> Iterator[Told]:
        took = 0.0 if self.job.started_at is None else seconds_between(self.job.started_at, event.at)
        match event.data:
            case ev.CancelledData(reason=reason):
                yield "cancelled", {"reason": reason}
                return
            case ev.FailedData(error=error):
                yield "error", self._error(error, event.at)
            case ev.TimedOutData():
                late = ev.Failure(code="EXECUTION_TIMEOUT", message="The job's time was over before it ended.")
                yield "error", self._error(late, event.at)
            case ev.CompletedData(outputs=named) if not self._own_engine:
                for name, value in named.items():
                    if name not in self._outputs:
                        kind = "text" if isinstance(value, str) else "data"
                        component = self._shape.find(name) or workflow_output(name, kind)
                        yield self._output(component, outputs.described(component, value))
            case _:
                pass
        for vertex in self._failed:
            yield "end_vertex", vertex
        yield "end", {"build_duration": took, "status": event.status.value}

    def _error(self, failure: ev.Failure, at: Instant) -> dict[str, UserValue]:
        component = None if failure.step is None else self._shape.find(failure.step)
        record = messages.error(self._names, failure, at, None if component is None else component.display_name)
        return messages.anonymous(record) if self.hides else record

    def _pieces(self, said: Said) -> Iterator[Told]:
        delta = said.delta
        match delta.type:
            case "delta.step" if not self.hides and self._own_engine:
                yield "build_start", {"id": delta.step}
            case "delta.log":
                found = _log.decode(said.body)
                yield "log", {"component_id": delta.step, "type": found.level, "message": delta.text, **found.fields}
            case "delta.text" if delta.channel:
                yield from self._piece(delta.channel, delta.step, delta.text)
            case _:
                pass

    def _piece(self, message: str, step: str, text: str) -> Iterator[Told]:
        """A piece of a message. Before the first one the message is there, partly, with that piece; what was said
        before a reader came, or before a reset, comes with it and as no token.
        """
        if message not in self._open:
            at = self.job.updated_at or Instant("")
            record = messages.record(
                self._names, message, "assistant", text, at, source=self._source(step or None), state="partial"
            )
            self._open[message] = text
            yield self._said(record)
            if not self.live or message in self._again:
                self._again.discard(message)
                return
        yield "token", {"chunk": text, "id": message}


def _fields(value: UserValue) -> dict[str, UserValue]:
    return dict(value) if isinstance(value, dict) else {}


def _said(asked: ev.SubmittedData | None) -> str | None:
    """The text that a person gave a flow of ours: its input, or that of its only input node."""
    value = None if asked is None else asked.input
    if isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))
    return value if isinstance(value, str) else None


_log: Final = msgspec.json.Decoder(Line)
