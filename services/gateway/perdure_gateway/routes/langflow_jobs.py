"""Langflow's workflows API: run a flow, read a job, list what people are asked, follow."""

from typing import Any, Final

from aiohttp import web

from perdure.core.event import Status
from perdure.core.langflow import bodies
from perdure.core.langflow.bodies import Seen
from perdure.core.langflow.refusal import coded
from perdure.ids import JobRef
from perdure.jobs.submit import Accepted
from perdure.jobs.supersede import time_out
from perdure_gateway import answers, waiting
from perdure_gateway.auth import CALLER
from perdure_gateway.keys import DESK, LANGFLOW, LIMITS, SERVICE
from perdure_gateway.langflow import models, reading, seeing, streaming
from perdure_gateway.langflow import pending as requested
from perdure_gateway.langflow.fitting import Run, fitting
from perdure_gateway.langflow.submitting import submitted
from perdure_gateway.policy import op

JOB_ID: Final = "X-Job-Id"
DEFAULT_PENDING: Final = 100
MOST_PENDING: Final = 500


@op(("read", "execute"), body=models.RunBody, keyed=True, surface="langflow")
async def run(request: web.Request) -> web.StreamResponse:
    """`POST /api/v2/workflows`: run a flow; `sync` waits for its end or its sleep, `stream` follows it."""
    body = await reading.read(request, models.RunBody, most=reading.FLOW_BYTES)
    wanted = await fitting(request, body)
    accepted = await submitted(request, wanted)
    match body.mode:
        case models.Mode.SYNC:
            return await _sync(request, wanted, accepted)
        case models.Mode.STREAM:
            return await streaming.stream(request, accepted.ref)
        case models.Mode.BACKGROUND:
            found = Seen(ref=accepted.ref, job=accepted.state, log=())  # a new one is `queued`, whoever has begun it
            said = bodies.submitted(found)
            return respond(accepted.ref, said | ({"warnings": list(wanted.warnings)} if wanted.warnings else {}))


@op("read", query=("job_id",), surface="langflow")
async def status(request: web.Request) -> web.Response:
    """`GET /api/v2/workflows?job_id=`: the job in its state, from its log."""
    ref = seeing.ref_of(request, reading.job_in_query(request), "status")
    found = await _seen(request, ref)
    if request.app[LANGFLOW].legacy and (refused := bodies.legacy(found)) is not None:
        refused.headers[JOB_ID] = ref.job
        raise refused
    return respond(ref, bodies.status(found))


@op(("read", "answer"), query=("flow_id", "limit"), surface="langflow")
async def pending(request: web.Request) -> web.Response:
    """`GET /api/v2/workflows/pending`: a row for each open request that the caller may answer, the oldest first."""
    flow = reading.flow_in_query(request)
    limit = reading.number_in_query(request, "limit", DEFAULT_PENDING, MOST_PENDING)
    return answers.respond(await requested.rows(request, flow, limit))


@op("read", query=("last_event_id", "follow"), media=("text/event-stream",), surface="langflow")
async def events(request: web.Request) -> web.StreamResponse:
    """`GET /api/v2/workflows/{job_id}/events`: the job's stream in its protocol, from an id on, then live.

    It ends with the job and at a suspension; `?follow=true` stays.
    """
    ref = seeing.ref_of(request, request.match_info["job_id"], "events")
    return await streaming.stream(request, ref, follow=reading.flag_in_query(request, "follow"))


def respond(ref: JobRef, body: Any) -> web.Response:  # Any: JSON
    """200 with `body`, about one job."""
    return answers.respond(body, headers={JOB_ID: ref.job})


async def _sync(request: web.Request, run: Run, accepted: Accepted) -> web.Response:
    seconds, desk = request.app[LANGFLOW].sync_seconds, request.app[DESK]
    ref, job = accepted.ref, accepted.state
    with request.app[LIMITS].stream(request[CALLER].key_id):
        job = await waiting.until(request, ref, job, seconds, waiting.settled)
    if not waiting.settled(job) and request.app[SERVICE].stopping.is_set():
        text = "This gateway is about to stop; the job goes on."
        raise coded(503, "Service busy", "SERVICE_BUSY", text, {"Retry-After": "1", JOB_ID: ref.job}, job_id=ref.job)
    if not waiting.settled(job):
        job = await time_out(desk, ref, desk.clock.broker_now())
    found = await _seen(request, ref)
    if found.job.status is Status.TIMED_OUT:
        refused = bodies.sync_timeout(found, seconds)
        refused.headers[JOB_ID] = ref.job
        raise refused
    return respond(ref, _answer(found, run))


def _answer(found: Seen, run: Run) -> dict[str, Any]:
    """The sync answer; one that only loading the flow could refuse is a refusal of the call."""
    if (refused := bodies.not_loaded(found)) is not None:
        refused.headers[JOB_ID] = found.ref.job
        raise refused
    return bodies.response(found, inputs=run.body.tweaks, globals_=run.body.globals, warnings=run.warnings)


async def _seen(request: web.Request, ref: JobRef) -> Seen:
    return await seeing.seen(request, await seeing.read(request, ref))


ROUTES: Final = (
    web.post("/api/v2/workflows", run),
    web.get("/api/v2/workflows", status, allow_head=False),
    web.get("/api/v2/workflows/pending", pending, allow_head=False),
    web.get("/api/v2/workflows/{job_id}/events", events, allow_head=False),
)
