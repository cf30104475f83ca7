"""The inbox: what people are asked, and their answers."""

from typing import Final, cast, get_args

from aiohttp import web
from msgspec import UNSET

from perdure.core import event as ev
from perdure.core.request import Standing, asked_in
from perdure.db.inbox import InboxFilter, Order, RequestStatus, list_requests
from perdure.errors import Conflict, Expired, Forbidden, Invalid, Malformed, NotFound
from perdure.ids import REQUEST_ID, RequestId, is_uuid, parse_request_id
from perdure.jobs.answer import Answer, answer
from perdure.jobs.read import load
from perdure_gateway import answers, bodies, views
from perdure_gateway.auth import CALLER
from perdure_gateway.keys import DESK, METRICS, SQL
from perdure_gateway.policy import SCOPES, op

STATUSES: Final = get_args(RequestStatus)
KINDS: Final = ("approval", "choice", "input", "tool_call")
FILTERS: Final = ("status", "flow", "job", "kind")


@op("read", query=(*FILTERS, "expires_before", "order", "limit", "cursor"))
async def index(request: web.Request) -> web.Response:
    """`GET /api/inbox`: from the projection, up to a second behind; open requests unless `status` says otherwise."""
    query = bodies.query(request, *FILTERS, "expires_before", "order", "limit", "cursor")
    order, narrow = _order(query), _filter(query)
    limit, after = answers.limit(query), await answers.begin(request, "inbox", query)
    async with request.app[SQL].reading() as conn:
        found = await list_requests(conn, request[CALLER].tenant, narrow, order=order, limit=limit, after=after)
    values = request[CALLER].may("values")
    rows = [views.request_shown(views.request_of_row(row), values=values) for row in found.rows]
    return await answers.page(request, "inbox", query, rows, found.next)


@op("read")
async def show(request: web.Request) -> web.Response:
    """`GET /api/inbox/{request}`: from its job's log."""
    bodies.query(request)
    wanted = RequestId(request.match_info["request"])
    try:
        job_id, _ = parse_request_id(wanted)
    except Malformed:
        raise NotFound("no such request") from None
    log = await load(request.app[DESK], request[CALLER].job(job_id))
    asked = asked_in(log.events, wanted)
    if asked is None:
        raise NotFound("no such request")
    flow = log.state.submitted.flow if log.state.submitted is not None else None
    view = views.request_of_state(log.state, asked, log.state.settled.get(wanted), flow)
    return answers.respond(views.request_shown(view, values=request[CALLER].may("values")))


@op("answer", body=bodies.AnswerBody)
async def reply(request: web.Request) -> web.Response:
    """`POST /api/inbox/{request}/answer`: 200 with the settled request; the first answer wins."""
    caller = request[CALLER]
    body = await bodies.read(request, bodies.AnswerBody)
    sent = body.model_fields_set
    for name in ("payload", "proposal"):
        if name in sent:
            bodies.check_value(getattr(body, name), f"/{name}")
    said = Answer(
        action=body.action,
        payload=body.payload if "payload" in sent else UNSET,
        proposal=body.proposal if "proposal" in sent else UNSET,
        proposal_digest=body.proposal_digest,
        comment=body.comment,
    )
    via = ev.Via(channel="api", key_id=caller.key_id)
    counted = request.app[METRICS].answers
    try:
        who = Standing(caller.principal, frozenset(), frozenset(filter(caller.may, SCOPES)))
        done = await answer(request.app[DESK], caller.tenant, request.match_info["request"], who, said, via)
    except (Conflict, Expired, Forbidden, Invalid) as exc:
        counted.labels("unknown", exc.code).inc()
        raise
    counted.labels(done.request.kind, "replayed" if done.replayed else "taken").inc()
    flow = done.job.submitted.flow if done.job.submitted is not None else None
    view = views.request_of_state(done.job, done.request, done.settled, flow)
    view = views.request_shown(view, values=caller.may("values"))
    return answers.respond(view | {"replayed": True} if done.replayed else view)


def _order(query: dict[str, str]) -> Order:
    match query.get("order", "urgency"):
        case "urgency":
            return "urgency"
        case "asked":
            return "asked"
        case _:
            raise bodies.bad_parameter("order", "urgency or asked")


def _filter(query: dict[str, str]) -> InboxFilter:
    lists = {name: [part for part in query.get(name, "").split(",") if part] for name in FILTERS}
    for name, known in (("status", STATUSES), ("kind", KINDS)):
        if any(value not in known for value in lists[name]):
            raise bodies.bad_parameter(name, f"of {', '.join(known)}")
    if any(not is_uuid(job) for job in lists["job"]):
        raise bodies.bad_parameter("job", "ids of jobs")
    for name in FILTERS:
        if name in query and not 1 <= len(lists[name]) <= 50:
            raise bodies.bad_parameter(name, "1 to 50 values")
    expires_before = None
    if "expires_before" in query:
        try:
            expires_before = bodies.parse_instant(query["expires_before"])
        except ValueError as exc:
            raise bodies.bad_parameter("expires_before", str(exc)) from None
    statuses: list[RequestStatus] = [cast(RequestStatus, s) for s in lists["status"]]  # cast: checked above
    return InboxFilter(
        statuses=statuses or ["pending"],
        flows=lists["flow"],
        jobs=lists["job"],
        kinds=lists["kind"],
        expires_before=expires_before,
    )


_ID: Final = f"{{request:{REQUEST_ID.pattern}}}"
ROUTES: Final = (
    web.get("/api/inbox", index, allow_head=False),
    web.get(f"/api/inbox/{_ID}", show, allow_head=False),
    web.post(f"/api/inbox/{_ID}/answer", reply),
)
