"""Ends jobs from outside."""

from typing import Final

from msgspec import Struct

from perdure import probe
from perdure.core import event as ev
from perdure.core.alarm import due
from perdure.core.event import Status
from perdure.core.instant import Instant
from perdure.core.machine import JobState
from perdure.errors import OutcomeUnknown
from perdure.ids import JobRef, Principal
from perdure.jobs.alarms import arm
from perdure.jobs.desk import BUDGET_SECONDS, Desk
from perdure.jobs.parent import try_to_tell_parent
from perdure.jobs.read import load

GRACE_SECONDS: Final = 30.0


class Wish(Struct, frozen=True):
    """Who wants a job to end, why, and how hard."""

    by: Principal
    reason: str | None
    grace_seconds: float
    force: bool


async def cancel(
    desk: Desk,
    ref: JobRef,
    by: Principal,
    *,
    reason: str | None = None,
    grace_seconds: float = GRACE_SECONDS,
    force: bool = False,
) -> JobState:
    """Cancel the job; its state after that. Terminal: nobody has to be waited for.

    A job that does not run ends at once. A running one gets `grace_seconds`: its runner sees the event and stops, and
    when the grace is over whoever looks ends the job (an alarm makes somebody look). `force` ends it now, also within a
    grace. A second cancel without it, and one of a job that has ended, change nothing. Raises NotFound, OutcomeUnknown,
    Unavailable.
    """
    log = await load(desk, ref)
    wish = Wish(by, reason, grace_seconds, force)
    now = desk.clock.broker_now() if desk.clock.broker_known else None
    try:
        stored = await log.append(lambda job: _cancel(job, wish, now), budget_seconds=BUDGET_SECONDS)
    except OutcomeUnknown as exc:
        raise OutcomeUnknown(str(exc), ref.job) from exc
    probe.hit("cancel.after_append")
    if log.state.terminal:
        await try_to_tell_parent(desk, ref, log.state)
    elif stored is not None:
        await arm(desk.doorbells, ref, log.state, desk.clock.broker_now())
    return log.state


def _cancel(job: JobState, wish: Wish, now: Instant | None) -> ev.AnyData | None:
    """`now` is None while the broker's time is not known: then nothing is over by it."""
    if job.terminal or job.fingerprint is None:
        return None
    if now is not None and isinstance(over := due(job, now), ev.CancelledData | ev.TimedOutData):
        return over
    if job.status is not Status.RUNNING or wish.force:
        return ev.CancelledData(fingerprint=job.fingerprint, by=wish.by, reason=wish.reason or "cancelled_by_user")
    if job.cancel is not None:
        return None
    return ev.CancelData(by=wish.by, grace_seconds=wish.grace_seconds, reason=wish.reason)
