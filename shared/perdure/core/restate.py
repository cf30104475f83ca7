"""What changes an open request without answering it: escalation and delegation restate it, a withdrawal ends it.

A restatement is the whole record again under the next revision, and wakes nobody. None may leave a quorum that nobody
can fill.
"""

from typing import Final

from msgspec.structs import replace

from perdure.core import event as ev
from perdure.core.alarm import timed
from perdure.core.instant import Instant
from perdure.core.machine import JobState, Settled
from perdure.core.request import WATCHER, has_voted, over, still_open
from perdure.core.standing import USER, Standing, entitled, fills, joined, nobody, own, visible
from perdure.core.vote import agreeable, vote_by
from perdure.errors import Fault, Forbidden, Invalid, NotFound
from perdure.ids import Principal, RequestId

MAX_HOPS: Final = 5
MAX_DELEGATIONS: Final = 200
EDITOR: Final = "edit"  # the right on a flow that lets withdraw its requests


def escalation(job: JobState, request: RequestId, now: Instant) -> ev.RequestedData | None:
    """The next escalation of an open request, when it is due by `now` and comes before the request's end."""
    asked = job.asked.get(request)
    found = None if asked is None else timed(asked, now)
    return found if isinstance(found, ev.RequestedData) else None


def delegate(
    job: JobState,
    asked: ev.Request | None,
    who: Standing,
    to: Standing,
    comment: str | None,
    at: Instant,
    via: ev.Via | None = None,
) -> ev.RequestedData | None:
    """`asked` with the right of `who` in the hands of the user `to`; None when just that has been done before.

    Raises NotFound, Forbidden (`not-assignee`, `self-answer-forbidden`), Conflict (settled as in `core.request`;
    `already-voted`), Expired and Invalid (`/to`: who cannot take it; too many hops; too few voters would be left).
    """
    if asked is None:
        raise NotFound("no such request")
    last = next((d for d in reversed(asked.delegations) if who.principal in (d.by, d.to)), None)
    if last is not None and (last.by, last.to) == (who.principal, to.principal) and asked.id in job.asked:
        return None
    if not visible(asked, who, watcher=WATCHER in who.rights):
        raise NotFound("no such request")
    if not entitled(asked, who) or who.link is not None:
        raise Forbidden("there is no right of yours to hand on", "not-assignee")
    if own(asked, who):
        raise Forbidden("nobody may answer a request of their own here", "self-answer-forbidden")
    still_open(job, asked)
    has_voted(job, asked, who.principal, who.principal)
    _takes(job, asked, who, to)
    _near(asked, who)
    hop = ev.Delegation(by=who.principal, to=to.principal, at=at, comment=comment, via=via)
    moved = replace(
        asked,
        revision=asked.revision + 1,
        assignees=_moved(asked.assignees, who, to),
        delegations=(*asked.delegations, hop),
    )
    if asked.quorum is not None and asked.quorum.of is not None:
        left = replace(asked.quorum.of, users=_others(asked.quorum.of.users, who.principal))
        moved = replace(moved, quorum=replace(asked.quorum, of=left))
    if asked.quorum is not None and not agreeable(job, moved):
        raise _refused("too-few-voters", "too few would be left to fill the quorum")
    return ev.RequestedData(request=moved)


def delegated(before: JobState, restated: ev.Request) -> ev.Delegation | None:
    """The delegation by which `restated` differs from what `before` asks; None: it is restated for another reason."""
    asked = before.asked.get(restated.id)
    if asked is None or len(restated.delegations) <= len(asked.delegations):
        return None
    return restated.delegations[-1]


def withdraw(
    job: JobState, asked: ev.Request | None, who: Standing, reason: str, via: ev.Via | None = None
) -> ev.WithdrawnData | Settled:
    """The event that withdraws `asked`, or how it was withdrawn when `who` has done so before for the same reason.

    Raises NotFound, Forbidden (without the right to edit), Conflict and Expired when it is settled.
    """
    if asked is None or not visible(asked, who, watcher=WATCHER in who.rights):
        raise NotFound("no such request")
    if EDITOR not in who.rights:
        raise Forbidden("only those who may edit the flow may withdraw what it asks")
    done = job.settled.get(asked.id)
    if done is not None and isinstance(done.data, ev.WithdrawnData):
        if (done.data.by, done.data.reason) == (who.principal, reason):
            return done
        raise over(done)
    still_open(job, asked)
    return ev.WithdrawnData(request_id=asked.id, reason=reason, by=who.principal, via=via)


def _takes(job: JobState, asked: ev.Request, who: Standing, to: Standing) -> None:
    """See that `to` can take the right. Raises Invalid."""
    if not to.principal.startswith(USER) or len(to.principal) == len(USER):
        raise _refused("not-a-user", "must be user:<name>")
    if to.principal == who.principal:
        raise _refused("same", "has the right already")
    if asked.forbid_self and to.principal == asked.asked_for:
        raise _refused("self-answer-forbidden", "may not answer a request of their own")
    if asked.quorum is not None and asked.quorum.of is not None and fills(asked, who) and not fills(asked, to):
        raise _refused("not-in-pool", "is not among those whose votes count")
    if vote_by(job, asked, to.principal) is not None:
        raise _refused("already-voted", "has voted already")


def _near(asked: ev.Request, who: Standing) -> None:
    """See that the right has not been through too many hands. Raises Invalid."""
    hops: dict[Principal, int] = {}
    for delegation in asked.delegations:
        hops[delegation.to] = hops.get(delegation.by, 0) + 1
    if hops.get(who.principal, 0) >= MAX_HOPS or len(asked.delegations) >= MAX_DELEGATIONS:
        raise _refused("too-many-hops", f"has come through {MAX_HOPS} hands: it stays with whoever has it")


def _moved(pool: ev.Assignees | None, who: Standing, to: Standing) -> ev.Assignees:
    """The assignees with `to` named, and `who` no more. Everybody stays everybody."""
    kept = None if pool is None or nobody(pool) else replace(pool, users=_others(pool.users, who.principal))
    named = ev.Assignees(users=(to.principal.removeprefix(USER),))
    return named if kept is not None and nobody(kept) else joined([kept, named])


def _others(users: tuple[str, ...], gone: Principal) -> tuple[str, ...]:
    return tuple(name for name in users if f"{USER}{name}" != gone)


def _refused(code: str, why: str) -> Invalid:
    return Invalid([Fault(code, why, pointer="/to")])
