"""Blobs against their hashes and what names them; the archive against retention."""

from typing import Final

from perdure.bus import blob, inventory
from perdure.bus.connection import Bus
from perdure.bus.inventory import Name
from perdure.core.instant import later
from perdure.core.retention import before
from perdure.db import archive, examine
from perdure.db import blobs as named_blobs
from perdure.db.engine import Database
from perdure.errors import Malformed, NotFound
from perdure_sweeper.doctor.report import Pace, Report
from perdure_sweeper.duties.retention import Keep

SLACK_DAYS: Final = 1.0  # what a sweeper may be late


async def blobs(report: Report, database: Database, bus: Bus, shards: int, pace: Pace, *, repair: bool) -> None:
    """Every blob that is named is there, and every one that is there has the bytes of its name. Raises Unavailable."""
    named: set[Name] = set()
    async with database.read() as conn:
        named |= await named_blobs.references(conn, guessed=False)
        definitions = await examine.definitions(conn)
    for shard in range(shards):
        async for some in inventory.named(bus, shard):
            await pace.spend()
            named.update(some)
    there = await inventory.blobs(bus)
    for name in sorted(set(there) | named):
        report.count("blobs")
        await pace.spend(1 + there.get(name, 0))
        wrong = await _wrong(bus, name, named=name in named)
        if wrong is None:
            continue
        repaired = False
        if repair and (body := definitions.get(name, "").encode()) and blob.digest_of(body) == name[1]:
            repaired = await _put_again(bus, name, body)
        report.add("blob", f"{name[1]} of {name[0]} {wrong}", repaired=repaired)


async def _wrong(bus: Bus, name: Name, *, named: bool) -> str | None:
    try:
        await blob.get(bus, *name)
    except NotFound:
        return "is named and not there" if named else None  # half a put: the collector's
    except Malformed:
        return "does not have the bytes of its name"
    return None


async def _put_again(bus: Bus, name: Name, body: bytes) -> bool:
    """Write a blob anew behind the damaged copy."""
    await blob.write(bus, name[0], name[1], body)
    return await _wrong(bus, name, named=True) is None


async def retained(report: Report, database: Database, bus: Bus, keep: Keep) -> None:
    """What retention has to have done by now. Raises Unavailable."""
    now = bus.clock.broker_now()
    async with database.read() as conn:
        late = await archive.kept(conn, before(now, keep.log_days + SLACK_DAYS), limit=100)
        older = await archive.purged(conn, before(now, max(keep.archive_days, keep.log_days) + SLACK_DAYS), limit=100)
        deleted = [job for job in await archive.deleted(conn, limit=100) if job.deleted_at is not None]
        alone = await examine.archived_alone(conn)
        after = None
        while page := await examine.known(conn, after):
            after = page[-1].ref
            report.count("rows", len(page))
            for row in page:
                if row.purged_at is not None and not row.archived:
                    report.add("archive", "purged, and the archive does not know it", ref=row.ref)
    for job in late:
        report.add("archive", f"ended at {job.ended_at}, and its log is not archived", ref=job.ref)
    for job in older:
        report.add("archive", f"ended at {job.ended_at}, and is not forgotten", ref=job.ref)
    for job in deleted:
        if job.deleted_at is not None and job.deleted_at < later(now, -SLACK_DAYS * 86_400):
            report.add("archive", f"deleted at {job.deleted_at}, and its log is not purged", ref=job.ref)
    for ref in alone:
        report.add("archive", "archived, and there is no row", ref=ref)
