"""What time decides about a job: what is due now, which alarms a sleeping job needs, when somebody must look again."""

import re
from typing import Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from perdure.core import event as ev
from perdure.core.event import AnyData, Status
from perdure.core.instant import Instant, later
from perdure.core.machine import JobState
from perdure.core.standing import joined
from perdure.ids import RequestId, parse_request_id

CLIENT_GONE: Final = "client_gone"
ORPHAN_GRACE_SECONDS: Final = 5.0  # what a running job then has to end
HORIZON_SECONDS: Final = 24 * 3600.0  # later instants are the sweeper's, else every job would keep its deadline in WORK
_REMINDER: Final = re.compile(r"q([1-9][0-9]*)-r([1-9][0-9]*)")


class Alarm(Struct, frozen=True):
    """A doorbell to be rung at `at`. `name` is a subject token, one alarm per name and job."""

    name: str
    at: Instant


class Reminder(NamedTuple):
    """The `k`-th reminder (from 1) of an open request falls at `at`."""

    request: ev.Request
    k: int
    at: Instant


def due(job: JobState, now: Instant) -> AnyData | None:
    """The first thing that time has decided by `now` and that is not in the log yet, as the event to append; else None.

    Called again after each append until it says None. The order: a cancel whose grace is over, the job's deadline, then
    the client that has gone for good, requests (their escalations, their end) and timers by their instant.
    """
    if job.submitted is None or job.terminal:
        return None
    fingerprint = job.submitted.fingerprint
    if job.cancel is not None and (at := grace_end(job)) is not None and at <= now:
        return ev.CancelledData(
            fingerprint=fingerprint, by=job.cancel.by, reason=job.cancel.reason or "cancelled_by_user"
        )
    if job.submitted.deadline_at <= now:
        return ev.TimedOutData(deadline_at=job.submitted.deadline_at, fingerprint=fingerprint)
    if job.cancel is None and (gone := orphan_at(job)) is not None and gone <= now:
        return _orphaned(job)
    late = [(at, r.id) for r in job.asked.values() if (at := _moves_at(r)) is not None and at <= now]
    timers = [(at, w) for at, w in _timers(job) if at <= now]
    if late and (not timers or min(late)[0] <= min(at for at, _ in timers)):
        return timed(job.asked[min(late)[1]], now)
    if timers:
        at, wait = min(timers, key=lambda t: (t[0], t[1].path, t[1].name or "", t[1].occurrence or 0))
        return ev.TimerData(name=wait.name or "", occurrence=wait.occurrence or 1, due_at=at, path=wait.path)
    return None


def timed(asked: ev.Request, now: Instant) -> ev.RequestedData | ev.ExpiredData | None:
    """What time has decided about an open request by `now`: first the escalations in their order, then its end."""
    if (at := _escalates_at(asked)) is not None and at <= now:
        return escalated(asked)
    return expiry(asked) if asked.expires_at is not None and asked.expires_at <= now else None


def escalated(asked: ev.Request) -> ev.RequestedData:
    """`asked` as its next escalation states it: addressed to some more."""
    more = asked.escalations[asked.escalated].add
    return ev.RequestedData(
        request=replace(
            asked,
            revision=asked.revision + 1,
            assignees=joined([asked.assignees, more]),
            escalated=asked.escalated + 1,
        )
    )


def expiry(request: ev.Request) -> ev.ExpiredData:
    """The event by which `request` ends when nobody answered in time."""
    return ev.ExpiredData(
        request_id=request.id, revision=request.revision, cause="deadline", outcome=outcome_of(request)
    )


def outcome_of(request: ev.Request) -> ev.Outcome:
    """What `request` turns into when nobody answers it, or nobody can any more."""
    then = request.on_timeout or ev.OnTimeout()
    return ev.Outcome(do=then.do, action=then.action, payload=then.payload, payload_ref=then.payload_ref)


