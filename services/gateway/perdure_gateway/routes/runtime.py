"""Who runs and what waits: runners and queues, as they said and as the broker says now. A view, it decides nothing."""

import asyncio
from typing import Any, Final

from aiohttp import web

from perdure.bus.queues import depth
from perdure.core.instant import Instant, seconds_between
from perdure.db import runners
from perdure.db.runners import RunnerRow
from perdure.ids import UUID, Queue, RunnerId
from perdure_gateway import answers, bodies
from perdure_gateway.auth import CALLER
from perdure_gateway.keys import BUS, DESK, SQL
from perdure_gateway.policy import op
from perdure_gateway.problems import Problem

LOST_SECONDS: Final = 150.0  # two registrations and a half
MOST_QUEUES: Final = 64


@op("read")
async def index(request: web.Request) -> web.Response:
    """`GET /api/runners`: those that serve the caller's tenant, the youngest first."""
    bodies.query(request)
    tenant, now = request[CALLER].tenant, request.app[DESK].clock.broker_now()
    async with request.app[SQL].reading() as conn:
        found = await runners.list_runners(conn, tenant)
    return answers.respond({"data": [_runner(row, now) for row in found]})


@op("edit", answers=(202,))
async def drain(request: web.Request) -> web.Response:
    """`POST /api/runners/{runner}/drain`: 202; the runner hears it when it next registers, within a minute."""
    bodies.query(request)
    caller, now = request[CALLER], request.app[DESK].clock.broker_now()
    runner = RunnerId(request.match_info["runner"])
    async with request.app[SQL].writing() as conn:
        if all(row.runner != runner for row in await runners.list_runners(conn, caller.tenant)):
            raise Problem("not-found", "no such thing, or not yours to see")
        row = await runners.drain(conn, runner, caller.principal, now)
    return answers.respond(_runner(row, now), 202)


@op("read")
async def queues(request: web.Request) -> web.Response:
    """`GET /api/queues`: the queues of those runners, as the broker has them now."""
    bodies.query(request)
    async with request.app[SQL].reading() as conn:
        found = await runners.list_runners(conn, request[CALLER].tenant)
    pairs = sorted({(queue, priority) for row in found for queue in row.queues for priority in row.priorities})
    bus = request.app[BUS]
    depths = await asyncio.gather(*(depth(bus, Queue(queue), _PRIORITY[p]) for queue, p in pairs[:MOST_QUEUES]))
    return answers.respond({"data": [found for found in depths if found is not None]})


def _runner(row: RunnerRow, now: Instant) -> dict[str, Any]:
    lost = seconds_between(row.seen_at, now) > LOST_SECONDS
    view: dict[str, Any] = {
        "id": row.runner,
        "status": "lost" if lost else "draining" if row.drain_at is not None else "up",
        "version": row.version,
        "queues": row.queues,
        "priorities": row.priorities,
        "slots": row.slots,
        "running": row.running,
        "flows": sorted(row.flows),
        "first_seen_at": row.first_seen_at,
        "seen_at": row.seen_at,
    }
    if row.drain_at is not None:
        view |= {"drain_at": row.drain_at, "drain_by": row.drain_by}
    return view


_PRIORITY: Final[dict[str, Any]] = {word: word for word in ("low", "normal", "high")}
_RUNNER: Final = f"{{runner:{UUID.pattern}}}"
ROUTES: Final = (
    web.get("/api/runners", index, allow_head=False),
    web.post(f"/api/runners/{_RUNNER}/drain", drain),
    web.get("/api/queues", queues, allow_head=False),
)
