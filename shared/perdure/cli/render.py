"""Events and jobs as people read them: a line each, tokens as they flow."""

from typing import Any, Final, assert_never

import msgspec

from perdure.cli.session import Printer
from perdure.client import Delta, Event, Frame, Job, UnknownEvent, decode
from perdure.clock import Clock, SystemClock
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
PROGRESS_SECONDS: Final = 1.0  # between two lines of progress of a step


class EventPrinter:
    """Prints frames in the order in which they come: JSON lines as they are, or lines for people.

    Progress that is told between events is one line that changes, and where the output is no terminal a line a second.
    """

    def __init__(self, printer: Printer, clock: Clock | None = None) -> None:
        self._printer, self._clock = printer, SystemClock() if clock is None else clock
        self._channel: tuple[str | None, str | None] | None = None  # whose tokens the open line holds
        self._width = 0  # of the progress that stands on the open line
        self._progress_at: dict[str | None, float] = {}  # when a step's was shown

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
        """Close a line of tokens, or of progress, that is still open."""
        if self._channel is not None or self._width:
            self._printer.text("")
            self._channel, self._width = None, 0

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
            case "delta.progress":
                self._progress(delta)
            case "delta.reset":
                self.end()  # what was shown of open texts is void, or comes again
            case _:
                pass  # step starts: the line of their event says it again

    def _progress(self, delta: Delta) -> None:
        now, whole = self._clock.monotonic(), delta.done is not None and delta.done == delta.total
        line = f"      … {delta.step or ''} {share(delta.done, delta.total)} {words(delta.text or '')}".rstrip()
        if self._printer.out.is_terminal:
            if not self._width:
                self.end()
            line = line[: self._printer.out.width - 1]
            self._printer.text(line.ljust(self._width), "dim", end="\r")
            self._width = max(1, len(line))
        elif whole or now - self._progress_at.get(delta.step, -PROGRESS_SECONDS) >= PROGRESS_SECONDS:
            self._progress_at[delta.step] = now
            self._line(line)


def share(done: float | None, total: float | None) -> str:
    """How far something is."""
    if done is None:
        return ""
    return f"{done:g}" if total is None else f"{done:g}/{total:g}"


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
            return " ".join(part for part in (d.name, share(d.done, d.total), d.text) if part)
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
