"""How a pass ends: the terminal event that a result amounts to, or the suspension that the parked calls amount to."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from perdure.core import codec, journal
from perdure.core import event as ev
from perdure.core.event import AnyEvent
from perdure.core.instant import Instant, later
from perdure.core.machine import JobState
from perdure.engine.calls import Call
from perdure.engine.failure import job_failure, value_failure
from perdure.engine.values import plain
from perdure.errors import CodeChanged, Malformed
from perdure.ids import Digest

MAX_WAITING: Final = 200
MAX_WAITING_BYTES: Final = 128 * 1024  # of names and paths together, so that the event always fits
RESULT: Final = "result"  # the output that a returned value is, where the workflow named none


def terminal(
    job: JobState, value: Any, error: BaseException | None, log: Sequence[AnyEvent]
) -> ev.CompletedData | ev.FailedData | ev.CancelledData:
    """The end of a job whose body returned `value` or raised `error`. After a cancel everything is `job.cancelled`."""
    fingerprint = _fingerprint(job)
    if job.cancel is not None:
        return ev.CancelledData(
            fingerprint=fingerprint, by=job.cancel.by, reason=job.cancel.reason or "cancelled_by_user"
        )
    if error is not None:
        return ev.FailedData(error=job_failure(error), failures=job.failures, fingerprint=fingerprint)
    outputs = dict(job.outputs)
    try:
        if value is not None and not outputs and not job.outputs_ref:
            outputs[RESULT] = plain(value)
    except Malformed as exc:
        return ev.FailedData(error=value_failure(exc), failures=job.failures, fingerprint=fingerprint)
    return ev.CompletedData(
        outputs=outputs, outputs_ref=job.outputs_ref, fingerprint=fingerprint, usage=journal.usage(log)
    )


def asleep(calls: Iterable[Call]) -> ev.SuspendedData:
    """The suspension of a job whose branches all wait in `calls`: the earliest that fit, and how many more."""
    waits = [wait for call in calls if (wait := call.waiting()) is not None]
    waits.sort(key=lambda w: (w.until or "~", w.path, w.name or "", w.occurrence or 0))
    if not waits:  # nothing that could ever wake it: look again at once
        return handed_on()
    kept: list[ev.Waiting] = []
    size = 0
    for wait in waits[:MAX_WAITING]:
        size += len(codec.canonical(wait))
        if kept and size > MAX_WAITING_BYTES:
            break
        kept.append(wait)
    return ev.SuspendedData(
        waiting=tuple(kept),
        more=len(waits) - len(kept),
        wake_at=min((w.until for w in waits if w.until is not None), default=None),
    )


def handed_on() -> ev.SuspendedData:
    """The suspension of a job whose runner is going away: any runner may go on at once."""
    return ev.SuspendedData(waiting=(ev.Waiting(kind="runner"),))


def unmatched(error: CodeChanged, log: Sequence[AnyEvent], now: Instant) -> ev.SuspendedData:
    """The suspension of a job whose log this code does not fit: looked at again after a back-off, or on demand."""
    until = later(now, journal.code_back_off(log))
    wait = ev.Waiting(kind="code", path=error.path, expected=error.expected, found=error.found, until=until)
    return ev.SuspendedData(waiting=(wait,), wake_at=until)


def _fingerprint(job: JobState) -> Digest:
    assert job.fingerprint is not None, "a job that runs was submitted"
    return job.fingerprint
