"""What the API answers about a job: the job when it was submitted, its status in each state, the answer of a sync run.

Members that 1.13 has come first and in its order; what it does not have follows. Nothing without a value is left out.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct, to_builtins

from perdure.core import event as ev
from perdure.core.event import AnyEvent, Status, UserValue
from perdure.core.langflow import outputs, requests
from perdure.core.langflow.outputs import Shown
from perdure.core.langflow.refusal import Refusal, coded
from perdure.core.langflow.shape import FlowShape
from perdure.core.langflow.words import code_of, instant_shown, status_shown
from perdure.core.machine import JobState
from perdure.ids import JobRef

PASS: Final = "langflow.pass"
WARNING: Final = "langflow.warning"
Body = dict[str, UserValue]


class Seen(Struct, frozen=True, kw_only=True):
    """A job as it is read: its log with all values, what that folds to, and what is known of its flow.

    `current` are the components that run now, as far as that is heard.
    """

    ref: JobRef
    job: JobState
    log: Sequence[AnyEvent]
    shape: FlowShape | None = None
    current: tuple[str, ...] = ()

    @property
    def flow(self) -> str | None:
        """The id of its flow."""
        return None if self.job.submitted is None else self.job.submitted.flow.id

    @property
    def session(self) -> str | None:
        """The effective session: the named one, else the flow's id."""
        asked = self.job.submitted
        return None if asked is None else asked.session_id or asked.flow.id

    @property
    def outputs(self) -> dict[str, Shown]:
        """The outputs so far."""
        return outputs.produced(self.log, self.shape)


def submitted(seen: Seen) -> Body:
    """The answer to a submit in the background, and of a job that has not ended."""
    return {
        "job_id": seen.ref.job,
        "flow_id": seen.flow,
        "object": "job",
        "created_timestamp": instant_shown(seen.job.submitted_at),
        "status": status_shown(seen.job.status),
        "links": links(seen.ref.job),
        "errors": [],
        "globals": {},
    }


def status(seen: Seen) -> Body:
    """The status of a job, in each state, as 200."""
    job = seen.job
    if job.status in (Status.COMPLETED, Status.FAILED, Status.TIMED_OUT):
        return response(seen) | _times(seen)
    body = submitted(seen) | _times(seen)
    if job.status is Status.SUSPENDED:
        body |= _asking(seen) | {"outputs": seen.outputs}
    elif job.status is Status.RETRYING:
        last = _last_failure(seen.log)
        body["errors"] = [] if last is None else [_error(seen, last.error, last.failures)]
        body["retry_at"] = instant_shown(_retry_at(job))
    elif isinstance(job.end, ev.CancelledData):
        body["cancel"] = {
            "by": job.end.by,
            "at": instant_shown(job.ended_at),
            "reason": job.end.reason,
            "superseded_by": job.end.superseded_by,
        }
    return body


def response(
    seen: Seen,
    *,
    inputs: Mapping[str, UserValue] | None = None,
    globals_: Mapping[str, str] | None = None,
    warnings: Iterable[str] = (),
) -> Body:
    """The answer of a sync run, and the status of a job that has ended. `inputs` and `globals_` are echoed."""
    job = seen.job
    shown = seen.outputs
    if seen.shape is not None and job.submitted is not None and job.submitted.source.mode == "sync":
        shown = outputs.with_skipped(shown, seen.shape) if job.status is Status.COMPLETED else shown
    chosen = () if job.submitted is None else job.submitted.source.output_ids
    errors = _errors(seen)
    body: Body = {
        "flow_id": seen.flow,
        "session_id": seen.session,
        "job_id": seen.ref.job,
        "object": "response",
        "created_timestamp": instant_shown(job.submitted_at),
        "status": status_shown(job.status),
        "output": to_builtins(outputs.answer(Status(job.status or Status.QUEUED), shown, chosen)),
        "errors": errors,
        "warnings": [*warnings, *warned(seen.log)],
        "inputs": dict(inputs or {}),
        "globals": dict(globals_ or {}),
        "outputs": shown,
        "human_request": None,
        "has_errors": bool(errors),
    }
    return body | _asking(seen) if job.status is Status.SUSPENDED else body


def legacy(seen: Seen) -> Refusal | None:
    """How 1.13 answers for a job that ended badly: 500 and 408; None where it answers as we do."""
    job, end = seen.ref.job, seen.job.end
    match end:
        case ev.FailedData(error=error):
            text = f"Job {job} has failed execution."
            agui = seen.job.submitted is not None and seen.job.submitted.source.protocol == "agui"
            detail: Body = (
                {"type": "RUN_ERROR", "message": error.message}
                if agui
                else {"text": error.message, "category": "error", "code": code_of(error), "component_id": error.step}
            )
            return coded(500, "Job failed", "JOB_FAILED", text, job_id=job, error_detail=detail)
        case ev.TimedOutData():
            return coded(
                408, "Execution timeout", "EXECUTION_TIMEOUT", f"Job {job} exceeded its time limit.", job_id=job
            )
        case _:
            return None


