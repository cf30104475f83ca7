"""AG-UI 1.0 for the unmodified HttpAgent: a flow as an agent, a job as a run of a thread, a request as an interrupt."""

from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web
from msgspec import Struct

from perdure.core import blob
from perdure.core import event as ev
from perdure.core.event import Source
from perdure.core.graph.spec import input_schema
from perdure.core.machine import JobState
from perdure.core.stream.adapter import Attach
from perdure.core.stream.offset import START
from perdure.core.stream.registry import adapter
from perdure.core.surface.runinput import candidates
from perdure.db.flows import FlowVersion
from perdure.errors import Fault, Forbidden, Invalid, Malformed, NotFound
from perdure.ids import FLOW_NAME, JobRef, Queue, parse_request_id, run_job_id
from perdure.jobs.joblog import JobLog
from perdure.jobs.submit import DEADLINE_SECONDS, Submission, log_of, ring_again, submit
from perdure_gateway import answers, bodies, resuming, streaming
from perdure_gateway.accept import Fitting, fitting
from perdure_gateway.auth import CALLER
from perdure_gateway.fullness import refused
from perdure_gateway.keys import DELETED, DESK, FLOWS, FULLNESS, METRICS, THREADS
from perdure_gateway.policy import JSON, op
from perdure_gateway.problems import Problem
from perdure_gateway.runbody import RunBody, RunOptions
from perdure_gateway.threads import ThreadRef

CHAT: Final[Mapping[str, Any]] = {"type": ["string", "null"]}  # what a Langflow flow takes: its chat input


class Run(Struct, frozen=True):
    """A run that was asked for: the flow, the thread, and the log of the job that it is."""

    flow: FlowVersion
    thread: ThreadRef
    body: RunBody
    options: RunOptions


@op("execute", body=RunBody, media=("text/event-stream",), problems=JSON)
async def run(request: web.Request) -> web.StreamResponse:
    """`POST /api/agui/{flow}`: start a run of a thread, answer what it asks, or attach to it; all as one stream."""
    bodies.query(request)
    body = await bodies.read(request, RunBody)
    options, caller = body.options(), request[CALLER]
    if not caller.may("values"):
        raise Forbidden("the key's scopes do not show values, and a run has nothing else")
    streaming.refuse_when_draining(request)
    flow = await request.app[FLOWS].get(caller.tenant, request.match_info["flow"], options.version)
    thread = ThreadRef(caller.tenant, caller.principal, flow.id, body.threadId)
    asked = Run(flow, thread, body, options)
    async with request.app[THREADS].turn(thread):
        log, notices = await _job(request, asked)
    return await _follow(request, asked, log, notices)


@op("read", problems=JSON)
async def capabilities(request: web.Request) -> web.Response:
    """`GET /api/agui/{flow}/capabilities`: what an agent that is this flow can do, as AgentCapabilities."""
    bodies.query(request)
    flow = await request.app[FLOWS].get(request[CALLER].tenant, request.match_info["flow"])
    asks = {"supported": True, "approvals": True, "interrupts": True, "approveWithEdits": True}
    shown = {
        "identity": {"name": flow.name, "type": "perdure", "version": str(flow.version)},
        "transport": {"streaming": True},
        "state": {"snapshots": True, "deltas": True},
        "humanInTheLoop": asks,
        "custom": {
            "perdure": {
                "attach": "post the same threadId and runId again",
                "resume": "answer every open interrupt in one resume; what met nothing is CUSTOM perdure.not_applied",
                "events": ["perdure.output", "perdure.log", "perdure.not_applied"],
                "options": list(RunOptions.model_fields),
            }
        },
    }
    return answers.respond(shown)


async def _job(request: web.Request, asked: Run) -> tuple[JobLog, list[dict[str, str]]]:
    """The job that the run is, and what its client is told besides."""
    thread, body = asked.thread, asked.body
    ref = JobRef(thread.tenant, run_job_id(thread.tenant, thread.owner, thread.flow, thread.thread, body.runId))
    if await request.app[DELETED].has(ref):
        raise Problem("job-deleted", "the job of this run was deleted")
    log = await _load(request, ref)
    if log.state.exists:
        await ring_again(request.app[DESK], log)
        return log, []
    logs = [log for log in await _logs(request, asked) if _belongs(log.state, thread)]
    if body.resume:
        if not logs:
            raise NotFound("no run of this thread has asked that")
        log = next((log for log in logs if not log.state.terminal), logs[0])
        notices = await resuming.resume(request, log, body.resume, body.runId)
        return log, notices
    for log in logs:
        if log.ref == ref or _resumed_by(log, body.runId):  # the first: posted twice at once, this one came second
            return log, []
    live = next((log for log in logs if not log.state.terminal), None)
    if live is None:
        return await _start(request, asked, ref), []
    if not resuming.asked_of(live.state, await resuming.standing(request)):
        source = live.state.submitted.source if live.state.submitted is not None else Source()
        busy = {"job_id": live.ref.job, "run_id": source.run_id, "job_status": live.state.status}
        raise Problem("thread-busy", "attach to it with its runId, or wait for its end", facts=busy)
    return live, []


