"""A request as Langflow's clients know it, and their decision as an answer to it.

One object serves `human_request`, `pending_requests`, the row of `/pending` and the data of `human_input_required`. A
request that came from Langflow's engine has its id there in `external_ids.langflow`; of others the id is ours.
"""

from collections.abc import Iterable
from typing import Any, Final

from msgspec import UNSET, Struct

from perdure.core import event as ev
from perdure.core.event import AnyEvent, Status, UserValue
from perdure.core.fit import Answer
from perdure.core.instant import Instant, seconds_between
from perdure.core.langflow.words import instant_shown
from perdure.core.machine import JobState
from perdure.core.surface import saying
from perdure.ids import JobId

EXTERNAL: Final = "langflow"
MAX_COMMENT: Final = 4096  # characters


class About(Struct, frozen=True):
    """The job of a request, as far as its row says something of it. `session`: the one that was named."""

    job: JobId
    flow: str
    session: str | None
    created_at: Instant | None


def row(request: ev.Request, about: About) -> dict[str, UserValue]:
    """The request with its job: a row of `/pending`."""
    return {
        "job_id": about.job,
        "flow_id": about.flow,
        "session_id": about.session,
        "created_at": instant_shown(about.created_at),
        **asked(request),
    }


def asked(request: ev.Request) -> dict[str, UserValue]:
    """The request alone: the data of `human_input_required`."""
    fallback = fallback_of(request)
    options = [action for action in request.actions if not (own(request) and action.id == fallback)]
    allowed = dict.fromkeys(action.id for action in options)
    if fallback is not None:
        allowed[fallback] = None
    expires_at = request.expires_at
    return {
        "request_id": shown_id(request),
        "kind": "tool_approval" if request.kind == "tool_call" else "node_input",
        "prompt": (request.message or "") if own(request) else saying.prompt(request),
        "options": [{"action_id": action.id, "label": saying.label(action)} for action in options],
        "allowed_decisions": list(allowed),
        "timeout_seconds": 0 if expires_at is None else round(seconds_between(request.asked_at, expires_at)),
        "fallback_action": fallback,
        "paused_at": instant_shown(request.asked_at),
        "expires_at": instant_shown(expires_at),
        "action_requests": _action_requests(request),
        "component_id": request.name,
        "schema": request.response_schema,
    }


def own(request: ev.Request) -> bool:
    """Whether Langflow's engine asked it."""
    return EXTERNAL in request.external_ids


def shown_id(request: ev.Request) -> str:
    """The id by which the API's clients know it."""
    return request.external_ids.get(EXTERNAL, request.id)


def fallback_of(request: ev.Request) -> str | None:
    """The action that is taken when nobody answers in time, None where the job fails then."""
    return None if request.on_timeout is None else request.on_timeout.action


def found(log: Iterable[AnyEvent], named: str) -> ev.Request | None:
    """The request of this job that `named`, either id, means, as last stated; None where none ever had it."""
    asked_last = None
    for event in log:
        if isinstance(event, ev.InputRequested) and named in (event.data.request.id, shown_id(event.data.request)):
            asked_last = event.data.request
    return asked_last


def decided(request: ev.Request, decision: UserValue) -> Answer:
    """What a decision `{action_id, values, comment}` says to `request`; whether that fits is judged with all answers.

    To a tool call: `edit` gives `args`, `reject` a `message`, `respond` a `message` or `response`. Of a request of
    Langflow's engine with a form the values are taken as they are, without one they are passed over, as lfx does.
    """
    said = decision if isinstance(decision, dict) else {}
    action = said.get("action_id")
    action = action if isinstance(action, str) else ""
    values = said.get("values")
    values = values if isinstance(values, dict) else {}
    comment = said.get("comment")
    comment = comment[:MAX_COMMENT] if isinstance(comment, str) and comment else None
    if own(request):
        payload = values if request.response_schema is not None else UNSET
        return saying.said(request, action, payload=payload, comment=comment)
    tool = saying.tool_call(request)
    proposal: Any = UNSET
    rest = dict(values)
    if tool is not None:
        if "args" in rest:
            proposal = {**request.proposal, "arguments": rest.pop("args")}
        message = rest.pop("message", None)
        if action in saying.REFUSALS and comment is None and isinstance(message, str) and message:
            comment = message[:MAX_COMMENT]
        elif isinstance(message, str) and "response" not in rest:
            rest["response"] = message
    payload = rest if rest or request.response_schema is not None else UNSET
    return saying.said(request, action, payload=payload, proposal=proposal, comment=comment)


def remaining(job: JobState) -> int:
    """How many requests must be settled before the job goes on; 0 where it goes on with the one just answered."""
    if job.submitted is None or job.terminal:
        return 0
    if job.status is Status.SUSPENDED and job.suspension is not None:
        if job.suspension.data.resume != "all":
            return 0
        return sum(w.kind == "input" and w.request_id in job.asked for w in job.suspension.data.waiting)
    return len(job.asked) if job.submitted.flow.kind == "langflow" else 0


def _action_requests(request: ev.Request) -> list[UserValue]:
    proposal = request.proposal
    if request.kind != "tool_call" or not isinstance(proposal, dict):
        return []
    listed = proposal.get("action_requests")
    if isinstance(listed, list):
        return listed
    tool = saying.tool_call(request)
    return [] if tool is None else [{"name": tool[0], "args": tool[1], "description": request.message or ""}]
