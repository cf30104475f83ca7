"""What a person is asked, and what somebody's answer to it means. Pure: no I/O, and time is a parameter.

The order of the checks is the contract, so that each fault has one answer: is there such a request (404), may this
caller answer it (403), is it settled or late (200, 409, 410), was it answered as it stands now (422, 409), does the
answer fit (422). Before all of them have passed nothing of an answer is appended and nobody is woken.
"""

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any, Final

from msgspec.structs import replace

from perdure.core import blob
from perdure.core import event as ev
from perdure.core.alarm import due, timed
from perdure.core.fit import COMMENT, Answer, approved, edited, faults, payload_of
from perdure.core.instant import Instant
from perdure.core.jcs import jcs
from perdure.core.machine import JobState, Settled
from perdure.core.standing import Standing, addressed, entitled, fills, own, visible
from perdure.core.vote import Replayed, content_digest, decided, hand, vote_by, vote_of
from perdure.errors import Conflict, Expired, Fault, Forbidden, Invalid, NotFound
from perdure.ids import Digest, Principal, RequestId

__all__ = [
    "COMMENT",
    "Answer",
    "Replayed",
    "Standing",
    "addressed",
    "asked_in",
    "decided_by_time",
    "proposal_digest",
    "settle",
    "values_of",
    "visible",
    "with_values",
]


WATCHER: Final = "read"  # the right on a flow that shows all of its requests


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
    """What time has decided about `request` by `now` and the log does not say yet: an escalation of it, its expiry, or
    the job's end.
    """
    data = due(job, now)
    if isinstance(data, ev.CancelledData | ev.TimedOutData):
        return data
    asked = job.asked.get(request)
    return None if asked is None else timed(asked, now)


def settle(
    job: JobState, asked: ev.Request | None, who: Standing, via: ev.Via, answer: Answer, at: Instant
) -> ev.AnsweredData | ev.VotedData | ev.ExpiredData | Settled | Replayed:
    """The event that `answer`, given at `at`, is; or how the request is settled, or `who` has voted, by the same
    answer before.

    `asked` is `asked_in` the log of `job`; both with the values that lie in blobs (`with_values`). Call
    `decided_by_time` first. Raises NotFound (also: not to be seen), Forbidden (`not-assignee`,
    `self-answer-forbidden`), Conflict (`already-answered`, `already-voted`, `request-withdrawn`, `proposal-changed`),
    Expired (`request-expired`) and Invalid (`invalid-answer`, pointers into the body), in the order of the contract.
    """
    if asked is None or not visible(asked, who, watcher=WATCHER in who.rights):
        raise NotFound("no such request")
    _may(asked, who, answer.action)
    if (settled := job.settled.get(asked.id)) is not None:
        return _again(settled, who, _content(asked, answer))
    still_open(job, asked)
    if asked.quorum is not None:
        voted = vote_of(job, asked, who.principal)
        if voted is not None and voted.vote.payload_digest == _content(asked, answer):
            return voted
        has_voted(job, asked, who.principal, hand(who.principal, via))
    _seen(asked, answer)
    found = faults(asked, answer)
    if found:
        raise Invalid(found, "invalid-answer")
    proposed = asked.proposal_digest is not None
    given = ev.AnsweredData(
        request_id=asked.id,
        revision=asked.revision,
        action=answer.action,
        payload=payload_of(asked, answer),
        by=who.principal,
        via=via,
        proposal=approved(asked, answer) if proposed else None,
        proposal_digest=asked.proposal_digest,
        edited=proposed and edited(asked, answer),
        comment=answer.comment,
    )
    return given if asked.quorum is None else decided(job, asked, given, at)


def _content(asked: ev.Request, answer: Answer) -> str:
    return content_digest(answer.action, payload_of(asked, answer), asked.proposal_digest, approved(asked, answer))


def still_open(job: JobState, asked: ev.Request) -> None:
    """See that nothing has settled `asked`. Raises Conflict (`already-answered`, `request-withdrawn`) and Expired."""
    if (settled := job.settled.get(asked.id)) is not None:
        raise over(settled)
    if asked.id not in job.asked:
        raise Conflict("request-withdrawn", "the job has ended", {"job_status": job.status})


def has_voted(job: JobState, asked: ev.Request, by: Principal, voter: Principal) -> None:
    """See that neither the name `by` nor the one `voter` behind it has voted. Raises Conflict (`already-voted`)."""
    if (voted := vote_of(job, asked, by)) is not None:
        raise Conflict("already-voted", "a vote is final", {"voted_at": voted.at, "action": voted.vote.action})
    if vote_by(job, asked, voter) is not None:
        raise Conflict("already-voted", "a link and whoever gave it out are one voter, who has voted")


def over(settled: Settled) -> Conflict | Expired:
    """What somebody is told who comes too late."""
    match settled.data:
        case ev.AnsweredData(by=by, action=action):
            facts = {"answered_by": by, "answered_at": settled.at, "action": action}
            return Conflict("already-answered", "somebody has answered this request", facts)
        case ev.WithdrawnData(reason=reason):
            withdrawn = {"withdrawn_at": settled.at, "reason": reason}
            return Conflict("request-withdrawn", "the request was withdrawn", withdrawn)
        case ev.ExpiredData(outcome=outcome, cause=cause):
            late = {"expired_at": settled.at, "outcome": outcome}
            why = "nobody answered this request in time" if cause == "deadline" else "those who vote cannot agree"
            return Expired("request-expired", why, late)


def _may(asked: ev.Request, who: Standing, action: str) -> None:
    """Whether `who` may say this. A quorum is filled by its pool alone; to veto is for all who are asked."""
    if not entitled(asked, who):
        raise Forbidden("this request is addressed to somebody else", "not-assignee")
    if own(asked, who):
        raise Forbidden("nobody may answer a request of their own here", "self-answer-forbidden")
    if asked.quorum is not None and action not in asked.quorum.veto and not fills(asked, who):
        raise Forbidden("this request is decided by votes of others", "not-assignee")


def _again(settled: Settled, who: Standing, said: str) -> Settled:
    """How the request is settled, where that is by what is said now, or is what came of this very vote."""
    data = settled.data
    same = isinstance(data, ev.AnsweredData) and said == content_digest(
        data.action, data.payload, data.proposal_digest, data.proposal
    )
    if same:
        return settled
    votes = () if isinstance(data, ev.WithdrawnData) else data.votes
    if any((vote.by, vote.payload_digest) == (who.principal, said) for vote in votes):
        return settled
    raise over(settled)


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
