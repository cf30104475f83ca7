"""The inbox: what people are asked. Lists and counts show each caller what it may answer or watch, and nothing else."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, cast, get_args

from aiohttp import web

from perdure.core.request import asked_in
from perdure.core.standing import Standing, visible
from perdure.db.inbox import InboxFilter, Order, RequestStatus, count_requests, list_requests
from perdure.errors import NotFound
from perdure.ids import REQUEST_ID, RequestId, is_uuid, parse_request_id
from perdure.jobs.read import load
from perdure_gateway import answers, bodies, requestviews, views
from perdure_gateway.acting import rights
from perdure_gateway.auth import CALLER
from perdure_gateway.keys import DESK, MEMBERSHIPS, SQL
from perdure_gateway.policy import op

STATUSES: Final = get_args(RequestStatus)
KINDS: Final = ("approval", "choice", "input", "tool_call")
LISTS: Final = ("status", "flow", "job", "kind", "tag")
FILTERS: Final = (*LISTS, "assignee", "expires_before", "overdue")
ASSIGNEE: Final = re.compile(r"any|me|(user|group):[A-Za-z0-9][A-Za-z0-9._@+-]{0,126}", re.ASCII)
NOBODY: Final = "nobody"  # is named by no request


@op(("read", "answer"), query=(*FILTERS, "order", "limit", "cursor"))
async def index(request: web.Request) -> web.Response:
    """`GET /api/inbox`: from the projection, up to a second behind; open requests unless `status` says otherwise."""
    query = bodies.query(request, *FILTERS, "order", "limit", "cursor")
    order, who = _order(query), await _who(request)
    narrow = _filter(request, query, who)
    limit, after = answers.limit(query), await answers.begin(request, "inbox", query)
    async with request.app[SQL].reading() as conn:
        found = await list_requests(conn, request[CALLER].tenant, narrow, order=order, limit=limit, after=after)
    values = request[CALLER].may("values")
    watcher = "read" in who.rights
    seen = [row for row in found.rows if visible(row.record, who, watcher=watcher)]
    rows = [views.request_shown(views.request_of_row(row), values=values) for row in seen]
    return await answers.page(request, "inbox", query, rows, found.next)


@op(("read", "answer"), query=FILTERS)
async def counts(request: web.Request) -> web.Response:
    """`GET /api/inbox/counts`: how many there are, by status, kind and flow, of what the same filters list."""
    query = bodies.query(request, *FILTERS)
    narrow = _filter(request, query, await _who(request))
    now = request.app[DESK].clock.broker_now()
    async with request.app[SQL].reading() as conn:
        found = await count_requests(conn, request[CALLER].tenant, narrow, now=now)
    statuses, kinds, flows = Counter[str](), Counter[str](), Counter[str]()
    for each in found:
        statuses[each.status] += each.requests
        kinds[each.kind] += each.requests
        flows[each.flow_name or each.flow_id or ""] += each.requests
    view = {"total": kinds.total(), "overdue": sum(each.overdue for each in found)}
    return answers.respond(view | {"status": statuses, "kind": kinds, "flow": flows})


@op(("read", "answer"))
async def show(request: web.Request) -> web.Response:
    """`GET /api/inbox/{request}`: from its job's log, with votes, comments and history."""
    bodies.query(request)
    wanted = RequestId(request.match_info["request"])
    job_id, _ = parse_request_id(wanted)  # the router has seen to it
    caller = request[CALLER]
    log = await load(request.app[DESK], caller.job(job_id))
    asked = asked_in(log.events, wanted)
    if asked is None:
        raise NotFound("no such request")
    if not caller.may("read"):
        who = await _who(request)
        if not visible(asked, who, watcher=False):
            raise NotFound("not the caller's to see")
    flow = log.state.submitted.flow if log.state.submitted is not None else None
    view = views.request_of_state(log.state, asked, log.state.settled.get(wanted), flow)
    view |= requestviews.told(log.events, log.state, wanted)
    return answers.respond(views.request_shown(view, values=caller.may("values")))


async def _who(request: web.Request) -> Standing:
    """The caller with its groups. Raises Unavailable where they cannot be looked up."""
    caller = request[CALLER]
    return Standing(
        caller.principal, await request.app[MEMBERSHIPS].of(caller.tenant, caller.principal), rights(caller)
    )


def _order(query: dict[str, str]) -> Order:
    match query.get("order", "urgency"):
        case "urgency":
            return "urgency"
        case "asked":
            return "asked"
        case _:
            raise bodies.bad_parameter("order", "urgency or asked")


def _filter(request: web.Request, query: Mapping[str, str], who: Standing) -> InboxFilter:
    lists = {name: [part for part in query.get(name, "").split(",") if part] for name in LISTS}
    for name, known in (("status", STATUSES), ("kind", KINDS)):
        if any(value not in known for value in lists[name]):
            raise bodies.bad_parameter(name, f"of {', '.join(known)}")
    if any(not is_uuid(job) for job in lists["job"]):
        raise bodies.bad_parameter("job", "ids of jobs")
    for name in LISTS:
        if name in query and not 1 <= len(lists[name]) <= 50:
            raise bodies.bad_parameter(name, "1 to 50 values")
    tags = [tag.split(":", 1) for tag in lists["tag"]]
    if any(len(tag) != 2 for tag in tags):
        raise bodies.bad_parameter("tag", "name:value")
    expires_before = None
    if "expires_before" in query:
        try:
            expires_before = bodies.parse_instant(query["expires_before"])
        except ValueError as exc:
            raise bodies.bad_parameter("expires_before", str(exc)) from None
    overdue = bodies.flag(query, "overdue", default=False)
    statuses: list[RequestStatus] = [cast(RequestStatus, s) for s in lists["status"]]  # cast: checked above
    return InboxFilter(
        statuses=statuses or ["pending"],
        flows=lists["flow"],
        jobs=lists["job"],
        kinds=lists["kind"],
        tags=[(name, value) for name, value in tags],
        assignees=_assignees(query.get("assignee", "any"), who),
        asker=None if "read" in who.rights else who.principal,  # a group's, without what is its own no more
        expires_before=expires_before,
        overdue_at=request.app[DESK].clock.broker_now() if overdue else None,
    )


def _assignees(wanted: str, who: Standing) -> Sequence[str]:
    """Whom the requests of a list name; nobody: whoever they name. Whoever may not read sees no others than its own."""
    if ASSIGNEE.fullmatch(wanted) is None:
        raise bodies.bad_parameter("assignee", "any, me, user:<name> or group:<name>")
    mine = [str(who.principal), *(f"group:{name}" for name in sorted(who.groups))]
    mine += [f"anyone:{right}" for right in ("execute", "answer") if right in who.rights]
    if wanted == "me" or (wanted == "any" and "read" not in who.rights):
        return mine
    if wanted == "any":
        return ()
    return (wanted,) if "read" in who.rights or wanted in mine else (NOBODY,)


_ID: Final = f"{{request:{REQUEST_ID.pattern}}}"
ROUTES: Final = (
    web.get("/api/inbox", index, allow_head=False),
    web.get("/api/inbox/counts", counts, allow_head=False),
    web.get(f"/api/inbox/{_ID}", show, allow_head=False),
)
