"""AG-UI 1.0: a request as an interrupt of a run, and the `resume` of the run that follows as answers.

docs.ag-ui.com, "Interrupts". An approval and a tool call are answered with `approved` (and `editedArgs`, a full
replacement, where something may be edited), everything else with `action`, which may always be given. The form's
fields stand beside them; where their names would meet, or the payload is no flat object, it is the member `payload`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec import UNSET, Struct

from perdure.core import event as ev
from perdure.core.event import Status, UserValue
from perdure.core.fit import Answer
from perdure.core.machine import JobState
from perdure.core.surface import saying
from perdure.core.surface.interrupt import interrupt_id, interrupted
from perdure.errors import Conflict, Fault, Invalid, NotFound
from perdure.ids import Principal

_OWN: Final = ("approved", "action", "editedArgs", "comment", "payload")


class NotApplied(Struct, frozen=True):
    """An entry that meets no open interrupt: `unknown`, or `proposal-changed`. It is no error: the fact stands."""

    interrupt_id: str
    code: str


class Resumption(Struct, frozen=True):
    """What a `resume` says. `missing` are the open requests that it leaves out: their interrupts are sent again."""

    answers: tuple[tuple[ev.Request, Answer], ...]
    abandoned: tuple[ev.Request, ...]  # to be withdrawn, where the caller may
    not_applied: tuple[NotApplied, ...]
    missing: tuple[ev.Request, ...]


def open_to(job: JobState, who: Principal, may_answer: Callable[[ev.Request], bool]) -> list[ev.Request]:
    """What the sleeping `job` asks somebody: the open requests that he may answer and has not voted on."""
    if job.status is not Status.SUSPENDED:
        return []
    voted = {rid for rid, votes in job.votes.items() if any(vote.by == who for vote in votes)}
    return [asked for asked in job.asked.values() if asked.id not in voted and may_answer(asked)]


def interrupt(request: ev.Request, page: str | None = None) -> dict[str, Any]:
    """The request as an AG-UI Interrupt; `page` is where a person can answer it in a browser."""
    own: dict[str, Any] = {
        "request_id": request.id,
        "actions": saying.offers(request),
    }
    if request.proposal_digest is not None:
        own |= {"proposal": request.proposal, "proposal_digest": request.proposal_digest}
    if page is not None:
        own["page"] = page
    told: dict[str, Any] = {
        "id": interrupt_id(request),
        "reason": {"approval": "confirmation", "tool_call": "tool_call"}.get(request.kind, "input_required"),
        "message": saying.prompt(request),
        "responseSchema": _response_schema(request),
        "metadata": {"perdure": own},
    }
    if request.kind == "tool_call":
        told["toolCallId"] = request.external_ids.get(saying.TOOL_CALL, request.id)
    if request.expires_at is not None:
        told["expiresAt"] = request.expires_at
    return told


def resume(open_requests: Sequence[ev.Request], entries: UserValue) -> Resumption:
    """What the `resume` of a RunAgentInput says to the requests that are open for this caller.

    Raises Invalid (`invalid-answer`) with every fault of every entry, pointers beginning with /resume.
    """
    if not isinstance(entries, list):
        raise saying.wrong("/resume", "type", "must be a list")
    answers: list[tuple[ev.Request, Answer]] = []
    abandoned: list[ev.Request] = []
    not_applied: list[NotApplied] = []
    met: set[str] = set()
    faults: list[Fault] = []
    for index, entry in enumerate(entries):
        at = f"/resume/{index}"
        try:
            said = saying.object_at(entry, at)
            named = saying.text_at(said.get("interruptId"), f"{at}/interruptId")
            status = said.get("status")
            if status not in ("resolved", "cancelled"):
                raise saying.wrong(f"{at}/status", "enum", "must be resolved or cancelled")
            try:
                request = interrupted(open_requests, named)
            except NotFound:
                not_applied.append(NotApplied(named, "unknown"))
                continue
            except Conflict as exc:
                not_applied.append(NotApplied(named, exc.code))
                continue
            if request.id in met:
                raise saying.wrong(f"{at}/interruptId", "duplicate", "another entry answers this interrupt")
            met.add(request.id)
            if status == "cancelled":
                abandoned.append(request)
            else:
                answers.append((request, answer(request, said.get("payload"), f"{at}/payload")))
        except Invalid as exc:
            faults += exc.faults
    if faults:
        raise Invalid(faults, "invalid-answer")
    missing = tuple(request for request in open_requests if request.id not in met)
    return Resumption(tuple(answers), tuple(abandoned), tuple(not_applied), missing)


def answer(request: ev.Request, payload: UserValue, at: str = "/payload") -> Answer:
    """What the payload of a resolved entry says to `request`. Raises Invalid (`invalid-answer`), pointers below `at`.

    Whether the request takes it is judged where all answers are.
    """
    values = dict(saying.object_at(payload, at))
    comment = saying.comment_of(values, "comment", at)
    edited = values.get("editedArgs", UNSET)
    action = _action(request, values, at)
    rest = {name: value for name, value in values.items() if name not in _OWN}
    said: UserValue = UNSET
    if _nested(request):
        said = values.get("payload", UNSET)
    elif request.response_schema is not None:
        said, rest = rest, {}
    elif "payload" in values:
        rest["payload"] = values["payload"]
    if rest:
        raise Invalid(
            [Fault("unexpected", "is not expected here", pointer=at + saying.pointer(name)) for name in rest],
            "invalid-answer",
        )
    proposal: UserValue = UNSET
    if edited is not UNSET:
        if request.proposal_digest is None:
            raise saying.wrong(f"{at}/editedArgs", "unexpected", "the request has no proposal")
        tool = saying.tool_call(request)
        proposal = edited if tool is None else {**request.proposal, "arguments": edited}
    return saying.said(request, action, payload=said, proposal=proposal, comment=comment)


def _action(request: ev.Request, values: dict[str, Any], at: str) -> str:
    approved = values.get("approved")
    if approved is not None and not isinstance(approved, bool):
        raise saying.wrong(f"{at}/approved", "type", "must be true or false")
    if "action" in values:
        action = saying.text_at(values["action"], f"{at}/action")
        if (approved is False and action in ("approve", "edit")) or (approved and action in saying.REFUSALS):
            raise saying.wrong(f"{at}/approved", "contradiction", "the action says otherwise")
        return action
    if approved is None:
        name = "approved" if _binary(request) else "action"
        raise saying.wrong(f"{at}/{name}", "required", "is required")
    if approved:
        return "edit" if "editedArgs" in values and saying.action_of(request, "edit") is not None else "approve"
    refusal = saying.refusal(request)
    return refusal.id if refusal is not None else "reject"  # which the request then says that it does not have


def _response_schema(request: ev.Request) -> dict[str, Any]:
    rule = request.response_schema
    ids = {"type": "string", "enum": [action.id for action in request.actions]}
    properties: dict[str, Any] = {"approved": {"type": "boolean"}} if _binary(request) else {}
    if request.editable and request.proposal_digest is not None:
        properties["editedArgs"] = _edited_schema(request)
    properties["action"] = ids
    wanted = ["approved" if _binary(request) else "action"]
    if _nested(request):
        properties["payload"] = {name: value for name, value in (rule or {}).items() if name != "$defs"}
    else:
        properties |= saying.fields(request)
        common = [set(saying.required(request, action)) for action in request.actions]
        wanted += [name for name in saying.fields(request) if all(name in names for names in common)]
    properties["comment"] = {"type": "string"}
    whole = {"type": "object", "properties": properties, "required": wanted}
    defined = (rule or {}).get("$defs")
    return whole if defined is None else {**whole, "$defs": defined}


def _edited_schema(request: ev.Request) -> dict[str, Any]:
    """What the replacement has to keep, as far as a schema without definitions of its own says it."""
    rule = request.proposal_schema or {}
    if saying.tool_call(request) is not None:
        inner = (rule.get("properties") or {}).get("arguments")
        rule = inner if isinstance(inner, dict) else {"type": "object"}
    return {} if saying.refers(rule) else dict(rule)


def _binary(request: ev.Request) -> bool:
    return request.kind in ("approval", "tool_call") and saying.action_of(request, "approve") is not None


def _nested(request: ev.Request) -> bool:
    """Whether the payload is a member of its own: no flat object, or its fields are called like ours."""
    if request.response_schema is None:
        return False
    names = saying.fields(request)
    return not names or any(name in _OWN for name in names)