def reminders(job: JobState, after: Instant, upto: Instant) -> tuple[Reminder, ...]:
    """The reminders of open requests that fall after `after` and not after `upto`, by their instant.

    They leave no event: whoever reminds remembers up to when. None falls at or behind the end of its request.
    """
    found = [
        Reminder(asked, k, at) for asked in job.asked.values() for k, at in _reminds_at(asked) if after < at <= upto
    ]
    return tuple(sorted(found, key=lambda r: (r.at, r.request.id, r.k)))


def reminders_of(asked: ev.Request) -> tuple[Reminder, ...]:
    """All reminders of a request, by their instant. None falls at or behind its end."""
    return tuple(sorted((Reminder(asked, k, at) for k, at in _reminds_at(asked)), key=lambda r: (r.at, r.k)))


def reminder_named(job: JobState, name: str | None, now: Instant) -> Reminder | None:
    """The reminder that the alarm `name` (`q<seq>-r<k>`) rings for; None for other alarms, and where the request is
    settled or over by `now`.
    """
    match = None if name is None else _REMINDER.fullmatch(name)
    if match is None:
        return None
    for asked in job.asked.values():
        if _seq(asked.id) == int(match[1]) and (asked.expires_at is None or asked.expires_at > now):
            return next((Reminder(asked, k, at) for k, at in _reminds_at(asked) if k == int(match[2])), None)
    return None


def overdue_at(asked: ev.Request) -> Instant | None:
    """From when on an open request is overdue: its first reminder or escalation; None when it has neither."""
    first = min((*asked.reminders, *(escalation.after_seconds for escalation in asked.escalations)), default=None)
    return None if first is None else later(asked.asked_at, first)


def _escalates_at(asked: ev.Request) -> Instant | None:
    """When the next escalation acts; None when there is none before the request ends."""
    if asked.escalated >= len(asked.escalations):
        return None
    at = later(asked.asked_at, asked.escalations[asked.escalated].after_seconds)
    return at if asked.expires_at is None or at < asked.expires_at else None


def _moves_at(asked: ev.Request) -> Instant | None:
    """When time decides the next thing about an open request."""
    return min((i for i in (_escalates_at(asked), asked.expires_at) if i is not None), default=None)


def _reminds_at(asked: ev.Request) -> list[tuple[int, Instant]]:
    """The request's reminders, numbered from 1."""
    times = [(k, later(asked.asked_at, seconds)) for k, seconds in enumerate(asked.reminders, start=1)]
    return [(k, at) for k, at in times if asked.expires_at is None or at < asked.expires_at]


def grace_end(job: JobState) -> Instant | None:
    """When anybody may end a job that was asked to cancel."""
    if job.cancel is None or job.cancel_at is None:
        return None
    return later(job.cancel_at, job.cancel.grace_seconds)


def orphan_at(job: JobState) -> Instant | None:
    """When a job ends whose client has left and does not come back; None while nobody is missed."""
    return None if job.detached is None else later(job.detached.at, job.detached.seconds)


def _orphaned(job: JobState) -> ev.CancelData | ev.CancelledData | None:
    if job.detached is None or job.fingerprint is None:
        return None
    if job.status is Status.RUNNING:
        return ev.CancelData(by=job.detached.by, grace_seconds=ORPHAN_GRACE_SECONDS, reason=CLIENT_GONE)
    return ev.CancelledData(fingerprint=job.fingerprint, by=job.detached.by, reason=CLIENT_GONE)


def _timers(job: JobState) -> list[tuple[Instant, ev.Waiting]]:
    """The instants at which a sleeping job's timers fire, without those that have fired."""
    if job.suspension is None:
        return []
    waits = [w for w in job.suspension.data.waiting if w.kind in ("timer", "signal", "child") and w.until is not None]
    return [(w.until, w) for w in waits if w.until is not None and not _fired(job, w)]


def _fired(job: JobState, wait: ev.Waiting) -> bool:
    return (wait.path, wait.name, wait.occurrence) in job.fired


