"""What a person is asked, and what somebody's answer to it means. Pure: no I/O, and time is a parameter.

The order of the checks is the contract, so that each fault has one answer: is there such a request (404), may this
caller answer it (403), is it settled or late (200, 409, 410), was it answered as it stands now (422, 409), does the
answer fit (422). Before all of them have passed nothing of an answer is appended and nobody is woken.
"""

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any, Final

from msgspec import UNSET, Struct
from msgspec.structs import replace

from perdure.core import blob, schema
from perdure.core import event as ev
from perdure.core.alarm import due, expiry
from perdure.core.codec import canonical
from perdure.core.instant import Instant
from perdure.core.jcs import jcs
from perdure.core.machine import JobState, Settled
from perdure.core.schema import pointer
from perdure.errors import Conflict, Expired, Fault, Forbidden, Invalid, NotFound
from perdure.ids import Digest, Principal, RequestId

COMMENT: Final = "comment"


class Answer(Struct, frozen=True, kw_only=True):
    """What somebody says to a request. A payload or a proposal that was not sent is UNSET: null is a value."""

    action: str
    payload: Any = UNSET  # any JSON
    proposal: Any = UNSET
    proposal_digest: str | None = None
    comment: str | None = None


def proposal_digest(title: str, message: str | None, proposal: Any) -> str:  # Any: a user's value
    """What an answer must name, so that nobody approves something other than what was shown: `sha256:…`.

    SHA-256 over the RFC 8785 form of `{title, message, proposal}`. Raises Malformed for numbers beyond a double.
    """
    shown = {"title": title, "message": message, "proposal": proposal}
    return f"sha256:{sha256(jcs(shown)).hexdigest()}"


def asked_in(log: Iterable[ev.AnyEvent], request: RequestId) -> ev.Request | None:
    """The request as the log last states it, open or not; None when this job never asked it."""
    found = None
    for event in log:
        if isinstance(event, ev.InputRequested) and event.data.request.id == request:
            found = event.data.request
    return found


def values_of(job: JobState, asked: ev.Request) -> tuple[Digest, ...]:
    """The blobs that `with_values` needs to judge an answer to `asked`."""
    settled = job.settled.get(asked.id)
    found = blob.refs(ev.RequestedData(request=asked))
    return found if settled is None else (*found, *blob.refs(settled.data))


def with_values(job: JobState, asked: ev.Request, blobs: Mapping[Digest, bytes]) -> tuple[JobState, ev.Request]:
    """`job` and `asked` with what lies in blobs, as far as an answer to `asked` is judged by it."""
    whole = blob.resolved(ev.RequestedData(request=asked), blobs).request
    settled = job.settled.get(asked.id)
    if settled is None:
        return job, whole
    settled = replace(settled, request=whole, data=blob.resolved(settled.data, blobs))
    return replace(job, settled={**job.settled, asked.id: settled}), whole


def decided_by_time(job: JobState, request: RequestId, now: Instant) -> ev.AnyData | None:
    """What time has decided about `request` by `now` and the log does not say yet: its own expiry, or the job's end."""
    data = due(job, now)
    if isinstance(data, ev.CancelledData | ev.TimedOutData):
        return data
    asked = job.asked.get(request)
    if asked is not None and asked.expires_at is not None and asked.expires_at <= now:
        return expiry(asked)
    return None


def settle(
    job: JobState, asked: ev.Request | None, by: Principal, via: ev.Via, answer: Answer
) -> ev.AnsweredData | Settled:
    """The event by which `answer` settles the request, or how it is settled already when this is the same answer again.

    `asked` is `asked_in` the log of `job`; both with the values that lie in blobs (`with_values`). Call
    `decided_by_time` first. Raises NotFound, Forbidden (`not-assignee`),
    Conflict (`already-answered`, `request-withdrawn`, `proposal-changed`), Expired (`request-expired`) and Invalid
    (`invalid-answer`, pointers into the body), in the order of the contract.
    """
    if asked is None:
        raise NotFound("no such request")
    if not _addressed(asked, by):
        raise Forbidden("this request is addressed to somebody else", "not-assignee")
    if (settled := job.settled.get(asked.id)) is not None:
        return _again(settled, answer)
    if asked.id not in job.asked:
        raise Conflict("request-withdrawn", "the job has ended", {"job_status": job.status})
    request = asked
    _seen(request, answer)
    found = _faults(request, answer)
    if found:
        raise Invalid(found, "invalid-answer")
    proposed = request.proposal_digest is not None
    return ev.AnsweredData(
        request_id=request.id,
        revision=request.revision,
        action=answer.action,
        payload=_payload(request, answer),
        by=by,
        via=via,
        proposal=_approved(request, answer) if proposed else None,
        proposal_digest=request.proposal_digest,
        edited=proposed and not _same(_approved(request, answer), request.proposal),
        comment=answer.comment,
    )


