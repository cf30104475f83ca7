"""What a doorbell about a job calls for, by the fold alone: the claim of `jetstream.md` 3.3, without its I/O.

A doorbell wakes nobody: only the log does. The runner asks `claim`, the sweeper asks `runnable`; so both agree.
"""

from typing import Final, Literal

from msgspec import Struct

from perdure.core import event as ev
from perdure.core.alarm import asleep, due, next_due_at
from perdure.core.cause import CauseKind
from perdure.core.event import AnyData, Status
from perdure.core.instant import Instant
from perdure.core.machine import JobState, crashes_at_claim

MAX_CRASHES: Final = 5
SUSPECT_CRASHES: Final = 2
ALWAYS: Final = Instant("1970-01-01T00:00:00.000Z")


class Decided(Struct, frozen=True):
    """Time has decided `data`: append it, fold, ask again."""

    data: AnyData


class Ended(Struct, frozen=True):
    """Terminal, or nothing was ever submitted: ack."""


class Asleep(Struct, frozen=True):
    """Nothing to do yet: arm the alarms, ack."""


class Held(Struct, frozen=True):
    """Running under another doorbell. While that one is in WORK ack mine, else take over with `start`."""

    bell: ev.Bell
    start: "Start"


class Start(Struct, frozen=True):
    """Append `attempt.started` with this reason and execute. A `suspect`'s last attempts died without a word: whoever
    runs it may die, too.
    """

    reason: Literal["first", "retry", "resumed", "lease_lost", "rung"]
    because_seq: int | None = None
    cause: CauseKind | None = None
    suspect: bool = False  # to be executed in a process of its own


Claim = Decided | Ended | Asleep | Held | Start


def claim(job: JobState, now: Instant, bell: ev.Bell) -> Claim:
    """What to do about `job` for whoever got the doorbell `bell`, at `now` (the broker's clock)."""
    if not job.exists or job.terminal:
        return Ended()
    if (data := due(job, now)) is not None:
        return Decided(data)
    if asleep(job, now):
        return Asleep()
    if job.status is Status.RUNNING and job.attempt_data is not None:
        held, start = job.attempt_data.doorbell, Start("lease_lost", suspect=crashes_at_claim(job) >= SUSPECT_CRASHES)
        return start if held == bell else Held(held, start)
    if job.status is Status.QUEUED:
        return Start("first")
    return _resumed(job)


def crashed_out(job: JobState) -> ev.FailedData | None:
    """The end of a job whose runners keep dying on it, to be appended in place of another `attempt.started`."""
    if job.submitted is None or crashes_at_claim(job) < MAX_CRASHES:
        return None
    text = f"{MAX_CRASHES} attempts in a row ended without a word; the last one was attempt {job.attempt}"
    error = ev.Failure(code="runner_crashed", message=text, retryable=False)
    return ev.FailedData(error=error, failures=job.failures, fingerprint=job.submitted.fingerprint)


def runnable(job: JobState, now: Instant) -> bool:
    """Whether a doorbell has to exist for `job`: it is open and not asleep, or time has decided something about it."""
    return job.exists and not job.terminal and (due(job, now) is not None or not asleep(job, now))


def ready_at(job: JobState) -> Instant | None:
    """The instant from which on `runnable` may be true: what the sweeper's query goes by; None: never again. What is
    runnable already is so at ALWAYS, whatever anybody's clock says.
    """
    if job.updated_at is None or job.terminal:
        return None
    return ALWAYS if runnable(job, job.updated_at) else next_due_at(job)


def _resumed(job: JobState) -> Start:
    sleep = job.suspension
    if sleep is None:
        return Start("rung")
    for cause in sleep.causes:
        if cause.kind is not None:
            return Start("resumed", because_seq=cause.seq, cause=cause.kind)
    return Start("retry")
