"""How much a log may hold: a warning in it at 80 %, its end at the bound. Long loops belong into children.

A running attempt may fill it to the bound. What others say to a job unasked ends earlier, so that nobody can end a job
by talking to it; what settles something (answers, timers, children's ends) is taken to the last.
"""

from collections.abc import Iterable
from typing import Final

from perdure.core import event as ev
from perdure.core.codec import MAX_EVENT_BYTES
from perdure.core.event import TERMINAL, AnyData, AnyEvent, Status
from perdure.core.machine import JobState, status_after

MAX_EVENTS: Final = 50_000
MAX_LOG_BYTES: Final = 256 * 1024 * 1024  # without blobs
WARN_SHARE: Final = 0.8
DEAF_SHARE: Final = 0.9
WARNING: Final = "$log"  # the name of the `progress` that warns; no call of a workflow has such a name


def fitting(job: JobState, data: AnyData, size_bytes: int) -> AnyData:
    """`data`, or the job's failure in its place when a log of `size_bytes` has room for its end alone."""
    room = job.seq + 1 < MAX_EVENTS and size_bytes + 2 * MAX_EVENT_BYTES <= MAX_LOG_BYTES
    if room or job.fingerprint is None or status_after(job, data) in TERMINAL:
        return data
    text = f"the log is full: {job.seq} events, {size_bytes} bytes; run the rounds of a long loop as child jobs"
    error = ev.Failure(code="too_large", message=text, retryable=False)
    return ev.FailedData(error=error, failures=job.failures, fingerprint=job.fingerprint)


def warning(job: JobState, size_bytes: int) -> ev.ProgressData | None:
    """What a running attempt appends once when the log is 80 % full; None before that."""
    if job.status is not Status.RUNNING:
        return None
    full = max(job.seq / MAX_EVENTS, size_bytes / MAX_LOG_BYTES)
    if full < WARN_SHARE:
        return None
    text = f"the log is {full:.0%} full: at {MAX_EVENTS} events or {MAX_LOG_BYTES} bytes the job fails"
    return ev.ProgressData(name=WARNING, occurrence=1, done=job.seq, total=MAX_EVENTS, text=text)


def deaf(job: JobState, size_bytes: int) -> bool:
    """Whether a log of `size_bytes` takes no more signals and comments."""
    return max(job.seq / MAX_EVENTS, size_bytes / MAX_LOG_BYTES) >= DEAF_SHARE


def warned(log: Iterable[AnyEvent]) -> bool:
    """Whether the warning is in the log."""
    return any(isinstance(event, ev.Progress) and event.data.name == WARNING for event in log)
