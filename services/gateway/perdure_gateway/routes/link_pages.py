"""Answer links: GET and HEAD show what is asked and never decide, as mail scanners follow links; POST decides, once.

Whatever stands in the query is passed over: mailers add parameters of their own to the links in a mail (`utm_source`).
"""

import re
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final

from aiohttp import web
from msgspec import UNSET

from perdure.core import event as ev
from perdure.errors import Invalid, NotFound, PerdureError, Unauthenticated
from perdure.ids import Principal
from perdure.jobs.answer import Answer, Answered
from perdure_gateway import answers, bodies, linkform, linkpage, views
from perdure_gateway.audits import DONE
from perdure_gateway.keys import METRICS, RATES, REFUSALS, SECRETS, TRAIL
from perdure_gateway.linktokens import MAX_CHARS, Link, link_of
from perdure_gateway.policy import JSON, op
from perdure_gateway.problems import problem_of
from perdure_gateway.redeem import CHANNEL, STRANGER, Opened, opened, redeemed, shown, stated
from perdure_gateway.routes.replies import facts, said_in
from perdure_gateway.saying import AnswerBody

HTML: Final = "text/html"
NOBODY: Final = Principal("anonymous")  # who shows no key that is good
_FORM: Final = re.compile(r"application/x-www-form-urlencoded\s*(;.*)?", re.ASCII | re.IGNORECASE)


@op(public=True, media=(HTML, JSON))
async def show(request: web.Request) -> web.Response:
    """`GET /r/{token}`: what is asked, with a form; `Accept: application/json` for programs. Nothing is decided."""
    plain = JSON in request.headers.get("Accept", "") and HTML not in request.headers.get("Accept", "")
    try:
        found = await _opened(request, "request.show")
        asked = await shown(request, found)
    except PerdureError as exc:
        if plain:
            raise
        return _refusal(exc)
    if plain:
        return answers.respond(_view(asked), headers=linkpage.HEADERS)
    return linkpage.asking(asked, linkform.filled(asked))


@op(public=True, body=AnswerBody, media=(HTML, JSON))
async def decide(request: web.Request) -> web.Response:
    """`POST /r/{token}`: answer by the link, as JSON or as the page's own form; the same again is 200."""
    if _FORM.fullmatch(request.headers.get("Content-Type", "").strip()) is None:
        found = await _opened(request, "request.answer")
        said = said_in(await bodies.read(request, AnswerBody))
        done = await _answered(request, found, lambda: said)
        view: dict[str, Any] = {"request_id": found.link.request_id, "action": _action(done)}
        view |= {"status": "pending" if done.settled is None else views.STATUS[type(done.settled.data)]}
        return answers.respond(view | ({"replayed": True} if done.replayed else {}), headers=linkpage.HEADERS)
    try:
        found = await _opened(request, "request.answer")
        return await _by_form(request, found)
    except PerdureError as exc:
        return _refusal(exc)


async def _by_form(request: web.Request, found: Opened) -> web.Response:
    sent = linkform.posted(await bodies.content(request))
    _, asked = await stated(request, found)
    try:
        done = await _answered(request, found, lambda: _entered(asked, sent))
    except Invalid as exc:  # whatever was posted, only a link that opens the request shows it
        return linkpage.asking(await shown(request, await opened(request, found.link)), sent, exc.faults, 422)
    return linkpage.thanks(done.request, _action(done), counted=done.settled is None)


def _entered(asked: ev.Request, sent: linkform.Sent) -> Answer:
    """What a form says, within the bounds of any answer. Raises Invalid (`invalid-answer`), Problem (`too-large`)."""
    said = linkform.answered(asked, sent)
    for name, value in (("payload", said.payload), ("proposal", said.proposal)):
        if value is not UNSET:
            bodies.check_value(value, f"/{name}")
    return said


async def _link(request: web.Request) -> Link:
    """The link in the path. Whoever comes with many that are none has to wait, as with keys. Raises NotFound, Problem
    (`rate-limited`), Unavailable.
    """
    rates = request.app[RATES]
    rates.admit(request)
    try:
        link = await link_of(request.app[SECRETS], request.match_info["token"])
    except NotFound:
        rates.refused(request)
        raise
    rates.count(request, link.id)
    return link


async def _opened(request: web.Request, tried: str) -> Opened:
    """The link in the path, and who stands before it. That it does not open to him is recorded, as `tried`: whoever
    comes with a link that is signed has it from somebody. Raises as `_link` and `redeem.opened` do.
    """
    link = await _link(request)
    try:
        return await opened(request, link)
    except (NotFound, Unauthenticated) as exc:
        request.app[RATES].refused(request)
        who = request.get(STRANGER)
        by, key_id = (NOBODY, None) if who is None else (who.principal, who.key_id)
        problem = problem_of(exc)
        _record(request, link, tried, "internal" if problem is None else problem.code, {}, by, key_id)
        raise


async def _answered(request: web.Request, found: Opened, said: Callable[[], Answer]) -> Answered:
    """Answer, and record it, also where what was said is none."""
    link, key_id = found.link, None if found.caller is None else found.caller.key_id
    told: dict[str, Any] = {}
    result, what, counted = DONE, "request.answer", request.app[METRICS].answers
    try:
        done = await redeemed(request, found, said())
        told |= facts(done)
        counted.labels(done.request.kind, "replayed" if done.replayed else "taken").inc()
        what = "request.vote" if done.settled is None else what
        return done
    except PerdureError as exc:
        problem = problem_of(exc)
        result = "internal" if problem is None else problem.code
        counted.labels("unknown", result).inc()
        raise
    finally:
        _record(request, link, what, result, told, link.audience, key_id)


def _record(
    request: web.Request,
    link: Link,
    what: str,
    result: str,
    facts: dict[str, Any],  # Any: short values of JSON
    by: Principal,
    key_id: str | None,
) -> None:
    """Tell AUDIT what somebody did or tried by the link: from where, and how the hash of its token begins. What changed
    nothing is recorded so often only, as it needs no key.
    """
    left_out: int | None = None
    if result != DONE or facts.get("replayed"):
        left_out = request.app[REFUSALS].admit(link.tenant, link.id)
        if left_out is None:
            return
    token = sha256(request.match_info["token"].encode()).hexdigest()[:12]
    told = {"link": link.id, "token": token, "left_out": left_out or None} | facts
    trail = request.app[TRAIL]
    trail.put(request, link.tenant, by, what, link.request_id, result, key_id, channel=CHANNEL, facts=told)


def _refusal(error: PerdureError) -> web.Response:
    problem = problem_of(error)
    if problem is None:
        raise error
    return linkpage.refusing(problem)


def _action(done: Answered) -> str:
    data = done.vote if done.settled is None else done.settled.data
    return data.action if isinstance(data, ev.VotedData | ev.AnsweredData) else ""


def _view(asked: ev.Request) -> dict[str, Any]:
    """What whoever holds the link needs to answer, and nothing of who else is asked."""
    view = {name: getattr(asked, name) for name in _SHOWN if getattr(asked, name) not in (None, ())}
    return view if asked.proposal_digest is None else view | {"proposal": asked.proposal}


_SHOWN: Final = (
    "id", "revision", "kind", "title", "message", "proposal_digest", "proposal_schema", "editable", "response_schema",
    "defaults", "ui", "actions", "expires_at", "errors",
)  # fmt: skip
_TOKEN: Final = f"{{token:[A-Za-z0-9_-]{{64,{MAX_CHARS}}}}}"
ROUTES: Final = (
    web.get(f"/r/{_TOKEN}", show),
    web.post(f"/r/{_TOKEN}", decide),
)