async def _start(request: web.Request, asked: Run, ref: JobRef) -> JobLog:
    """Submit the job of a new run. Raises Invalid (`invalid-input`), Problem, OutcomeUnknown, Unavailable."""
    body, options, caller, app = asked.body, asked.options, request[CALLER], request.app
    fits = await _fitting(request, asked)
    bodies.check_value(fits.input, "/messages")
    posted: dict[str, Any] = {"messages": body.messages}
    if body.state is not None:
        posted["state"] = body.state
    bodies.check_value(posted, "/messages")
    if await app[FULLNESS].full(ref.job):
        raise refused()
    submission = Submission(
        tenant=caller.tenant,
        owner=caller.principal,
        flow=fits.ref,
        inside=fits.inside,
        input=fits.input,
        fingerprint=body.fingerprint(),
        queue=Queue("default"),
        priority=options.priority,
        tags=options.tags,
        session_id=body.threadId,
        deadline_seconds=options.deadline_seconds or DEADLINE_SECONDS,
        source=Source(surface="agui", thread_id=body.threadId, run_id=body.runId),
        traceparent=bodies.traceparent(request),
        id=ref.job,
        attach=True,
        thread=posted,
    )
    began_at, metrics = app[DESK].clock.monotonic(), app[METRICS]
    accepted = await submit(app[DESK], submission)
    if not accepted.replayed:
        metrics.submitted.labels(metrics.flow(fits.ref.name), submission.source.surface).inc()
        metrics.submit_seconds.observe(app[DESK].clock.monotonic() - began_at)
    app[THREADS].note(asked.thread, ref.job)
    return await _load(request, ref)


async def _fitting(request: web.Request, asked: Run) -> Fitting:
    """The flow with the first input that it takes of those that the body can be. Raises Invalid (`invalid-input`)."""
    flows, flow = request.app[FLOWS], asked.flow
    if flow.kind == "graph":
        schema: Mapping[str, Any] | None = input_schema(await flows.graph(flow))
    else:
        schema = CHAT if flow.kind == "langflow" else flow.input_schema
    reference, version = request.match_info["flow"], asked.options.version
    if version is not None:
        reference += f"@{version}"  # as it was asked for, which is in memory while SQL is away
    wrong: Invalid | None = None
    for given in candidates(schema, asked.body.run()):
        try:
            return await fitting(flows, flow.tenant, reference, given)
        except Invalid as exc:
            wrong = wrong or exc
    missing = Fault("missing", "the flow takes a text, and no message of a user has one", pointer="/messages")
    raise wrong or Invalid([missing], "invalid-input")


async def _follow(request: web.Request, asked: Run, log: JobLog, notices: list[dict[str, str]]) -> web.StreamResponse:
    who = await resuming.standing(request)
    first = log.events[0]
    digests = blob.refs(first.data) if isinstance(first, ev.JobSubmitted) and first.data.thread_ref else ()
    eventlog = request.app[DESK].eventlog
    reader = Attach(
        job=log.ref.job,
        thread_id=asked.body.threadId,
        run_id=asked.body.runId,
        principal=who.principal,
        may_answer=lambda each: resuming.may_answer(each, who),
        blobs={digest: await eventlog.blobs.get(log.ref.tenant, digest) for digest in digests},
        notices=tuple(notices),
    )
    return await streaming.stream(request, log.ref, START, adapter("agui", reader), kind="agui", empty=False)


async def _logs(request: web.Request, asked: Run) -> list[JobLog]:
    """The logs that the run may be about: those whose interrupts it names, and the newest of its thread."""
    refs = [ref for entry in asked.body.resume or () if (ref := _asking(asked.thread, entry)) is not None]
    refs += await request.app[THREADS].recent(asked.thread)
    return [await _load(request, ref) for ref in dict.fromkeys(refs)]


def _asking(thread: ThreadRef, entry: Any) -> JobRef | None:  # Any: JSON
    """The job whose interrupt an entry names."""
    named = entry.get("interruptId") if isinstance(entry, dict) else None
    if not isinstance(named, str):
        return None
    try:
        return JobRef(thread.tenant, parse_request_id(named.partition("~")[0])[0])
    except Malformed:
        return None


def _belongs(job: JobState, thread: ThreadRef) -> bool:
    """Whether a job is a run of the thread: no other client's, no other flow's."""
    made = job.submitted
    if made is None or made.source.surface != "agui":
        return False
    return (made.owner, made.flow.id, made.source.thread_id) == (thread.owner, thread.flow, thread.thread)


def _resumed_by(log: JobLog, run_id: str) -> bool:
    """Whether the run has said something that the log has."""
    vias = (getattr(event.data, "via", None) for event in log.events)
    return any(via is not None and via.run_id == run_id for via in vias)


async def _load(request: web.Request, ref: JobRef) -> JobLog:
    return await log_of(request.app[DESK], ref)


_FLOW: Final = f"{{flow:{FLOW_NAME.pattern}}}"
ROUTES: Final = (
    web.post(f"/api/agui/{_FLOW}", run),
    web.get(f"/api/agui/{_FLOW}/capabilities", capabilities, allow_head=False),
)
