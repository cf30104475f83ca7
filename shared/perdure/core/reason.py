"""Why a job is where it is: the one word beside its status that clients branch on."""

from typing import Final

from perdure.core import event as ev
from perdure.core.event import Status
from perdure.core.machine import JobState

_WAITS: Final = (("input", "person"), ("signal", "signal"), ("child", "child"), ("timer", "timer"))
_SOFT: Final = ("code", "runner", "backoff")  # the one that needs somebody first
_FAILED: Final = frozenset({"max_failures", "not_retryable", "runner_crashed", "request_expired", "too_large"})
_CANCELLED: Final = frozenset({"client_gone", "parent_ended"})


def reason(job: JobState) -> str | None:
    """`person signal timer child` of a suspended job (the first that it waits for), `backoff runner code` of a retrying
    one, of an ended one `deadline max_failures not_retryable runner_crashed request_expired too_large cancelled_by_user
    client_gone parent_ended`; None for a queued, running or completed one.
    """
    match job.end:
        case ev.TimedOutData():
            return "deadline"
        case ev.CancelledData(reason=why):
            return why if why in _CANCELLED else "cancelled_by_user"
        case ev.FailedData(error=error) if error.code in _FAILED:
            return error.code
        case ev.FailedData(error=error):
            return "not_retryable" if error.retryable is False else "max_failures"
        case _:
            return _waiting(job)


def _waiting(job: JobState) -> str | None:
    if job.suspension is None:
        return None
    kinds = {w.kind for w in job.suspension.data.waiting}
    if job.status is Status.RETRYING:
        return next((kind for kind in _SOFT if kind in kinds), None)
    return next((word for kind, word in _WAITS if kind in kinds), None)
