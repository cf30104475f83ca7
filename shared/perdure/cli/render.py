"""Events and jobs as people read them: a line each, tokens as they flow."""

from typing import Any, assert_never

import msgspec

from perdure.cli.session import Printer
from perdure.client import Delta, Event, Frame, Job, UnknownEvent, decode
from perdure.core import event as ev
from perdure.core.event import Status, type_of

_STYLE = {
    Status.COMPLETED: "bold green",
    Status.FAILED: "bold red",
    Status.TIMED_OUT: "bold red",
    Status.CANCELLED: "bold yellow",
    Status.SUSPENDED: "bold cyan",
}
MAX_WORDS = 200


class EventPrinter:
    """Prints frames in the order in which they come: JSON lines as they are, or lines for people."""

    def __init__(self, printer: Printer) -> None:
        self._printer = printer
        self._channel: tuple[str | None, str | None] | None = None  # whose tokens the open line holds

    def show(self, frame: Frame) -> Event | Delta | None:
        """Print `frame`; what it says."""
        said = decode(frame)
        if self._printer.json:
            if said is not None:
                self._printer.raw(frame.data)
            return said
        match said:
            case None:
                pass
            case Delta():
                self._delta(said)
            case UnknownEvent():
                self._line(f"{said.seq:>4}  {said.type}")
            case _:
                at = said.at[11:23]
                attempt = f"#{said.attempt}" if said.attempt else ""
                line = f"{said.seq:>4}  {at}  {attempt:<3} {type_of(said):<16} {describe(said)}"
                self._line(line.rstrip(), _STYLE.get(said.status, "") if said.status in ev.TERMINAL else "")
        return said

    def end(self) -> None:
        """Close a line of tokens that is still open."""
        if self._channel is not None:
            self._printer.text("")
            self._channel = None

    def _line(self, line: str, style: str = "") -> None:
        self.end()
        self._printer.text(line, style)

    def _delta(self, delta: Delta) -> None:
        channel = (delta.step, delta.channel)
        match delta.type:
            case "delta.text" if delta.text is not None:
                if channel != self._channel:
                    self.end()
                    self._printer.text(f"      … {delta.step or ''}: ", "dim", end="")
                    self._channel = channel
                self._printer.text(delta.text, "dim", end="")
            case "delta.log":
                self._line(f"      … {delta.step or ''} [{delta.level or 'info'}] {delta.text or ''}", "dim")
            case "delta.reset":
                self.end()  # what was shown of open texts is void, or comes again
            case _:
                pass  # step starts and live progress: the line of their event says it again


def words(value: object, limit: int = MAX_WORDS) -> str:
    """A user value in at most `limit` characters: a text as it is, anything else as JSON."""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def describe(event: ev.AnyEvent) -> str:
    """What an event says beyond its type, in one line."""
    match event:
        case ev.JobSubmitted(data=d):
            return f"{d.flow.name} v{d.flow.version}  input {words(d.input)}"
        case ev.AttemptStarted(data=d):
            cause = f" by {d.cause} (event {d.because_seq})" if d.cause else ""
            return f"{d.reason}{cause}"
        case ev.JobSuspended(data=d):
            return "waits for " + ", ".join(_waiting(w) for w in d.waiting)
        case ev.StepCompleted(data=d):
            return f"{d.step}  {d.duration_seconds:.2f} s  {words(d.result, 100)}"
        case ev.StepFailed(data=d):
            after = "for good" if d.final else f"again at {(d.retry_at or '')[11:23]}"
            return f"{d.step}  {d.error.code}: {words(d.error.message)}  (failure {d.failures}, {after})"
        case ev.StepSkipped(data=d):
            return f"{d.step}  {d.reason}"
        case ev.Output(data=d):
            return f"{d.name}  {words(d.value)}"
        case ev.Message(data=d):
            return f"{d.role}: {words(d.text)}"
        case ev.Progress(data=d):
            share = f" {d.done:g}/{d.total:g}" if d.done is not None and d.total is not None else ""
            return f"{d.name}{share} {d.text or ''}"
        case ev.InputRequested(data=d):
            return f"{d.request.title}  [{', '.join(a.id for a in d.request.actions)}]  {d.request.id}"
        case ev.InputVoted(data=d) | ev.InputAnswered(data=d):
            return f"{d.action} by {d.by}{' (edited)' if isinstance(d, ev.AnsweredData) and d.edited else ''}"
        case ev.InputExpired(data=d):
            return f"{d.cause}: {d.outcome.do}"
        case ev.InputWithdrawn(data=d):
            return d.reason
        case ev.SignalReceived(data=d):
            return f"{d.name} by {d.by}"
        case ev.CancelRequested(data=d):
            return f"by {d.by}, grace {d.grace_seconds:g} s"
        case ev.TimerFired(data=d):
            return d.name
        case ev.ChildEnded(data=d):
            return f"{d.job_id} {d.status}"
        case ev.JobCompleted(data=d):
            return "  ".join(f"{name}: {words(value)}" for name, value in d.outputs.items())
        case ev.JobFailed(data=d):
            return f"{d.error.code}: {words(d.error.message)}"
        case ev.JobCancelled(data=d):
            return f"by {d.by or 'nobody'}{' ' + d.reason if d.reason else ''}"
        case ev.JobTimedOut(data=d):
            return f"deadline {d.deadline_at}"
        case _:
            assert_never(event)


def _waiting(waiting: ev.Waiting) -> str:
    return f"{waiting.kind} {waiting.name}" if waiting.name else waiting.kind


def job_text(job: Job) -> str:
    """A job for people."""
    lines = [f"{job.id}  {job.status}{f' ({job.reason})' if job.reason else ''}  {job.flow.name} v{job.flow.version}"]
    lines += [f"  waits for {w.kind} {w.name or ''} {w.request_id or ''}".rstrip() for w in job.waiting_for]
    if job.error is not None:
        lines.append(f"  {job.error.code}: {words(job.error.message)}")
    lines += [f"  {name}: {words(value, 2000)}" for name, value in (job.outputs or {}).items()]
    return "\n".join(lines)


def state_text(state: dict[str, Any]) -> str:  # Any: what a gateway says, user values inside
    """What a log amounts to, for people."""
    lines = [f"offset {state.get('offset')}", job_text(msgspec.convert(state["job"], Job, strict=False))]
    for step in state.get("steps", ()):
        what = step.get("result", step.get("error", step.get("reason")))
        lines.append(f"  {step.get('seq', ''):>4} {step['step']:<20} {step['status']:<9} {words(what, 100)}")
    lines += [f"  {m.get('seq', ''):>4} {m.get('role')}: {words(m.get('text'))}" for m in state.get("messages", ())]
    lines += [f"  {o.get('seq', ''):>4} {o.get('name')} = {words(o.get('value'))}" for o in state.get("outputs", ())]
    lines += [f"  {r['id']}  {r['status']}  {words(r.get('title'))}" for r in state.get("requests", ())]
    lines += [f"  … {d.get('step', '')}: {words(d.get('text'))}" for d in state.get("deltas", ())]
    return "\n".join(lines)
