"""What a projected batch calls for beside its rows: requests told to whoever listens and written to AUDIT, parents told
of their children's ends, children of ended parents cancelled.

    a child's end        its parent's log gets `child.ended`, before `announced` passes the end
    a parent's end       its open children, by the rows, are cancelled
    a child's beginning  its parent's tail is read: ended already, so the child is cancelled

The last two look after their own commit: whichever of parent's end and child's beginning is projected later sees the
other. Everything here may be done twice, by any number of sweepers.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final

from msgspec import Struct

from perdure import log as logs
from perdure.bus.audit import Audit, Record
from perdure.bus.connection import Bus
from perdure.bus.inbox import News, tell
from perdure.errors import BrokenLog, Malformed, NotFound, OutcomeUnknown, Unavailable, UnsupportedVersion
from perdure.ids import JobRef, Tenant
from perdure.jobs.desk import Desk
from perdure.jobs.orphans import end_orphan
from perdure.jobs.parent import tell_parent
from perdure_sweeper.folds import Folded, Stuck

AT_ONCE: Final = 16  # parents and children seen to side by side

log = logs.get(__name__)


class Announcement(Struct, frozen=True):
    """`news` and `audits` in the order of the logs, `ended` children whose parents wait, `orphans` that may have to
    end.
    """

    news: tuple[tuple[Tenant, News], ...] = ()
    ended: tuple[tuple[JobRef, Folded], ...] = ()
    orphans: tuple[JobRef, ...] = ()
    audits: tuple[Record, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.news or self.audits or self.ended or self.orphans)


def parents_ended(folded: Mapping[JobRef, Folded | Stuck]) -> list[JobRef]:
    """The jobs that ended in a batch: each may have children."""
    return [ref for ref, job in folded.items() if isinstance(job, Folded) and job.ended]


def announcement(folded: Mapping[JobRef, Folded | Stuck], children: Sequence[JobRef]) -> Announcement:
    """What a batch calls for; `children` are the open ones of `parents_ended`."""
    news: list[tuple[Tenant, News]] = []
    ended: list[tuple[JobRef, Folded]] = []
    audits: list[Record] = []
    orphans = list(children)
    for ref, job in folded.items():
        if isinstance(job, Stuck):
            continue
        news += [(ref.tenant, one) for one in job.news]
        audits += job.audits
        parent = job.state.submitted.parent if job.state.submitted is not None else None
        if parent is None or parent.detached:
            continue
        if job.ended:
            ended.append((ref, job))
        elif job.began and not job.state.terminal:
            orphans.append(ref)
    return Announcement(tuple(news), tuple(ended), tuple(dict.fromkeys(orphans)), tuple(audits))


async def announce(bus: Bus, desk: Desk, what: Announcement) -> None:
    """Do all of it. Raises Unavailable when something was perhaps not done: then all of it is done again."""
    if what.news:
        await tell(bus, what.news)
    await Audit(bus).write(what.audits)
    work: list[tuple[JobRef, Callable[[], Awaitable[object]]]]
    work = [(ref, partial(tell_parent, desk, ref, job.state)) for ref, job in what.ended]
    work += [(ref, partial(end_orphan, desk, ref)) for ref in what.orphans]
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(ref: JobRef, do: Callable[[], Awaitable[object]]) -> None:
        async with gate:
            await _through(ref, do)

    try:
        async with asyncio.TaskGroup() as group:
            for ref, do in work:
                group.create_task(one(ref, do))
    except BaseExceptionGroup as errors:  # what is away for one is away for the others
        raise errors.exceptions[0] from errors


async def _through(ref: JobRef, do: Callable[[], Awaitable[object]]) -> None:
    """`do` what `ref` calls for. A log that cannot be read, its own or its parent's, does not hold up the shard."""
    try:
        await do()
    except OutcomeUnknown as exc:
        raise Unavailable(str(exc)) from exc
    except NotFound:  # purged meanwhile
        return
    except (BrokenLog, Malformed, UnsupportedVersion) as exc:
        log.error("parent or child passed over", tenant=ref.tenant, job_id=ref.job, why=type(exc).__name__)
