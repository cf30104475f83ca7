"""What a client sees of jobs, requests and flows. A member without a value is absent, never null, save user values."""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from perdure.core import event as ev
from perdure.core.event import Status
from perdure.core.instant import Instant
from perdure.core.machine import JobState, Settled
from perdure.core.reason import reason
from perdure.core.stream import withheld
from perdure.core.stream.withheld import withhold
from perdure.db.flows import FlowVersion
from perdure.db.inbox import RequestRow
from perdure.db.jobs import JobRow, ShortRequest
from perdure.ids import JobId, JobRef, RequestId, parse_request_id
from perdure_gateway import requestviews


class FlowShort(Struct, frozen=True, omit_defaults=True):
    """The flow of a job."""

    id: str | None = None
    name: str | None = None
    version: int | None = None
    kind: str | None = None


class JobView(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job."""

    id: JobId
    flow: FlowShort
    status: Status
    attempt: int
    failures: int
    seq: int
    links: dict[str, str]
    tags: dict[str, str]
    requests: tuple[ShortRequest, ...]
    waiting_for: tuple[ev.Waiting, ...]
    created_at: Instant | None = None
    updated_at: Instant | None = None
    owner: str | None = None
    queue: str | None = None
    priority: str | None = None
    reason: str | None = None
    session_id: str | None = None
    parent: ev.Parent | None = None
    not_before: Instant | None = None
    started_at: Instant | None = None
    ended_at: Instant | None = None
    wake_at: Instant | None = None
    deadline_at: Instant | None = None
    progress: ev.ProgressData | None = None
    outputs: dict[str, Any] | None = None  # Any: what users' flows make
    outputs_ref: dict[str, ev.BlobRef] = {}
    error: ev.Failure | None = None
    usage: ev.Usage | None = None


def job_of_state(ref: JobRef, job: JobState) -> JobView:
    """A job as its log says."""
    asked, sleep, end = job.submitted, job.suspension, job.end
    flow = (
        FlowShort() if asked is None else FlowShort(asked.flow.id, asked.flow.name, asked.flow.version, asked.flow.kind)
    )
    return JobView(
        id=ref.job,
        flow=flow,
        status=Status(job.status or Status.QUEUED),
        attempt=job.attempt,
        failures=job.failures,
        seq=job.seq,
        links=_links(ref.job),
        tags=asked.tags if asked is not None else {},
        requests=tuple(ShortRequest(r.id, r.name, r.kind, r.title, r.expires_at) for r in job.asked.values()),
        waiting_for=sleep.data.waiting if sleep is not None else (),
        created_at=job.submitted_at,
        updated_at=job.updated_at,
        owner=asked.owner if asked is not None else None,
        queue=asked.queue if asked is not None else None,
        priority=asked.priority if asked is not None else None,
        reason=reason(job),
        session_id=asked.session_id if asked is not None else None,
        parent=asked.parent if asked is not None else None,
        not_before=asked.not_before if asked is not None else None,
        started_at=job.started_at,
        ended_at=job.ended_at,
        wake_at=sleep.data.wake_at if sleep is not None else None,
        deadline_at=asked.deadline_at if asked is not None else None,
        progress=job.progress,
        outputs=end.outputs if isinstance(end, ev.CompletedData) else None,
        outputs_ref=end.outputs_ref if isinstance(end, ev.CompletedData) else {},
        error=end.error if isinstance(end, ev.FailedData) else None,
        usage=end.usage if isinstance(end, ev.CompletedData) else None,
    )


def job_of_row(row: JobRow) -> JobView:
    """A job as the projection has it."""
    return JobView(
        id=row.job_id,
        flow=FlowShort(row.flow_id, row.flow_name, row.flow_version, row.flow_kind),
        status=row.status,
        attempt=row.attempt,
        failures=row.failures,
        seq=row.seq,
        links=_links(row.job_id),
        tags=row.tags,
        requests=row.requests,
        waiting_for=row.waiting,
        created_at=row.created_at,
        updated_at=row.updated_at,
        owner=row.owner,
        queue=row.queue,
        priority=row.priority,
        reason=row.reason,
        session_id=row.session_id,
        parent=row.parent,
        not_before=row.not_before,
        started_at=row.started_at,
        ended_at=row.ended_at,
        wake_at=row.wake_at,
        deadline_at=row.deadline_at,
        progress=row.progress,
        outputs=row.outputs,
        error=row.error,
        usage=row.usage,
    )


def job_shown(job: JobView, *, values: bool) -> JobView:
    """A job for somebody who may see users' `values`, or what is left of it for somebody who may not."""
    if values:
        return job
    outputs = None if job.outputs is None else {name: withhold(value) for name, value in job.outputs.items()}
    progress = None if job.progress is None else replace(job.progress, text=None, data=None)
    error = None if job.error is None else replace(job.error, message="withheld")
    requests = tuple(replace(request, title="withheld") for request in job.requests)
    return replace(job, outputs=outputs, progress=progress, error=error, requests=requests)


def request_shown(request: dict[str, Any], *, values: bool) -> dict[str, Any]:
    """A request likewise."""
    return request if values else withheld.data(msgspec.to_builtins(request), "request")


def request_of_state(
    job: JobState, request: ev.Request, settled: Settled | None, flow: ev.FlowRef | None
) -> dict[str, Any]:
    """A request as its job's log says: the record as last stated, its status, and what settled it."""
    named = FlowShort() if flow is None else FlowShort(flow.id, flow.name, flow.version, flow.kind)
    if settled is not None:
        return _request(request, named, STATUS[type(settled.data)], _settled(settled))
    if job.terminal:
        return _request(request, named, "withdrawn", {"at": job.ended_at, "reason": "job_ended"})
    return _request(request, named, "pending", None) | requestviews.votes(job, request)


def request_of_row(row: RequestRow) -> dict[str, Any]:
    """A request as the inbox lists it."""
    settled = {"at": row.settled_at, "seq": row.settled_seq, "by": row.settled_by, "action": row.action}
    short = {name: value for name, value in settled.items() if value is not None}
    view = _request(row.record, FlowShort(row.flow_id, row.flow_name), row.status, short or None)
    return view if row.tally is None or row.status != "pending" else view | {"tally": row.tally}


def flow_view(flow: FlowVersion, *, definition: bool) -> dict[str, Any]:
    """A version of a flow; `definition` says whether with what it is made of."""
    view: dict[str, Any] = {
        "id": flow.id,
        "name": flow.name,
        "kind": flow.kind,
        "version": flow.version,
        "head": flow.head,
        "digest": flow.digest,
        "owner": flow.owner,
        "outputs": flow.outputs,
        "created_at": flow.created_at,
        "updated_at": flow.updated_at,
        "updated_by": flow.updated_by,
        "links": {"self": f"/api/flows/{flow.id}", "versions": f"/api/flows/{flow.id}/versions"},
    }
    if flow.description is not None:
        view["description"] = flow.description
    if flow.input_schema is not None:
        view["input_schema"] = flow.input_schema
    if flow.output_schema is not None:
        view["output_schema"] = flow.output_schema
    if definition:
        view["definition"] = msgspec.Raw(flow.definition.encode())
    return view


def _links(job: JobId) -> dict[str, str]:
    self = f"/api/jobs/{job}"
    return {"self": self} | {name: f"{self}/{name}" for name in ("events", "requests", "cancel")}


def _request(request: ev.Request, flow: FlowShort, status: str, settled: Mapping[str, Any] | None) -> dict[str, Any]:
    job, _ = parse_request_id(request.id)
    view: dict[str, Any] = msgspec.to_builtins(request)
    view |= {"flow": flow, "status": status, "links": _request_links(job, request.id)}
    if request.proposal_digest is not None and request.proposal_ref is None:
        view["proposal"] = request.proposal  # the record leaves a null out; here it is a value
    return view if settled is None else view | {"settled": dict(settled)}


def _request_links(job: JobId, request: RequestId) -> dict[str, str]:
    self = f"/api/inbox/{request}"
    return {"self": self, "answer": f"{self}/answer", "job": f"/api/jobs/{job}"}


def _settled(settled: Settled) -> dict[str, Any]:
    data: dict[str, Any] = msgspec.to_builtins(settled.data)
    for repeated in ("request_id", "revision"):
        data.pop(repeated, None)
    return {"at": settled.at, "seq": settled.seq} | data


STATUS = {ev.AnsweredData: "answered", ev.ExpiredData: "expired", ev.WithdrawnData: "withdrawn"}
