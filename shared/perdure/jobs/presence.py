"""Whether the client that a job was started for is there: who leaves is missed for a while, then the job ends.

    stream lost ── signal.received $detached{seconds} ── alarm `orphan` ── due, and nobody came back: cancel
    stream opened again ── signal.received $attached

A gateway that dies with its client appends nothing: then the job goes on, as one without a client.
"""

from typing import Final

from perdure.core import event as ev
from perdure.core.cause import ATTACHED, DETACHED
from perdure.core.machine import JobState
from perdure.errors import OutcomeUnknown
from perdure.ids import JobRef, Principal, new_event_id
from perdure.jobs.alarms import arm
from perdure.jobs.desk import BUDGET_SECONDS, Desk
from perdure.jobs.joblog import Decide, JobLog

MOST_SECONDS: Final = 86_400.0


async def detach(desk: Desk, ref: JobRef, by: Principal, seconds: float) -> JobState:
    """Say that the client has left; the job ends when `seconds` pass without `attach`. A job that has ended, or whose
    client is missed already, stays as it is. Raises OutcomeUnknown, Unavailable.
    """
    said = _said(DETACHED, by, {"seconds": min(seconds, MOST_SECONDS)})
    return await _append(desk, ref, lambda job: said if job.detached is None else None)


async def attach(desk: Desk, ref: JobRef, by: Principal) -> JobState:
    """Say that a client has come back, where one is missed. Raises OutcomeUnknown, Unavailable."""
    said = _said(ATTACHED, by, None)
    return await _append(desk, ref, lambda job: said if job.detached is not None else None)


def _said(name: str, by: Principal, payload: ev.UserValue) -> ev.SignalData:
    return ev.SignalData(signal_id=new_event_id(), name=name, payload=payload, by=by)


async def _append(desk: Desk, ref: JobRef, decide: Decide) -> JobState:
    log = await JobLog.load(desk.eventlog, ref, desk.clock)

    def decided(job: JobState) -> ev.AnyData | None:
        return None if job.terminal or not job.exists else decide(job)

    try:
        stored = await log.append(decided, budget_seconds=BUDGET_SECONDS)
    except OutcomeUnknown as exc:
        raise OutcomeUnknown(str(exc), ref.job) from exc
    if stored is not None:
        await arm(desk.doorbells, ref, log.state, desk.clock.broker_now())
    return log.state
