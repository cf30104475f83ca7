"""Three sweeper processes on one system, one frozen in the middle of each duty: the others do all there is to do, and
when it comes back it does no harm.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr

from perdure.bus.connection import Bus
from perdure.bus.eventlog import EventLog
from perdure.clock import SystemClock
from perdure.config import SweeperSettings
from perdure.core import event as ev
from perdure.core.event import AnyEvent
from perdure.core.instant import later
from perdure.db import archive
from perdure.db.engine import Database
from perdure.ids import JobRef, Queue, Tenant, child_job_id, job_id_of_key
from perdure.jobs.desk import Desk
from perdure.local.server import NatsServer
from perdure.testing.factory import FINGERPRINT, OWNER, Story
from perdure.testing.logs import Told
from perdure.testing.projection import mismatches
from perdure.testing.servers import connect
from perdure_sweeper.doctor.examination import Wish, examination

MAIN = Tenant("main")
QUEUE = Queue("default")
SHARDS = 8
DAY = 86_400.0
CASES = [
    *((point, "sqlite") for point in (
        "project.before_commit", "project.after_commit", "child.after_parent_append", "time.after_append",
        "retention.after_archive",
    )),
    *((point, "postgresql") for point in (
        "project.after_read", "project.before_commit", "project.after_announce", "child.after_end", "sweep.after_scan",
        "sweep.after_ring", "retention.after_scan", "retention.before_purge",
    )),
]  # fmt: skip
# How long the others have before the frozen one goes on. A process that is frozen may hold a lock of the database (on
# SQLite the only one), so nobody may ask that all is done by then; that they do what they can is what makes the race.
FROZEN_SECONDS = 6.0

Project = Callable[[], Awaitable[None]]
Eventually = Callable[..., Awaitable[None]]


@pytest.fixture
def clock() -> SystemClock:
    """The processes go by the broker's clock, so the stories are told about today."""
    return SystemClock()


@pytest.fixture
async def own_bus(own_nats_server: NatsServer) -> AsyncIterator[Bus]:
    """Everything."""
    async with connect(own_nats_server) as bus:
        yield bus


@pytest.fixture
def settings(own_nats_server: NatsServer, database_url: str) -> SweeperSettings:
    """What each of the sweepers is told."""
    who = own_nats_server.credentials["sweeper"]
    if database_url.startswith("sqlite"):
        Path(database_url.removeprefix("sqlite:///")).chmod(0o600)
    return SweeperSettings(
        nats=(own_nats_server.url,), nats_user=who.user, nats_password=SecretStr(who.password), database=database_url
    )


