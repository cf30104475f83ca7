"""Logs of jobs as their runners write them: of Langflow flows, made from a recorded stream of 1.13, and of ours."""

import json
from collections.abc import Iterable
from typing import Any, Final

from perdure.core import event as ev
from perdure.core.event import AnyData, AnyEvent, FlowRef, Source
from perdure.core.instant import Instant, later
from perdure.core.machine import EMPTY, JobState, apply, stamp
from perdure.ids import Digest, EventId, JobId, Principal, Queue, RunnerId, request_id

JOB: Final = JobId("01990000-0000-7000-8000-000000000001")
FLOW: Final = "01990000-0000-7000-8000-00000000000f"
BEGIN: Final = Instant("2026-01-01T00:00:00.000Z")
PRINT: Final = Digest("f" * 64)
ANN: Final = Principal("user:ann")
OPTIONS: Final = (ev.Action(id="approve", label="Approve"), ev.Action(id="reject", label="Reject"))


class Log:
    """A log that grows; each event a second after the one before."""

    def __init__(
        self, kind: Any = "langflow", *, mode: Any = "background", graph_state: bool = True, **members: Any
    ) -> None:
        self.job: JobState = EMPTY
        self.events: list[AnyEvent] = []
        source = Source(surface="langflow", mode=mode, protocol="langflow", graph_state=graph_state)
        given: dict[str, Any] = {"session_id": "s-1", "input": {"input_value": "hello"}} | members
        self.add(
            ev.SubmittedData(
                flow=FlowRef(id=FLOW, name="f", version=1, kind=kind, digest=Digest("d" * 64)),
                owner=ANN,
                queue=Queue("default"),
                priority="normal",
                deadline_at=later(BEGIN, 86_400.0),
                fingerprint=PRINT,
                source=source,
                **given,
            )
        )

    @property
    def now(self) -> Instant:
        """When the next event is."""
        return later(BEGIN, float(len(self.events)))

    def add(self, *datas: AnyData) -> "Log":
        """Append."""
        for data in datas:
            event = stamp(self.job, EventId(f"e{len(self.events)}"), self.now, data)
            self.job = apply(self.job, event)
            self.events.append(event)
        return self

    def start(self, reason: Any = "first") -> "Log":
        """`attempt.started`."""
        return self.add(ev.AttemptData(runner=RunnerId("r"), doorbell=ev.Bell(seq=1, ring="r"), reason=reason))

    def begin(self, ids: list[str], to_run: list[str]) -> "Log":
        """A pass."""
        number = 1 + sum(isinstance(event, ev.Progress) for event in self.events)
        data = {"ids": ids, "to_run": to_run}
        return self.add(ev.ProgressData(name="langflow.pass", occurrence=number, total=float(len(to_run)), data=data))

    def message(self, record: dict[str, Any]) -> "Log":
        """`message` as Langflow's engine says it."""
        role = "user" if record["sender"] == "User" else "assistant"
        return self.add(ev.MessageData(message_id=record["id"], role=role, text=record["text"], original=record))

    def built(self, vertex: dict[str, Any], output: dict[str, Any] | None = None) -> "Log":
        """`step.completed` of a component."""
        meta = vertex["output_meta"]
        name = meta["component_id"]
        named = None if output is None else ev.Named(name=name, kind="message")
        entry: dict[str, Any] = {"lfx": "1.13.0"} | ({} if output is None else {"output": output})
        return self.step(name, entry, component=meta["vertex_type"], output=named, preview=vertex)

    def step(self, name: str, result: Any, *, path: str = "", **members: Any) -> "Log":
        """`step.completed`."""
        given: dict[str, Any] = {"started_at": self.now, "duration_seconds": 0.25} | members
        return self.add(ev.StepCompletedData(step=name, occurrence=1, path=path, result=result, **given))

    def ask(self, name: str = "HumanInput-g1", **members: Any) -> ev.Request:
        """`input.requested` as Langflow's engine asks it."""
        given: dict[str, Any] = {
            "kind": "approval",
            "title": "Human Input",
            "message": "ship it?",
            "actions": OPTIONS,
            "expires_at": later(self.now, 259_200.0),
            "external_ids": {"langflow": f"{name}:{JOB}"},
        } | members
        request = ev.Request(
            id=request_id(JOB, len(self.events) + 1),
            job_id=JOB,
            name=name,
            occurrence=1,
            revision=1,
            asked_at=self.now,
            asked_for=ANN,
            **given,
        )
        self.add(ev.RequestedData(request=request))
        return request

    def suspend(self) -> "Log":
        """`job.suspended` for all that is asked."""
        waits = [ev.Waiting(kind="input", name=r.name, request_id=r.id) for r in self.job.asked.values()]
        return self.add(ev.SuspendedData(waiting=tuple(waits), resume="all"))

    def answer(self, request: ev.Request, action: str = "approve") -> "Log":
        """`input.answered`."""
        via = ev.Via(channel="langflow")
        return self.add(
            ev.AnsweredData(request_id=request.id, revision=1, action=action, payload=None, by=ANN, via=via)
        )

    def complete(self, **outputs: Any) -> "Log":
        """`job.completed`."""
        return self.add(ev.CompletedData(outputs=outputs, fingerprint=PRINT))

    def fail(self, message: str = "boom", step: str | None = "Sleeper-bad01", **members: Any) -> "Log":
        """`job.failed`."""
        error = ev.Failure(**({"code": "EXECUTION_ERROR", "message": message, "step": step} | members))
        return self.add(ev.FailedData(error=error, failures=1, fingerprint=PRINT))


def recorded(lines: Iterable[str], *, graph_state: bool = True) -> Log:
    """The log of a job that a recorded stream of 1.13 tells: what its runner would have written."""
    log = Log(graph_state=graph_state).start()
    frames = [json.loads(line) for line in lines]
    outputs = {f["data"]["component_id"]: f["data"] for f in frames if f["event"] == "output"}
    held: dict[str, Any] | None = None
    for frame in frames:
        data = frame["data"]
        match frame["event"]:
            case "vertices_sorted":
                if log.events[-1].status == "suspended":
                    log.start("resumed")
                log.begin(data["ids"], data["to_run"])
            case "add_message":
                log.message(data)
            case "end_vertex" if not data["build_data"]["valid"]:
                name = data["output_meta"]["component_id"]
                error = ev.Failure(code="EXECUTION_ERROR", message="boom\n", details={"error_type": "ValueError"})
                at = log.now
                log.add(
                    ev.StepFailedData(
                        step=name, occurrence=1, error=error, failures=1, started_at=at, duration_seconds=0.1,
                        final=True, preview=data,
                    )
                )  # fmt: skip
                held = data
            case "end_vertex":
                shown = outputs.get(data["output_meta"]["component_id"])
                output = None if shown is None else {n: v for n, v in shown.items() if n != "component_id"}
                log.built(data, output)
            case "human_input_required":
                log.ask(data["request_id"].split(":")[0])
                log.suspend()
            case "end" if held is not None:
                log.fail("boom\n", held["output_meta"]["component_id"], details={"error_type": "ValueError"})
            case "end":
                log.complete()
            case _:
                pass
    return log
