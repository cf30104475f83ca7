"""The gateway: adapters, routes, and what every request passes through before and after its handler."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import structlog
import uuid_utils
from aiohttp import web

from perdure.bus import blob
from perdure.bus.call import answering
from perdure.bus.connection import Bus
from perdure.bus.doorbell import Doorbells
from perdure.bus.eventlog import EventLog
from perdure.bus.fanout import Fanout
from perdure.bus.topology import Topology, compare
from perdure.clock import SystemChance
from perdure.config import GatewaySettings
from perdure.db.engine import Database, open_database
from perdure.errors import Fault, Unavailable
from perdure.ids import JobId, JobRef
from perdure.jobs.desk import Desk
from perdure.service import Service
from perdure_gateway import calls, keys, policy
from perdure_gateway.auth import CALLER, Keys
from perdure_gateway.cursors import Cursors
from perdure_gateway.deleted import DeletedJobs, ShownLogs
from perdure_gateway.flowheads import FlowHeads
from perdure_gateway.limits import Limits
from perdure_gateway.policy import Handler
from perdure_gateway.problems import Problem, problem_of, respond
from perdure_gateway.revoke import Revocations
from perdure_gateway.routes import events, flows, health, inbox, job_acts, jobs, runtime
from perdure_gateway.routes import keys as key_routes
from perdure_gateway.sql import Sql
from perdure_gateway.strict import MAX_BYTES

API: Final = "1"
WAIT_SECONDS: Final = 0.2
LINGER_SECONDS: Final = 2.0  # how long the rest of a refused body is read, so that its sender sees the answer
RESOURCES: Final = (jobs, job_acts, events, inbox, flows, runtime, key_routes, health)
REQUEST_ID: Final = web.RequestKey("http_request_id", str)
_GIVEN_ID: Final = re.compile(r"[A-Za-z0-9._-]{8,64}", re.ASCII)

log = structlog.get_logger(__name__)


async def serve(settings: GatewaySettings, service: Service) -> None:
    """Serve until the service is told to stop; then no new connections, streams sent elsewhere, calls finished."""
    async with _adapters(settings, service) as app:
        if app is None:
            return
        runner = listener(app, settings.grace_seconds)
        await runner.setup()
        try:
            await web.TCPSite(runner, settings.host, settings.port).start()
            host, port = runner.addresses[0][:2]
            service.facts["url"] = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            service.ready = True
            await service.stopping.wait()
        finally:
            await runner.cleanup()


def listener(app: web.Application, grace_seconds: float) -> web.AppRunner:
    """What serves `app` on a connection. `grace_seconds`: how long calls may take once it is told to stop."""
    return web.AppRunner(
        app, access_log=None, handle_signals=False, shutdown_timeout=grace_seconds, lingering_time=LINGER_SECONDS
    )


@asynccontextmanager
async def _adapters(settings: GatewaySettings, service: Service) -> AsyncIterator[web.Application | None]:
    """The application on its adapters; None when the service was told to stop before they were there."""
    connection = Bus.connect(
        settings.nats,
        user=settings.nats_user,
        password=settings.password,
        name="gateway",
        clock=service.clock,
        on_closed=service.fatal,
    )
    async with connection as bus, open_database(settings.database) as database, Fanout.open(bus) as fanout:
        service.checks["nats"] = lambda: bus.connected
        topology = await _streams(bus, service)
        if topology is None:
            yield None
            return
        eventlog = EventLog(bus, topology.shards)
        desk = Desk(eventlog, Doorbells(bus), service.clock)
        app = make(service, bus, desk, fanout, database, settings.sql_outage_seconds)
        async with app[keys.REVOCATIONS].hearing(), answering(bus, calls.handlers(app)):
            yield app


async def _streams(bus: Bus, service: Service) -> Topology | None:
    """What the streams are, once they are as declared and the broker's clock is known; None when told to stop first."""
    waited = False
    while not service.stopping.is_set():
        try:
            topology = await compare(bus)
            await bus.measure_offset()
        except Unavailable as exc:
            if not waited:
                log.info("waiting for the streams", reason=str(exc))
                waited = True
            await service.clock.sleep(WAIT_SECONDS)
        else:
            return topology
    return None


def make(
    service: Service, bus: Bus, desk: Desk, fanout: Fanout, database: Database, outage_seconds: float
) -> web.Application:
    """The application over its adapters. Raises policy.Undeclared when a route says nothing about who may call it."""
    app = web.Application(middlewares=[_entry], client_max_size=MAX_BYTES)
    sql = Sql(database, service.clock)
    deleted, revocations = DeletedJobs(sql, service.clock), Revocations(bus)
    desk = Desk(ShownLogs(desk.eventlog, sql, deleted), desk.doorbells, desk.clock)
    app[keys.DELETED], app[keys.REVOCATIONS] = deleted, revocations
    app[keys.BUS], app[keys.DESK], app[keys.FANOUT], app[keys.SQL] = bus, desk, fanout, sql
    app[keys.SERVICE], app[keys.CHANCE], app[keys.LIMITS] = service, SystemChance(), Limits()
    app[keys.KEYS] = Keys(sql, service.clock, outage_seconds)
    app[keys.FLOWS] = FlowHeads(sql, service.clock, outage_seconds, partial(blob.get, bus))
    app[keys.CURSORS] = Cursors(sql)
    revocations.on("job", lambda tenant, job: deleted.note(JobRef(tenant, JobId(job))))
    revocations.on("key", lambda _, key: app[keys.KEYS].forget(key))
    for resource in RESOURCES:
        app.add_routes(resource.ROUTES)
    policy.check(app)
    app.on_response_prepare.append(_headers)
    return app


@web.middleware
async def _entry(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Name the request, ask who calls and whether they may, run the handler, turn every error into a problem."""
    given = request.headers.get("X-Request-Id", "")
    request[REQUEST_ID] = given if _GIVEN_ID.fullmatch(given) else str(uuid_utils.uuid7())
    try:
        return await _authorised(request, handler)
    except Exception as exc:  # the top of a request: what nobody foresaw is logged and told as `internal`
        problem = problem_of(exc)
        if problem is None:
            log.exception("request failed", http_request_id=request[REQUEST_ID], method=request.method)
            problem = Problem("internal", "the fault is ours; it is in the log under http_request_id")
        return respond(problem, request[REQUEST_ID])


async def _authorised(request: web.Request, handler: Handler) -> web.StreamResponse:
    declared = policy.policy_of(request.match_info.handler)
    if declared is None:  # aiohttp's own, for a path or a method that is none of ours: it raises the 404 or 405
        return await handler(request)
    if request.headers.get("Perdure-Api", API) != API:
        fault = Fault("unsupported", f"this gateway serves {API}", header="Perdure-Api")
        raise Problem("unsupported-api", "see errors", faults=[fault])
    if not declared.public:
        caller = await request.app[keys.KEYS].caller(request)
        policy.permit(declared, caller)
        request[CALLER] = caller
    return await handler(request)


async def _headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Perdure-Api"] = API
    response.headers["X-Request-Id"] = request[REQUEST_ID]
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers.pop("Server", None)  # names and versions are nobody's business
