"""What an AG-UI client sees of the job beside its messages: the key `perdure` of the state, and the activity."""

from typing import Any

import msgspec

from perdure.core import event as ev
from perdure.core.machine import JobState
from perdure.core.reason import reason
from perdure.core.stream.agui.words import Said, event

ACTIVITY = "perdure.job"


def state_of(job: JobState, job_id: str, skipped: list[str]) -> dict[str, Any]:
    """The state's key `perdure`."""
    shown: dict[str, Any] = {"job_id": job_id, "status": job.status, "attempt": job.attempt, "skipped": list(skipped)}
    if job.submitted is not None:
        shown["flow"] = {"name": job.submitted.flow.name, "version": job.submitted.flow.version}
    if job.progress is not None:
        shown["progress"] = _plain(job.progress)
    return shown


def patch(before: dict[str, Any], after: dict[str, Any]) -> list[Said]:
    """What turns one into the other, as JSON Patch below /perdure; no member ever leaves."""
    found: list[Said] = []
    for name, value in after.items():
        if name not in before:
            found.append({"op": "add", "path": f"/perdure/{name}", "value": value})
        elif before[name] != value:
            found.append({"op": "replace", "path": f"/perdure/{name}", "value": value})
    return found


def activity_of(job: JobState) -> dict[str, Any]:
    """Where the job is and what it waits for."""
    shown: dict[str, Any] = {"status": job.status, "attempt": job.attempt, "failures": job.failures}
    if (why := reason(job)) is not None:
        shown["reason"] = why
    if job.submitted is not None:
        shown["queue"] = job.submitted.queue
        if job.status == "queued" and job.submitted.not_before is not None:
            shown["not_before"] = job.submitted.not_before
    if job.suspension is not None:
        asleep = job.suspension.data
        shown["waiting_for"] = [_plain(each) for each in asleep.waiting]
        if asleep.wake_at is not None:
            shown["wake_at"] = asleep.wake_at
    if job.cancel is not None and not job.terminal:
        shown["cancelling"] = True
    return shown


def activity(job_id: str, content: dict[str, Any]) -> Said:
    """It, as an event that replaces the one before."""
    members = {"messageId": f"{job_id}:activity", "activityType": ACTIVITY, "content": content, "replace": True}
    return event("ACTIVITY_SNAPSHOT", **members)


def usage_of(usage: ev.Usage | None) -> list[dict[str, Any]] | None:
    """Tokens, as AG-UI counts them."""
    if usage is None:
        return None
    counted: dict[str, Any] = {"inputTokens": usage.input_tokens, "outputTokens": usage.output_tokens}
    return [counted if usage.model is None else {"model": usage.model, **counted}]


def _plain(record: ev.Part) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(record)
    return plain
