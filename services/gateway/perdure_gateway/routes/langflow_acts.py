"""Langflow's workflows API: stop a job, answer what it asks."""

from typing import Any, Final

from aiohttp import web

from perdure.core import event as ev
from perdure.core.langflow import bodies, refusal, requests
from perdure.core.machine import JobState
from perdure.errors import Conflict, Expired, Forbidden, Invalid, NotFound
from perdure.ids import JobRef
from perdure.jobs import control
from perdure.jobs.answer import Answered, answer
from perdure_gateway import waiting
from perdure_gateway.acting import acting, judged
from perdure_gateway.auth import CALLER
from perdure_gateway.keys import DESK, METRICS, TRAIL
from perdure_gateway.langflow import models, reading, seeing
from perdure_gateway.policy import op
from perdure_gateway.routes.langflow_jobs import respond
from perdure_gateway.routes.replies import facts

STOP_SECONDS: Final = 5.0  # what a running job has to stop by itself
STOPPED: Final = "stopped"


@op("execute", body=models.StopBody, surface="langflow")
async def stop(request: web.Request) -> web.Response:
    """`POST /api/v2/workflows/stop`: end a job of any mode; after the 200 it has ended, by this or before."""
    body = await reading.read(request, models.StopBody)
    ref, desk, by = request[CALLER].job(body.job_id), request.app[DESK], request[CALLER].principal
    before = (await seeing.read(request, ref, "stop")).state
    after = await control.cancel(desk, ref, by, reason=STOPPED, grace_seconds=STOP_SECONDS)
    if not after.terminal:
        after = await waiting.until(request, ref, after, STOP_SECONDS, _ended)
    if not after.terminal:
        after = await control.cancel(desk, ref, by, reason=STOPPED, force=True)
    return respond(ref, bodies.stopped(ref.job, before, after))


@op(("answer", "execute"), body=models.ResumeBody, surface="langflow")
async def resume(request: web.Request) -> web.Response:
    """`POST /api/v2/workflows/{job_id}/resume`: answer an open request of the job. The first answer counts."""
    ref = seeing.ref_of(request, request.match_info["job_id"], "resume")
    body = await reading.read(request, models.ResumeBody)
    done = await _answered(request, ref, body)
    left = requests.remaining(done.job) if done.settled is not None else 1
    said: dict[str, Any] = {"job_id": ref.job, "status": "resuming", "message": "Resume accepted"}
    if left:
        said |= {"status": "suspended", "message": "Answer recorded; the job waits for others.", "remaining": left}
    return respond(ref, said)


async def _answered(request: web.Request, ref: JobRef, body: models.ResumeBody) -> Answered:
    """What became of the decision. Raises Refusal in the order of the contract, Unavailable, OutcomeUnknown."""
    log = await seeing.read(request, ref, "resume")
    asked = requests.found(await log.resolve(), body.request_id)
    if asked is None:
        raise refusal.not_resumable(ref.job, "finished" if log.state.terminal else "stale_request")
    caller = request[CALLER]
    via = ev.Via(channel="langflow", key_id=caller.key_id)
    said = requests.decided(asked, body.decision)
    counted = request.app[METRICS].answers
    try:
        async with judged(request, "request.answer", asked.id):
            done = await answer(request.app[DESK], caller.tenant, asked.id, acting(request), said, via)
    except NotFound:
        raise refusal.job_not_found(ref.job, "resume") from None
    except Forbidden as exc:
        text = "This request is addressed to somebody else." if exc.code == "not-assignee" else str(exc)
        raise refusal.coded(403, "Answer forbidden", "ANSWER_FORBIDDEN", text, job_id=ref.job) from None
    except Expired as exc:
        text = "Nobody answered this request in time."
        late = {"job_id": ref.job, "expired_at": str(exc.facts.get("expired_at"))}
        raise refusal.coded(410, "Request expired", "REQUEST_EXPIRED", text, **late) from None
    except Conflict as exc:
        raise _conflict(ref, exc, log.state) from None
    except Invalid as exc:
        items = [{"field": fault.pointer or "", "message": fault.detail} for fault in exc.faults]
        raise refusal.invalid_decision(ref.job, items) from None
    counted.labels(done.request.kind, "replayed" if done.replayed else "taken").inc()
    what = "request.vote" if done.settled is None else "request.answer"
    request.app[TRAIL].note(request, what, asked.id, **facts(done))
    return done


def _conflict(ref: JobRef, error: Conflict, job: JobState) -> refusal.Refusal:
    match error.code:
        case "already-answered" | "already-voted":
            by, at = error.facts.get("answered_by"), error.facts.get("answered_at", error.facts.get("voted_at"))
            told = {"answered_by": None if by is None else str(by), "answered_at": None if at is None else str(at)}
            return refusal.not_resumable(ref.job, "already_answered", **told)
        case "request-withdrawn":
            return refusal.not_resumable(ref.job, "finished" if job.terminal else "withdrawn")
        case _:
            return refusal.not_resumable(ref.job, "stale_request")


def _ended(job: JobState) -> bool:
    return job.terminal


ROUTES: Final = (
    web.post("/api/v2/workflows/stop", stop),
    web.post("/api/v2/workflows/{job_id}/resume", resume),
)
