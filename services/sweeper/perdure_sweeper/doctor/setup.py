"""Configuration, and what is declared: versions, durability, clock, modes of files, disks, streams, consumers."""

import shutil
import stat
from pathlib import Path
from typing import Final, get_args

from sqlalchemy import make_url

from perdure.bus.connection import Bus
from perdure.bus.subject import Priority
from perdure.bus.topology import Topology, compare, declare, ensure_queue, shard_count
from perdure.bus.wanted import has_consumer
from perdure.clock import SystemClock
from perdure.core.instant import later
from perdure.db import examine, migrate
from perdure.db.engine import Database
from perdure.errors import Conflict, Unavailable
from perdure_sweeper.doctor.report import Report

CLOCK_SECONDS: Final = 5.0
DISK_FULL: Final = 0.8
RUNNER_SECONDS: Final = 180.0  # a runner that was heard of so long ago is gone
OWN: Final = ("client.json", "nats.json", "operator.json", "format.json", "lock", "nats/nats.conf", "perdure.db")


async def versions(report: Report, database: Database) -> None:
    """The database's revision against this version's. Raises Unavailable."""
    async with database.read() as conn:
        found = await migrate.revision(conn)
    if found != (wanted := migrate.head()):
        report.add("configuration", f"the database is at revision {found or 'none'}, this version needs {wanted}")


def clock(report: Report, own: SystemClock) -> None:
    """This machine's clock against the broker's."""
    off = own.offset.total_seconds()
    if abs(off) > CLOCK_SECONDS:
        report.add(
            "configuration",
            f"this machine's clock is {abs(off):.0f} s {'behind' if off > 0 else 'ahead of'} the broker's",
        )


def folder(report: Report, data: Path) -> None:
    """The data folder of `perdure up`: who may read it, whether the broker calls fsync."""
    _private(report, data, 0o700)
    for name in OWN:
        _private(report, data / name, 0o600)
    conf = data / "nats" / "nats.conf"
    if conf.exists() and "sync_interval: always" not in conf.read_text():
        report.add("configuration", "the broker does not call fsync for every event (profile relaxed)")
    _disk(report, data)


def disk_of(report: Report, url: str) -> None:
    """The disk and the modes of an SQLite database."""
    parsed = make_url(url)
    if parsed.drivername.startswith("sqlite") and parsed.database:
        _private(report, Path(parsed.database), 0o600)
        _disk(report, Path(parsed.database).parent)


def _private(report: Report, path: Path, most: int) -> None:
    if path.exists() and (mode := stat.S_IMODE(path.stat().st_mode)) & ~most & 0o777:
        report.add("configuration", f"{path} has the mode {mode:04o}, at most {most:04o}")


def _disk(report: Report, path: Path) -> None:
    usage = shutil.disk_usage(path)
    if (used := usage.used / (usage.used + usage.free)) > DISK_FULL:  # as `df` says it
        report.add("configuration", f"the disk of {path} is full to {used:.0%}: new jobs are refused")


async def streams(report: Report, bus: Bus, *, repair: bool) -> Topology | None:
    """The streams as they are declared; None when nothing can be examined. Raises Unavailable."""
    try:
        return await compare(bus)
    except Conflict as exc:
        report.add("broker", str(exc))
        return None
    except Unavailable as exc:
        if not bus.connected:
            raise
        report.add("broker", str(exc), repaired=repair)
    if not repair:
        return None
    # A shard count is fixed when EV_0 is made: that one is asked, never guessed from what is left.
    shards = await shard_count(bus)
    await declare(bus, Topology() if shards is None else Topology(shards=shards))
    return await compare(bus)


async def consumers(report: Report, bus: Bus, database: Database, topology: Topology, *, repair: bool) -> None:
    """A consumer for every queue and priority that a runner serves or an open job is in. Raises Unavailable."""
    async with database.read() as conn:
        wanted = await examine.queues(conn, later(bus.clock.broker_now(), -RUNNER_SECONDS))
    for queue, level in sorted(wanted):
        report.count("queues")
        priority: Priority = next(p for p in get_args(Priority) if p == level)
        missing = not await has_consumer(bus, queue, priority)
        if missing:
            report.add("broker", f"the queue {queue} has no consumer for the priority {level}", repaired=repair)
        try:
            if repair or not missing:
                await ensure_queue(bus, queue, priority, topology.lease_seconds)
        except Conflict as exc:
            report.add("broker", str(exc))
