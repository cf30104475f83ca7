"""A job's stream as an HTTP answer, in any protocol: limits, attach, the open stream, what was repaired."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from aiohttp import web

from perdure.core.stream.adapter import StreamAdapter
from perdure.core.stream.frame import Frame
from perdure.core.stream.offset import Offset
from perdure.errors import NotFound
from perdure.ids import JobRef
from perdure.jobs.attach import attach
from perdure.jobs.follow import Follower
from perdure_gateway.auth import CALLER
from perdure_gateway.keys import CHANCE, DELETED, DESK, FANOUT, KEYS, LIMITS, METRICS, REVOCATIONS, SERVICE
from perdure_gateway.problems import Problem
from perdure_gateway.sse import Stream


def refuse_when_draining(request: web.Request) -> None:
    """Raises Problem (`draining`) once this gateway has been told to stop."""
    if request.app[SERVICE].stopping.is_set():
        raise Problem("draining", "another gateway will answer", headers={"Retry-After": "1"})


async def stream(
    request: web.Request,
    ref: JobRef,
    after: Offset | None,
    adapter: StreamAdapter,
    *,
    until: str = "terminal",
    kind: str = "sse",
    empty: bool = True,
    whole: bool = False,
    left: Callable[[], Awaitable[object]] | None = None,
) -> web.StreamResponse:
    """Follow `ref` behind `after` as `adapter` shows it; the finished answer.

    A reader who has everything of a job that has ended is told so by a 204, unless its protocol knows none (`empty`
    False). `kind` is the label of the metric, `whole` as in follow.attach; `left` is called when the reader is lost.
    Before the headers: raises NotFound, Expired (see follow.attach), Unavailable, Problem (`too-many-streams`,
    `draining`).
    """
    refuse_when_draining(request)
    app, service = request.app, request.app[SERVICE]
    metrics, began_at = app[METRICS], service.clock.monotonic()
    attached = attach(app[DESK].eventlog, app[FANOUT], service.clock, ref, after, adapter, whole=whole)
    with app[LIMITS].stream(request[CALLER].key_id), metrics.streams.labels(kind).track_inprogress():
        async with app[LIMITS].attaching():
            follower = await attached.__aenter__()
        try:
            if empty and follower.exhausted:
                return web.Response(status=204)
            metrics.attach_seconds.observe(service.clock.monotonic() - began_at)
            async with aclosing(follower.frames(until)) as frames:
                return await _open(request, ref, follower, adapter, frames, left)
        finally:
            for what, count in follower.repairs.items():
                metrics.repairs.labels(what).inc(count)
            await attached.__aexit__(None, None, None)


async def _still_good(request: web.Request, ref: JobRef) -> None:
    """Raises Unauthenticated, Unavailable, and NotFound when the job was deleted."""
    await request.app[KEYS].by_id(request[CALLER].key_id)
    if await request.app[DELETED].has(ref):
        raise NotFound("no such job")


async def _open(
    request: web.Request,
    ref: JobRef,
    follower: Follower,
    adapter: StreamAdapter,
    frames: AsyncGenerator[Frame],
    left: Callable[[], Awaitable[object]] | None,
) -> web.StreamResponse:
    app, service = request.app, request.app[SERVICE]
    opened = Stream(
        request,
        service.clock,
        app[CHANCE],
        service.stopping,
        lambda: _still_good(request, ref),
        lambda: str(follower.offset),
        app[REVOCATIONS],
        app[METRICS],
        adapter,
    )
    try:
        return await opened.send(frames)
    finally:
        if opened.lost and left is not None:
            await left()
