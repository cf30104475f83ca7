"""The `resume` of an AG-UI run: every entry is checked before any is appended, then one after the other.

What an entry meets that is no open interrupt any more is no fault: the recorded fact stands and the client is told.
"""

from collections.abc import Sequence
from typing import Any

from aiohttp import web
from msgspec import Struct

from perdure.core import event as ev
from perdure.core.fit import Answer
from perdure.core.machine import JobState
from perdure.core.request import settle, values_of, with_values
from perdure.core.restate import EDITOR
from perdure.core.standing import Standing, addressed
from perdure.core.surface import agui
from perdure.errors import Conflict, Expired, Fault, Forbidden, Invalid, NotFound, PerdureError
from perdure.ids import RequestId
from perdure.jobs import human
from perdure.jobs.answer import answer
from perdure.jobs.joblog import JobLog
from perdure_gateway.acting import acting, judged
from perdure_gateway.auth import CALLER
from perdure_gateway.keys import DESK, METRICS, TRAIL
from perdure_gateway.routes.replies import facts

ABANDONED = "abandoned"
Entries = Sequence[Any]  # any JSON


class Doing(Struct, frozen=True):
    """What is to be appended for one entry: an answer, or None for a withdrawal. `at` is its place in the body."""

    request: ev.Request
    answer: Answer | None
    at: str


async def standing(request: web.Request) -> Standing:
    """Who asks, with what it may do: without the scope `answer` there is nothing that it may answer."""
    return await acting(request)()


def asked_of(job: JobState, who: Standing) -> list[ev.Request]:
    """The open requests that `who` may answer and has not voted on, while the job sleeps."""
    return agui.open_to(job, who.principal, lambda asked: may_answer(asked, who))


def may_answer(asked: ev.Request, who: Standing) -> bool:
    """Whether `who` may answer `asked` by AG-UI."""
    return "answer" in who.rights and addressed(asked, who)


async def resume(request: web.Request, log: JobLog, entries: Entries, run_id: str) -> list[dict[str, str]]:
    """Do what `entries` say; what the client is told of those that met nothing.

    Nothing is done where they leave an open interrupt out. Raises Invalid (`invalid-answer`, pointers below /resume)
    before anything is appended, Forbidden, OutcomeUnknown (the same again is safe), Unavailable.
    """
    who = await standing(request)
    job, asked = await _whole(request, log, asked_of(log.state, who))
    said = agui.resume(asked, entries)
    missed = [each for each in said.not_applied if not _done_before(job, each.interrupt_id, who, run_id)]
    notices = [_notice(job, each) for each in missed]
    if said.missing:
        return notices
    doings = [Doing(each, given, _at(entries, each)) for each, given in said.answers]
    _check(request, job, who, doings, run_id)
    doings += [Doing(each, None, _at(entries, each)) for each in said.abandoned if EDITOR in who.rights]
    notices += [_told(each.id, "forbidden", entries) for each in said.abandoned if EDITOR not in who.rights]
    for doing in doings:
        try:
            await _do(request, doing, run_id)
        except (Conflict, Expired, Forbidden, NotFound) as exc:
            notices.append(_told(doing.request.id, getattr(exc, "code", "unknown"), entries))
        except Invalid as exc:
            raise _placed(exc, doing) from None
    return notices


async def _whole(request: web.Request, log: JobLog, asked: list[ev.Request]) -> tuple[JobState, list[ev.Request]]:
    """The requests with what of them lies in blobs."""
    job, found, desk = log.state, list[ev.Request](), request.app[DESK]
    for each in asked:
        blobs = {digest: await desk.eventlog.blobs.get(log.ref.tenant, digest) for digest in values_of(job, each)}
        job, whole = with_values(job, each, blobs)
        found.append(whole)
    return job, found


def _check(request: web.Request, job: JobState, who: Standing, doings: Sequence[Doing], run_id: str) -> None:
    """Judge every answer as it will be judged, and say all that is wrong at once."""
    faults: list[Fault] = []
    now = request.app[DESK].clock.broker_now()
    for doing in doings:
        if doing.answer is None:
            continue
        try:
            settle(job, doing.request, who, via(request, run_id), doing.answer, now)
        except Invalid as exc:
            faults += _placed(exc, doing).faults
        except PerdureError:
            pass  # somebody was first, or it is too late: known for sure when it is appended, and no fault then
    if faults:
        raise Invalid(faults, "invalid-answer")


async def _do(request: web.Request, doing: Doing, run_id: str) -> None:
    desk, caller, about = request.app[DESK], request[CALLER], doing.request.id
    trail, by = request.app[TRAIL], via(request, run_id)
    if doing.answer is None:
        async with judged(request, "request.withdraw", about):
            gone = await human.withdraw(desk, caller.tenant, about, acting(request), ABANDONED, by)
        trail.note(request, "request.withdraw", about, channel="agui", seq=gone.seq)
        return
    async with judged(request, "request.answer", about):
        done = await answer(desk, caller.tenant, about, acting(request), doing.answer, by)
    request.app[METRICS].answers.labels(done.request.kind, "replayed" if done.replayed else "taken").inc()
    what = "request.vote" if done.settled is None else "request.answer"
    trail.note(request, what, about, channel="agui", **facts(done))


def via(request: web.Request, run_id: str) -> ev.Via:
    """By which channel, key and run a client of AG-UI acts."""
    return ev.Via(channel="agui", key_id=request[CALLER].key_id, run_id=run_id)


def _done_before(job: JobState, interrupt: str, who: Standing, run_id: str) -> bool:
    """Whether this same run has settled the interrupt or voted on it: then it is sent again, and done."""
    rid = _request(interrupt)
    settled = job.settled.get(rid)
    if settled is not None and settled.data.via is not None and settled.data.via.run_id == run_id:
        return True
    return any(v.by == who.principal and v.via.run_id == run_id for v in job.votes.get(rid, ()))


def _notice(job: JobState, missed: agui.NotApplied) -> dict[str, str]:
    settled = job.settled.get(_request(missed.interrupt_id))
    words = {ev.AnsweredData: "already-answered", ev.ExpiredData: "request-expired"}
    code = missed.code if settled is None else words.get(type(settled.data), "request-withdrawn")
    return {"interrupt_id": missed.interrupt_id, "code": code}


def _told(rid: RequestId, code: str, entries: Entries) -> dict[str, str]:
    named = next((_named(entry) for entry in entries if _request(_named(entry)) == rid), rid)
    return {"interrupt_id": named, "code": code}


def _at(entries: Entries, asked: ev.Request) -> str:
    return next(f"/resume/{n}" for n, entry in enumerate(entries) if _request(_named(entry)) == asked.id)


def _request(interrupt: str) -> RequestId:
    """The request whose interrupt has this id."""
    return RequestId(interrupt.partition("~")[0])


def _named(entry: Any) -> str:  # Any: JSON
    named = entry.get("interruptId") if isinstance(entry, dict) else None
    return named if isinstance(named, str) else ""


def _placed(exc: Invalid, doing: Doing) -> Invalid:
    """The faults of an answer with pointers into what was posted: a payload's members stand beside the action."""
    faults = []
    for fault in exc.faults:
        place = (fault.pointer or "").removeprefix("/payload")
        place = place.replace("/proposal", "/editedArgs", 1) if place.startswith("/proposal") else place
        faults.append(Fault(fault.code, fault.detail, pointer=f"{doing.at}/payload{place}"))
    return Invalid(faults, exc.code)
