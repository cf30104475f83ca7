"""From a call that fits to a job: which one its key means, what is sealed with it, one append, whom it supersedes."""

from typing import Final

import structlog
from aiohttp import web

from perdure.core.event import OPEN, Source, Status, UserValue
from perdure.core.langflow import keys as idempotency
from perdure.core.langflow import refusal
from perdure.core.langflow.keys import Use
from perdure.db.jobs import JobFilter, list_jobs
from perdure.db.langflows import KIND
from perdure.db.page import MAX_LIMIT
from perdure.errors import Invalid, OutcomeUnknown, Unavailable
from perdure.ids import JobId, JobRef, Queue, new_job_id
from perdure.jobs.joblog import JobLog
from perdure.jobs.overrides import seal
from perdure.jobs.submit import DEADLINE_SECONDS, Accepted, Submission, submit
from perdure.jobs.supersede import supersede
from perdure_gateway.auth import CALLER
from perdure_gateway.fullness import refused
from perdure_gateway.keys import DELETED, DESK, FULLNESS, LANGFLOW, MASTER_KEYS, METRICS, SQL
from perdure_gateway.langflow.fitting import Run
from perdure_gateway.langflow.models import Mode, RunBody
from perdure_gateway.langflow.runners import require

MAX_KEY: Final = 255
QUEUE: Final = Queue("default")  # of every job of this surface

log = structlog.get_logger(__name__)


def key_of(request: web.Request, body: RunBody) -> str | None:
    """The idempotency key of the call: the body's in the background, the header's in every mode. Raises Refusal."""
    header = request.headers.get("Idempotency-Key") or None
    named = (body.idempotency_key or None) if body.mode is Mode.BACKGROUND else None
    if header is not None and (len(header) > MAX_KEY or not header.isprintable()):
        raise refusal.listed(refusal.fault("value_error", ["header", "idempotency-key"], "Value error, not a key"))
    if header is not None and named is not None and header != named:
        text = "Value error, is another one than the body's idempotency_key"
        raise refusal.listed(refusal.fault("value_error", ["header", "idempotency-key"], text))
    return header or named


async def submitted(request: web.Request, run: Run) -> Accepted:
    """The job of this call: a new one, or the one that its key has made.

    Raises Refusal, Unavailable, OutcomeUnknown.
    """
    caller, desk = request[CALLER], request.app[DESK]
    key = key_of(request, run.body)
    if key is None:
        return await _made(request, run, new_job_id(), None)
    n = 0
    while True:
        job = idempotency.job_id(caller.tenant, caller.principal, key, n)
        if await request.app[DELETED].has(JobRef(caller.tenant, job)):  # its log reads as empty, and is not
            raise _reused(job, "The job that this idempotency key has made was deleted.")
        before = await JobLog.load(desk.eventlog, JobRef(caller.tenant, job), desk.clock)
        match idempotency.use(before.state, run.fingerprint):
            case Use.SUBMIT:
                try:
                    accepted = await _made(request, run, job, key)
                except Invalid:  # another body was quicker under this key
                    raise _reused(job) from None
                if not accepted.replayed or idempotency.use(accepted.state, run.fingerprint) is Use.REPLAY:
                    return accepted
            case Use.REPLAY:
                return Accepted(before.ref, before.state, replayed=True)
            case Use.REUSED:
                raise _reused(job)
            case Use.NEXT:
                n += 1


def _reused(job: JobId, text: str = "The idempotency key belongs to a request with another body.") -> refusal.Refusal:
    return refusal.coded(422, "Idempotency key reused", "IDEMPOTENCY_KEY_REUSED", text, job_id=job)


async def _made(request: web.Request, run: Run, job: JobId, key: str | None) -> Accepted:
    caller, body, metrics = request[CALLER], run.body, request.app[METRICS]
    clock = request.app[DESK].clock
    began_at = clock.monotonic()
    if run.flow.kind == KIND:
        await require(request, QUEUE)
    if await request.app[FULLNESS].full(job):
        raise refused()
    accepted = await submit(
        request.app[DESK],
        Submission(
            tenant=caller.tenant,
            owner=caller.principal,
            flow=run.ref,
            inside=run.inside,
            input=run.input,
            fingerprint=run.fingerprint,
            priority=body.priority,
            tags=body.tags,
            session_id=run.session,
            queue=QUEUE,
            deadline_seconds=body.deadline_seconds or DEADLINE_SECONDS,
            idempotency_key=key,
            source=Source(
                surface="langflow",
                mode=body.mode.value,
                protocol=body.stream_protocol,
                graph_state=run.graph_state,
                output_ids=tuple(body.output_ids or ()),
            ),
            id=job,
            sealed=_sealed(request, run),
        ),
    )
    if not accepted.replayed:
        metrics.submitted.labels(metrics.flow(run.ref.name), "langflow").inc()
        metrics.submit_seconds.observe(clock.monotonic() - began_at)
        if body.mode is Mode.BACKGROUND:
            await _supersede(request, run, accepted)
    return accepted


def _sealed(request: web.Request, run: Run) -> UserValue:
    try:
        return seal(request.app[MASTER_KEYS], request[CALLER].tenant, run.fingerprint, run.overrides)
    except Unavailable:
        text = "Tweaks and globals cannot be sealed here: the operator has to set PERDURE_MASTER_KEY."
        raise refusal.coded(
            503, "Request overrides unavailable", "REQUEST_OVERRIDES_UNAVAILABLE", text, refusal.RETRY
        ) from None


async def _supersede(request: web.Request, run: Run, accepted: Accepted) -> None:
    """Cancel the owner's suspended runs of the same flow and session. Where that fails they stay."""
    manner, caller, desk = request.app[LANGFLOW], request[CALLER], request.app[DESK]
    if manner.supersede == "off" or (manner.supersede == "named" and run.session is None):
        return
    sessions = [run.session] if run.session is not None and manner.supersede == "named" else []
    narrow = JobFilter(statuses=sorted(OPEN), flows=[run.flow.id], owners=[caller.principal], sessions=sessions)
    try:
        async with request.app[SQL].reading() as conn:
            found = await list_jobs(conn, caller.tenant, narrow, limit=MAX_LIMIT)
        for row in found.rows:
            same = (row.session_id or row.flow_id) == (run.session or run.flow.id)
            if row.job_id != accepted.ref.job and same and row.status is not Status.QUEUED:
                await supersede(desk, row.ref, caller.principal, accepted.ref.job)
    except (Unavailable, OutcomeUnknown) as exc:
        log.warning("nothing superseded", job_id=accepted.ref.job, error=str(exc))
