"""How an attempt at a Langflow flow ends where its child left work: asleep until requests are settled, or failed."""

from perdure.core import event as ev
from perdure.core.event import TERMINAL, AnyData
from perdure.core.machine import JobState
from perdure.engine import ends


def asleep(job: JobState) -> ev.SuspendedData | None:
    """The suspension of a job whose requests are open: it goes on when all of them are settled. None: none is."""
    if not job.asked:
        return None
    waits = [
        ev.Waiting(kind="input", path=r.path, name=r.name, occurrence=r.occurrence, request_id=r.id, until=r.expires_at)
        for r in job.asked.values()
    ]
    return ev.SuspendedData(
        waiting=tuple(waits),
        resume="all",
        wake_at=min((w.until for w in waits if w.until is not None), default=None),
    )


def failed(job: JobState, error: ev.Failure) -> AnyData:
    """The failure of the job; what a cancel asks for where there is one."""
    if job.cancel is not None or job.status in TERMINAL:
        return ends.terminal(job, None, None, ())
    assert job.fingerprint is not None, "a job that runs was submitted"
    return ev.FailedData(error=error, failures=job.failures, fingerprint=job.fingerprint)
