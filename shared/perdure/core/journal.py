"""The log as a pass reads it: what it remembers under which key, how far it is delivered, whether the code still fits.

Events are delivered one at a time, in the order of `seq`, so that races, locks and shared variables see in each pass
what they saw in the first. The next one goes out when every branch is still: the engine sees that, not the journal.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

from msgspec import Struct

from perdure.core import event as ev
from perdure.core.event import AnyEvent
from perdure.core.instant import Instant
from perdure.core.key import Key
from perdure.errors import CodeChanged

CallKind = Literal["step", "skip", "ask", "sleep", "signal", "output", "progress", "child"]

# What moves `ctx.now`: every event that a context call may resolve by.
_RESOLVING: Final = (
    ev.StepCompleted,
    ev.StepSkipped,
    ev.InputAnswered,
    ev.InputExpired,
    ev.InputWithdrawn,
    ev.SignalReceived,
    ev.TimerFired,
    ev.ChildEnded,
    ev.CancelRequested,
    ev.Output,
    ev.Progress,
)
# Which calls leave an entry of a kind, where more than one does: a timer is also the time-out of a wait; of a child the
# log has its end, the tries to start it, and its id when nobody waits for it.
_CALLS_OF: Final[Mapping[CallKind, tuple[CallKind, ...]]] = {
    "sleep": ("sleep", "signal", "child"),
    "step": ("step", "child"),
}
FIRST_CODE_SECONDS: Final = 10.0
MOST_CODE_SECONDS: Final = 600.0


class Entry(Struct, frozen=True):
    """What a context call left in the log: which kind of call it was, and under which key."""

    kind: CallKind
    key: Key
    args_digest: str | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.key.name}#{self.key.occurrence}"


def entry(event: AnyEvent) -> Entry | None:
    """The entry that `event` is, None for an event that belongs to no call by its key."""
    match event:
        case ev.StepCompleted(data=step) | ev.StepFailed(data=step):
            return Entry("step", Key(step.path, step.step, step.occurrence), step.args_digest)
        case ev.StepSkipped(data=skipped):
            return Entry("skip", Key(skipped.path, skipped.step, skipped.occurrence))
        case ev.InputRequested(data=asked):
            request = asked.request
            return Entry("ask", Key(request.path, request.name, request.occurrence))
        case ev.TimerFired(data=timer):
            return Entry("sleep", Key(timer.path, timer.name, timer.occurrence))
        case ev.ChildEnded(data=child):
            return Entry("child", Key(child.path, child.step, child.occurrence))
        case ev.Output(data=output):
            return Entry("output", Key(output.path, output.name, output.occurrence))
        case ev.Progress(data=progress) if not progress.name.startswith("$"):  # those are Perdure's own words
            return Entry("progress", Key(progress.path, progress.name, progress.occurrence))
        case _:
            return None


def fits(recorded: Entry, called: Entry) -> bool:
    """Whether the call is the one that was recorded. A digest that is missing on one side is not compared."""
    if recorded.key != called.key or called.kind not in _CALLS_OF.get(recorded.kind, (recorded.kind,)):
        return False
    return recorded.args_digest is None or called.args_digest is None or recorded.args_digest == called.args_digest


def changed(recorded: Entry, found: Entry | str) -> CodeChanged:
    """The error for a recorded entry in whose place the code does something else: `found`, a call or in words."""
    if isinstance(found, Entry) and (found.kind, found.key) == (recorded.kind, recorded.key):
        return CodeChanged(recorded.key.path, str(recorded), f"{found} with other arguments")
    return CodeChanged(recorded.key.path, str(recorded), str(found))


class Journal:
    """A cursor over a growing log. `log` may get longer at its end while the journal is read."""

    def __init__(self, log: Sequence[AnyEvent]) -> None:
        self._log = log
        self._next = 0
        self.now: Instant = log[0].at
        """`ctx.now`: the instant of the last resolving event delivered, never lower than before."""

    @property
    def seq(self) -> int:
        """The `seq` of the last event delivered, 0 before the first."""
        return self._log[self._next - 1].seq if self._next else 0

    @property
    def at_end(self) -> bool:
        """Whether every event has been delivered."""
        return self._next >= len(self._log)

    def peek(self) -> AnyEvent | None:
        """The next event to deliver."""
        return None if self.at_end else self._log[self._next]

    def advance(self) -> None:
        """The next event is being delivered: whoever hears it finds `now` at its instant."""
        event = self._log[self._next]
        self._next += 1
        if isinstance(event, _RESOLVING) or (isinstance(event, ev.StepFailed) and event.data.final):
            self.now = max(self.now, event.at)


def last_told(log: Sequence[AnyEvent]) -> int:
    """The `seq` of the last event that a pass has to tell its code; 0 when there is none."""
    silent = (ev.JobSubmitted, ev.AttemptStarted, ev.JobSuspended)
    return next((event.seq for event in reversed(log) if not isinstance(event, silent)), 0)


def code_back_off(log: Iterable[AnyEvent]) -> float:
    """Seconds until the code is looked at again: doubled with each suspension in a row that waited for it."""
    row = 0
    for event in log:
        if isinstance(event, ev.JobSuspended):
            row = row + 1 if any(w.kind == "code" for w in event.data.waiting) else 0
    return min(MOST_CODE_SECONDS, FIRST_CODE_SECONDS * 2.0 ** min(row, 10))


def usage(log: Iterable[AnyEvent]) -> ev.Usage | None:
    """What all steps of the log cost together; `model` only when they used one and the same."""
    spent = [e.data.usage for e in log if isinstance(e, ev.StepCompleted) and e.data.usage is not None]
    if not spent:
        return None
    models = {u.model for u in spent}
    return ev.Usage(
        input_tokens=sum(u.input_tokens for u in spent),
        output_tokens=sum(u.output_tokens for u in spent),
        model=models.pop() if len(models) == 1 else None,
    )