@contextmanager
def sweeping(settings: SweeperSettings, failpoints: str = "") -> Iterator[int]:
    """A sweeper process; its process id. It ends well when it is told to."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
    environ = kept | settings.environ() | {"PERDURE_FAILPOINTS": failpoints, "PERDURE_PARENT": str(os.getpid())}
    process = subprocess.Popen([sys.executable, "-P", "-m", "perdure_sweeper"], env=environ, stdout=subprocess.DEVNULL)
    try:
        yield process.pid
        process.send_signal(signal.SIGCONT)
        process.terminate()
        assert process.wait(30) in (0, -signal.SIGTERM)  # the latter: it had not even begun
    finally:
        process.kill()
        process.wait()


def is_frozen(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"


class Work:
    """One of everything that a sweeper has to do."""

    def __init__(self, eventlog: EventLog, bus: Bus, desk: Desk, database: Database, key: str) -> None:
        self._eventlog, self._bus, self._desk, self._database = eventlog, bus, desk, database
        self.unrung, self.overdue, self.old = self._told(), self._told(), self._told(ago=10 * DAY)
        self.old.ref = JobRef(MAIN, job_id_of_key(MAIN, OWNER, key))
        self.old.story = Story(self.old.ref.job, later(bus.clock.broker_now(), -10 * DAY))
        self.parent, self.ended_parent = self._told(), self._told()
        self.child, self.orphan = self._child(self.parent), self._child(self.ended_parent)

    def _told(self, ago: float = 3600.0) -> Told:
        told = Told(self._eventlog, MAIN)
        told.story = Story(told.ref.job, later(self._bus.clock.broker_now(), -ago))
        return told

    def _child(self, parent: Told) -> Told:
        told = self._told()
        told.ref = JobRef(MAIN, child_job_id(parent.ref.job, "", "part", 1))
        told.story = Story(told.ref.job, told.story.at)
        return told

    async def put(self, project: Project | None) -> None:
        """All of it; with `project` what duties find in the rows is there already."""
        for told in (self.unrung, self.overdue, self.parent, self.ended_parent):
            await told.put(told.story.submitted(deadline_seconds=30 * DAY))
        await self.overdue.put(self.overdue.story.started())
        request = self.overdue.story.asked(expires_at=later(self._bus.clock.broker_now(), -60))
        await self.overdue.put(self.overdue.story.events[-1])
        waiting = ev.Waiting(kind="input", name="review", request_id=request)
        await self.overdue.put(self.overdue.story.suspended(waiting))
        await self.old.begin(steps=2)
        await self.old.put(self.old.story.completed(post="text"))
        if project is not None:
            await project()
        await self.parent.put(self.parent.story.started())
        wait = ev.Waiting(kind="child", name="part", occurrence=1, job_id=self.child.ref.job)
        await self.parent.put(self.parent.story.suspended(wait))
        for told, parent in ((self.child, self.parent), (self.orphan, self.ended_parent)):
            await self._submit(told, parent)
        await self.child.put(self.child.story.started())
        await self.child.put(self.child.story.completed(text="done"))
        await self.ended_parent.put(self.ended_parent.story.started())
        await self.ended_parent.put(self.ended_parent.story.completed())

    async def _submit(self, told: Told, parent: Told) -> None:
        submitted = Story(told.ref.job).submitted()
        assert isinstance(submitted, ev.JobSubmitted)
        data = ev.SubmittedData(
            flow=submitted.data.flow, input="part", owner=OWNER, queue=QUEUE, priority="normal",
            deadline_at=later(told.story.at, 30 * DAY), fingerprint=FINGERPRINT, source=ev.Source(surface="child"),
            parent=ev.Parent(job_id=parent.ref.job, step="part", occurrence=1),
        )  # fmt: skip
        await told.put(told.story.add(data))

    async def log(self, told: Told) -> list[AnyEvent]:
        return [stored.event for stored in await self._eventlog.read(told.ref)]

    async def left(self) -> list[str]:
        """What is not done yet."""
        left = []
        for name in ("unrung", "overdue", "parent"):
            if not await self._desk.doorbells.exists(getattr(self, name).ref, QUEUE, "normal"):
                left.append(f"{name} is not rung")
        if not any(isinstance(e, ev.InputExpired) for e in await self.log(self.overdue)):
            left.append("nothing expired")
        if not any(isinstance(e, ev.ChildEnded) for e in await self.log(self.parent)):
            left.append("the parent does not know")
        if not isinstance((await self.log(self.orphan))[-1], ev.JobCancelled):
            left.append("the orphan goes on")
        async with self._database.read() as conn:
            if await archive.events_of(conn, self.old.ref) is None:
                left.append("nothing archived")
        if len(await self.log(self.old)) != 1:
            left.append("nothing purged")
        return left

    async def done(self) -> bool:
        return await self.left() == []

    async def exactly_once(self) -> None:
        """Nothing was done twice."""
        assert [type(e) for e in await self.log(self.overdue)].count(ev.InputExpired) == 1
        assert [type(e) for e in await self.log(self.parent)].count(ev.ChildEnded) == 1
        assert [type(e) for e in await self.log(self.orphan)] == [ev.JobSubmitted, ev.JobCancelled]
        assert await self.log(self.old) == self.old.story.events[-1:]


@pytest.mark.parametrize(("point", "dialect"), CASES)
async def test_one_of_three_is_frozen_in_the_middle_and_comes_back(
    settings: SweeperSettings, database: Database, own_eventlog: EventLog, own_bus: Bus, desk: Desk, project: Project,
    eventually: Eventually, point: str,
) -> None:  # fmt: skip
    work = Work(own_eventlog, own_bus, desk, database, "first")
    await work.put(project)
    with sweeping(settings, f"{point}=stop:n1") as frozen:
        await eventually(lambda: is_frozen(frozen))
        with sweeping(settings), sweeping(settings):
            with contextlib.suppress(AssertionError):
                await eventually(work.done, within_seconds=FROZEN_SECONDS)
            os.kill(frozen, signal.SIGCONT)
            await eventually(work.done, within_seconds=60)
            second = Work(own_eventlog, own_bus, desk, database, "second")
            await second.put(None)
            await eventually(lambda: told(second))

            async def judged() -> bool:
                found = (await examination(settings, Wish(), SystemClock())).findings
                rows = await mismatches_but_purged(database, own_eventlog, work, second)
                return rows == [] and [f for f in found if f.area in ("log", "row", "blob")] == []

            await eventually(judged, within_seconds=30)
    await work.exactly_once()


async def told(work: Work) -> bool:
    """Whether the parent of `work` knows, and its orphan has ended: so their shards are projected."""
    log = await work.log(work.parent)
    return any(isinstance(e, ev.ChildEnded) for e in log) and isinstance(
        (await work.log(work.orphan))[-1], ev.JobCancelled
    )


async def mismatches_but_purged(database: Database, eventlog: EventLog, *works: Work) -> list[str]:
    """What the rows say otherwise than the logs; a purged log has nothing to say."""
    purged = [work.old.ref.job for work in works]
    return [m for m in await mismatches(database, eventlog, SHARDS) if m.split(":")[0] not in purged]
