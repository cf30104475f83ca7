"""Submits a job: one append at the beginning of its log, then a doorbell. For the gateway and all who make jobs."""

from typing import Any, Final, Literal

from msgspec import Struct

from perdure import probe
from perdure.core import event as ev
from perdure.core.event import FlowRef, Source, Status
from perdure.core.instant import Instant, later
from perdure.core.machine import JobState
from perdure.errors import Fault, Invalid, OutcomeUnknown, Unavailable
from perdure.ids import Digest, JobId, JobRef, Principal, Queue, Tenant, child_job_id, job_id_of_key, new_job_id
from perdure.jobs.alarms import arm
from perdure.jobs.desk import BUDGET_SECONDS, Desk, ring
from perdure.jobs.joblog import JobLog

DEADLINE_SECONDS: Final = 90 * 86_400.0  # every job has a deadline, so every wait ends


class Submission(Struct, frozen=True, kw_only=True):
    """What is submitted, checked already: `input` fits the flow. `fingerprint` is that of the whole request.

    `inside` are the definitions of the flows inside the flow: kept for as long as the job. `id`: where a surface
    derives ids by rules of its own. `sealed`: what only a runner with the master key reads.
    """

    tenant: Tenant
    owner: Principal
    flow: FlowRef
    inside: tuple[Digest, ...] = ()
    input: Any  # any JSON that fits the flow
    fingerprint: Digest
    queue: Queue = Queue("default")
    priority: Literal["low", "normal", "high"] = "normal"
    tags: dict[str, str] = {}
    session_id: str | None = None
    not_before: Instant | None = None
    deadline_seconds: float = DEADLINE_SECONDS
    max_failures: int | None = None
    idempotency_key: str | None = None
    source: Source = Source()
    traceparent: str | None = None
    parent: ev.Parent | None = None
    effect_root: JobId | None = None  # None: the job's own id
    id: JobId | None = None  # of a surface whose clients name what they start
    attach: bool = False  # a job that is there under that id is the one, whatever the body says
    sealed: Any = None  # a `perdure.seal.Sealed` as JSON
    thread: Any = None  # what an AG-UI client posted: `messages` and `state`


class Accepted(Struct, frozen=True):
    """The job as it is now. `replayed`: an earlier call with this key had made it."""

    ref: JobRef
    state: JobState
    replayed: bool


def job_id(submission: Submission) -> JobId:
    """The id that the job gets: derived from the call of the parent, or from the key, where there is one: the same call
    and the same key can only make one job.
    """
    if submission.id is not None:
        return submission.id
    if (parent := submission.parent) is not None:
        return child_job_id(parent.job_id, parent.path, parent.step, parent.occurrence)
    if submission.idempotency_key is None:
        return new_job_id()
    return job_id_of_key(submission.tenant, submission.owner, submission.idempotency_key)


async def submit(desk: Desk, submission: Submission) -> Accepted:
    """Accept the job. When this returns, `job.submitted` is in the log and fsynced.

    A child that was submitted before is answered as it is, whatever is said now: its parent's call is its key; so is a
    job that its surface names (`attach`). Raises Invalid (`idempotency-key-reused`) when the key has made a job out of
    another body, OutcomeUnknown (with the job's id; asking again with the same key is safe), Unavailable, StreamFull,
    TooLarge.
    """
    ref = JobRef(submission.tenant, job_id(submission))
    data = _data(submission, desk.clock.broker_now())
    log = JobLog(desk.eventlog, ref, desk.clock)  # empty: where the key was used, the append at 0 is refused and folds
    probe.hit("submit.before_append")
    try:
        stored = await log.append(
            lambda job: None if job.exists else data,
            refs=_refs(submission),
            budget_seconds=BUDGET_SECONDS,
        )
    except OutcomeUnknown as exc:
        raise OutcomeUnknown(str(exc), ref.job) from exc
    probe.hit("submit.after_append")
    if stored is None:
        named = submission.parent is not None or submission.attach
        return await _replayed(desk, None if named else submission.fingerprint, log)
    if submission.not_before is None:
        await ring(desk, ref, log.state, submitted=stored)
    else:
        await arm(desk.doorbells, ref, log.state, desk.clock.broker_now())
    probe.hit("submit.after_ring")
    return Accepted(ref, log.state, replayed=False)


