"""What the surfaces have in common: the words of a request, and reading an answer out of somebody's JSON."""

from collections.abc import Mapping
from typing import Any, Final

from msgspec import UNSET

from perdure.core import event as ev
from perdure.core.event import UserValue
from perdure.core.fit import COMMENT, Answer
from perdure.core.schema import pointer
from perdure.errors import Fault, Invalid

__all__ = [
    "REFUSALS",
    "TOOL_CALL",
    "action_of",
    "comment_of",
    "fields",
    "label",
    "needs",
    "object_at",
    "offers",
    "pointer",
    "prompt",
    "refers",
    "refusal",
    "required",
    "said",
    "text_at",
    "tool_call",
    "wrong",
]

REFUSALS: Final = ("reject", "decline")
TOOL_CALL: Final = "tool_call"  # of a request's external_ids: the id that the model gave its call


def action_of(request: ev.Request, name: str) -> ev.Action | None:
    """The request's action of that id."""
    return next((action for action in request.actions if action.id == name), None)


def label(action: ev.Action) -> str:
    """What a person reads on an action."""
    return action.label or action.id.replace("_", " ").replace("-", " ").capitalize()


def refusal(request: ev.Request) -> ev.Action | None:
    """The action that says no, if there is one."""
    return next((action for name in REFUSALS if (action := action_of(request, name)) is not None), None)


def prompt(request: ev.Request) -> str:
    """Title, message, and why an earlier answer would not do, for a surface with one text."""
    parts = [request.title, request.message or ""]
    if request.errors:
        lines = (f"- {error.pointer}: {error.detail}" if error.pointer else error.detail for error in request.errors)
        parts.append("The last answer was not taken:\n" + "\n".join(lines))
    return "\n\n".join(part for part in parts if part)


def offers(request: ev.Request) -> list[dict[str, UserValue]]:
    """The actions as a client sees them: id, label, and what each requires by itself."""
    return [
        {"id": action.id, "label": label(action)}
        | ({} if action.requires is None else {"requires": list(action.requires)})
        for action in request.actions
    ]


def fields(request: ev.Request) -> dict[str, UserValue]:
    """The members of the payload by their schemas; none where no form is asked."""
    rule = request.response_schema or {}
    properties = rule.get("properties")
    return properties if isinstance(properties, dict) else {}


def required(request: ev.Request, action: ev.Action) -> list[str]:
    """The members of the payload that `action` needs."""
    if action.requires is not None:
        return [name for name in action.requires if name != COMMENT]
    wanted = (request.response_schema or {}).get("required", [])
    return list(wanted) if isinstance(wanted, list) else []


def needs(request: ev.Request, action: ev.Action) -> bool:
    """Whether `action` cannot be taken without saying anything else."""
    return bool(required(request, action)) or COMMENT in (action.requires or ())


def said(
    request: ev.Request,
    action: str,
    *,
    payload: UserValue = UNSET,
    proposal: UserValue = UNSET,
    comment: str | None = None,
) -> Answer:
    """An answer to what the request shows now: whoever calls has seen that this is what was shown."""
    return Answer(
        action=action, payload=payload, proposal=proposal, proposal_digest=request.proposal_digest, comment=comment
    )


def tool_call(request: ev.Request) -> tuple[str, UserValue] | None:
    """The name and the arguments of the call that is proposed, where a tool call is."""
    proposal = request.proposal
    if request.kind != "tool_call" or not isinstance(proposal, dict) or not {"name", "arguments"} <= proposal.keys():
        return None
    return str(proposal["name"]), proposal["arguments"]


def refers(schema: object) -> bool:
    """Whether a schema points to definitions elsewhere in its document."""
    if isinstance(schema, dict):
        return "$ref" in schema or any(map(refers, schema.values()))
    return isinstance(schema, list) and any(map(refers, schema))


def object_at(value: object, at: str) -> Mapping[str, Any]:
    """`value` as an object. Raises Invalid (`invalid-answer`)."""
    if not isinstance(value, dict):
        raise wrong(at, "type", "must be an object")
    return value


def text_at(value: object, at: str) -> str:
    """`value` as a text. Raises Invalid (`invalid-answer`)."""
    if not isinstance(value, str):
        raise wrong(at, "type", "must be a string")
    return value


def comment_of(values: Mapping[str, Any], name: str, at: str) -> str | None:
    """The comment among `values`, empty ones left out. Raises Invalid (`invalid-answer`)."""
    return (text_at(values[name], f"{at}/{name}") or None) if values.get(name) is not None else None


def wrong(at: str, code: str, detail: str) -> Invalid:
    """The error for one thing that is wrong with an answer, at its place in what the surface sent."""
    return Invalid([Fault(code, detail, pointer=at)], "invalid-answer")