def _addressed(request: ev.Request, by: Principal) -> bool:
    """Whether the last revision names `by`, or nobody. Groups have no members yet: naming one names nobody of today."""
    named = request.assignees
    if named is None or not (named.users or named.groups):
        return True
    kind, _, name = by.partition(":")
    return kind == "user" and name in named.users


def _again(settled: Settled, answer: Answer) -> Settled:
    request, data = settled.request, settled.data
    match data:
        case ev.AnsweredData():
            same = (
                answer.action == data.action
                and _same(_payload(request, answer), data.payload)
                and (request.proposal_digest is None or _same(_approved(request, answer), data.proposal))
            )
            if same:
                return settled
            facts = {"answered_by": data.by, "answered_at": settled.at, "action": data.action}
            raise Conflict("already-answered", "somebody has answered this request", facts)
        case ev.WithdrawnData():
            raise Conflict(
                "request-withdrawn", "the request was withdrawn", {"withdrawn_at": settled.at, "reason": data.reason}
            )
        case ev.ExpiredData():
            late = {"expired_at": settled.at, "outcome": data.outcome}
            raise Expired("request-expired", "nobody answered this request in time", late)


def _seen(request: ev.Request, answer: Answer) -> None:
    """Whether the answer is to what the request says now."""
    if request.proposal_digest is None:
        return
    if answer.proposal_digest is None:
        raise Invalid(
            [Fault("missing", "names the proposal that was shown", pointer="/proposal_digest")], "invalid-answer"
        )
    if answer.proposal_digest != request.proposal_digest:
        facts = {"revision": request.revision, "proposal_digest": request.proposal_digest}
        raise Conflict("proposal-changed", "the proposal is not the one that was shown: look again", facts)


def _faults(request: ev.Request, answer: Answer) -> list[Fault]:
    action = next((a for a in request.actions if a.id == answer.action), None)
    if action is None:
        return [Fault("unknown-action", "is none of the request's actions", pointer="/action")]
    found = payload_faults(request.response_schema, action, _payload(request, answer))
    if COMMENT in (action.requires or ()) and not (answer.comment or "").strip():
        found.append(Fault("missing", "this action needs a comment", pointer="/comment"))
    if request.proposal_digest is None:
        if answer.proposal is not UNSET:
            found.append(Fault("unexpected", "the request has no proposal", pointer="/proposal"))
        if answer.proposal_digest is not None:
            found.append(Fault("unexpected", "the request has no proposal", pointer="/proposal_digest"))
    elif answer.proposal is not UNSET:
        found += _edit_faults(request, answer.proposal)
    return found


def payload_faults(response_schema: dict[str, Any] | None, action: ev.Action, payload: Any) -> list[Fault]:
    """What is wrong with the payload of an answer: the schema always holds; `requires` of the action stands in the
    place of its `required`.
    """
    wanted = None if action.requires is None else [name for name in action.requires if name != COMMENT]
    if response_schema is not None:
        rule = dict(response_schema)
        if wanted is not None:
            rule["required"] = wanted
        return schema.faults(rule, payload, "/payload")
    given = payload if isinstance(payload, dict) else {}
    return [Fault("missing", "is required", pointer="/payload" + pointer(n)) for n in wanted or () if n not in given]


def _edit_faults(request: ev.Request, proposal: Any) -> list[Fault]:
    allowed = request.editable or ()
    found = [
        Fault("not-editable", "may not be changed", pointer="/proposal" + place)
        for place in _differences(request.proposal, proposal, "")
        if not any(place == a or place.startswith(f"{a}/") for a in allowed)
    ]
    if not found and request.proposal_schema is not None:
        found = schema.faults(request.proposal_schema, proposal, "/proposal")
    return found[: schema.MAX_FAULTS]


def _differences(old: Any, new: Any, at: str) -> list[str]:
    """Pointers to the smallest parts that differ; a list of another length differs as a whole."""
    if isinstance(old, dict) and isinstance(new, dict):
        found: list[str] = []
        for name in [*old, *(n for n in new if n not in old)]:
            place = at + pointer(name)
            found += _differences(old[name], new[name], place) if name in old and name in new else [place]
        return found
    if isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(old) == len(new):
        return [p for i, (o, n) in enumerate(zip(old, new, strict=True)) for p in _differences(o, n, at + pointer(i))]
    return [] if _same(old, new) else [at]


def _payload(request: ev.Request, answer: Answer) -> Any:
    """What is recorded: an empty form where a form was asked and nothing was sent, null where nothing was asked."""
    if answer.payload is not UNSET:
        return answer.payload
    return {} if request.response_schema is not None else None


def _approved(request: ev.Request, answer: Answer) -> Any:
    return request.proposal if answer.proposal is UNSET else answer.proposal


def _same(one: Any, other: Any) -> bool:
    """Equality of JSON, not of Python: 1 is not true."""
    return canonical(one) == canonical(other)
