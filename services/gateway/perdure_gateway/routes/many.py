"""The events of several jobs over one connection, for pages: a browser opens six to a gateway."""

from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from typing import Final

from aiohttp import web

from perdure.core.stream.adapter import Attach
from perdure.core.stream.offset import START, Offset, parse
from perdure.core.stream.registry import adapter
from perdure.errors import Expired, Malformed
from perdure.ids import UUID, JobRef
from perdure.jobs.attach import attach
from perdure.jobs.follow import Follower
from perdure_gateway import bodies
from perdure_gateway.auth import CALLER
from perdure_gateway.keys import CHANCE, DESK, FANOUT, KEYS, LIMITS, METRICS, REVOCATIONS, SERVICE
from perdure_gateway.policy import op
from perdure_gateway.problems import Problem
from perdure_gateway.sse import Stream
from perdure_gateway.streaming import refuse_when_draining
from perdure_gateway.together import Chorus, together

MOST_JOBS: Final = 20
FILTERS: Final = ("types", "values", "deltas")


@op("read", query=("job", *FILTERS), answers=(200, 204), media=("text/event-stream",))
async def many(request: web.Request) -> web.StreamResponse:
    """`GET /api/events?job=…@…`: the streams of up to 20 jobs as one; `offset` in the data says where each is."""
    query, caller = bodies.query(request, "job", *FILTERS, repeated="job"), request[CALLER]
    wanted = [(caller.job(job), after) for job, after in _jobs(request.query.getall("job", []))]
    options: dict[str, str] = {name: query[name] for name in FILTERS if name in query}
    refuse_when_draining(request)
    app = request.app
    with app[LIMITS].stream(caller.key_id), app[METRICS].streams.labels("many").track_inprogress():
        async with AsyncExitStack() as stack:
            followers = []
            for ref, after in wanted:
                shown = adapter("native", Attach(job=ref.job, values=caller.may("values"), options=options))
                attached = attach(app[DESK].eventlog, app[FANOUT], app[SERVICE].clock, ref, after, shown)
                async with app[LIMITS].attaching():
                    followers.append((ref, await _attached(stack, ref, attached)))
            if all(follower.exhausted for _, follower in followers):
                return web.Response(status=204)
            sources = [
                (ref.job, await stack.enter_async_context(aclosing(follower.frames())))
                for ref, follower in followers
                if not follower.exhausted
            ]
            opened = Stream(
                request,
                app[SERVICE].clock,
                app[CHANCE],
                app[SERVICE].stopping,
                lambda: app[KEYS].by_id(caller.key_id),
                str,
                app[REVOCATIONS],
                app[METRICS],
                Chorus(),
            )
            return await opened.send(await stack.enter_async_context(aclosing(together(sources))))


async def _attached(stack: AsyncExitStack, ref: JobRef, attached: AbstractAsyncContextManager[Follower]) -> Follower:
    """Raises as follow.attach; a problem of one job names it."""
    try:
        return await stack.enter_async_context(attached)
    except Expired as exc:
        raise Expired(exc.code, str(exc), exc.facts | {"job_id": ref.job}) from None


def _jobs(texts: list[str]) -> list[tuple[str, Offset | None]]:
    """Jobs and where their reader is in each (None: `now`). Raises Problem."""
    found: dict[str, Offset | None] = {}
    for text in texts:
        job, _, at = text.partition("@")
        if UUID.fullmatch(job) is None or job in found:
            raise bodies.bad_parameter("job", "the id of a job, each once, with @ and an offset")
        try:
            found[job] = None if at == "now" else parse(at) if at else START
        except Malformed:
            raise Problem("invalid-offset", "an offset is 0, now, or what a frame's `offset` said") from None
    if not 1 <= len(found) <= MOST_JOBS:
        raise bodies.bad_parameter("job", f"from 1 to {MOST_JOBS} jobs")
    return list(found.items())


ROUTES: Final = (web.get("/api/events", many, allow_head=False),)
