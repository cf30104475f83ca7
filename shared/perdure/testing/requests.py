"""Requests by hand: one of each kind, for tests of what shows them."""

from typing import Any, Final

from msgspec import UNSET

from perdure.core import event as ev
from perdure.core.instant import Instant
from perdure.core.request import proposal_digest
from perdure.ids import JobId, Principal, request_id

JOB: Final = JobId("01990000-0000-7000-8000-000000000001")
FORM: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "note": {"type": "string", "title": "Note", "minLength": 1, "maxLength": 500, "pattern": "^[^<]*$"},
        "mail": {"type": "string", "format": "email"},
        "amount": {"type": "integer", "minimum": 1, "maximum": 500},
        "rate": {"type": "number"},
        "urgent": {"type": "boolean", "default": False},
        "colour": {"type": "string", "enum": ["red", "blue"]},
        "size": {"type": "string", "oneOf": [{"const": "s", "title": "Small"}, {"const": "l", "title": "Large"}]},
        "days": {"type": "array", "items": {"type": "string", "enum": ["mon", "tue"]}, "maxItems": 2},
        "rooms": {"type": "array", "items": {"oneOf": [{"const": "a", "title": "Aula"}, {"const": "b"}]}},
    },
    "required": ["note"],
    "additionalProperties": False,
}
CALL: Final = {"name": "send_mail", "arguments": {"to": "ann@example.com", "body": "Hello"}}
CALL_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "arguments": {"type": "object", "properties": {"to": {"type": "string"}, "body": {"type": "string"}}},
    },
}
TOOL_ACTIONS: Final = (
    ev.Action(id="approve", label="Approve"),
    ev.Action(id="edit"),
    ev.Action(id="reject", style="danger"),
    ev.Action(id="respond", requires=("comment",)),
)
_DECIDE: Final = (ev.Action(id="approve", label="Approve"), ev.Action(id="reject", style="danger"))


def request(seq: int = 17, *, proposal: Any = UNSET, **members: Any) -> ev.Request:  # Any: the members of a request
    """An open request of a job: an approval, unless `members` say otherwise."""
    given: dict[str, Any] = {"kind": "approval", "title": "Go on?", "actions": _DECIDE, **members}
    if proposal is not UNSET:
        digest = proposal_digest(given["title"], given.get("message"), proposal)
        given |= {"proposal": proposal, "proposal_digest": digest}
    return ev.Request(
        id=request_id(JOB, seq),
        job_id=JOB,
        name="ask",
        occurrence=1,
        revision=given.pop("revision", 1),
        asked_at=Instant("2026-05-01T09:00:00.000Z"),
        asked_for=Principal("user:ann"),
        **given,
    )


SAMPLES: Final[dict[str, ev.Request]] = {
    "approval": request(title="Go on?", message="It is **late**."),
    "refund": request(
        title="Refund 120?",
        proposal={"amount": 120},
        editable=("/amount",),
        proposal_schema={"type": "object", "properties": {"amount": {"type": "number"}}},
        expires_at=Instant("2026-05-02T09:00:00.000Z"),
        actions=(ev.Action(id="approve"), ev.Action(id="reject", requires=("comment",))),
        response_schema={"type": "object", "properties": {"note": {"type": "string"}}},
    ),
    "tool_call": request(
        title="Call send_mail?",
        kind="tool_call",
        proposal=CALL,
        editable=("/arguments",),
        proposal_schema=CALL_SCHEMA,
        actions=TOOL_ACTIONS,
        external_ids={"tool_call": "call_1"},
    ),
    "form": request(
        title="What is it?",
        kind="input",
        actions=(ev.Action(id="submit", label="Send"),),
        response_schema=FORM,
        defaults={"note": "none", "amount": 3},
        reasks=request_id(JOB, 9),
        errors=(ev.Wrong(pointer="", detail="too much"), ev.Wrong(pointer="/payload/amount", detail="at most 3")),
    ),
    "choice": request(
        title="Which way?",
        kind="choice",
        actions=(ev.Action(id="left", label="To the left"), ev.Action(id="right"), ev.Action(id="back")),
    ),
    "nested": request(
        title="What is it?",
        kind="input",
        actions=(ev.Action(id="submit"),),
        response_schema={"type": "object", "properties": {"action": {"type": "string"}, "of": {"type": "object"}}},
    ),
}
