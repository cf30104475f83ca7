"""What people do with a request beside answering it: delegate, withdraw, comment. Each is one append, or none."""

from msgspec import Struct

from perdure import probe
from perdure.core import bounds, restate
from perdure.core import comment as comments
from perdure.core import event as ev
from perdure.core.machine import JobState, Settled
from perdure.core.standing import Standing
from perdure.errors import Conflict, Fault, Invalid
from perdure.ids import EventId, RequestId, Tenant, derived, new_event_id
from perdure.jobs.alarms import arm
from perdure.jobs.desk import Desk, ring
from perdure.jobs.joblog import JobLog
from perdure.jobs.turn import Who, begin, standing, take


class Done(Struct, frozen=True):
    """The request and its job after that. `replayed`: it had been done before, nothing was appended."""

    request: ev.Request
    settled: Settled | None
    job: JobState
    replayed: bool
    seq: int | None = None  # of what was appended


async def delegate(
    desk: Desk, tenant: Tenant, request_id: str, who: Who, to: Who, comment: str | None, via: ev.Via
) -> Done:
    """Hand one's own right to answer to the user `to`. Wakes nobody.

    Raises as `core.restate.delegate` does, and OutcomeUnknown (the same again is safe), Unavailable, TooLarge.
    """
    log, request = await begin(desk, tenant, request_id)
    receiver = await standing(to)

    def decide(job: JobState, asked: ev.Request | None, somebody: Standing) -> ev.AnyData | None:
        return restate.delegate(job, asked, somebody, receiver, comment, desk.clock.broker_now(), via)

    stored = await take(desk, log, request, who, decide)
    probe.hit("human.after_append")
    if stored is not None:
        await arm(desk.doorbells, log.ref, log.state, desk.clock.broker_now())
    return _done(log, request, None if stored is None else stored.event.seq)


async def withdraw(desk: Desk, tenant: Tenant, request_id: str, who: Who, reason: str, via: ev.Via) -> Done:
    """Withdraw the request, so that its ask raises; and ring, for the job goes on.

    Raises as `core.restate.withdraw` does, and OutcomeUnknown (the same again is safe), Unavailable.
    """
    log, request = await begin(desk, tenant, request_id)

    def decide(job: JobState, asked: ev.Request | None, somebody: Standing) -> ev.AnyData | None:
        verdict = restate.withdraw(job, asked, somebody, reason, via)
        return None if isinstance(verdict, Settled) else verdict

    stored = await take(desk, log, request, who, decide)
    probe.hit("human.after_append")
    if stored is not None:
        await ring(desk, log.ref, log.state)
    return _done(log, request, None if stored is None else stored.event.seq)


async def comment(
    desk: Desk, tenant: Tenant, request_id: str, who: Who, text: str, via: ev.Via, *, key: str | None = None
) -> Done:
    """Say something about the request. Wakes nobody. With an idempotency `key` it is said once.

    Raises as `core.comment.comment` does, Conflict (`comments-full`, `job-full`), Invalid (`idempotency-key-reused`:
    the key has said something else), OutcomeUnknown, Unavailable.
    """
    log, request = await begin(desk, tenant, request_id)
    by = (await standing(who)).principal
    event_id = new_event_id() if key is None else EventId(derived("comment", tenant, by, request, key))

    def decide(job: JobState, asked: ev.Request | None, somebody: Standing) -> ev.AnyData | None:
        before = next((event for event in log.events if event.id == event_id), None)
        if asked is not None and isinstance(before, ev.SignalReceived):
            if before.data.payload != {"request_id": request, "text": text}:
                fault = Fault("reused", "was sent with another comment before", header="Idempotency-Key")
                raise Invalid([fault], "idempotency-key-reused")
            return None
        said = comments.comment(job, asked, somebody, text, event_id, via)
        comments.see_room(log.events, request)
        if bounds.deaf(job, log.size_bytes):
            raise Conflict("job-full", "the job's log is nearly full: it takes no more comments and signals")
        return said

    stored = await take(desk, log, request, who, decide, event_id=event_id)
    probe.hit("human.after_append")
    return _done(log, request, None if stored is None else stored.event.seq)


def _done(log: JobLog, request: RequestId, seq: int | None) -> Done:
    job = log.state
    settled = job.settled.get(request)
    asked = settled.request if settled is not None else job.asked.get(request) or _stated(log, request)
    return Done(asked, settled, job, seq is None, seq)


def _stated(log: JobLog, request: RequestId) -> ev.Request:
    """A request that the job's end took away, as it was last stated."""
    found = [e.data.request for e in log.events if isinstance(e, ev.InputRequested) and e.data.request.id == request]
    return found[-1]
