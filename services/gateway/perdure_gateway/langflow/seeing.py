"""A job as the API reads it: its log with all values, the shape of its flow, and which components run now."""

from collections import OrderedDict
from typing import Final

import msgspec
from aiohttp import web

from perdure.core.event import FlowRef, Status
from perdure.core.langflow.bodies import Seen
from perdure.core.langflow.refusal import job_not_found
from perdure.core.langflow.shape import FlowShape, of_graph, of_langflow
from perdure.core.stream.delta import read_delta
from perdure.errors import BrokenLog, Malformed, NotFound, Unavailable
from perdure.ids import Digest, JobRef, Tenant
from perdure.jobs.joblog import JobLog
from perdure.jobs.read import load
from perdure_gateway.auth import CALLER
from perdure_gateway.keys import DESK, FANOUT, FLOWS
from perdure_gateway.langflow.ids import canonical

MOST_SHAPES: Final = 256


class Shapes:
    """The shapes of definitions by digest; they never change."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Tenant, Digest], FlowShape] = OrderedDict()

    async def of(self, request: web.Request, tenant: Tenant, flow: FlowRef) -> FlowShape | None:
        """The shape of a job's flow; None of a Python flow, or where the definition cannot be read."""
        if flow.kind == "python":
            return None
        key = (tenant, flow.digest)
        shape = self._kept.get(key)
        if shape is None:
            try:
                shape = await self._read(request, tenant, flow)
            except (NotFound, Malformed, Unavailable, msgspec.DecodeError):
                return None
            self._kept[key] = shape
        self._kept.move_to_end(key)
        while len(self._kept) > MOST_SHAPES:
            self._kept.popitem(last=False)
        return shape

    async def _read(self, request: web.Request, tenant: Tenant, flow: FlowRef) -> FlowShape:
        if flow.kind == "graph":
            return of_graph(await request.app[FLOWS].graph_of(tenant, flow.digest))
        return of_langflow(msgspec.json.decode(await request.app[DESK].eventlog.blobs.get(tenant, flow.digest)))


SHAPES: Final = web.AppKey("langflow_shapes", Shapes)


def ref_of(request: web.Request, text: str, what: str) -> JobRef:
    """The job that `text` names, of the caller's tenant. Raises Refusal (404) for what is no UUID."""
    job = canonical(text)
    if job is None:
        raise job_not_found(text, what)
    return request[CALLER].job(job)


async def read(request: web.Request, ref: JobRef, what: str = "status") -> JobLog:
    """The job's log. Raises Refusal (404), Unavailable."""
    try:
        return await load(request.app[DESK], ref)
    except NotFound:
        raise job_not_found(ref.job, what) from None


async def seen(request: web.Request, log: JobLog) -> Seen:
    """The job behind `log`, whole. Raises Unavailable, BrokenLog."""
    try:
        events = list(await log.resolve())
    except NotFound as exc:
        raise BrokenLog(f"job {log.ref.job}: {exc}") from exc
    asked = log.state.submitted
    shape = None if asked is None else await request.app[SHAPES].of(request, log.ref.tenant, asked.flow)
    current = await _current(request, log) if log.state.status is Status.RUNNING else ()
    return Seen(ref=log.ref, job=log.state, log=events, shape=shape, current=current)


async def _current(request: web.Request, log: JobLog) -> tuple[str, ...]:
    """The components whose start was heard in this attempt, in order. What is lost is not shown."""
    try:
        kept = await request.app[FANOUT].kept(log.ref)
    except Unavailable:
        return ()
    found: dict[str, None] = {}
    for body in kept:
        said = read_delta(body, log.ref.job)
        if said is not None and said.delta.type == "delta.step" and said.delta.attempt == log.state.attempt:
            found[said.delta.step] = None
    return tuple(found)
