"""How the API refuses: by an object with a code, by a list of faults, by one sentence. `code` is the contract."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from perdure.errors import PerdureError

RETRY: Final = {"Retry-After": "2"}


class Refusal(PerdureError):
    """An answer `{"detail": …}` that is none of a success. The refused value is never part of it."""

    def __init__(self, status: int, detail: Any, headers: Mapping[str, str] | None = None) -> None:  # Any: JSON
        super().__init__(detail["code"] if isinstance(detail, dict) and "code" in detail else "refused")
        self.status, self.detail, self.headers = status, detail, dict(headers or {})


def coded(
    status: int,
    error: str,
    code: str,
    message: str | None,
    headers: Mapping[str, str] | None = None,
    /,
    **facts: Any,  # Any: JSON
) -> Refusal:
    """`{error, code, message, …facts}`; the message is left out where it is None."""
    said = {"error": error, "code": code} | ({} if message is None else {"message": message})
    return Refusal(status, said | facts, headers)


def listed(*faults: Mapping[str, Any]) -> Refusal:
    """The list form: what is wrong with a body or a parameter, each fault at its place."""
    return Refusal(422, list(faults))


def fault(kind: str, place: Iterable[str | int], message: str, ctx: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """One item of the list form."""
    item: dict[str, Any] = {"type": kind, "loc": list(place), "msg": message}
    return item if ctx is None else item | {"ctx": dict(ctx)}


def sentence(status: int, text: str, headers: Mapping[str, str] | None = None) -> Refusal:
    """The plain form."""
    return Refusal(status, text, headers)


def job_not_found(job: str, what: str = "status") -> Refusal:
    """No such job, or not the caller's to see: the words differ by route, as in 1.13."""
    match what:
        case "events":
            return coded(
                404, "Background run not found", "JOB_NOT_FOUND", f"No background run for job {job}.", job_id=job
            )
        case "stop":
            return coded(404, "Job not found", "JOB_NOT_FOUND", f"Job {job} not found", job_id=job)
        case "resume":
            return coded(404, "Workflow job not found", "JOB_NOT_FOUND", None, job_id=job)
        case _:
            return coded(404, "Workflow job not found", "JOB_NOT_FOUND", f"Workflow job {job} not found", job_id=job)


def flow_not_found(flow: str) -> Refusal:
    """No such flow, or not the caller's to see."""
    text = f"Flow '{flow}' does not exist. Verify the flow_id and try again."
    return coded(404, "Flow not found", "FLOW_NOT_FOUND", text, flow_id=flow)


MOST_ECHOED: Final = 64


def unknown_protocol(name: str) -> Refusal:
    """A stream protocol that there is not."""
    text = f"Unknown stream_protocol {name[:MOST_ECHOED]!r}."  # as 1.13 says it, but not without end
    return coded(422, "Unknown stream_protocol", "UNKNOWN_STREAM_PROTOCOL", text, available=["agui", "langflow"])


def sync_fields(fields: Iterable[str]) -> Refusal:
    """Members that `sync` does not take."""
    names = list(fields)
    text = (
        f"mode='sync' does not support request fields: {', '.join(names)}. Use mode='stream' or mode='background' for "
        "live-canvas overrides, files, or partial-run boundaries."
    )
    return coded(422, "Unsupported sync request fields", "SYNC_MODE_UNSUPPORTED_FIELDS", text, fields=names)


def mode_fields(mode: str, fields: Iterable[str], why: str) -> Refusal:
    """Members that a mode does not take."""
    names = list(fields)
    text = f"mode='{mode}' does not support request fields: {', '.join(names)}. {why}"
    return coded(422, "Unsupported request fields for mode", "MODE_UNSUPPORTED_FIELDS", text, fields=names)


def unknown_outputs(named: Iterable[str], available: Iterable[str]) -> Refusal:
    """`output_ids` that are no terminal components."""
    text = f"output_ids not produced by this flow: {sorted(named)}."
    return coded(422, "Unknown output_ids", "UNKNOWN_OUTPUT_IDS", text, available=sorted(available))


def refused_tweaks(fields: Iterable[str]) -> Refusal:
    """Tweaks of protected fields."""
    text = "The field is protected and keeps the value set by the flow author."
    return coded(422, "Refused tweaks", "TWEAKS_REFUSED", text, fields=sorted(fields))


def invalid_flow(flow: str, why: str, **facts: str) -> Refusal:
    """What JSON alone shows of a flow that cannot run."""
    return coded(400, "Workflow validation error", "INVALID_FLOW_DATA", why, flow_id=flow, **facts)


def not_resumable(job: str, reason: str, **facts: str | None) -> Refusal:
    """There is no such open request any more. `reason`: stale_request, already_answered, withdrawn, finished."""
    text = "Job is not suspended, already resumed, or the request_id is stale."
    return coded(409, "Job is not resumable", "NOT_RESUMABLE", text, job_id=job, reason=reason, **facts)


def invalid_decision(job: str, faults: Iterable[Mapping[str, str]] = ()) -> Refusal:
    """The decision is none that the request takes; `errors` say what is wrong with its values."""
    text = "decision.action_id is not one of the pending request's allowed_decisions."
    wrong = list(faults)
    if wrong and any(fault["field"] != "/action" for fault in wrong):
        text = "The decision does not fit the pending request: see errors."
    more = {"errors": wrong} if wrong else {}
    return coded(422, "Invalid decision", "INVALID_DECISION", text, job_id=job, **more)
