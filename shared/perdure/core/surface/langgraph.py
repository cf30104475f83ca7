"""LangGraph: a request as an interrupt, and what `Command(resume=…)` carries as answers.

A tool call has the shape of LangChain's human-in-the-loop middleware (`action_requests`, `review_configs`; `decisions`
approve, edit, reject, respond; one decision alone as in its mode `per_call`). Everything else is an interrupt whose
value says what is asked, resumed with an object `{action, payload?, proposal?, comment?}`, an action's id or label, or
true and false.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import UNSET

from perdure.core import event as ev
from perdure.core.event import UserValue
from perdure.core.fit import Answer
from perdure.core.surface import saying
from perdure.core.surface.interrupt import DIGITS, interrupt_id, interrupted
from perdure.ids import REQUEST_ID

DECISIONS: Final = ("approve", "edit", "reject", "respond")
_ID: Final = re.compile(rf"{REQUEST_ID.pattern}~[0-9a-f]{{{DIGITS}}}", re.ASCII)
_MEMBERS: Final = ("action", "payload", "proposal", "comment")


def interrupt(request: ev.Request) -> dict[str, Any]:
    """The request as `{id, value}`, as LangGraph shows what interrupted a graph."""
    tool = saying.tool_call(request)
    return {"id": interrupt_id(request), "value": _question(request) if tool is None else _review(request, *tool)}


def resume(open_requests: Sequence[ev.Request], value: UserValue) -> tuple[tuple[ev.Request, Answer], ...]:
    """The answers in a resume value: a map by interrupt id, or the answer itself where one request is open.

    Raises NotFound for an interrupt that is not open, Conflict (`proposal-changed`) for one that shows something else
    now, Invalid (`invalid-answer`) with pointers into the value.
    """
    if isinstance(value, dict) and value and all(_ID.fullmatch(str(name)) for name in value):
        found = [(interrupted(open_requests, name), said, saying.pointer(name)) for name, said in value.items()]
        return tuple((request, answer(request, said, at)) for request, said, at in found)
    if len(open_requests) != 1:
        raise saying.wrong("", "ambiguous", "several requests are open: resume with a map by interrupt id")
    return ((open_requests[0], answer(open_requests[0], value)),)


def answer(request: ev.Request, value: UserValue, at: str = "") -> Answer:
    """What a resume value says to `request`. Raises Invalid (`invalid-answer`), pointers under `at`."""
    if saying.tool_call(request) is not None and isinstance(value, dict) and ("decisions" in value or "type" in value):
        return _decided(request, value, at)
    match value:
        case bool():
            refusal = saying.refusal(request)
            return saying.said(request, "approve" if value else refusal.id if refusal is not None else "reject")
        case str():
            return _spoken(request, value, at)
        case dict():
            return _given(request, value, at)
        case _:
            raise saying.wrong(at, "type", "must be an object, an action or true and false")


def _question(request: ev.Request) -> dict[str, Any]:
    told: dict[str, Any] = {
        "kind": request.kind,
        "title": request.title,
        "actions": saying.offers(request),
    }
    optional = {
        "message": request.message,
        "response_schema": request.response_schema,
        "defaults": request.defaults,
        "expires_at": request.expires_at,
    }
    told |= {name: value for name, value in optional.items() if value is not None}
    if request.proposal_digest is not None:
        told["proposal"] = request.proposal
    return told


def _review(request: ev.Request, name: str, arguments: UserValue) -> dict[str, Any]:
    allowed = [action.id for action in request.actions if action.id in DECISIONS]
    config: dict[str, Any] = {"action_name": name, "allowed_decisions": allowed}
    inner = ((request.proposal_schema or {}).get("properties") or {}).get("arguments")
    if isinstance(inner, dict) and not saying.refers(inner):
        config["args_schema"] = inner
    return {
        "action_requests": [{"name": name, "args": arguments, "description": saying.prompt(request)}],
        "review_configs": [config],
    }


def _decided(request: ev.Request, value: Mapping[str, Any], at: str) -> Answer:
    """One decision on a tool call."""
    if "decisions" in value:
        decisions = value["decisions"]
        if not isinstance(decisions, list) or len(decisions) != 1:
            raise saying.wrong(f"{at}/decisions", "type", "must be a list of one decision: one call is asked for")
        at = f"{at}/decisions/0"
        value = saying.object_at(decisions[0], at)
    kind = value.get("type")
    if kind not in DECISIONS:
        raise saying.wrong(f"{at}/type", "enum", f"must be one of {', '.join(DECISIONS)}")
    if kind == "edit":
        action = saying.object_at(value.get("edited_action"), f"{at}/edited_action")
        if "args" not in action:
            raise saying.wrong(f"{at}/edited_action/args", "required", "is required")
        proposal = {**request.proposal, "arguments": action["args"]}
        if "name" in action:
            proposal["name"] = action["name"]
        taken = "edit" if saying.action_of(request, "edit") is not None else "approve"
        return saying.said(request, taken, proposal=proposal)
    return saying.said(request, str(kind), comment=saying.comment_of(value, "message", at))


def _spoken(request: ev.Request, text: str, at: str) -> Answer:
    """An action by its id or label; else, where the form is one text, that text."""
    for action in request.actions:
        if text.strip().casefold() in (action.id, saying.label(action).casefold()):
            return saying.said(request, action.id)
    names = saying.fields(request)
    if request.kind == "input" and len(request.actions) == 1 and len(names) == 1:
        name, rule = next(iter(names.items()))
        if isinstance(rule, dict) and rule.get("type") == "string":
            return saying.said(request, request.actions[0].id, payload={name: text})
    raise saying.wrong(at, "unknown-action", "is none of the request's actions")


def _given(request: ev.Request, value: Mapping[str, Any], at: str) -> Answer:
    for name in value:
        if name not in _MEMBERS:
            raise saying.wrong(at + saying.pointer(name), "unexpected", f"an answer has {', '.join(_MEMBERS)}")
    if "action" not in value and len(request.actions) > 1:
        raise saying.wrong(f"{at}/action", "required", "is required")
    return saying.said(
        request,
        saying.text_at(value.get("action", request.actions[0].id), f"{at}/action"),
        payload=value.get("payload", UNSET),
        proposal=value.get("proposal", UNSET),
        comment=saying.comment_of(value, "comment", at),
    )
