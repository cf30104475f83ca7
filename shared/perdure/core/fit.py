"""Whether an answer fits what was asked: its action, the form, the edit of a proposal; and what of it is recorded."""

from typing import Any, Final

from msgspec import UNSET, Struct

from perdure.core import event as ev
from perdure.core import schema
from perdure.core.jcs import jcs, same
from perdure.core.schema import pointer
from perdure.errors import Fault, Malformed

COMMENT: Final = "comment"


class Answer(Struct, frozen=True, kw_only=True):
    """What somebody says to a request. A payload or a proposal that was not sent is UNSET: null is a value."""

    action: str
    payload: Any = UNSET  # any JSON
    proposal: Any = UNSET
    proposal_digest: str | None = None
    comment: str | None = None


def faults(request: ev.Request, answer: Answer) -> list[Fault]:
    """What is wrong with an answer to `request`, with pointers into its body."""
    action = next((a for a in request.actions if a.id == answer.action), None)
    if action is None:
        return [Fault("unknown-action", "is none of the request's actions", pointer="/action")]
    found = payload_faults(request.response_schema, action, payload_of(request, answer))
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
    if not found and not _exact(proposal):
        return [Fault("number", "holds an integer beyond 2^53, which not every reader can hold", pointer="/proposal")]
    if not found and request.proposal_schema is not None:
        found = schema.faults(request.proposal_schema, proposal, "/proposal")
    return found[: schema.MAX_FAULTS]


def _exact(proposal: Any) -> bool:
    """Whether what is approved can be compared by a digest later."""
    try:
        jcs(proposal)
    except Malformed:
        return False
    return True


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
    return [] if same(old, new) else [at]


def payload_of(request: ev.Request, answer: Answer) -> Any:
    """What is recorded: an empty form where a form was asked and nothing was sent, null where nothing was asked."""
    if answer.payload is not UNSET:
        return answer.payload
    return {} if request.response_schema is not None else None


def approved(request: ev.Request, answer: Answer) -> Any:
    """What is recorded as approved: the proposal as it was shown, unless what was sent differs from it."""
    return answer.proposal if edited(request, answer) else request.proposal


def edited(request: ev.Request, answer: Answer) -> bool:
    """Whether the answer changes the proposal. Sending it back unchanged, however it is written, is no edit."""
    return answer.proposal is not UNSET and not same(answer.proposal, request.proposal)
