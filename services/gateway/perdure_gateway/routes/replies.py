"""What people do with a request: answer or vote, delegate, withdraw, comment."""

from typing import Any, Final

from aiohttp import web
from msgspec import UNSET

from perdure.core import event as ev
from perdure.core.machine import JobState, Settled
from perdure.errors import Conflict, Expired, Forbidden, Invalid
from perdure.ids import REQUEST_ID, Principal
from perdure.jobs import human
from perdure.jobs.answer import Answer, Answered, answer
from perdure_gateway import answers, bodies, views
from perdure_gateway.acting import acting, judged, member
from perdure_gateway.auth import CALLER, channel
from perdure_gateway.keys import DESK, METRICS, TRAIL
from perdure_gateway.policy import op
from perdure_gateway.saying import AnswerBody, CommentBody, DelegateBody, WithdrawBody


@op("answer", body=AnswerBody)
async def reply(request: web.Request) -> web.Response:
    """`POST /api/inbox/{request}/answer`: 200 with the request, settled, or pending where it was one vote of several;
    the first answer wins.
    """
    bodies.query(request)
    said = said_in(await bodies.read(request, AnswerBody))
    caller, about = request[CALLER], request.match_info["request"]
    counted = request.app[METRICS].answers
    async with judged(request, "request.answer", about):
        try:
            done = await answer(request.app[DESK], caller.tenant, about, acting(request), said, via(request))
        except (Conflict, Expired, Forbidden, Invalid) as exc:
            counted.labels("unknown", exc.code).inc()
            raise
    counted.labels(done.request.kind, "replayed" if done.replayed else "taken").inc()
    what = "request.vote" if done.settled is None else "request.answer"
    request.app[TRAIL].note(request, what, about, **facts(done))
    return _shown(request, done.job, done.request, done.settled, done.replayed)


@op("answer", body=DelegateBody)
async def delegate(request: web.Request) -> web.Response:
    """`POST /api/inbox/{request}/delegate`: one's own right to answer goes to the user `to`; nobody is woken."""
    bodies.query(request)
    body = await bodies.read(request, DelegateBody)
    caller, about, to = request[CALLER], request.match_info["request"], Principal(body.to)
    async with judged(request, "request.delegate", about):
        receiver = await member(request, caller.tenant, to)
        done = await human.delegate(
            request.app[DESK], caller.tenant, about, acting(request), receiver, body.comment, via(request)
        )
    request.app[TRAIL].note(
        request, "request.delegate", about, to=to, revision=done.request.revision, seq=done.seq, **_again(done)
    )
    return _shown(request, done.job, done.request, done.settled, done.replayed)


@op("edit", body=WithdrawBody, optional=True)
async def withdraw(request: web.Request) -> web.Response:
    """`POST /api/inbox/{request}/withdraw`: nobody is asked any more, and the job is told so."""
    bodies.query(request)
    body = await bodies.read(request, WithdrawBody, optional=True)
    caller, about = request[CALLER], request.match_info["request"]
    async with judged(request, "request.withdraw", about):
        done = await human.withdraw(request.app[DESK], caller.tenant, about, acting(request), body.reason, via(request))
    request.app[TRAIL].note(request, "request.withdraw", about, seq=done.seq, **_again(done))
    return _shown(request, done.job, done.request, done.settled, done.replayed)


@op(("read", "answer"), body=CommentBody, answers=(201,), keyed=True)
async def comment(request: web.Request) -> web.Response:
    """`POST /api/inbox/{request}/comments`: 201 with the comment's `seq`; nobody is woken, no workflow hears it."""
    bodies.query(request)
    key = bodies.idempotency_key(request)
    body = await bodies.read(request, CommentBody)
    caller, about = request[CALLER], request.match_info["request"]
    async with judged(request, "request.comment", about):
        done = await human.comment(
            request.app[DESK], caller.tenant, about, acting(request), body.text, via(request), key=key
        )
    request.app[TRAIL].note(request, "request.comment", about, seq=done.seq, **_again(done))
    headers = {"Location": f"/api/inbox/{about}"} | ({"Idempotency-Replayed": "true"} if done.replayed else {})
    return answers.respond({"request_id": about} | ({} if done.seq is None else {"seq": done.seq}), 201, headers)


def said_in(body: AnswerBody) -> Answer:
    """The answer in a body. A payload or a proposal that was not sent is UNSET. Raises Problem (`too-large`)."""
    sent = body.model_fields_set
    for name in ("payload", "proposal"):
        if name in sent:
            bodies.check_value(getattr(body, name), f"/{name}")
    return Answer(
        action=body.action,
        payload=body.payload if "payload" in sent else UNSET,
        proposal=body.proposal if "proposal" in sent else UNSET,
        proposal_digest=body.proposal_digest,
        comment=body.comment,
    )


def via(request: web.Request) -> ev.Via:
    """By which channel a caller with a key acts."""
    return ev.Via(channel=channel(request), key_id=request[CALLER].key_id)


def facts(done: Answered) -> dict[str, Any]:
    """What the audit keeps of an answer: digests, never values."""
    data = done.vote if done.settled is None else done.settled.data
    said = data if isinstance(data, ev.VotedData | ev.AnsweredData) else None
    return {
        "action": None if said is None else said.action,
        "revision": done.request.revision,
        "proposal_digest": done.request.proposal_digest,
        "seq": None if done.settled is None else done.settled.seq,
    } | ({"replayed": True} if done.replayed else {})


def _again(done: human.Done) -> dict[str, Any]:
    return {"replayed": True} if done.replayed else {}


def _shown(
    request: web.Request, job: JobState, asked: ev.Request, settled: Settled | None, replayed: bool
) -> web.Response:
    flow = job.submitted.flow if job.submitted is not None else None
    view = views.request_of_state(job, asked, settled, flow)
    view = views.request_shown(view, values=request[CALLER].may("values"))
    return answers.respond(view | {"replayed": True} if replayed else view)


_ID: Final = f"{{request:{REQUEST_ID.pattern}}}"
ROUTES: Final = (
    web.post(f"/api/inbox/{_ID}/answer", reply),
    web.post(f"/api/inbox/{_ID}/delegate", delegate),
    web.post(f"/api/inbox/{_ID}/withdraw", withdraw),
    web.post(f"/api/inbox/{_ID}/comments", comment),
)
