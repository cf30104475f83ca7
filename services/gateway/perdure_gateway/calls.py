"""What runners ask: `call.register submit messages`. What a job may do stands in its log, never in a message."""

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import web
from msgspec import Struct

from perdure import probe
from perdure.bus import callbodies as said
from perdure.bus.call import Handler
from perdure.bus.callbodies import (
    FORMAT,
    MESSAGES,
    REGISTER,
    SUBMIT,
    Messages,
    MessagesOf,
    Register,
    Registered,
    Submit,
    Submitted,
)
from perdure.core import codec
from perdure.core import event as ev
from perdure.core.instant import Instant, seconds_between
from perdure.errors import Conflict, Malformed, UnsupportedVersion
from perdure.ids import JobId, JobRef, Queue, derived, is_token, is_uuid
from perdure.jobs.desk import Desk
from perdure.jobs.parent import tell_parent
from perdure.jobs.read import load
from perdure.jobs.submit import DEADLINE_SECONDS, Submission, child_before, submit
from perdure_gateway import bodies, strict
from perdure_gateway.accept import fitting
from perdure_gateway.flowheads import FlowHeads
from perdure_gateway.keys import DESK, FLOWS, SQL
from perdure_gateway.registry import Registry
from perdure_gateway.sessions import Sessions
from perdure_gateway.strict import InvalidJson

LEAST_SECONDS: Final = 1.0  # of a child whose parent's deadline is about to pass
MAX_KEY_CHARS: Final = 4_096  # of a path or the name of a call

T = TypeVar("T", bound=Struct)


def handlers(app: web.Application) -> Mapping[str, Handler]:
    """The calls that the application answers, by verb."""
    registry = Registry(app[SQL], app[FLOWS], app[DESK].clock)
    children = Children(app[DESK], app[FLOWS])
    sessions = Sessions(app[DESK], app[SQL])

    async def register(body: bytes) -> Registered:
        return await registry.register(_read(body, Register))

    async def child(body: bytes) -> Submitted:
        return await children.submit(_read(body, Submit))

    async def messages(body: bytes) -> Messages:
        return await sessions.messages(_read(body, MessagesOf))

    return {REGISTER: register, SUBMIT: child, MESSAGES: messages}


class Children:
    """Submits the jobs that jobs start."""

    def __init__(self, desk: Desk, flows: FlowHeads) -> None:
        self._desk = desk
        self._flows = flows

    async def submit(self, call: Submit) -> Submitted:
        """Submit the child that `call` names, or find the one that it made before.

        Owner, session and what the call leaves out are the parent's, as the parent's log says. Raises NotFound (no such
        parent or flow), Conflict (`job-ended`), Invalid, Malformed, TooLarge, Unavailable, OutcomeUnknown.
        """
        parent = _parent(call.parent)
        ref = JobRef(call.parent.tenant, call.parent.job)
        job = (await load(self._desk, ref)).state
        if job.terminal or job.submitted is None:
            raise Conflict("job-ended", "the job that wants a child has ended")
        before = await child_before(self._desk, ref.tenant, parent)
        if before is None:  # the owner may execute every flow of its tenant
            before = await submit(self._desk, await self._submission(call, ref, parent, job.submitted))
            probe.hit("call.after_submit")
        if before.state.terminal:
            await tell_parent(self._desk, before.ref, before.state, parent)
        return Submitted(job_id=before.ref.job)

    async def _submission(self, call: Submit, ref: JobRef, parent: ev.Parent, by: ev.SubmittedData) -> Submission:
        body = _body(call)
        fits = await fitting(self._flows, ref.tenant, body.flow, body.input)
        codec.encode_value(fits.input)
        path = (parent.path, parent.step, str(parent.occurrence))
        own, root = derived("child", ref.job, *path), derived("child", by.effect_root or ref.job, *path)
        return Submission(
            tenant=ref.tenant,
            owner=by.owner,
            flow=fits.ref,
            inside=fits.inside,
            input=fits.input,
            fingerprint=body.fingerprint(),
            queue=by.queue if call.queue is None else Queue(body.queue),
            priority=by.priority if call.priority is None else body.priority,
            tags=body.tags,
            session_id=by.session_id,
            deadline_seconds=body.deadline_seconds or self._deadline(parent, by.deadline_at),
            max_failures=body.max_failures,
            source=ev.Source(surface="child"),
            traceparent=by.traceparent,
            parent=parent,
            effect_root=None if root == own else JobId(root),
        )

    def _deadline(self, parent: ev.Parent, parents: Instant) -> float:
        """A child that its parent waits for has no longer than the parent."""
        if parent.detached:
            return DEADLINE_SECONDS
        return max(LEAST_SECONDS, seconds_between(self._desk.clock.broker_now(), parents))


def _read(body: bytes, shape: type[T]) -> T:
    """A call's body. Raises Malformed, UnsupportedVersion."""
    try:
        value: Any = strict.loads(body)
        head = value.get("v") if isinstance(value, dict) else None
        if isinstance(head, int) and head != FORMAT:
            raise UnsupportedVersion(f"a call of format {head}")
        return msgspec.json.decode(body, type=shape)
    except (InvalidJson, msgspec.MsgspecError) as exc:
        raise Malformed("not a call that this gateway can read") from exc


def _parent(call: said.ParentCall) -> ev.Parent:
    if not is_token(call.tenant) or not is_uuid(call.job) or call.occurrence < 1:
        raise Malformed("no call of a job")
    if len(call.path) > MAX_KEY_CHARS or len(call.step) > MAX_KEY_CHARS:
        raise Malformed("the key of a call is too long")
    return ev.Parent(
        job_id=call.job, step=call.step, occurrence=call.occurrence, path=call.path, detached=call.detached
    )


def _body(call: Submit) -> bodies.SubmitBody:
    """The call as the body of `POST /api/jobs` that it is. Raises Invalid, its pointers into that."""
    members: dict[str, Any] = {"flow": call.flow, "input": strict.loads(bytes(call.input)), "tags": call.tags}
    for name in ("queue", "priority", "deadline_seconds", "max_failures"):
        if (value := getattr(call, name)) is not None:
            members[name] = value
    return bodies.parse(members, bodies.SubmitBody)
