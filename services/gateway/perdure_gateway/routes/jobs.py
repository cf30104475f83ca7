"""Jobs: submit, list, read, cancel."""

from typing import Final

from aiohttp import web

from perdure.core import event as ev
from perdure.core.event import Status
from perdure.core.instant import Instant, later
from perdure.core.machine import JobState
from perdure.core.request import asked_in
from perdure.db.jobs import JobFilter, Order, list_jobs
from perdure.errors import Fault, Invalid, NotFound, Unavailable
from perdure.ids import Digest, JobRef, Principal, Queue, is_uuid, job_id_of_key
from perdure.jobs import control, read
from perdure.jobs.submit import DEADLINE_SECONDS, Accepted, Submission, job_id, submit, submitted_before
from perdure_gateway import answers, bodies, views, waiting
from perdure_gateway.accept import Fitting, fitting
from perdure_gateway.auth import CALLER, Caller
from perdure_gateway.fullness import refused
from perdure_gateway.keys import DELETED, DESK, FLOWS, FULLNESS, LIMITS, METRICS, SQL
from perdure_gateway.policy import op
from perdure_gateway.problems import Problem

MAX_WAIT_SECONDS: Final = 60
STATUSES: Final = frozenset(status.value for status in Status)
FILTERS: Final = ("status", "flow", "tag", "session", "owner", "parent", "waiting")
INSTANTS: Final = ("created_after", "created_before", "updated_after")


@op("execute", body=bodies.SubmitBody, answers=(200, 202), record=views.JobView, keyed=True)
async def create(request: web.Request) -> web.Response:
    """`POST /api/jobs`: 202 with the job; what would be refused is refused before anything is written."""
    caller, desk = request[CALLER], request.app[DESK]
    key, wait = bodies.idempotency_key(request), answers.wait_seconds(request, MAX_WAIT_SECONDS)
    body = await bodies.read(request, bodies.SubmitBody)
    if key is not None and await request.app[DELETED].has(_made_by(caller, key)):
        raise Problem("job-deleted", "the job that this key has made was deleted")
    clock, metrics = desk.clock, request.app[METRICS]
    began_at, fingerprint = clock.monotonic(), body.fingerprint()
    try:
        fits = await _checked(request, caller, body)
    except (NotFound, Invalid, Unavailable, Problem):
        # What the key has made stays what it is, whatever has become of the flow or of the database.
        before = await submitted_before(desk, caller.tenant, caller.principal, key, fingerprint) if key else None
        if before is None:
            raise
        return await _accepted(request, before, wait)
    submission = Submission(
        tenant=caller.tenant,
        owner=caller.principal,
        flow=fits.ref,
        inside=fits.inside,
        input=fits.input,
        fingerprint=fingerprint,
        queue=Queue(body.queue),
        priority=body.priority,
        tags=body.tags,
        session_id=body.session_id,
        not_before=None if body.not_before is None else Instant(body.not_before),
        deadline_seconds=body.deadline_seconds or DEADLINE_SECONDS,
        max_failures=body.max_failures,
        idempotency_key=key,
        traceparent=bodies.traceparent(request),
    )
    if await request.app[FULLNESS].full(job_id(submission)):
        before = await submitted_before(desk, caller.tenant, caller.principal, key, fingerprint) if key else None
        if before is None:
            raise refused()
        return await _accepted(request, before, wait)
    accepted = await submit(desk, submission)
    if not accepted.replayed:
        metrics.submitted.labels(metrics.flow(fits.ref.name), submission.source.surface).inc()
        metrics.submit_seconds.observe(clock.monotonic() - began_at)
    return await _accepted(request, accepted, wait)


