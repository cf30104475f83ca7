"""The call behind `ctx.ask`: it asks once, and resolves by the event that settles the request, whoever appends that."""

from typing import TYPE_CHECKING, Any

from perdure.core import event as ev
from perdure.core.codec import canonical
from perdure.core.event import AnyEvent
from perdure.core.instant import Instant, later
from perdure.core.journal import Entry
from perdure.core.machine import JobState
from perdure.core.request import proposal_digest
from perdure.engine.asking import Answer, Asking
from perdure.engine.branches import Branch
from perdure.engine.calls import Call
from perdure.engine.reask import Again
from perdure.engine.values import UNSHAPED, shaped
from perdure.errors import RequestExpired, RequestWithdrawn
from perdure.ids import request_id

if TYPE_CHECKING:
    from perdure.engine.bench import Bench


class AskCall(Call):
    """Resolves with an Answer whose payload is plain. `request` is the record as the log last states it."""

    def __init__(self, bench: "Bench", branch: Branch, entry: Entry, what: Asking, again: Again | None = None) -> None:
        super().__init__(bench, branch, entry)
        self._entry = entry
        self._what = what
        self._again = again
        self.request: ev.Request | None = None

    def ready(self, now: Instant) -> bool:
        return self.request is None

    @property
    def due(self) -> Instant | None:
        return self.request.expires_at if self.request is not None else None

    async def perform(self) -> None:
        await self.bench.append(self._requested, self)

    def _requested(self, job: JobState) -> ev.RequestedData:
        path, name, occurrence = self._entry.key
        what, again, now = self._what, self._again, self.bench.port.now()
        ref, submitted = self.bench.port.ref, self.bench.submitted
        proposal, digest = what.proposal, what.digest
        if again is not None and digest is not None:
            proposal = again.proposal
            digest = proposal_digest(what.title, what.message, proposal)
        return ev.RequestedData(
            request=ev.Request(
                id=request_id(ref.job, job.seq + 1),
                job_id=ref.job,
                name=name,
                occurrence=occurrence,
                path=path,
                revision=1,
                kind=what.kind,
                title=what.title,
                message=what.message,
                asked_at=now,
                asked_for=submitted.on_behalf_of or submitted.owner,
                actions=what.actions,
                proposal=proposal,
                proposal_digest=digest,
                proposal_schema=what.proposal_schema,
                editable=what.editable,
                response_schema=what.response_schema,
                defaults=what.defaults if again is None else again.defaults,
                assignees=what.assignees,
                forbid_self=what.forbid_self,
                quorum=what.quorum,
                expires_at=None if what.expires_in is None else later(now, what.expires_in),
                reminders=what.reminders,
                escalations=what.escalations,
                on_timeout=what.on_timeout,
                ui=what.ui,
                external_ids=what.external_ids,
                reasks=None if again is None else again.reasks.id,
                errors=() if again is None else again.errors,
            )
        )

    def hear(self, event: AnyEvent) -> None:
        match event:
            case ev.InputRequested(data=asked):
                self.request = asked.request
                self.bench.asks[asked.request.id] = self
            case ev.InputAnswered(data=answer) if self.request is not None:
                approved = answer.proposal if answer.edited else self.request.proposal
                self._settled(
                    self.request,
                    action=answer.action,
                    payload=answer.payload,
                    proposal=approved,
                    comment=answer.comment,
                    by=answer.by,
                    edited=answer.edited or self._carries_an_edit(self.request),
                    votes=answer.votes,
                )
            case ev.InputExpired(data=expired) if self.request is not None:
                self._expired(self.request, expired)
            case ev.InputWithdrawn(data=withdrawn):
                self.fail(
                    RequestWithdrawn(
                        f"request {self._entry.key.name} was withdrawn: {withdrawn.reason}",
                        request_id=withdrawn.request_id,
                        by=withdrawn.by,
                        reason=withdrawn.reason,
                    )
                )
            case _:
                pass

    def _carries_an_edit(self, request: ev.Request) -> bool:
        """Whether what this request proposes is what somebody made of the proposal when it was asked before."""
        first = self._again
        return first is not None and canonical(request.proposal) != canonical(first.proposed)

    def _expired(self, request: ev.Request, expired: ev.ExpiredData) -> None:
        outcome = expired.outcome
        if outcome.do == "fail":
            why = f"nobody answered until {request.expires_at}"
            if expired.cause == "no_quorum":
                why = "those who vote can no longer agree"
            self.fail(
                RequestExpired(
                    f"request {request.name} expired: {why}",
                    request_id=request.id,
                    cause=expired.cause,
                    votes=expired.votes,
                )
            )
            return
        self._settled(
            request,
            action=outcome.action if outcome.do == "answer" else None,
            payload=outcome.payload,
            proposal=request.proposal,
            timed_out=True,
            edited=self._carries_an_edit(request),
            votes=expired.votes,
            cause=expired.cause,
        )

    def _settled(self, request: ev.Request, **said: Any) -> None:  # Any: the members of an Answer
        for name in ("payload", "proposal"):
            said[name] = shaped(said[name], UNSHAPED)  # never the log's own
        self.resolve(Answer(digest=request.proposal_digest, request_id=request.id, **said))

    def waiting(self) -> ev.Waiting | None:
        if self.request is None:
            return None
        path, name, occurrence = self._entry.key
        return ev.Waiting(
            kind="input",
            path=path,
            name=name,
            occurrence=occurrence,
            request_id=self.request.id,
            until=self.request.expires_at,
        )
