"""What one does with a job beside submitting and cancelling: signals, retry, delete; its state at any event."""

from typing import Final

from aiohttp import web

from perdure.bus.entry import Stored
from perdure.core.event import TERMINAL
from perdure.core.stream.delta import read_delta
from perdure.db.deletion import mark_deleted
from perdure.db.jobs import upsert
from perdure.errors import Conflict, Expired, NotFound, Unavailable
from perdure.ids import UUID, JobRef
from perdure.jobs import read
from perdure.jobs.backlog import replay_to
from perdure.jobs.signal import retry_now, signal
from perdure_gateway import answers, bodies, views
from perdure_gateway.auth import CALLER
from perdure_gateway.keys import DESK, FANOUT, REVOCATIONS, SQL
from perdure_gateway.policy import op
from perdure_gateway.state import state


@op("execute", body=bodies.SignalBody, optional=True, answers=(202,), keyed=True)
async def send(request: web.Request) -> web.Response:
    """`POST /api/jobs/{job}/signals/{name}`: 202 with the signal's `seq`."""
    bodies.query(request)
    key = bodies.idempotency_key(request)
    body = await bodies.read(request, bodies.SignalBody, optional=True)
    bodies.check_value(body.payload, "/payload")
    ref, caller = _ref(request), request[CALLER]
    done = await signal(request.app[DESK], ref, request.match_info["name"], body.payload, caller.principal, key=key)
    headers = {"Location": f"/api/jobs/{ref.job}", "Retry-After": "1"}
    if done.replayed:
        headers["Idempotency-Replayed"] = "true"
    return answers.respond({"seq": done.seq}, 202, headers)


@op("execute", body=bodies.NoBody, optional=True, answers=(202,), record=views.JobView)
async def retry(request: web.Request) -> web.Response:
    """`POST /api/jobs/{job}/retry`: 202; a back-off, or the wait for code that fits, ends now."""
    bodies.query(request)
    await bodies.read(request, bodies.NoBody, optional=True)
    ref = _ref(request)
    job = await retry_now(request.app[DESK], ref, request[CALLER].principal)
    headers = {"Location": f"/api/jobs/{ref.job}", "Retry-After": "1"}
    shown = views.job_shown(views.job_of_state(ref, job), values=request[CALLER].may("values"))
    return answers.respond(shown, 202, headers)


@op("execute", answers=(204,))
async def delete(request: web.Request) -> web.Response:
    """`DELETE /api/jobs/{job}`: 204; from then on 404 everywhere. The log goes when retention next looks."""
    bodies.query(request)
    ref, desk = _ref(request), request.app[DESK]
    log = await read.load(desk, ref)
    if not log.state.terminal:
        raise Conflict("job-not-terminal", "cancel it first", {"job_status": log.state.status})
    async with request.app[SQL].writing() as conn:
        now = desk.clock.broker_now()
        if not await mark_deleted(conn, ref, now):  # it ended a moment ago: the projection is behind
            await upsert(conn, ref, log.state, log.tail)
            if not await mark_deleted(conn, ref, now):
                raise Unavailable("the job has no row yet")
    await request.app[REVOCATIONS].tell(ref.tenant, "job", ref.job)
    return web.Response(status=204)


@op("read", query=("at", "values"), answers=(200, 304))
async def show(request: web.Request) -> web.Response:
    """`GET /api/jobs/{job}/state`: the fold at `at` (default: now), with the text of what is being said."""
    query = bodies.query(request, "at", "values")
    values = bodies.flag(query, "values", default=True) and request[CALLER].may("values")
    ref, desk = _ref(request), request.app[DESK]
    tail = await desk.eventlog.tail(ref)
    if tail is None:
        raise NotFound("no such job")
    at = _at(query, tail)
    entries = await replay_to(desk.eventlog, ref, 0, at)
    events = [stored.event for stored in entries if stored.event.seq <= at]
    said = []
    if at == tail.event.seq and tail.event.status not in TERMINAL:
        said = [found for body in await request.app[FANOUT].kept(ref) if (found := read_delta(body, ref.job))]
    return answers.tagged(request, str(events[-1].seq), state(ref, events, said, values=values))


def _at(query: dict[str, str], tail: Stored) -> int:
    text, head = query.get("at"), tail.event.seq
    if text is None:
        return head
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < 1:
        raise bodies.bad_parameter("at", "the seq of an event")
    if int(text) > head:
        raise Expired("offset-ahead", "the job has no event of that number yet", {"latest": str(head)})
    return int(text)


def _ref(request: web.Request) -> JobRef:
    return request[CALLER].job(request.match_info["job"])


_ID: Final = f"{{job:{UUID.pattern}}}"
_NAME: Final = "{name:[A-Za-z0-9][A-Za-z0-9._-]{0,62}}"
ROUTES: Final = (
    web.post(f"/api/jobs/{_ID}/signals/{_NAME}", send),
    web.post(f"/api/jobs/{_ID}/retry", retry),
    web.delete(f"/api/jobs/{_ID}", delete),
    web.get(f"/api/jobs/{_ID}/state", show, allow_head=False),
)
