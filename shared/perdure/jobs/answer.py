"""Answers a request: the checks of `core.request`, one append by compare-and-set, a doorbell. The first one wins."""

from msgspec import Struct

from perdure import probe
from perdure.core import event as ev
from perdure.core.machine import JobState, Settled
from perdure.core.request import Answer, asked_in, decided_by_time, settle, values_of, with_values
from perdure.errors import BrokenLog, Malformed, NotFound, OutcomeUnknown
from perdure.ids import Digest, JobRef, Principal, RequestId, Tenant, parse_request_id
from perdure.jobs.desk import BUDGET_SECONDS, Desk, ring
from perdure.jobs.joblog import JobLog

__all__ = ["Answer", "Answered", "answer"]


class Answered(Struct, frozen=True):
    """How the request was settled. `replayed`: it was settled before, by this same answer."""

    request: ev.Request
    settled: Settled
    job: JobState
    replayed: bool


async def answer(desk: Desk, tenant: Tenant, request_id: str, by: Principal, said: Answer, via: ev.Via) -> Answered:
    """Settle the request with what `by` said. When this returns, `input.answered` is in the log and fsynced.

    The checks and their order are those of `core.request.settle`, asked anew after every piece of news. A bad, late or
    losing answer leaves nothing of itself in the log and wakes nobody. What time has decided (the request's expiry, the
    job's end) is appended first: whoever looks writes it down. Raises NotFound, Forbidden, Conflict, Expired, Invalid
    as `settle` does, OutcomeUnknown (with the job's id; answering again the same is safe), Unavailable, TooLarge.
    """
    try:
        job_id, _ = parse_request_id(request_id)
    except Malformed:
        raise NotFound("no such request") from None
    ref, request = JobRef(tenant, job_id), RequestId(request_id)
    log = await JobLog.load(desk.eventlog, ref, desk.clock)
    probe.hit("answer.after_auth")
    await _write_what_time_decided(desk, log, request)
    values: dict[Digest, bytes] = {}

    def decide(job: JobState) -> ev.AnyData | None:
        asked = asked_in(log.events, request)
        if asked is not None:
            if lacking := [digest for digest in values_of(job, asked) if digest not in values]:
                raise _Lacking(lacking)
            job, asked = with_values(job, asked, values)
        verdict = settle(job, asked, by, via, said)
        return None if isinstance(verdict, Settled) else verdict

    probe.hit("answer.before_append")
    stored, asking = None, True
    while asking:
        try:
            stored, asking = await log.append(decide, budget_seconds=BUDGET_SECONDS), False
        except OutcomeUnknown as exc:
            raise OutcomeUnknown(str(exc), job_id) from exc
        except _Lacking as exc:
            for digest in exc.digests:
                values[digest] = await _value(desk, ref, digest)
    probe.hit("answer.after_append")
    if stored is not None:
        await ring(desk, ref, log.state)
    probe.hit("answer.after_ring")
    settled = log.state.settled[request]
    return Answered(settled.request, settled, log.state, replayed=stored is None)


class _Lacking(Exception):  # no error: blobs to read before the answer can be judged
    def __init__(self, digests: list[Digest]) -> None:
        super().__init__()
        self.digests = digests


async def _value(desk: Desk, ref: JobRef, digest: Digest) -> bytes:
    try:
        return await desk.eventlog.blobs.get(ref.tenant, digest)
    except (NotFound, Malformed) as exc:
        raise BrokenLog(f"job {ref.job}: {exc}") from exc


async def _write_what_time_decided(desk: Desk, log: JobLog, request: RequestId) -> None:
    now = desk.clock.broker_now()
    written = await log.append(lambda job: decided_by_time(job, request, now), budget_seconds=BUDGET_SECONDS)
    if written is not None:
        await ring(desk, log.ref, log.state)  # an expiry is a cause: the job goes on
