"""Asking a person: the request as it is recorded, and what its settlement means to the code that waits."""

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from msgspec import UNSET, Struct
from msgspec.structs import replace

from perdure.core import event as ev
from perdure.core import schema
from perdure.core.codec import INLINE_VALUE_BYTES, encode_value
from perdure.core.event import AnyEvent
from perdure.core.instant import Instant, later
from perdure.core.journal import Entry
from perdure.core.machine import JobState
from perdure.core.request import payload_faults, proposal_digest
from perdure.engine.branches import Branch
from perdure.engine.calls import Call
from perdure.engine.values import UNSHAPED, plain, shaped
from perdure.errors import Invalid, Malformed, RequestExpired, RequestWithdrawn
from perdure.ids import request_id

if TYPE_CHECKING:
    from perdure.engine.bench import Bench

RequestKind = Literal["approval", "choice", "input", "tool_call"]

MAX_ACTIONS: Final = 12
_ACTION_ID: Final = re.compile(r"[a-z0-9_-]{1,64}", re.ASCII)
_ACTIONS: Final[dict[RequestKind, tuple[ev.Action, ...]]] = {
    "approval": (ev.Action(id="approve", style="primary"), ev.Action(id="reject", style="danger")),
    "choice": (),
    "input": (ev.Action(id="submit", style="primary"),),
    "tool_call": tuple(ev.Action(id=i) for i in ("approve", "edit", "reject", "respond")),
}


class Answer(Struct, frozen=True, kw_only=True):
    """How a request was settled. `action` is None when it timed out and the code was to go on by itself (`branch`)."""

    action: str | None
    payload: Any = None  # any JSON
    proposal: Any = None  # as approved: edited, or as it was shown
    comment: str | None = None
    by: str | None = None  # a principal; None when it timed out
    timed_out: bool = False


class Asking(Struct, frozen=True, kw_only=True):
    """What the code wants to ask; checked and plain, but not yet of a place in the log."""

    kind: RequestKind
    title: str
    message: str | None
    actions: tuple[ev.Action, ...]
    proposal: Any  # any JSON
    digest: str | None
    proposal_schema: dict[str, Any] | None
    editable: tuple[str, ...] | None
    response_schema: dict[str, Any] | None
    defaults: dict[str, Any] | None
    assignees: ev.Assignees | None
    expires_in: float | None  # seconds
    on_timeout: ev.OnTimeout | None


def asking(
    *,
    kind: RequestKind,
    title: str,
    message: str | None,
    actions: Sequence[ev.Action | str] | None,
    proposal: Any,  # any JSON, UNSET for none
    proposal_schema: dict[str, Any] | None,
    editable: Sequence[str] | None,
    response_schema: dict[str, Any] | None,
    defaults: dict[str, Any] | None,
    assignees: ev.Assignees | None,
    expires_in: float | timedelta | None,
    on_timeout: ev.OnTimeout | None,
) -> Asking:
    """The checked arguments of `ctx.ask`. Raises Malformed, Invalid for a schema that is none or an answer of the
    time-out that its schema refuses; TooLarge when they do not fit into an event together.
    """
    offered = (
        _ACTIONS[kind] if actions is None else tuple(ev.Action(id=a) if isinstance(a, str) else a for a in actions)
    )
    ids = [a.id for a in offered]
    if not 1 <= len(ids) <= MAX_ACTIONS or len(set(ids)) < len(ids) or not all(map(_ACTION_ID.fullmatch, ids)):
        raise Malformed(f"a request has 1 to {MAX_ACTIONS} actions with ids of [a-z0-9_-], each once")
    if on_timeout is not None and on_timeout.do == "answer" and on_timeout.action not in ids:
        raise Malformed("on_timeout answers with an action that the request does not have")
    if expires_in is not None and not (seconds := _seconds(expires_in)) >= 0:  # NaN is not either
        raise Malformed(f"expires_in is {seconds:g} s")
    for name, rule in (("response_schema", response_schema), ("proposal_schema", proposal_schema)):
        if rule is not None:
            schema.check_schema(rule, f"/{name}")  # by one that is none every answer would be refused
    if on_timeout is not None and on_timeout.do == "answer":
        given = {} if on_timeout.payload is None and response_schema is not None else on_timeout.payload
        faults = payload_faults(response_schema, offered[ids.index(on_timeout.action or "")], given)
        if faults:  # found now and not in three days, when nobody is there
            raise Invalid([replace(f, pointer=f"/on_timeout{f.pointer}") for f in faults], "invalid-answer")
    shown = None if proposal is UNSET else plain(proposal)
    # What cannot leave the event is bounded together; the proposal and the answer of a time-out may become blobs.
    encode_value([title, message, proposal_schema, response_schema, defaults], INLINE_VALUE_BYTES)
    encode_value(on_timeout)
    return Asking(
        kind=kind,
        title=title,
        message=message,
        actions=offered,
        proposal=shown,
        digest=None if proposal is UNSET else proposal_digest(title, message, shown),
        proposal_schema=proposal_schema,
        editable=None if editable is None else tuple(editable),
        response_schema=response_schema,
        defaults=None if defaults is None else plain(defaults),
        assignees=assignees,
        expires_in=None if expires_in is None else _seconds(expires_in),
        on_timeout=on_timeout,
    )


