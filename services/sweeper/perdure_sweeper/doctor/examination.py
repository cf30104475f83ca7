"""One examination from the outside in: configuration, streams and consumers, then every log and what belongs to it."""

from pathlib import Path

from msgspec import Struct

from perdure.bus.connection import Bus
from perdure.bus.doorbell import Doorbells
from perdure.bus.eventlog import EventLog
from perdure.clock import SystemClock
from perdure.config import SweeperSettings
from perdure.core.instant import Instant
from perdure.db import examine
from perdure.db.engine import open_database
from perdure.errors import NotFound
from perdure.ids import JobId, JobRef, Tenant
from perdure.jobs.desk import Desk
from perdure_sweeper.doctor import kept, setup
from perdure_sweeper.doctor.logs import Logs
from perdure_sweeper.doctor.rebuild import rebuild
from perdure_sweeper.doctor.report import Pace, Report
from perdure_sweeper.duties.retention import Keep


class Wish(Struct, frozen=True, kw_only=True):
    """What is examined, and what is done about it. `data`: the folder of a `perdure up` on this machine."""

    job: JobId | None = None
    tenant: Tenant | None = None
    since: Instant | None = None
    repair: bool = False
    rebuild: bool = False
    data: Path | None = None


async def examination(settings: SweeperSettings, wish: Wish, clock: SystemClock) -> Report:
    """Examine the system that `settings` name. Raises NotFound for a job that nobody knows, Unavailable."""
    report, pace = Report(), Pace(clock)
    async with (
        Bus.connect(
            settings.nats, user=settings.nats_user, password=settings.password, name="doctor", clock=clock
        ) as bus,
        open_database(settings.database) as database,
    ):
        await bus.measure_offset()
        setup.clock(report, clock)
        if wish.data is not None and wish.data.is_dir():
            setup.folder(report, wish.data)
        setup.disk_of(report, settings.database)
        await setup.versions(report, database)
        topology = await setup.streams(report, bus, repair=wish.repair)
        if topology is None:
            return report
        desk = Desk(EventLog(bus, topology.shards), Doorbells(bus), clock)
        if wish.rebuild:
            async with open_database(settings.database) as own:
                report.count("rebuilt", await rebuild(own, desk.eventlog, bus, topology.shards, pace))
        await setup.consumers(report, bus, database, topology, repair=wish.repair)
        logs = Logs(report, database, desk, bus, topology.shards, pace, repair=wish.repair)
        if wish.job is not None:
            async with database.read() as conn:
                tenants = [wish.tenant] if wish.tenant else await examine.tenants_of(conn, wish.job)
            if not tenants:
                raise NotFound("no row names this job: say whose it is with --tenant")
            for tenant in tenants:
                await logs.job(JobRef(tenant, wish.job))
            await logs.settle()
            return report
        for shard in range(topology.shards):
            await logs.shard(shard, wish.since)
        await logs.settle()
        if wish.since is None:
            await logs.rows()
        await kept.blobs(report, database, bus, topology.shards, pace, repair=wish.repair)
        await kept.retained(report, database, bus, Keep(settings.log_days, settings.archive_days))
    return report
