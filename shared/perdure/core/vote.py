"""Votes: what adds up, when a quorum is full, when it never can be. The last vote is the outcome: nothing lies between.

A vote holds for what was shown. When a restated request shows something else (another digest), the votes on what it
showed before count no more, and whoever gave one may vote again.

Whoever gives a link out and whoever votes by it are one voter: the log cannot know whose hand a link is in, and nobody
fills a quorum by links of his own.
"""

from collections import Counter
from hashlib import sha256
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from perdure.core import event as ev
from perdure.core.alarm import outcome_of
from perdure.core.instant import Instant
from perdure.core.jcs import sameness
from perdure.core.machine import JobState
from perdure.core.standing import voters
from perdure.ids import Principal

MAX_VOTES: Final = 200  # on one request, those that count no more included


class Replayed(Struct, frozen=True):
    """The same vote again: it is in the log already, and the request is still open."""

    vote: ev.VotedData
    at: Instant


def content_digest(action: str, payload: Any, shown: str | None, proposal: Any) -> str:  # Any: users' values
    """What is equal for votes that add up: SHA-256 (hex) over what was said and what it was said to."""
    said: dict[str, Any] = {"action": action, "payload": payload}
    if shown is not None:
        said |= {"shown": shown, "proposal": proposal}
    return sha256(sameness(said)).hexdigest()


def counted(job: JobState, asked: ev.Request) -> list[tuple[ev.VotedData, Instant]]:
    """The votes on what `asked` shows, in their order, with when they were given."""
    votes = zip(job.votes.get(asked.id, ()), job.voted_at.get(asked.id, ()), strict=True)
    return [(vote, at) for vote, at in votes if vote.proposal_digest == asked.proposal_digest]


def vote_of(job: JobState, asked: ev.Request, by: Principal) -> Replayed | None:
    """The vote that was given under the name `by` to what `asked` shows."""
    return next((Replayed(vote, at) for vote, at in counted(job, asked) if vote.by == by), None)


def hand(by: Principal, via: ev.Via | None) -> Principal:
    """The one voter who says something as `by`: who gave the link out that was used, else `by` himself."""
    return by if via is None or via.link_by is None else via.link_by


def vote_by(job: JobState, asked: ev.Request, voter: Principal) -> Replayed | None:
    """The vote of the one voter `voter` on what `asked` shows: his own, or one by a link of his."""
    mine = (Replayed(v, at) for v, at in counted(job, asked) if hand(v.by, v.via) == voter)
    return next(mine, None)


def tally(votes: list[ev.VotedData]) -> tuple[ev.Tally, ...]:
    """How many said the same, in the order in which it was said first."""
    counts = Counter((vote.action, vote.payload_digest) for vote in votes)
    return tuple(ev.Tally(action=action, digest=digest, votes=n) for (action, digest), n in counts.items())


def agreeable(job: JobState, asked: ev.Request) -> bool:
    """Whether those who have not voted yet could still fill the quorum of `asked`."""
    return _agreeable(asked, [vote for vote, _ in counted(job, asked)])


def decided(
    job: JobState, asked: ev.Request, given: ev.AnsweredData, at: Instant
) -> ev.VotedData | ev.AnsweredData | ev.ExpiredData:
    """What `given`, a fit answer given at `at`, is: the answer, the end of all hope for one, or one more vote."""
    quorum = asked.quorum
    assert quorum is not None, "without a quorum nobody votes"
    vote = ev.VotedData(
        request_id=given.request_id,
        revision=given.revision,
        action=given.action,
        payload=given.payload,
        payload_digest=content_digest(given.action, given.payload, given.proposal_digest, given.proposal),
        by=given.by,
        via=given.via,
        comment=given.comment,
        proposal=given.proposal,
        proposal_digest=given.proposal_digest,
        edited=given.edited,
    )
    before = counted(job, asked)
    votes = [*(earlier for earlier, _ in before), vote]
    equal = sum(other.payload_digest == vote.payload_digest for other in votes)
    if vote.action in quorum.veto or equal >= quorum.n:
        return replace(given, votes=_listed(before, vote, at))
    if len(job.votes.get(asked.id, ())) + 1 >= MAX_VOTES or not _agreeable(asked, votes):
        listed = _listed(before, vote, at)
        return ev.ExpiredData(
            request_id=asked.id,
            revision=asked.revision,
            cause="no_quorum",
            outcome=outcome_of(asked),
            votes=(*listed[:-1], replace(listed[-1], comment=vote.comment)),  # it is written nowhere else
            by=vote.by,
            via=vote.via,
        )
    return replace(vote, tally=tally(votes))


def _agreeable(asked: ev.Request, votes: list[ev.VotedData]) -> bool:
    pool = voters(asked)
    if asked.quorum is None or pool is None:
        return True
    left = len(pool - {vote.by for vote in votes} - {hand(vote.by, vote.via) for vote in votes})
    return max((count.votes for count in tally(votes)), default=0) + left >= asked.quorum.n


def _listed(before: list[tuple[ev.VotedData, Instant]], last: ev.VotedData, at: Instant) -> tuple[ev.Vote, ...]:
    """All votes, the deciding one last. Comments stay in the votes' own events: 200 of them do not fit into one."""
    return tuple(
        ev.Vote(by=vote.by, action=vote.action, payload_digest=vote.payload_digest, at=when, via=vote.via)
        for vote, when in (*before, (last, at))
    )
