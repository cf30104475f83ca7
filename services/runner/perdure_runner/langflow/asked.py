"""A request of lfx as one of ours, and how ours was settled as a decision of lfx.

lfx 1.13 words one as `request_id kind prompt options allowed_decisions timeout_seconds fallback_action
action_requests`; its id is `<component>:<job>`, and `:<interrupt>` more where an agent asks. It stays known by that id.
"""

from collections.abc import Mapping
from typing import Any, Final

from msgspec import UNSET

from perdure.core import event as ev
from perdure.core.event import UserValue
from perdure.core.instant import Instant, later
from perdure.core.machine import JobState, Settled
from perdure.core.request import proposal_digest
from perdure.errors import Malformed, RequestExpired, RequestWithdrawn
from perdure.ids import Digest, JobRef, request_id

EXTERNAL: Final = "langflow"  # names of external ids
THREAD: Final = "agent_thread"
REASKED: Final = "reasked"  # the reason for which an agent's older request is withdrawn
DEFAULT_SECONDS: Final = 259_200.0  # of a request for which lfx names no time
MOST_TITLE: Final = 500
_TOOL: Final = "tool_approval"
_OPEN: Final[dict[str, UserValue]] = {"type": "object"}  # what values go with a decision is lfx's to judge


def request_of(
    raw: Mapping[str, Any], component: str, ref: JobRef, job: JobState, now: Instant, thread: Digest | None
) -> ev.Request:
    """The request that `component` makes by `raw`, as the next event of the job would ask it. Raises Malformed: any
    component can make one, in whatever words.
    """
    try:
        return _request(raw, component, ref, job, now, thread)
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise Malformed(f"{component} asks in words that are no request's: {exc!r}") from exc


def _request(
    raw: Mapping[str, Any], component: str, ref: JobRef, job: JobState, now: Instant, thread: Digest | None
) -> ev.Request:
    assert job.submitted is not None, "a job that runs was submitted"
    kind, prompt = str(raw.get("kind", "")), str(raw.get("prompt") or "")
    tools = list(raw.get("action_requests") or [])
    title = prompt.strip().partition("\n")[0][:MOST_TITLE] or component
    proposal = {"action_requests": tools} if kind == _TOOL else None
    before = [r for r in (*job.asked.values(), *(s.request for s in job.settled.values())) if r.name == component]
    again = next((r for r in reversed(before) if withdrawn_as_reasked(job, r)), None)
    seconds = raw.get("timeout_seconds")
    wait = DEFAULT_SECONDS if seconds is None else float(seconds)
    if wait != wait:
        raise ValueError("a time that is no number")
    return ev.Request(
        id=request_id(ref.job, job.seq + 1),
        job_id=ref.job,
        name=component,
        occurrence=len(before) + 1,
        revision=1,
        kind="tool_call" if kind == _TOOL else "choice",
        title=title,
        message=prompt,
        asked_at=now,
        asked_for=job.submitted.on_behalf_of or job.submitted.owner,
        actions=_actions(raw),
        proposal=proposal,
        proposal_digest=None if proposal is None else proposal_digest(title, prompt, proposal),
        response_schema=_OPEN if kind == _TOOL else None,
        expires_at=later(now, wait) if wait > 0 else None,
        on_timeout=_on_timeout(raw),
        reasks=None if again is None else again.id,
        external_ids={EXTERNAL: str(raw["request_id"]), **({} if thread is None else {THREAD: thread})},
    )


def replaced(raw: Mapping[str, Any], component: str, job: JobState) -> ev.Request | None:
    """The open request of the same component that `raw` takes the place of: an agent asks anew under a new id."""
    return next(
        (r for r in job.asked.values() if r.name == component and r.external_ids.get(EXTERNAL) != raw["request_id"]),
        None,
    )


def known(raw: Mapping[str, Any], job: JobState) -> bool:
    """Whether the log has this request already, open or settled."""
    requests = (*job.asked.values(), *(settled.request for settled in job.settled.values()))
    return any(r.external_ids.get(EXTERNAL) == raw["request_id"] for r in requests)


def withdrawn_as_reasked(job: JobState, request: ev.Request) -> bool:
    """Whether the request was withdrawn because its component asks anew."""
    settled = job.settled.get(request.id)
    return settled is not None and isinstance(settled.data, ev.WithdrawnData) and settled.data.reason == REASKED


def decisions(job: JobState) -> dict[str, dict[str, UserValue]]:
    """Every decision that the log holds, by lfx's ids.

    Raises RequestExpired for a request that nobody answered and that says fail, RequestWithdrawn for one that somebody
    withdrew.
    """
    found = {}
    for settled in sorted(job.settled.values(), key=lambda s: s.seq):
        if (name := settled.request.external_ids.get(EXTERNAL)) is not None:
            decision = _decision(settled)
            if decision is not None:
                found[name] = decision
    return found


def threads(job: JobState) -> dict[str, Digest]:
    """The blobs with the threads of agents, by component: of each what it saved when it last asked."""
    requests = sorted(
        (*job.asked.values(), *(settled.request for settled in job.settled.values())), key=lambda r: r.occurrence
    )
    return {r.name: Digest(r.external_ids[THREAD]) for r in requests if THREAD in r.external_ids}


def _decision(settled: Settled) -> dict[str, UserValue] | None:
    request = settled.request
    match settled.data:
        case ev.AnsweredData(action=action, payload=payload, comment=comment):
            values = dict(payload) if payload is not UNSET and isinstance(payload, dict) else {}
            if comment is not None:
                values.setdefault("message", comment)
            return {"action_id": action, "values": values}
        case ev.ExpiredData(outcome=outcome, cause=cause, votes=votes):
            if outcome.do != "answer":
                raise RequestExpired(
                    f"request {request.name} expired: nobody answered until {request.expires_at}",
                    request_id=request.id,
                    cause=cause,
                    votes=votes,
                )
            return {"action_id": outcome.action, "values": {}}
        case ev.WithdrawnData(reason=reason, by=by):
            if reason == REASKED:
                return None
            raise RequestWithdrawn(
                f"request {request.name} was withdrawn: {reason}", request_id=request.id, by=by, reason=reason
            )


def _actions(raw: Mapping[str, Any]) -> tuple[ev.Action, ...]:
    """Its options; what is allowed beside them, such as the branch of a time-out, comes behind."""
    made = [ev.Action(id=str(o["action_id"]), label=str(o.get("label") or o["action_id"])) for o in raw["options"]]
    known = {action.id for action in made}
    found = (*made, *(ev.Action(id=name) for name in map(str, raw.get("allowed_decisions", ())) if name not in known))
    if not found:
        raise ValueError("nothing that could be answered")
    return found


def _on_timeout(raw: Mapping[str, Any]) -> ev.OnTimeout | None:
    fallback = raw.get("fallback_action")
    return None if fallback is None else ev.OnTimeout(do="answer", action=str(fallback))
