"""Wires a sweeper: declares the streams, waits for the tables, then projects and sweeps until told to stop."""

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

from perdure import log as logs
from perdure.bus.connection import Bus
from perdure.bus.doorbell import Doorbells
from perdure.bus.eventlog import EventLog
from perdure.bus.inbox import tell
from perdure.bus.purge import purge_canaries
from perdure.bus.topology import Topology, compare, declare
from perdure.bus.wake import shard_news
from perdure.clock import Clock, SystemChance
from perdure.config import SweeperSettings
from perdure.db.engine import Database, open_database
from perdure.db.migrate import revision
from perdure.errors import Unavailable
from perdure.jobs.desk import Desk
from perdure.service import Service
from perdure_sweeper.duties.blobs import UnnamedBlobs
from perdure_sweeper.duties.doorbells import LostDoorbells
from perdure_sweeper.duties.links import OldLinks
from perdure_sweeper.duties.listing import Listing
from perdure_sweeper.duties.overdue import Overdue
from perdure_sweeper.duties.reminders import Reminders
from perdure_sweeper.duties.retention import Keep, Retention
from perdure_sweeper.duties.seals import SEALS_SECONDS, Seals
from perdure_sweeper.projector import BATCH, Projector
from perdure_sweeper.sweep import every, repeat

WAIT_SECONDS: Final = 0.3
SETTLE_SECONDS: Final = 0.4  # the rows of a busy shard are written together, a few times a second
RETENTION_SECONDS: Final = 60.0
LISTING_SECONDS: Final = 60.0
LINKS_SECONDS: Final = 3600.0
CANARY_SECONDS: Final = 3600.0
RING_SECONDS: Final = 1.0  # how long a runnable job is left to whoever made it so
ALARM_SECONDS: Final = 1.0  # how long what is due is left to its alarm
LOOK_SECONDS: Final = 600.0  # how often it is asked whether a daily duty is due
CLOCK_GOOD_SECONDS: Final = 600.0  # how long a measured offset to the broker's clock is believed

log = logs.get(__name__)


async def serve(settings: SweeperSettings, service: Service) -> None:
    """Run until `service.stopping`. Whatever is under way then is a transaction that rolls back, or an append."""
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(
            Bus.connect(
                settings.nats,
                user=settings.nats_user,
                password=settings.password,
                name="sweeper",
                clock=service.clock,
                on_closed=service.fatal,
            )
        )
        database = await stack.enter_async_context(open_database(settings.database))
        working = asyncio.create_task(_work(bus, database, service, settings))
        stop = asyncio.create_task(service.stopping.wait())
        try:
            await asyncio.wait([working, stop], return_when=asyncio.FIRST_COMPLETED)
        finally:
            service.ready = False
            stop.cancel()
            working.cancel()
            await asyncio.wait([working])
        if not working.cancelled():
            working.result()


async def _work(bus: Bus, database: Database, service: Service, settings: SweeperSettings) -> None:
    clock, chance = service.clock, SystemChance()
    topology = await _declared(bus, clock, settings.lease_seconds)
    await _migrated(database, clock)
    eventlog = EventLog(bus, topology.shards)
    desk = Desk(eventlog, Doorbells(bus), clock)
    projectors = [Projector(database, desk, bus, shard, topology.shards) for shard in range(topology.shards)]
    doorbells = LostDoorbells(database, desk, grace_seconds=RING_SECONDS)
    overdue = Overdue(database, desk, lambda: _clock_known(bus, clock), grace_seconds=ALARM_SECONDS)
    reminders = Reminders(database, desk, partial(tell, bus), lambda: _clock_known(bus, clock))
    keep = Keep(settings.log_days, settings.archive_days)
    retention = Retention(database, desk, bus, topology.shards, keep)
    service.checks["broker"] = lambda: bus.connected
    service.checks["projection"] = lambda: all(projector.healthy for projector in projectors)
    async with shard_news(bus, topology.shards, service.fatal) as grown:

        def reconnected() -> None:
            for projector, woken in zip(projectors, grown, strict=True):
                projector.recheck()
                woken.set()

        forget = bus.on_reconnect(reconnected)
        try:
            async with asyncio.TaskGroup() as group:
                for projector, woken in zip(projectors, grown, strict=True):
                    name = f"projector {projector.shard}"
                    group.create_task(repeat(name, projector.step, clock, chance, woken, SETTLE_SECONDS, BATCH))
                group.create_task(repeat("streams", lambda: _redeclared(bus, topology), clock, chance))
                group.create_task(repeat("doorbells", doorbells.run_once, clock, chance))
                group.create_task(repeat("overdue", overdue.run_once, clock, chance))
                group.create_task(repeat("reminders", reminders.run_once, clock, chance))
                seldom = {
                    "listing": (LISTING_SECONDS, Listing(database).run_once),
                    "retention": (RETENTION_SECONDS, retention.run_once),
                    "blobs": (LOOK_SECONDS, UnnamedBlobs(database, bus, clock, topology.shards).run_once),
                    "links": (LINKS_SECONDS, OldLinks(database, clock, lambda: _clock_known(bus, clock)).run_once),
                    "seals": (SEALS_SECONDS, Seals(bus, clock).run_once),
                    "canaries": (CANARY_SECONDS, lambda: purge_canaries(bus, topology.shards)),
                }
                for name, (seconds, once) in seldom.items():
                    group.create_task(repeat(name, every(seconds, once, clock), clock, chance))
                service.ready = True
        finally:
            forget()


async def _declared(bus: Bus, clock: Clock, lease_seconds: float) -> Topology:
    """The streams as they are; those of a plain installation where there are none yet."""
    while True:
        try:
            return await compare(bus)
        except Unavailable:
            pass
        try:
            await declare(bus, Topology(lease_seconds=lease_seconds))
        except Unavailable as exc:
            log.info("the broker is not there yet", why=str(exc))
            await clock.sleep(WAIT_SECONDS)


async def _redeclared(bus: Bus, topology: Topology) -> int:
    """Make a stream again that was lost: doorbells and alarms come back from the folds."""
    try:
        await compare(bus)
    except Unavailable:
        await declare(bus, topology)
    return 0


async def _migrated(database: Database, clock: Clock) -> None:
    """Wait until somebody has migrated the database. A newer one than ours works: migrations expand first."""
    told = False
    while True:
        try:
            async with database.read() as conn:
                if await revision(conn) is not None:
                    return
        except Unavailable as exc:
            why = str(exc)
        else:
            why = "not migrated"
        if not told:
            log.info("waiting for the database", why=why)
            told = True
        await clock.sleep(WAIT_SECONDS)


def _clock_known(bus: Bus, clock: Clock) -> bool:
    at = bus.offset_measured_at
    return at is not None and clock.monotonic() - at < CLOCK_GOOD_SECONDS
