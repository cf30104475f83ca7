"""A2A: open requests as a task that is `input-required`, and a message on that task as an answer.

Protocol 1.0; parts and states of 0.3 (`kind`) are read as well, and written when asked for. The binding is the digest
in the data part, so a text alone can answer only what proposes nothing.
"""

from collections.abc import Sequence
from typing import Any, Final, Literal

from msgspec import UNSET, Struct

from perdure.core import event as ev
from perdure.core.event import UserValue
from perdure.core.fit import Answer
from perdure.core.surface import saying

Version = Literal["1.0", "0.3"]
_MEMBERS: Final = ("request_id", "action", "payload", "proposal", "proposal_digest", "comment")


class Again(Struct, frozen=True):
    """The message answers nothing: the task stays `input-required`, and its next status says why."""

    why: str


def status(
    open_requests: Sequence[ev.Request],
    *,
    task_id: str,
    context_id: str,
    message_id: str,
    at: str,
    why: str | None = None,
    version: Version = "1.0",
) -> dict[str, Any]:
    """The task's status while these requests are open: for each a text part and a data part; first `why`, if given."""
    parts = [] if why is None else [_text(why, version)]
    for request in open_requests:
        parts.append(_text(saying.prompt(request), version))
        parts.append(_data(_record(request), version))
    message: dict[str, Any] = {
        "messageId": message_id,
        "taskId": task_id,
        "contextId": context_id,
        "role": "ROLE_AGENT" if version == "1.0" else "agent",
        "parts": parts,
    }
    if version != "1.0":
        message["kind"] = "message"
    state = "TASK_STATE_INPUT_REQUIRED" if version == "1.0" else "input-required"
    return {"state": state, "message": message, "timestamp": at}


def answer(open_requests: Sequence[ev.Request], message: UserValue) -> tuple[ev.Request, Answer] | Again:
    """What a message on the task says to the requests that are open for its sender.

    Raises Invalid (`invalid-answer`), pointers into the message, for one that is no message, or names a request and
    says something impossible.
    """
    parts = saying.object_at(message, "").get("parts")
    if not isinstance(parts, list):
        raise saying.wrong("/parts", "type", "must be a list")
    texts: list[str] = []
    for index, part in enumerate(parts):
        said = saying.object_at(part, f"/parts/{index}")
        if isinstance(said.get("data"), dict):
            return _from_data(open_requests, said["data"], f"/parts/{index}/data")
        if isinstance(said.get("text"), str):
            texts.append(said["text"])
    return _from_text(open_requests, "\n".join(texts).strip())


def _from_data(open_requests: Sequence[ev.Request], data: dict[str, Any], at: str) -> tuple[ev.Request, Answer] | Again:
    named = data.get("request_id")
    request = next((r for r in open_requests if r.id == named), None)
    if request is None and named is None and len(open_requests) == 1:
        request = open_requests[0]
    if request is None:
        return Again("Name the request that this answers: request_id.")
    unknown = [name for name in data if name not in _MEMBERS]
    if unknown:
        raise saying.wrong(at + saying.pointer(unknown[0]), "unexpected", f"an answer has {', '.join(_MEMBERS)}")
    if "action" not in data:
        raise saying.wrong(f"{at}/action", "required", "is required")
    action = saying.text_at(data["action"], f"{at}/action")
    digest = data.get("proposal_digest")
    if request.proposal_digest is not None and digest != request.proposal_digest:
        return Again(
            "Send the proposal_digest that was shown." if digest is None else "The proposal has changed: look again."
        )
    if digest is not None and request.proposal_digest is None:
        raise saying.wrong(f"{at}/proposal_digest", "unexpected", "the request has no proposal")
    said = saying.said(
        request,
        action,
        payload=data.get("payload", UNSET),
        proposal=data.get("proposal", UNSET),
        comment=saying.comment_of(data, "comment", at),
    )
    return request, said


def _from_text(open_requests: Sequence[ev.Request], text: str) -> tuple[ev.Request, Answer] | Again:
    if len(open_requests) != 1:
        return Again("Several questions are open: answer one with a data part that names its request_id.")
    request = open_requests[0]
    options = ", ".join(f"{n} {saying.label(a)}" for n, a in enumerate(request.actions, 1))
    if request.proposal_digest is not None:
        return Again("Answer with a data part that carries the proposal_digest: a text does not say what was approved.")
    for number, action in enumerate(request.actions, 1):
        if text.casefold() in (action.id, saying.label(action).casefold(), str(number)):
            if saying.needs(request, action):
                return Again(f"{saying.label(action)} needs more than a text: answer with a data part.")
            return request, saying.said(request, action.id)
    return Again(f"Answer with one of: {options}.")


def _record(request: ev.Request) -> dict[str, Any]:
    told: dict[str, Any] = {
        "request_id": request.id,
        "actions": saying.offers(request),
    }
    if request.proposal_digest is not None:
        told |= {"proposal": request.proposal, "proposal_digest": request.proposal_digest}
    optional = {
        "response_schema": request.response_schema,
        "editable": list(request.editable) if request.editable else None,
        "expires_at": request.expires_at,
    }
    return told | {name: value for name, value in optional.items() if value is not None}


def _text(text: str, version: Version) -> dict[str, Any]:
    return {"text": text} if version == "1.0" else {"kind": "text", "text": text}


def _data(data: dict[str, Any], version: Version) -> dict[str, Any]:
    return {"data": data} if version == "1.0" else {"kind": "data", "data": data}