@op("read", query=(*FILTERS, *INSTANTS, "order", "limit", "cursor"))
async def index(request: web.Request) -> web.Response:
    """`GET /api/jobs`: from the projection, up to a second behind."""
    query = bodies.query(request, *FILTERS, *INSTANTS, "order", "limit", "cursor")
    order, narrow = _order(query), _filter(query)
    limit, after = answers.limit(query), await answers.begin(request, "jobs", query)
    async with request.app[SQL].reading() as conn:
        found = await list_jobs(conn, request[CALLER].tenant, narrow, order=order, limit=limit, after=after)
    rows = [views.job_shown(views.job_of_row(row), values=_values(request)) for row in found.rows]
    return await answers.page(request, "jobs", query, rows, found.next)


@op("read", answers=(200, 304), record=views.JobView)
async def show(request: web.Request) -> web.Response:
    """`GET /api/jobs/{job}`: folded from the log, so whoever wrote reads what was written.

    With `Prefer: wait` it is held until the job has another `seq` than If-None-Match, or without that header until it
    has ended or sleeps.
    """
    bodies.query(request)
    wait, known = answers.wait_seconds(request, MAX_WAIT_SECONDS), answers.etags(request, "If-None-Match")
    log = await read.load(request.app[DESK], _ref(request))
    job = log.state
    if wait is not None:
        enough = (lambda job: f'"{job.seq}"' not in known) if known else waiting.settled
        with request.app[LIMITS].stream(request[CALLER].key_id):
            job = await waiting.until(request, log.ref, job, wait, enough)
    shown = views.job_shown(views.job_of_state(log.ref, job), values=_values(request))
    response = answers.tagged(request, str(job.seq), shown)
    response.headers.update(answers.waited(wait))
    return response


@op("read")
async def requests(request: web.Request) -> web.Response:
    """`GET /api/jobs/{job}/requests`: every request that the job ever asked, in order."""
    bodies.query(request)
    log = await read.load(request.app[DESK], _ref(request))
    job, found = log.state, []
    for event in log.events:
        if isinstance(event, ev.InputRequested) and event.data.request.revision == 1:
            asked = asked_in(log.events, event.data.request.id)
            settled = job.settled.get(event.data.request.id)
            if asked is not None:
                flow = job.submitted.flow if job.submitted is not None else None
                found.append(views.request_of_state(job, asked, settled, flow))
    return answers.respond({"data": [views.request_shown(each, values=_values(request)) for each in found]})


@op("values", answers=(200, 304))
async def blob(request: web.Request) -> web.Response:
    """`GET /api/jobs/{job}/blobs/{sha256}`: a value that an event of this job refers to, to be saved, never shown."""
    bodies.query(request)
    ref, digest, desk = _ref(request), Digest(request.match_info["sha256"]), request.app[DESK]
    log = await read.load(desk, ref)
    if not any(digest in event.refs for event in log.events):
        raise NotFound("no event of this job refers to it")
    headers = {
        "Content-Disposition": f'attachment; filename="{digest}.json"',
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private, no-cache",
        "ETag": f'"{digest}"',
    }
    if f'"{digest}"' in answers.etags(request, "If-None-Match"):
        return web.Response(status=304, headers=headers)
    body = await desk.eventlog.blobs.get(ref.tenant, digest)
    return web.Response(body=body, headers=headers, content_type="application/json")


@op("execute", body=bodies.CancelBody, optional=True, answers=(200, 202), record=views.JobView)
async def cancel(request: web.Request) -> web.Response:
    """`POST /api/jobs/{job}/cancel`: 200 when the job has ended, 202 while a runner has to stop."""
    body = await bodies.read(request, bodies.CancelBody, optional=True)
    ref = _ref(request)
    job = await control.cancel(
        request.app[DESK],
        ref,
        request[CALLER].principal,
        reason=body.reason,
        grace_seconds=body.grace_seconds,
        force=body.force,
    )
    return _job(request, ref, job)


