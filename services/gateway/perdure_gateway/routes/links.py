"""Answer links: minted by whoever may answer, for a user or for somebody outside; revoked by the same, or by an editor.

A link gives away what its maker has, so only those who may answer now make one, and only for actions that the request
has. It opens this revision of the request alone.
"""

from typing import Any, Final

import uuid_utils
from aiohttp import web

from perdure.core import event as ev
from perdure.core.instant import Instant, later
from perdure.core.request import asked_in, has_voted, still_open
from perdure.core.restate import EDITOR
from perdure.core.standing import LINK, addressed, entitled, gives, own, visible
from perdure.db.links import LinkRow, add_link, get_link, revoke_link
from perdure.errors import Fault, Forbidden, Invalid, NotFound
from perdure.ids import REQUEST_ID, UUID, Principal, RequestId, parse_request_id
from perdure.jobs.joblog import JobLog
from perdure_gateway import answers, bodies
from perdure_gateway.acting import acting, judged
from perdure_gateway.auth import CALLER
from perdure_gateway.keys import DESK, SECRETS, SQL, TRAIL
from perdure_gateway.linktokens import FORMAT, Link, token_of
from perdure_gateway.policy import op
from perdure_gateway.saying import MAX_LINK_SECONDS, LinkBody

DEFAULT_SECONDS: Final = 7 * 86_400


@op("answer", body=LinkBody, answers=(201,))
async def mint(request: web.Request) -> web.Response:
    """`POST /api/inbox/{request}/links`: 201 with the `url`, which is shown this once."""
    bodies.query(request)
    body = await bodies.read(request, LinkBody)
    caller, about = request[CALLER], RequestId(request.match_info["request"])
    now = request.app[DESK].clock.broker_now()
    async with judged(request, "link.mint", about):
        asked = await _open(request, about, Principal(body.audience))
        link = Link(
            format=FORMAT,
            tenant=caller.tenant,
            id=str(uuid_utils.uuid7()),
            request_id=about,
            revision=asked.revision,
            audience=Principal(body.audience),
            actions=_actions(asked, body.actions),
            expires_at=_expiry(asked, body.expires_at, now),
        )
        row = LinkRow(
            tenant=link.tenant,
            link_id=link.id,
            request_id=about,
            revision=link.revision,
            audience=link.audience,
            actions=link.actions,
            created_at=now,
            created_by=caller.principal,
            expires_at=link.expires_at,
        )
        token = await token_of(request.app[SECRETS], link)
        async with request.app[SQL].writing() as conn:
            await add_link(conn, row)
    told: dict[str, Any] = {"link": link.id, "audience": link.audience, "revision": link.revision}
    request.app[TRAIL].note(request, "link.mint", about, **told, expires_at=link.expires_at)
    view = {
        "id": link.id,
        "request_id": about,
        "revision": link.revision,
        "for": link.audience,
        "actions": link.actions or tuple(action.id for action in asked.actions),
        "expires_at": link.expires_at,
        "url": f"/r/{token}",
    }
    return answers.respond(view, 201, {"Location": f"/api/inbox/{about}/links/{link.id}"})


@op(("answer", "edit"), answers=(204,))
async def revoke(request: web.Request) -> web.Response:
    """`DELETE /api/inbox/{request}/links/{link}`: 204; it opens nothing any more. Again changes nothing."""
    bodies.query(request)
    caller, about, link_id = request[CALLER], RequestId(request.match_info["request"]), request.match_info["link"]
    now = request.app[DESK].clock.broker_now()
    async with judged(request, "link.revoke", about):
        async with request.app[SQL].reading() as conn:
            row = await get_link(conn, caller.tenant, link_id)
        if row is None or row.request_id != about:
            raise NotFound("no such link")
        if row.created_by != caller.principal:
            await _may_revoke(request, about)
        async with request.app[SQL].writing() as conn:
            await revoke_link(conn, caller.tenant, link_id, by=caller.principal, now=now)
    request.app[TRAIL].note(request, "link.revoke", about, link=link_id, audience=row.audience)
    return web.Response(status=204)


async def _stated(request: web.Request, about: RequestId) -> tuple[JobLog, ev.Request]:
    """The log, and the request that the caller may see. Raises NotFound, Unavailable."""
    job_id, _ = parse_request_id(about)
    desk = request.app[DESK]
    log = await JobLog.load(desk.eventlog, request[CALLER].job(job_id), desk.clock)
    asked, who = asked_in(log.events, about), await acting(request)()
    if asked is None or not visible(asked, who, watcher="read" in who.rights):
        raise NotFound("no such request")
    return log, asked


async def _open(request: web.Request, about: RequestId, audience: Principal) -> ev.Request:
    """The request, if the caller may give out a link for `audience` now. Raises NotFound, Forbidden, Conflict, Expired,
    Unavailable.
    """
    log, asked = await _stated(request, about)
    who = await acting(request)()
    if own(asked, who):
        raise Forbidden("nobody may answer a request of their own here", "self-answer-forbidden")
    if not (gives(asked, who, audience) if audience.startswith(LINK) else entitled(asked, who)):
        raise Forbidden("only those who may answer, or vote, give links out for it", "not-assignee")
    still_open(log.state, asked)
    if audience.startswith(LINK) and asked.quorum is not None:
        has_voted(log.state, asked, audience, who.principal)
    return asked


async def _may_revoke(request: web.Request, about: RequestId) -> None:
    _, asked = await _stated(request, about)
    who = await acting(request)()
    if EDITOR not in who.rights and not addressed(asked, who):
        raise Forbidden("neither your link nor your request", "not-assignee")


def _actions(asked: ev.Request, wanted: list[str] | None) -> tuple[str, ...]:
    known = {action.id for action in asked.actions}
    unknown = [n for n, action in enumerate(wanted or ()) if action not in known]
    if unknown:
        detail = "is none of the request's actions"
        raise Invalid([Fault("unknown-action", detail, pointer=f"/actions/{n}") for n in unknown])
    return tuple(dict.fromkeys(wanted or ()))


def _expiry(asked: ev.Request, wanted: str | None, now: Instant) -> Instant:
    """Until when a link opens: a week, and never longer than the request is open."""
    latest = later(now, MAX_LINK_SECONDS)
    if wanted is not None and not now < wanted <= latest:
        raise Invalid([Fault("out-of-range", "must be in the future, within 90 days", pointer="/expires_at")])
    end = Instant(wanted) if wanted is not None else later(now, DEFAULT_SECONDS)
    return end if asked.expires_at is None else min(end, asked.expires_at)


_ID: Final = f"{{request:{REQUEST_ID.pattern}}}"
ROUTES: Final = (
    web.post(f"/api/inbox/{_ID}/links", mint),
    web.delete(f"/api/inbox/{_ID}/links/{{link:{UUID.pattern}}}", revoke),
)
