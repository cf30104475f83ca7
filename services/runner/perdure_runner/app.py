"""Wires a runner: connects, waits for the streams as declared, pulls doorbells, drains when told to stop."""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

import structlog

from perdure import __version__
from perdure.bus.call import Calls
from perdure.bus.callbodies import FlowOffer, Register
from perdure.bus.connection import Bus
from perdure.bus.delta import Deltas
from perdure.bus.doorbell import Doorbells
from perdure.bus.eventlog import EventLog
from perdure.bus.heartbeat import Heartbeats
from perdure.bus.news import news
from perdure.bus.pull import Pull
from perdure.bus.topology import Topology, compare
from perdure.clock import SystemChance, SystemClock
from perdure.config import RunnerSettings
from perdure.engine.app import AppRefused, PythonFlow, load_apps, load_components
from perdure.engine.components.contract import Component
from perdure.engine.components.endpoint import ModelEndpoint
from perdure.errors import Unavailable
from perdure.ids import Queue, RunnerId, Tenant, new_runner_id
from perdure.jobs.desk import Desk
from perdure.service import Service
from perdure_runner.attempt import Executor
from perdure_runner.flows import Flows
from perdure_runner.intake import Intake
from perdure_runner.register import Registration

log = structlog.get_logger(__name__)

WAIT_SECONDS: Final = 0.3
SETTINGS_REFUSED: Final = 2  # the exit code: starting again would change nothing


async def serve(settings: RunnerSettings, service: Service) -> None:
    """Run until `service.stopping`, then hand on what runs and return. Ready means that the pulls are standing.

    A runner of Python flows pulls nothing before a gateway knows them. An `--app` that cannot be run ends it (exit 2).
    """
    try:
        python, components = load_apps(settings.app), load_components(settings.app)
    except AppRefused as exc:
        log.error("app refused", reason=str(exc))
        service.exit_code = SETTINGS_REFUSED
        return
    clock, chance, runner = service.clock, SystemChance(), new_runner_id()
    service.facts["runner"] = runner
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(
            Bus.connect(
                settings.nats,
                user=settings.nats_user,
                password=settings.password,
                name=f"runner-{runner}",
                clock=clock,
                on_closed=service.fatal,
            )
        )
        topology = await _declared(bus, service, clock)
        if topology is None:
            return
        queues = [(Queue(queue), priority) for queue in settings.queues for priority in settings.priorities]
        eventlog, doorbells = EventLog(bus, topology.shards), Doorbells(bus)
        heartbeats = await stack.enter_async_context(
            Heartbeats(
                settings.nats,
                user=settings.nats_user,
                password=settings.password,
                name=f"heartbeat-{runner}",
                inbox_prefix="_SVC.runner",
                clock=clock,
                on_closed=service.fatal,
                on_stalled=lambda seconds: service.fatal(f"the main loop has not ticked for {seconds:.0f} s"),
            )
        )
        calls = Calls(bus)
        executor = Executor(Deltas(bus), partial(news, bus), Desk(eventlog, doorbells, clock), chance, calls)
        intake = Intake(
            runner=runner,
            eventlog=eventlog,
            doorbells=doorbells,
            heartbeats=heartbeats,
            flows=Flows(
                bus,
                _model(settings),
                settings.outbound_allow,
                python=python,
                tenants=settings.tenants,
                components=components,
            ),
            execute=executor.execute,
            clock=clock,
            chance=chance,
        )
        pull = Pull(bus, queues, settings.slots, intake.handle, lease_seconds=topology.lease_seconds)
        record = partial(_record, settings, runner, python, components, executor)
        registration = Registration(calls, record, service.stop, clock)
        known = bool(python or components)
        if known and not await _registered(registration, service):
            return
        keeping = asyncio.create_task(_keep(registration, known=known))
        try:
            await _pull(settings, service, pull, intake, executor)
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])
        await registration.leave()


async def _registered(registration: Registration, service: Service) -> bool:
    """Whether a gateway knows the flows now; False when the service was told to stop first."""
    first = asyncio.create_task(registration.first())
    stop = asyncio.create_task(service.stopping.wait())
    await asyncio.wait([first, stop], return_when=asyncio.FIRST_COMPLETED)
    for task in (first, stop):
        task.cancel()
    await asyncio.wait([first, stop])
    if first.cancelled():
        return False
    first.result()
    return not service.stopping.is_set()


async def _keep(registration: Registration, *, known: bool) -> None:
    if not known:  # nothing depends on it: graphs are run for whoever rings
        await registration.first()
    await registration.keep()


def _record(
    settings: RunnerSettings,
    runner: RunnerId,
    python: Mapping[str, PythonFlow],
    components: Mapping[str, Component],
    executor: Executor,
    *,
    leaving: bool = False,
) -> Register:
    """What the gateways are told of this runner now."""
    return Register(
        runner=runner,
        version=__version__,
        queues=tuple(Queue(queue) for queue in settings.queues),
        priorities=settings.priorities,
        slots=settings.slots,
        running=executor.running,
        tenants=tuple(Tenant(tenant) for tenant in settings.tenants),
        flows=tuple(
            FlowOffer(
                name=name,
                digest=flow.digest,
                module=flow.module,
                description=flow.description,
                input_schema=flow.input_schema,
                output_schema=flow.output_schema,
            )
            for name, flow in sorted(python.items())
        ),
        components=tuple(component.catalogue_entry() for component in components.values()),
        leaving=leaving,
    )


async def _pull(settings: RunnerSettings, service: Service, pull: Pull, intake: Intake, executor: Executor) -> None:
    """Pull until told to stop; then let steps end within the grace, hand the jobs on, and return."""
    pulling = asyncio.create_task(pull.run())
    service.checks["pull"] = lambda: pull.standing
    service.ready = True
    stop = asyncio.create_task(service.stopping.wait())
    await asyncio.wait([pulling, stop], return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    service.ready = False
    intake.stopping = True
    pull.stop()
    executor.drain()
    try:
        async with asyncio.timeout(settings.grace_seconds):
            await asyncio.shield(pulling)
    except TimeoutError:
        log.warning("the grace is over, steps are cut short", attempts=executor.running)
        executor.halt()
        await pulling


async def _declared(bus: Bus, service: Service, clock: SystemClock) -> Topology | None:
    """The topology as the streams say it, once they are there; None when the service is stopped first."""
    while not service.stopping.is_set():
        try:
            return await compare(bus)
        except Unavailable as exc:
            log.info("the streams are not there yet", why=str(exc))
            await clock.sleep(WAIT_SECONDS)
    return None


def _model(settings: RunnerSettings) -> ModelEndpoint | None:
    """The operator's model endpoint: the only address that a chat model node may talk to."""
    if settings.model_url is None:
        return None
    key = settings.model_key.get_secret_value() if settings.model_key else None
    return ModelEndpoint(url=settings.model_url, key=key, name=settings.model_name)
