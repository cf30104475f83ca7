"""Answers a request: the checks of `core.request`, one append by compare-and-set, a doorbell. The first one wins."""

from collections.abc import Callable

from msgspec import Struct

from perdure import probe
from perdure.core import event as ev
from perdure.core.machine import JobState, Settled
from perdure.core.request import Answer, Replayed, settle
from perdure.core.standing import Standing
from perdure.ids import Tenant
from perdure.jobs.desk import Desk, ring
from perdure.jobs.turn import Who, begin, take

__all__ = ["Answer", "Answered", "answer"]


class Answered(Struct, frozen=True):
    """What became of an answer. `settled` is None while the request waits for more votes: `vote` was one of them.

    `replayed`: nothing was appended, this same answer (or vote) had been given before.
    """

    request: ev.Request
    settled: Settled | None
    job: JobState
    replayed: bool
    vote: ev.VotedData | None = None


Narrow = Callable[[JobState, ev.Request | None], ev.Request | None]
"""The request as whoever answers may take it: fewer actions, or an error. A link binds its holder so."""


async def answer(
    desk: Desk,
    tenant: Tenant,
    request_id: str,
    who: Who,
    said: Answer,
    via: ev.Via,
    *,
    narrow: Narrow = lambda _, asked: asked,
) -> Answered:
    """Say `said` to the request. When this returns, what came of it is in the log and fsynced.

    The checks and their order are those of `core.request.settle`, asked anew after every piece of news. A bad, late or
    losing answer leaves nothing of itself in the log and wakes nobody; a vote that decides nothing wakes nobody either.
    `narrow` is asked before them, for each state that is decided on; what it raises refuses the answer.
    Raises NotFound, Forbidden, Conflict, Expired, Invalid as `settle` does, OutcomeUnknown (with the job's id;
    answering again the same is safe), Unavailable, TooLarge.
    """
    log, request = await begin(desk, tenant, request_id)
    probe.hit("answer.after_auth")
    before: list[Replayed] = []
    asking: list[ev.Request] = []

    def decide(job: JobState, asked: ev.Request | None, somebody: Standing) -> ev.AnyData | None:
        asked = narrow(job, asked)
        verdict = settle(job, asked, somebody, via, said, desk.clock.broker_now())
        if asked is not None:
            asking[:] = [asked]
        before[:] = [verdict] if isinstance(verdict, Replayed) else []
        return None if isinstance(verdict, Settled | Replayed) else verdict

    probe.hit("answer.before_append")
    stored = await take(desk, log, request, who, decide)
    probe.hit("answer.after_append")
    if stored is not None and not isinstance(stored.event, ev.InputVoted):
        await ring(desk, log.ref, log.state)
    probe.hit("answer.after_ring")
    vote = stored.event.data if stored is not None and isinstance(stored.event, ev.InputVoted) else None
    if before:
        vote = before[0].vote
    settled = None if vote is not None else log.state.settled[request]
    return Answered(asking[0] if settled is None else settled.request, settled, log.state, stored is None, vote)
