"""The gateway: adapters, routes, and what every request passes through before and after its handler."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import structlog
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
from perdure.errors import Unavailable
from perdure.ids import JobId, JobRef, Principal
from perdure.jobs.desk import Desk
from perdure.seal import MasterKeys
from perdure.service import Service
from perdure_gateway import calls, entry, keys, policy, replays
from perdure_gateway.audits import Trail
from perdure_gateway.auth import Keys
from perdure_gateway.cors import Cors
from perdure_gateway.cursors import Cursors
from perdure_gateway.deleted import DeletedJobs, ShownLogs
from perdure_gateway.flowheads import FlowHeads
from perdure_gateway.front import Front, Gate
from perdure_gateway.fullness import Fullness
from perdure_gateway.langflow.manner import DEFAULT_MANNER, Manner
from perdure_gateway.langflow.runners import SERVED, Served
from perdure_gateway.langflow.seeing import SHAPES, Shapes
from perdure_gateway.limits import Limits
from perdure_gateway.memberships import Memberships
from perdure_gateway.metrics import Metrics
from perdure_gateway.rates import PER_MINUTE, Rates
from perdure_gateway.refusals import Refusals
from perdure_gateway.revoke import Revocations
from perdure_gateway.routes import (
    agui,
    events,
    flows,
    groups,
    health,
    inbox,
    job_acts,
    jobs,
    langflow_acts,
    langflow_jobs,
    langflow_v1,
    link_pages,
    links,
    many,
    replies,
    runtime,
    tickets,
)
from perdure_gateway.routes import keys as key_routes
from perdure_gateway.routes import service as service_routes
from perdure_gateway.secrets import Secrets
from perdure_gateway.sql import Sql
from perdure_gateway.strict import MAX_BYTES
from perdure_gateway.threads import Threads

WAIT_SECONDS: Final = 0.2
RESOURCES: Final = (
    jobs,
    job_acts,
    events,
    many,
    inbox,
    replies,
    links,
    link_pages,
    groups,
    flows,
    runtime,
    langflow_jobs,
    langflow_acts,
    langflow_v1,
    key_routes,
    service_routes,
    tickets,
    health,
    agui,
)

log = structlog.get_logger(__name__)


async def serve(settings: GatewaySettings, service: Service) -> None:
    """Serve until the service is told to stop; then no new connections, streams sent elsewhere, calls finished."""
    async with replays.connected(settings, service) as asked, _adapters(settings, service) as app:
        if app is None:
            return
        runner = Front(app, settings.grace_seconds, Gate(settings.connections_per_address))
        await runner.setup()
        try:
            await web.TCPSite(runner, settings.host, settings.port).start()
            host, port = runner.addresses[0][:2]
            service.facts["url"] = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            async with replays.answering(app, asked):
                service.ready = True
                await service.stopping.wait()
        finally:
            await runner.cleanup()


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
        app = make(
            service,
            bus,
            desk,
            fanout,
            database,
            settings.sql_outage_seconds,
            origins=settings.cors_origins,
            rate_per_minute=settings.rate_per_minute,
            langflow=Manner.of(settings),
            master_keys=MasterKeys(None if settings.master_key is None else settings.master_key.get_secret_value()),
        )
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
    service: Service,
    bus: Bus,
    desk: Desk,
    fanout: Fanout,
    database: Database,
    outage_seconds: float,
    *,
    origins: Collection[str] = (),
    rate_per_minute: int = PER_MINUTE,
    langflow: Manner = DEFAULT_MANNER,
    master_keys: MasterKeys | None = None,
) -> web.Application:
    """The application over its adapters. `origins`: of browsers that may read answers. `rate_per_minute`: of a key.
    `langflow`: how its workflows API behaves. `master_keys`: what overrides are sealed with.

    Raises policy.Undeclared when a route says nothing about who may call it.
    """
    app = web.Application(middlewares=[entry.entry], client_max_size=MAX_BYTES)
    app[keys.CORS], app[keys.RATES] = Cors(origins), Rates(service.clock, rate_per_minute)
    app[keys.METRICS] = metrics = Metrics()
    metrics.ask(lambda: bus.connected, lambda: service.clock.offset.total_seconds())
    app[keys.FULLNESS] = Fullness(desk.eventlog, service.clock)
    sql = Sql(database, service.clock)
    deleted, revocations = DeletedJobs(sql, service.clock), Revocations(bus)
    desk = Desk(ShownLogs(desk.eventlog, sql, deleted), desk.doorbells, desk.clock)
    app[keys.DELETED], app[keys.REVOCATIONS] = deleted, revocations
    app[keys.BUS], app[keys.DESK], app[keys.FANOUT], app[keys.SQL] = bus, desk, fanout, sql
    app[keys.SERVICE], app[keys.CHANCE], app[keys.LIMITS] = service, SystemChance(), Limits()
    app[keys.KEYS] = Keys(sql, service.clock, outage_seconds)
    app[keys.FLOWS] = FlowHeads(sql, service.clock, outage_seconds, partial(blob.get, bus))
    app[keys.MEMBERSHIPS] = Memberships(sql, service.clock, outage_seconds)
    app[keys.SECRETS] = Secrets(sql, service.clock, outage_seconds)
    app[keys.THREADS] = Threads(sql)
    app[keys.CURSORS] = Cursors(app[keys.SECRETS])
    app[keys.TRAIL], app[keys.REFUSALS] = Trail(bus, service.clock), Refusals(service.clock)
    app[keys.LANGFLOW], app[keys.MASTER_KEYS] = langflow, master_keys or MasterKeys()
    app[SHAPES], app[SERVED] = Shapes(), Served()
    app.cleanup_ctx.append(_trail)
    app.cleanup_ctx.append(_stop_wakes_streams)
    revocations.on("job", lambda tenant, job: deleted.note(JobRef(tenant, JobId(job))))
    revocations.on("key", lambda _, key: app[keys.KEYS].forget(key))
    revocations.on("member", lambda tenant, who: app[keys.MEMBERSHIPS].forget(tenant, Principal(who)))
    for resource in RESOURCES:
        app.add_routes(resource.ROUTES)
    policy.check(app)
    app.on_response_prepare.append(entry.headers)
    return app


async def _stop_wakes_streams(app: web.Application) -> AsyncIterator[None]:
    async def wake() -> None:
        await app[keys.SERVICE].stopping.wait()
        app[keys.REVOCATIONS].wake()

    waking = asyncio.create_task(wake())
    yield
    waking.cancel()


async def _trail(app: web.Application) -> AsyncIterator[None]:
    async with app[keys.TRAIL].writing():
        yield