class AskCall(Call):
    """`ctx.ask`: asks once, resolves by the event that settles the request, whoever appends it."""

    def __init__(self, bench: "Bench", branch: Branch, entry: Entry, what: Asking) -> None:
        super().__init__(bench, branch, entry)
        self._entry = entry
        self._what = what
        self._request: ev.Request | None = None

    def ready(self, now: Instant) -> bool:
        return self._request is None

    @property
    def due(self) -> Instant | None:
        return self._request.expires_at if self._request is not None else None

    async def perform(self) -> None:
        await self.bench.append(self._requested, self)

    def _requested(self, job: JobState) -> ev.RequestedData:
        path, name, occurrence = self._entry.key
        what, now = self._what, self.bench.port.now()
        ref = self.bench.port.ref
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
                asked_for=self.bench.submitted.owner,
                actions=what.actions,
                proposal=what.proposal,
                proposal_digest=what.digest,
                proposal_schema=what.proposal_schema,
                editable=what.editable,
                response_schema=what.response_schema,
                defaults=what.defaults,
                assignees=what.assignees,
                expires_at=None if what.expires_in is None else later(now, what.expires_in),
                on_timeout=what.on_timeout,
            )
        )

    def hear(self, event: AnyEvent) -> None:
        match event:
            case ev.InputRequested(data=asked):
                self._request = asked.request
                self.bench.asks[asked.request.id] = self
            case ev.InputAnswered(data=answer) if self._request is not None:
                approved = answer.proposal if answer.edited else self._request.proposal
                self._settled(
                    Answer(
                        action=answer.action,
                        payload=answer.payload,
                        proposal=approved,
                        comment=answer.comment,
                        by=answer.by,
                    )
                )
            case ev.InputExpired(data=expired) if self._request is not None:
                self._expired(self._request, expired.outcome)
            case ev.InputWithdrawn(data=withdrawn):
                self.fail(RequestWithdrawn(f"request {self._entry.key.name} was withdrawn: {withdrawn.reason}"))
            case _:
                pass

    def _expired(self, request: ev.Request, outcome: ev.Outcome) -> None:
        if outcome.do == "fail":
            self.fail(RequestExpired(f"nobody answered request {request.name} until {request.expires_at}"))
        else:
            action = outcome.action if outcome.do == "answer" else None
            self._settled(Answer(action=action, payload=outcome.payload, proposal=request.proposal, timed_out=True))

    def _settled(self, answer: Answer) -> None:
        own = {name: shaped(getattr(answer, name), UNSHAPED) for name in ("payload", "proposal")}  # never the log's own
        self.resolve(
            Answer(action=answer.action, comment=answer.comment, by=answer.by, timed_out=answer.timed_out, **own)
        )

    def waiting(self) -> ev.Waiting | None:
        if self._request is None:
            return None
        path, name, occurrence = self._entry.key
        until = self._request.expires_at
        return ev.Waiting(
            kind="input", path=path, name=name, occurrence=occurrence, request_id=self._request.id, until=until
        )


def _seconds(duration: float | timedelta) -> float:
    return duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
