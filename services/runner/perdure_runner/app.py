"""Wires a runner: connects, waits for the streams as declared, pulls doorbells, drains when told to stop."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final

import structlog
from msgspec import Struct

from perdure import __version__
from perdure.bus.call import Calls
from perdure.bus.callbodies import FlowOffer, Register
from perdure.bus.connection import Bus
from perdure.bus.delta import Deltas
from perdure.bus.doorbell import Doorbells
from perdure.bus.eventlog import EventLog
from perdure.bus.heartbeat import Heartbeats
from perdure.bus.inbox import tell
from perdure.bus.news import news
from perdure.bus.pull import Pull
from perdure.bus.topology import Topology, compare
from perdure.clock import SystemChance, SystemClock
from perdure.config import LOOSE, PREFIX, RunnerSettings, variable
from perdure.engine.app import AppRefused, PythonFlow, load_apps, load_components
from perdure.engine.components.contract import Component
from perdure.engine.components.endpoint import ModelEndpoint
from perdure.errors import Unavailable
from perdure.ids import JobId, Queue, RunnerId, Tenant, new_runner_id
from perdure.jobs.desk import Desk
from perdure.service import Service
from perdure_runner.attempt import Executor
from perdure_runner.flows import Flows
from perdure_runner.intake import Intake
from perdure_runner.langflow.extra import missing
from perdure_runner.langflow.wiring import master_keys, runs
from perdure_runner.register import Registration
from perdure_runner.suspect import Suspects, ordered

log = structlog.get_logger(__name__)

WAIT_SECONDS: Final = 0.3
SETTINGS_REFUSED: Final = 2  # the exit code: starting again would change nothing


class Works(Struct, frozen=True):
    """A runner's parts, put together."""

    runner: RunnerId
    bus: Bus
    topology: Topology
    intake: Intake
    executor: Executor
    suspects: Suspects | None
    python: Mapping[str, PythonFlow]
    components: Mapping[str, Component]


async def serve(settings: RunnerSettings, service: Service) -> None:
    """Run until `service.stopping`, then hand on what runs and return. Ready means that the pulls are standing.

    A runner of Python flows pulls nothing before a gateway knows them; one of Langflow flows works, but is not ready
    before: gateways take no job of them until some runner has said that it executes them. An `--app` that cannot be run
    ends it (exit 2).
    """
    async with _assembled(settings, service, Suspects(_environ(settings))) as works:
        if works is None:
            return
        queues = [(Queue(queue), priority) for queue in settings.queues for priority in settings.priorities]
        lease = works.topology.lease_seconds
        pull = Pull(works.bus, queues, settings.slots, works.intake.handle, lease_seconds=lease)
        registration = Registration(Calls(works.bus), partial(_record, settings, works), service.stop, service.clock)
        known = bool(works.python or works.components)
        if known and not await _registered(registration, service):
            return
        keeping = asyncio.create_task(_keep(registration, known=known))
        pulling = asyncio.create_task(pull.run())
        service.checks["pull"] = lambda: pull.standing
        if settings.langflow:
            service.checks["registered"] = lambda: registration.known
        works.intake.crowded = lambda: 2 * pull.busy > settings.slots
        service.ready = True
        try:
            await _until_done(pulling, settings, service, works, pull.stop)
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])
        await registration.leave()


async def serve_one(settings: RunnerSettings, service: Service, job: JobId) -> None:
    """Be the process of one suspect: take its doorbell over from the runner that started this, and handle it."""
    async with _assembled(settings, service, None) as works:
        if works is None or (delivery := await ordered(works.bus, job)) is None:
            return
        handling = asyncio.create_task(works.intake.handle(delivery))
        await _until_done(handling, settings, service, works, lambda: None)


@asynccontextmanager
async def _assembled(
    settings: RunnerSettings, service: Service, suspects: Suspects | None
) -> AsyncIterator[Works | None]:
    """The parts of a runner, connected; None when it cannot be one, or is stopped before the streams are there."""
    clock, chance, runner = service.clock, SystemChance(), new_runner_id()
    service.facts["runner"] = runner
    async with AsyncExitStack() as stack:
        try:
            python, components = load_apps(settings.app), load_components(settings.app)
        except AppRefused as exc:
            log.error("app refused", reason=str(exc))
            service.exit_code = SETTINGS_REFUSED
            yield None
            return
        if settings.langflow and (needed := missing()) is not None:
            log.error("no flows of Langflow here", reason=needed)
            service.exit_code = SETTINGS_REFUSED
            yield None
            return
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
            yield None
            return
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
        desk = Desk(eventlog, doorbells, clock)
        langflow = None
        if settings.langflow:
            langflow = await stack.enter_async_context(runs(settings, eventlog, Calls(bus), clock))
        executor = Executor(Deltas(bus), partial(news, bus), desk, chance, Calls(bus), langflow)
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
                langflow=settings.langflow,
                master_keys=master_keys(settings),
            ),
            execute=executor.execute,
            clock=clock,
            chance=chance,
            tell=partial(tell, bus),
            suspects=suspects,
        )
        yield Works(runner, bus, topology, intake, executor, suspects, python, components)


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


def _record(settings: RunnerSettings, works: Works, *, leaving: bool = False) -> Register:
    """What the gateways are told of this runner now."""
    return Register(
        runner=works.runner,
        version=__version__,
        queues=tuple(Queue(queue) for queue in settings.queues),
        priorities=settings.priorities,
        slots=settings.slots,
        langflow=settings.langflow,
        running=works.executor.running + (works.suspects.running if works.suspects is not None else 0),
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
            for name, flow in sorted(works.python.items())
        ),
        components=tuple(component.catalogue_entry() for component in works.components.values()),
        leaving=leaving,
    )


async def _until_done(
    working: asyncio.Task[None],
    settings: RunnerSettings,
    service: Service,
    works: Works,
    take_no_more: Callable[[], None],
) -> None:
    """Work until done or told to stop; then let steps end within the grace, hand the jobs on, and return."""
    stop = asyncio.create_task(service.stopping.wait())
    await asyncio.wait([working, stop], return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    service.ready = False
    works.intake.stopping = True
    take_no_more()
    if works.suspects is not None:
        works.suspects.stop()
    works.executor.drain()
    try:
        async with asyncio.timeout(settings.grace_seconds):
            await asyncio.shield(working)
    except TimeoutError:
        log.warning("the grace is over, steps are cut short", attempts=works.executor.running)
        works.executor.halt()
        await working


def _environ(settings: RunnerSettings) -> dict[str, str]:
    """The environment of a process that is to run like this one; health is asked of this one alone."""
    foreign = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX) or name in LOOSE}
    own = settings.environ()
    own.pop(variable("health"), None)
    return foreign | own


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