def asleep(job: JobState, now: Instant) -> bool:
    """Whether an open job that does not run is to be left alone: it waits, and nothing recorded or due ends it."""
    if job.status is Status.QUEUED and job.submitted is not None:
        return job.submitted.not_before is not None and job.submitted.not_before > now
    sleep = job.suspension
    if sleep is None or job.status not in (Status.SUSPENDED, Status.RETRYING):
        return False
    if sleep.data.resume == "all":
        ids = [w.request_id for w in sleep.data.waiting if w.kind == "input"]
        return any(i in job.asked for i in ids)
    if sleep.causes:
        return False
    return not any(_over(w, now) for w in sleep.data.waiting)


def _over(wait: ev.Waiting, now: Instant) -> bool:
    """Waits that need no recorded cause: a drain at once, a back-off or missing code at its instant."""
    return wait.kind == "runner" or (wait.kind in ("backoff", "code") and (wait.until is None or wait.until <= now))


def alarms(job: JobState, now: Instant) -> tuple[Alarm, ...]:
    """Every alarm that the fold calls for within HORIZON_SECONDS, as they must stand before a doorbell is acked."""
    if job.submitted is None or job.terminal:
        return ()
    found = [Alarm("deadline", job.submitted.deadline_at)]
    if job.status is Status.QUEUED and job.submitted.not_before is not None:
        found.append(Alarm("wake", job.submitted.not_before))
    elif (wake := _wake(job)) is not None:
        found.append(Alarm("wake", wake))
    if (grace := grace_end(job)) is not None:
        found.append(Alarm("grace", grace))
    elif (gone := orphan_at(job)) is not None:
        found.append(Alarm("orphan", gone))
    for asked in job.asked.values():
        name = f"q{_seq(asked.id)}"
        if asked.expires_at is not None:
            found.append(Alarm(name, asked.expires_at))
        found += [Alarm(f"{name}-r{k}", at) for k, at in _reminds_at(asked) if at > now]  # those before have rung
        for k, escalation in enumerate(asked.escalations[asked.escalated :], start=asked.escalated + 1):
            at = later(asked.asked_at, escalation.after_seconds)
            if asked.expires_at is None or at < asked.expires_at:
                found.append(Alarm(f"{name}-e{k}", at))
    limit = later(now, HORIZON_SECONDS)
    return tuple(a for a in found if a.at <= limit)


def next_due_at(job: JobState, reminded: Instant | None = None) -> Instant | None:
    """The earliest instant at which time decides something about an open job, however far: the sweeper's backstop.

    With `reminded`, up to when somebody has reminded, also the first reminder after that.
    """
    if job.submitted is None or job.terminal:
        return None
    instants = [job.submitted.deadline_at, _wake(job), grace_end(job) or orphan_at(job)]
    instants += [_moves_at(r) for r in job.asked.values()]
    if reminded is not None:
        instants += [at for r in job.asked.values() for _, at in _reminds_at(r) if at > reminded]
    if job.status is Status.QUEUED:
        instants.append(job.submitted.not_before)
    return min(i for i in instants if i is not None)


def decides_at(job: JobState) -> Instant | None:
    """The earliest instant from which on `due` says something, None when it never will: soft waits leave no event."""
    if job.submitted is None or job.terminal:
        return None
    instants = [job.submitted.deadline_at, grace_end(job) or orphan_at(job)]
    instants += [_moves_at(r) for r in job.asked.values()]
    return min([i for i in instants if i is not None] + [at for at, _ in _timers(job)])


def _wake(job: JobState) -> Instant | None:
    """The earliest end of a timer, a back-off or a wait for code."""
    if job.suspension is None:
        return None
    soft = [w.until for w in job.suspension.data.waiting if w.kind in ("backoff", "code") and w.until is not None]
    return min([*soft, *(at for at, _ in _timers(job))], default=None)


def _seq(request: RequestId) -> int:
    return parse_request_id(request)[1]
