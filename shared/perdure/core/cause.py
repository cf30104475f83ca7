"""Which recorded events end a wait of a sleeping job, and as which cause."""

from typing import Final, Literal

from perdure.core import event as ev
from perdure.core.event import AnyEvent

RETRY_NOW: Final = "$retry_now"
DETACHED: Final = "$detached"  # the last client of a stream that the job lives for has left; see core.alarm
ATTACHED: Final = "$attached"
CauseKind = Literal["answer", "expiry", "withdrawal", "signal", "timer", "child"]


def resolves(asleep: ev.SuspendedData, event: AnyEvent) -> CauseKind | Literal[False] | None:
    """As which cause `event` ends one of the waits (None: as `$retry_now`), False when it ends none."""
    kind: CauseKind
    match event:
        case ev.InputAnswered(data=data) | ev.InputExpired(data=data) | ev.InputWithdrawn(data=data):
            hit = any(w.kind == "input" and w.request_id == data.request_id for w in asleep.waiting)
            kind = {ev.InputAnswered: "answer", ev.InputExpired: "expiry", ev.InputWithdrawn: "withdrawal"}[type(event)]  # type: ignore[assignment]  # three literals
        case ev.SignalReceived(data=data):
            if data.name == RETRY_NOW:
                return None if any(w.kind in ("backoff", "code") for w in asleep.waiting) else False
            if data.name.startswith("$"):
                return False
            hit, kind = any(w.kind == "signal" and w.name == data.name for w in asleep.waiting), "signal"
        case ev.TimerFired(data=data):
            key = (data.path, data.name, data.occurrence)
            hit = any(
                w.kind in ("timer", "signal", "child") and (w.path, w.name, w.occurrence) == key for w in asleep.waiting
            )
            kind = "timer"
        case ev.ChildEnded(data=data):
            hit, kind = any(w.kind == "child" and w.job_id == data.job_id for w in asleep.waiting), "child"
        case _:
            return False
    return kind if hit or asleep.more else False