async def submitted_before(
    desk: Desk, tenant: Tenant, owner: Principal, key: str, fingerprint: Digest
) -> Accepted | None:
    """The job that this key has made, None when it has made none: for a call whose body would be refused today.

    Raises Invalid (`idempotency-key-reused`), Unavailable.
    """
    log = await log_of(desk, JobRef(tenant, job_id_of_key(tenant, owner, key)))
    return await _replayed(desk, fingerprint, log) if log.state.exists else None


async def child_before(desk: Desk, tenant: Tenant, parent: ev.Parent) -> Accepted | None:
    """The job that this call of a parent has made, None when it has made none. Raises Unavailable."""
    job = child_job_id(parent.job_id, parent.path, parent.step, parent.occurrence)
    log = await log_of(desk, JobRef(tenant, job))
    return await _replayed(desk, None, log) if log.state.exists else None


async def log_of(desk: Desk, ref: JobRef) -> JobLog:
    """The log that an id which is asked for again has made; empty where it has made none. Raises Unavailable."""
    try:
        return await JobLog.load(desk.eventlog, ref, desk.clock)
    except Unavailable:  # the archive of purged logs may be what is away: the broker's word is enough
        log = JobLog(desk.eventlog, ref, desk.clock)
        await log.refresh()
        return log


async def _replayed(desk: Desk, fingerprint: Digest | None, log: JobLog) -> Accepted:
    if fingerprint is not None and log.state.fingerprint != fingerprint:
        fault = Fault("reused", "was sent with another body before", header="Idempotency-Key")
        raise Invalid([fault], "idempotency-key-reused")
    if log.state.submitted is None:  # a tombstone: the rest is in the archive, or it has to do
        try:
            log = await JobLog.load(desk.eventlog, log.ref, desk.clock)
        except Unavailable:
            return Accepted(log.ref, log.state, replayed=True)
    await ring_again(desk, log)
    return Accepted(log.ref, log.state, replayed=True)


async def ring_again(desk: Desk, log: JobLog) -> None:
    """Ring for a queued job that has no doorbell: who accepted it may have died before ringing. Raises Unavailable."""
    if log.state.status is Status.QUEUED and not await _has_doorbell(desk, log):
        await ring(desk, log.ref, log.state, submitted=log.entries[0])


async def _has_doorbell(desk: Desk, log: JobLog) -> bool:
    job = log.state.submitted
    if job is None or job.not_before is not None:
        return True  # nothing to ring for, or the alarm does
    try:
        return await desk.doorbells.exists(log.ref, job.queue, job.priority)
    except Unavailable:
        return True  # then a ring would fail as well


def _refs(submission: Submission) -> tuple[Digest, ...]:
    """The blobs that the job begins with: of a Python flow there is none, its digest is that of its source."""
    return () if submission.flow.kind == "python" else (submission.flow.digest, *submission.inside)


def _data(s: Submission, now: Instant) -> ev.SubmittedData:
    return ev.SubmittedData(
        flow=s.flow,
        input=s.input,
        owner=s.owner,
        queue=s.queue,
        priority=s.priority,
        deadline_at=later(now, s.deadline_seconds),
        fingerprint=s.fingerprint,
        source=s.source,
        tags=s.tags,
        session_id=s.session_id,
        not_before=s.not_before,
        max_failures=s.max_failures,
        traceparent=s.traceparent,
        parent=s.parent,
        effect_root=s.effect_root,
        sealed=s.sealed,
        thread=s.thread,
    )