def not_loaded(seen: Seen) -> Refusal | None:
    """The refusal of a sync run whose flow could not even be loaded; None for every other one."""
    end = seen.job.end
    if not isinstance(end, ev.FailedData) or end.error.code != "INVALID_FLOW_DATA":
        return None
    facts = {"component_id": end.error.step} if end.error.step is not None else {}
    return coded(
        400,
        "Workflow validation error",
        "INVALID_FLOW_DATA",
        end.error.message,
        flow_id=seen.flow,
        job_id=seen.ref.job,
        **facts,
        **end.error.details,
    )


def sync_timeout(seen: Seen, seconds: float) -> Refusal:
    """A sync run that has reached its limit."""
    return coded(
        408,
        "Execution timeout",
        "EXECUTION_TIMEOUT",
        f"Workflow execution exceeded {seconds:g} seconds.",
        job_id=seen.ref.job,
        flow_id=seen.flow,
        timeout_seconds=seconds,
    )


def links(job: str) -> dict[str, str]:
    """Where a client goes on with a job."""
    whole = f"/api/v2/workflows/{job}"
    return {
        "status": f"/api/v2/workflows?job_id={job}",
        "events": f"{whole}/events",
        "stop": "/api/v2/workflows/stop",
        "resume": f"{whole}/resume",
    }


def about(seen: Seen) -> requests.About:
    """What the rows of its requests say of the job."""
    named = None if seen.job.submitted is None else seen.job.submitted.session_id
    return requests.About(seen.ref.job, seen.flow or "", named, seen.job.submitted_at)


def stopped(job: str, before: JobState, after: JobState) -> Body:
    """The answer to a stop; `before` is the job as the stop found it."""
    if before.status is Status.CANCELLED:
        text = f"Job {job} is already cancelled."
    elif after.status is not Status.CANCELLED:
        text = f"Job {job} already finished ({status_shown(after.status)})."
    else:
        text = f"Job {job} cancelled successfully."
    return {"job_id": job, "message": text, "status": status_shown(after.status)}


def warned(log: Iterable[AnyEvent]) -> list[str]:
    """What the run warned of."""
    found = []
    for event in log:
        if isinstance(event, ev.Progress) and event.data.name == WARNING and isinstance(event.data.data, dict):
            found.append(str(event.data.data.get("message", "")))
    return found


def _asking(seen: Seen) -> Body:
    rows = [requests.row(request, about(seen)) for request in seen.job.asked.values()]
    return {"human_request": rows[0] if rows else None, "pending_requests": rows}


def _times(seen: Seen) -> Body:
    job, asked = seen.job, seen.job.submitted
    return {
        "created_at": instant_shown(job.submitted_at),
        "started_at": instant_shown(job.started_at),
        "updated_at": instant_shown(job.updated_at),
        "ended_at": instant_shown(job.ended_at),
        "mode": None if asked is None else asked.source.mode,
        "session_id": seen.session,
        "attempt": job.attempt,
        "progress": progress(seen),
    }


def progress(seen: Seen) -> dict[str, Any]:
    """How many components have ended, of how many, and which run. A job that is complete has them all."""
    ended: dict[str, None] = {}
    total = 0 if seen.shape is None else len(seen.shape.components)
    kind = seen.job.submitted.flow.kind if seen.job.submitted is not None else "graph"
    for event in seen.log:
        match event:
            case ev.StepCompleted(data=data) | ev.StepSkipped(data=data) if _top(data, kind):
                ended[data.step] = None
            case ev.Progress(data=data) if data.name == PASS and data.total is not None:
                total = int(data.total)
            case _:
                pass
    if seen.job.status is Status.COMPLETED:
        total = max(total, len(ended)) if kind != "python" else len(ended)
        return {"completed": total, "total": total, "current": []}
    running = [name for name in seen.current if name not in ended] if seen.job.status is Status.RUNNING else []
    return {"completed": len(ended), "total": max(total, len(ended)), "current": running}


def _top(step: ev.StepData, kind: str) -> bool:
    """Whether a step is a component of the flow itself: in graphs each node has a branch of its own name."""
    return step.path == (f"/{step.step}" if kind == "graph" else "")


def _errors(seen: Seen) -> list[Body]:
    match seen.job.end:
        case ev.FailedData(error=error, failures=failures):
            return [_error(seen, error, _failures(seen.log, error) or failures)]
        case ev.TimedOutData():
            timeout = ev.Failure(code="EXECUTION_TIMEOUT", message="The job's time was over before it ended.")
            return [_error(seen, timeout, 0)]
        case _:
            return []


def _error(seen: Seen, failure: ev.Failure, failures: int) -> Body:
    details: Body = {"flow_id": seen.flow, "error_type": failure.details.get("error_type", failure.code)}
    if failure.step is not None:
        details["component_id"] = failure.step
    if failures:
        details["attempts"] = failures
    details |= {name: value for name, value in failure.details.items() if name not in details}
    return {"error": failure.message, "code": code_of(failure), "details": details}


def _failures(log: Iterable[AnyEvent], error: ev.Failure) -> int:
    return max((e.data.failures for e in log if isinstance(e, ev.StepFailed) and e.data.step == error.step), default=0)


def _last_failure(log: Sequence[AnyEvent]) -> ev.StepFailedData | None:
    return next((event.data for event in reversed(log) if isinstance(event, ev.StepFailed)), None)


def _retry_at(job: JobState) -> Any:
    waits = job.suspension.data.waiting if job.suspension is not None else ()
    return min((wait.until for wait in waits if wait.until is not None), default=None)
