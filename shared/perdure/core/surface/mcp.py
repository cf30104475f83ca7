"""MCP: a request as `elicitation/create`, and its result as an answer (specification 2025-11-25, client/elicitation).

A form there is flat and knows few keywords; what it cannot say (a pattern, say) is checked when the answer comes. What
cannot be a form is a link (mode `url`), behind which the person answers: then its result says nothing. A client shows
only the message, so the proposal is part of it. Nothing can be edited in a form.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import UNSET, Struct

from perdure.core import event as ev
from perdure.core.event import UserValue
from perdure.core.fit import COMMENT, Answer
from perdure.core.surface import saying
from perdure.errors import Conflict

_TOLD: Final = ("title", "description", "default")
_STRING: Final = ("minLength", "maxLength")
_FORMATS: Final = ("email", "uri", "date", "date-time")
_NUMBER: Final = ("minimum", "maximum")
_ARRAY: Final = ("minItems", "maxItems")
_OWN: Final = ("action", COMMENT)


class Sent(Struct, frozen=True, kw_only=True):
    """What was elicited: an answer counts for this revision alone. `form`: in mode `form`, else `url`."""

    request_id: str
    revision: int
    form: bool


class Elicitation(Struct, frozen=True, kw_only=True):
    """The params of `elicitation/create`, and what to keep until its result comes."""

    params: dict[str, Any]
    sent: Sent


def elicitation(request: ev.Request, page: str) -> Elicitation:
    """The request as a form, or, where it cannot be one, as a link to `page`."""
    schema = form(request)
    message = _message(request)
    sent = Sent(request_id=request.id, revision=request.revision, form=schema is not None)
    if schema is not None:
        return Elicitation(params={"mode": "form", "message": message, "requestedSchema": schema}, sent=sent)
    link = {"mode": "url", "elicitationId": f"{request.id}~{request.revision}", "url": page, "message": message}
    return Elicitation(params=link, sent=sent)


def form(request: ev.Request) -> dict[str, Any] | None:
    """The `requestedSchema`, None when this request cannot be a form there."""
    rule = request.response_schema
    if rule is not None and (rule.get("type") != "object" or "properties" not in rule or saying.refers(rule)):
        return None
    names = saying.fields(request)
    if any(name in _OWN for name in names):
        return None
    properties: dict[str, Any] = {}
    offered = _offered(request)
    wanted = [set(saying.required(request, action)) for action in offered]
    if len(offered) != 1:
        choices = [{"const": action.id, "title": saying.label(action)} for action in offered]
        properties["action"] = {"type": "string", "title": "Decision", "oneOf": choices}
    for name, field in names.items():
        primitive = _primitive(field)
        if primitive is None:
            return None
        if name in (request.defaults or {}) and _fits(primitive, value := (request.defaults or {})[name]):
            primitive["default"] = value
        properties[name] = primitive
    if not offered or not set().union(*wanted) <= properties.keys():
        return None
    properties[COMMENT] = {"type": "string", "title": "Comment", "maxLength": 4096}
    required = ["action"] if "action" in properties else []
    required += [name for name in names if all(name in needed for needed in wanted)]
    if all(COMMENT in (action.requires or ()) for action in offered):
        required.append(COMMENT)
    return {"type": "object", "properties": properties, "required": required}


def answer(request: ev.Request, sent: Sent, result: UserValue) -> Answer | None:
    """What the result of `sent` says to `request`; None when it is still pending.

    That is after `cancel`, after `decline` where no action refuses by itself, and in mode `url`, where the answer comes
    from elsewhere. Raises Conflict (`proposal-changed`) when the request was restated meanwhile, Invalid
    (`invalid-answer`) with pointers into the result.
    """
    said = saying.object_at(result, "")
    match said.get("action"):
        case "cancel":
            return None
        case "decline":
            refusal = saying.refusal(request)
            if refusal is None or saying.needs(request, refusal):
                return None
            _same(request, sent)
            return saying.said(request, refusal.id)
        case "accept" if not sent.form:
            return None
        case "accept":
            _same(request, sent)
            return _accepted(request, saying.object_at(said.get("content", {}), "/content"))
        case _:
            raise saying.wrong("/action", "enum", "must be accept, decline or cancel")


def _accepted(request: ev.Request, content: Mapping[str, Any]) -> Answer:
    offered = _offered(request)
    action = offered[0].id if len(offered) == 1 else content.get("action")
    payload: UserValue = {name: value for name, value in content.items() if name not in _OWN}
    if request.response_schema is None:
        for name in payload:
            raise saying.wrong(f"/content{saying.pointer(name)}", "unexpected", "is not expected here")
        payload = UNSET
    return saying.said(
        request,
        saying.text_at(action, "/content/action"),
        payload=payload,
        comment=saying.comment_of(content, COMMENT, "/content"),
    )


def _same(request: ev.Request, sent: Sent) -> None:
    if (request.id, request.revision) != (sent.request_id, sent.revision):
        facts = {"revision": request.revision, "proposal_digest": request.proposal_digest}
        raise Conflict("proposal-changed", "the request was restated: look again", facts)


def _offered(request: ev.Request) -> list[ev.Action]:
    """The actions that a form can take: a tool call cannot be edited there."""
    tool = request.kind == "tool_call"
    return [action for action in request.actions if not (tool and action.id == "edit")]


def _message(request: ev.Request) -> str:
    if request.proposal_digest is None:
        return saying.prompt(request)
    shown = msgspec.json.format(msgspec.json.encode(request.proposal), indent=2).decode()
    return f"{saying.prompt(request)}\n\n```json\n{shown}\n```"


def _primitive(field: UserValue) -> dict[str, Any] | None:
    """A member's schema as MCP has it; None where it has none."""
    if not isinstance(field, dict):
        return None
    told = {name: field[name] for name in _TOLD if name in field}
    match field.get("type"):
        case "string":
            choice = _choices(field, "oneOf")
            if choice is None:
                return None
            plain = {name: field[name] for name in _STRING if name in field}
            if field.get("format") in _FORMATS:
                plain["format"] = field["format"]
            found = {"type": "string", **told, **(choice or plain)}
        case ("number" | "integer") as kind if "enum" not in field and "oneOf" not in field:
            found = {"type": kind, **told, **{name: field[name] for name in _NUMBER if name in field}}
        case "boolean":
            found = {"type": "boolean", **told}
        case "array":
            items = field.get("items")
            if not isinstance(items, dict) or items.get("type", "string") != "string":
                return None
            choice = _choices(items, "anyOf")
            if not choice:
                return None
            found = {"type": "array", **told, **{name: field[name] for name in _ARRAY if name in field}}
            found["items"] = {"type": "string", **choice} if "enum" in choice else choice
        case _:
            return None
    if "default" in found and not _fits(found, found["default"]):
        del found["default"]
    return found


def _choices(field: Mapping[str, Any], member: str) -> dict[str, Any] | None:
    """The choices of a text, titled ones as `member`; empty without choices, None where MCP cannot have them."""
    if "enum" in field:
        values = field["enum"]
        texts = isinstance(values, list) and all(isinstance(value, str) for value in values)
        return {"enum": list(values)} if texts else None
    titled = field.get("oneOf", field.get("anyOf"))
    if titled is None:
        return {}
    if not isinstance(titled, list) or not all(isinstance(o, dict) and isinstance(o.get("const"), str) for o in titled):
        return None
    return {member: [{"const": one["const"], "title": str(one.get("title", one["const"]))} for one in titled]}


def _fits(field: Mapping[str, Any], value: UserValue) -> bool:
    """Whether a default has the type that MCP gives the field."""
    match field["type"]:
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case _:
            return isinstance(value, list) and all(isinstance(one, str) for one in value)
