"""What a link still opens, and the answer by it: the same turn at the log as any other answer, bound to one revision.

The row in SQL says whether the link was revoked. Whether it was used, the log says: the answer or the vote is there
under the link's audience and by the channel `link`, also when this gateway died before the row knew. So of two answers
by one link the log takes one, and the same again finds it. Row and key are looked up anew for each state that is
decided on: a body that comes in slowly does not outlast the link.
"""

from typing import Final

import structlog
from aiohttp import web
from msgspec import Struct
from msgspec.structs import replace

from perdure.core import blob
from perdure.core import event as ev
from perdure.core.instant import Instant
from perdure.core.machine import JobState
from perdure.core.request import asked_in
from perdure.core.standing import Standing, gives
from perdure.core.vote import vote_of
from perdure.db.links import LinkRow, get_link, mark_used
from perdure.errors import Conflict, Expired, NotFound, Unavailable
from perdure.ids import JobRef, parse_request_id
from perdure.jobs.answer import Answer, Answered, answer
from perdure.jobs.joblog import JobLog
from perdure_gateway.acting import absent, rights
from perdure_gateway.auth import Caller
from perdure_gateway.keys import DESK, KEYS, MEMBERSHIPS, SQL
from perdure_gateway.linktokens import Link

CHANNEL: Final = "link"
STRANGER: Final = web.RequestKey("stranger", Caller)  # who came with somebody else's link, where it is of the tenant

log = structlog.get_logger(__name__)


class Opened(Struct, frozen=True):
    """A link that is ours, its row, and who stands before it."""

    link: Link
    row: LinkRow
    caller: Caller | None  # None: somebody outside


async def opened(request: web.Request, link: Link) -> Opened:
    """Its row, and the caller where it is for a user. Raises NotFound, Unauthenticated, Unavailable."""
    async with request.app[SQL].reading() as conn:
        row = await get_link(conn, link.tenant, link.id)
    if row is None:
        raise NotFound("no such link")
    if link.label is not None:
        return Opened(link, row, None)
    caller = await request.app[KEYS].caller(request)
    if (caller.tenant, caller.principal) != (link.tenant, link.audience) or not caller.may("answer"):
        if caller.tenant == link.tenant:
            request[STRANGER] = caller
        raise NotFound("somebody else's link")
    return Opened(link, row, caller)


async def stated(request: web.Request, found: Opened) -> tuple[JobState, ev.Request]:
    """The job, and the request with its values and the link's actions, whatever has become of the two.

    Raises NotFound, Unavailable.
    """
    desk, link = request.app[DESK], found.link
    job_id, _ = parse_request_id(link.request_id)
    told = await JobLog.load(desk.eventlog, JobRef(link.tenant, job_id), desk.clock)
    asked = asked_in(told.events, link.request_id)
    if asked is None:
        raise NotFound("no such request")
    whole = ev.RequestedData(request=asked)
    blobs = {digest: await desk.eventlog.blobs.get(link.tenant, digest) for digest in blob.refs(whole)}
    return told.state, _narrowed(link, blob.resolved(whole, blobs).request)


async def shown(request: web.Request, found: Opened) -> ev.Request:
    """The request, if the link still opens it. Raises NotFound, Expired (`link-used`, `link-void`), Unavailable."""
    job, asked = await stated(request, found)
    if used(found, job, asked):
        raise Expired("link-used", "this link has been used")
    _open(found, job, asked, await _maker(request, found), request.app[DESK].clock.broker_now())
    return asked


async def redeemed(request: web.Request, found: Opened, said: Answer) -> Answered:
    """Answer by the link. Raises NotFound, Forbidden, Expired (`link-used`, `link-void`, `request-expired`), Conflict,
    Invalid, OutcomeUnknown, Unavailable.
    """
    desk, link = request.app[DESK], found.link
    held, maker = [found], list[Standing | None]()
    before = [False]

    async def who() -> Standing:
        held[:] = [await opened(request, link)]
        maker[:] = [await _maker(request, found)]
        return await _holder(request, held[0])

    def narrow(job: JobState, asked: ev.Request | None) -> ev.Request | None:
        before[0] = asked is not None and used(found, job, asked)
        if asked is None or before[0]:
            return asked
        _open(held[0], job, asked, maker[0], desk.clock.broker_now())
        return _narrowed(link, asked)

    key_id = None if found.caller is None else found.caller.key_id
    maker_is = None if link.label is None else found.row.created_by
    via = ev.Via(channel="link", key_id=key_id, link=link.label, link_by=maker_is)
    try:
        done = await answer(desk, link.tenant, link.request_id, who, said, via, narrow=narrow)
    except (Conflict, Expired) as exc:
        if before[0] and exc.code in ("already-answered", "already-voted", "request-expired"):
            raise Expired("link-used", "this link has been used, for another answer") from exc
        raise
    try:
        async with request.app[SQL].writing() as conn:
            await mark_used(conn, link.tenant, link.id, desk.clock.broker_now())
    except Unavailable as exc:
        log.warning("use of a link not noted", tenant=link.tenant, request_id=link.request_id, error=str(exc))
    return done


def used(found: Opened, job: JobState, asked: ev.Request) -> bool:
    """Whether the log holds what was said by this link."""
    mine, settled = found.link.audience, job.settled.get(asked.id)
    if settled is None:
        voted = vote_of(job, asked, mine)
        return voted is not None and voted.vote.via.channel == CHANNEL
    data = settled.data
    if isinstance(data, ev.WithdrawnData):
        return False
    said = [(data.by, data.via), *((vote.by, vote.via) for vote in data.votes)]
    return any(by == mine and via is not None and via.channel == CHANNEL for by, via in said)


def _open(found: Opened, job: JobState, asked: ev.Request, maker: Standing | None, now: Instant) -> None:
    """See that the link still opens the request. Raises Expired."""
    link, why = found.link, None
    if found.row.used_at is not None:
        raise Expired("link-used", "this link has been used")
    if found.row.revoked_at is not None:
        why = "revoked"
    elif link.expires_at <= now:
        why = "expired"
    elif asked.id not in job.asked:
        why = "settled"
    elif asked.revision != link.revision:
        why = "restated"
    elif link.label is not None and (maker is None or not gives(asked, maker, link.audience)):
        why = "maker"  # whoever gave it out may not answer any more
    if why is not None:
        raise Expired("link-void", "this link opens nothing any more", {"reason": why})


def _narrowed(link: Link, asked: ev.Request) -> ev.Request:
    if not link.actions:
        return asked
    return replace(asked, actions=tuple(action for action in asked.actions if action.id in link.actions))


async def _holder(request: web.Request, found: Opened) -> Standing:
    """Who answers: a user as the scopes of his key leave him, or somebody outside. Raises Unavailable."""
    link, caller = found.link, found.caller
    if caller is None:
        return Standing(link.audience, link=link.label)
    groups = await request.app[MEMBERSHIPS].of(caller.tenant, caller.principal)
    return Standing(caller.principal, groups, rights(caller))


async def _maker(request: web.Request, found: Opened) -> Standing | None:
    """Who gave the link out, as he is now; None when he may answer nothing any more. Raises Unavailable."""
    maker = await absent(request, found.link.tenant, found.row.created_by)
    return maker if maker is not None and "answer" in maker.rights else None