async def _accepted(request: web.Request, accepted: Accepted, wait: int | None) -> web.Response:
    job = accepted.state
    if wait is not None:
        with request.app[LIMITS].stream(request[CALLER].key_id):
            job = await waiting.until(request, accepted.ref, job, wait, waiting.settled)
    response = _job(request, accepted.ref, job)
    response.headers.update(answers.waited(wait))
    if accepted.replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return response


def _job(request: web.Request, ref: JobRef, job: JobState) -> web.Response:
    """200 with a job that has ended, else 202."""
    headers = {} if job.terminal else {"Retry-After": "1"}
    headers["Location"] = f"/api/jobs/{ref.job}"
    shown = views.job_shown(views.job_of_state(ref, job), values=_values(request))
    return answers.respond(shown, 200 if job.terminal else 202, headers)


async def _checked(request: web.Request, caller: Caller, body: bodies.SubmitBody) -> Fitting:
    """The flow and the input as it will be stored. Raises NotFound, Invalid, Problem, Unavailable."""
    fits = await fitting(request.app[FLOWS], caller.tenant, body.flow, body.input)
    bodies.check_value(fits.input, "/input")
    now = request.app[DESK].clock.broker_now()
    if body.not_before is not None and body.not_before >= later(now, body.deadline_seconds or DEADLINE_SECONDS):
        raise Invalid([Fault("too-late", "must be before the deadline", pointer="/not_before")])
    return fits


def _values(request: web.Request) -> bool:
    return request[CALLER].may("values")


def _made_by(caller: Caller, key: str) -> JobRef:
    return JobRef(caller.tenant, job_id_of_key(caller.tenant, caller.principal, key))


def _ref(request: web.Request) -> JobRef:
    return request[CALLER].job(request.match_info["job"])


def _order(query: dict[str, str]) -> Order:
    match query.get("order", "created"):
        case "created":
            return "created"
        case "updated":
            return "updated"
        case _:
            raise bodies.bad_parameter("order", "created or updated")


def _filter(query: dict[str, str]) -> JobFilter:
    lists = {name: [part for part in query.get(name, "").split(",") if part] for name in FILTERS}
    if any(len(found) > 50 for found in lists.values()):
        raise bodies.bad_parameter("status", "at most 50 values in a list")
    if any(status not in STATUSES for status in lists["status"]):
        raise bodies.bad_parameter("status", f"of {', '.join(Status)}")
    tags = [tuple(tag.split(":", 1)) for tag in lists["tag"]]
    if any(len(tag) != 2 for tag in tags):
        raise bodies.bad_parameter("tag", "name:value")
    if any(not is_uuid(parent) for parent in lists["parent"]):
        raise bodies.bad_parameter("parent", "ids of jobs")
    if query.get("waiting", "person") != "person":
        raise bodies.bad_parameter("waiting", "person")
    for name in lists:
        if name in query and not lists[name]:
            raise bodies.bad_parameter(name, "at least one value")
    return JobFilter(
        statuses=[Status(status) for status in lists["status"]],
        flows=lists["flow"],
        tags=[(name, value) for name, value in tags],
        sessions=lists["session"],
        owners=[Principal(owner) for owner in lists["owner"]],
        parents=lists["parent"],
        waiting_for_person="waiting" in query,
        **{name: _instant(name, query[name]) for name in INSTANTS if name in query},
    )


def _instant(name: str, text: str) -> Instant:
    try:
        return bodies.parse_instant(text)
    except ValueError as exc:
        raise bodies.bad_parameter(name, str(exc)) from None


_ID: Final = "{job:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}}"
ROUTES: Final = (
    web.post("/api/jobs", create),
    web.get("/api/jobs", index, allow_head=False),
    web.get(f"/api/jobs/{_ID}", show, allow_head=False),
    web.get(f"/api/jobs/{_ID}/requests", requests, allow_head=False),
    web.get(f"/api/jobs/{_ID}/blobs/{{sha256:[0-9a-f]{{64}}}}", blob, allow_head=False),
    web.post(f"/api/jobs/{_ID}/cancel", cancel),
)
