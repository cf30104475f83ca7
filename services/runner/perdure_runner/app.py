"""Wires a runner: connects, waits for the streams as declared, pulls doorbells, drains when told to stop."""

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

import structlog

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
from perdure.engine.components.endpoint import ModelEndpoint
from perdure.errors import Unavailable
from perdure.ids import Queue, new_runner_id
from perdure.service import Service
from perdure_runner.attempt import Executor
from perdure_runner.flows import Flows
from perdure_runner.intake import Intake

log = structlog.get_logger(__name__)

WAIT_SECONDS: Final = 0.3


async def serve(settings: RunnerSettings, service: Service) -> None:
    """Run until `service.stopping`, then hand on what runs and return. Ready means that the pulls are standing."""
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
        executor = Executor(Deltas(bus), partial(news, bus), doorbells, clock, chance)
        intake = Intake(
            runner=runner,
            eventlog=eventlog,
            doorbells=doorbells,
            heartbeats=heartbeats,
            flows=Flows(bus, _model(settings), settings.outbound_allow),
            execute=executor.execute,
            clock=clock,
            chance=chance,
        )
        pull = Pull(bus, queues, settings.slots, intake.handle, lease_seconds=topology.lease_seconds)
        await _pull(settings, service, pull, intake, executor)


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
