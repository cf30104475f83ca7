"""Parents and children in the projector's announce step: whatever dies in between, one side sees the other."""

from collections.abc import Awaitable, Callable

import pytest

from perdure import probe
from perdure.bus.eventlog import EventLog
from perdure.core import event as ev
from perdure.core import verify
from perdure.core.event import AnyEvent, Status
from perdure.core.machine import stamp
from perdure.db import positions
from perdure.db.engine import Database
from perdure.ids import JobRef, Queue, StreamSeq, Tenant, child_job_id, new_event_id
from perdure.jobs.desk import Desk
from perdure.probe import SimulatedCrash
from perdure.testing.factory import FINGERPRINT, Story
from perdure.testing.logs import Told
from perdure_sweeper.projector import Projector

MAIN = Tenant("main")
SHARDS = 8
Project = Callable[[], Awaitable[None]]
MakeProjector = Callable[[int], Projector]


class Child(Told):
    """The job that a call `part` of `parent` started."""

    def __init__(self, eventlog: EventLog, parent: Told, *, detached: bool = False, name: str = "part") -> None:
        super().__init__(eventlog, MAIN)
        self.ref = JobRef(MAIN, child_job_id(parent.ref.job, "", name, 1))
        self.story = Story(self.ref.job)
        self.parent = ev.Parent(job_id=parent.ref.job, step=name, occurrence=1, detached=detached)

    async def submit(self) -> "Child":
        submitted = self.story.submitted()
        assert isinstance(submitted, ev.JobSubmitted)
        data = ev.SubmittedData(
            flow=submitted.data.flow, input="part", owner=submitted.data.owner, queue=submitted.data.queue,
            priority="normal", deadline_at=submitted.data.deadline_at, fingerprint=FINGERPRINT, parent=self.parent,
            source=ev.Source(surface="child"),
        )  # fmt: skip
        self.story = Story(self.ref.job)
        await self.put(self.story.add(data))
        return self

    async def run(self) -> "Child":
        await self.submit()
        await self.put(self.story.started())
        return self


async def waiting_parent(eventlog: EventLog) -> Told:
    """A parent that sleeps until its child has ended."""
    parent = await Told(eventlog, MAIN).begin()
    job = child_job_id(parent.ref.job, "", "part", 1)
    await parent.put(parent.story.suspended(ev.Waiting(kind="child", name="part", occurrence=1, job_id=job)))
    return parent


async def log_of(eventlog: EventLog, ref: JobRef) -> list[AnyEvent]:
    return [stored.event for stored in await eventlog.read(ref)]


def ends_told(log: list[AnyEvent]) -> list[ev.ChildData]:
    return [event.data for event in log if isinstance(event, ev.ChildEnded)]


async def test_a_parent_is_told_of_its_child_s_end_and_rung_once(
    own_eventlog: EventLog, project: Project, desk: Desk
) -> None:
    parent = await waiting_parent(own_eventlog)
    child = await Child(own_eventlog, parent).run()
    await child.put(child.story.completed(text="done"))  # and its writer died before it told anybody
    await project()
    await project()
    log = await log_of(own_eventlog, parent.ref)
    [told] = ends_told(log)
    assert (told.job_id, told.status, told.outputs) == (child.ref.job, Status.COMPLETED, {"text": "done"})
    assert verify.log(log) == []
    assert await desk.doorbells.exists(parent.ref, ev_queue(parent), "normal")


def ev_queue(told: Told) -> Queue:
    assert told.story.state.submitted is not None
    return told.story.state.submitted.queue


@pytest.mark.parametrize(
    "point", ["project.after_commit", "project.after_announce", "child.after_end", "child.after_parent_append"]
)
async def test_announced_does_not_pass_a_child_s_end_before_its_parent_knows(
    database: Database, own_eventlog: EventLog, projector: MakeProjector, project: Project, desk: Desk, point: str
) -> None:
    parent = await waiting_parent(own_eventlog)
    await project()
    child = await Child(own_eventlog, parent).run()
    await project()
    end = await child.put(child.story.completed(text="done"))
    probe.arm(f"{point}=raise")
    died = 0
    for shard in range(SHARDS):
        try:
            while await projector(shard).step():
                pass
        except SimulatedCrash:
            died += 1
    assert died == 1
    probe.arm("")
    shard = int(child.ref.job[-1], 16) % SHARDS
    async with database.read() as conn:
        position = await positions.get(conn, shard)
    assert position is not None
    assert position.announced < end <= position.applied  # the row is there; nobody may think that all is told
    one = projector(shard)
    for _ in range(3):  # it looks, waits a turn for the one who may be telling just now, and tells
        await one.step()
    assert len(ends_told(await log_of(own_eventlog, parent.ref))) == 1
    async with database.read() as conn:
        position = await positions.get(conn, shard)
    assert position is not None
    assert position.announced >= end
    assert await desk.doorbells.exists(parent.ref, ev_queue(parent), "normal")


async def test_the_end_of_a_parent_ends_its_open_children_but_not_detached_ones(
    own_eventlog: EventLog, project: Project
) -> None:
    parent = await Told(own_eventlog, MAIN).begin()
    running = await Child(own_eventlog, parent).run()
    queued = await Child(own_eventlog, parent, name="other").submit()
    free = await Child(own_eventlog, parent, name="free", detached=True).submit()
    await project()
    await parent.put(parent.story.completed())
    await project()
    cancelling = (await log_of(own_eventlog, running.ref))[-1]
    assert isinstance(cancelling, ev.CancelRequested)
    assert cancelling.data.reason == "parent_ended"
    ended = (await log_of(own_eventlog, queued.ref))[-1]
    assert isinstance(ended, ev.JobCancelled)
    assert ended.data.reason == "parent_ended"
    assert len(await log_of(own_eventlog, free.ref)) == 1


@pytest.mark.parametrize("first", ["child", "parent"])
async def test_a_child_that_begins_while_its_parent_ends_is_seen_from_one_side(
    own_eventlog: EventLog, projector: MakeProjector, first: str
) -> None:
    """The two logs may lie in different shards, whose projectors know nothing of each other."""
    parent = await Told(own_eventlog, MAIN).begin()
    child = await Child(own_eventlog, parent).submit()
    await parent.put(parent.story.completed())
    shards = [int(told.ref.job[-1], 16) % SHARDS for told in (child, parent)]
    for shard in shards if first == "child" else reversed(shards):
        one = projector(shard)
        while await one.step():
            pass
    assert isinstance((await log_of(own_eventlog, child.ref))[-1], ev.JobCancelled)


async def test_a_child_whose_parent_was_purged_is_left_to_its_own_deadline_and_stops_nobody(
    own_eventlog: EventLog, project: Project
) -> None:
    parent = Told(own_eventlog, MAIN)  # never written
    child = await Child(own_eventlog, parent).run()
    await child.put(child.story.completed())
    await project()
    assert await own_eventlog.tail(parent.ref) is None


async def test_a_parent_whose_log_is_broken_does_not_hold_up_the_shard(
    database: Database, own_eventlog: EventLog, project: Project
) -> None:
    parent = await waiting_parent(own_eventlog)
    gap = stamp(
        parent.story.state,
        new_event_id(),
        parent.story.at,
        ev.TimerData(name="x", occurrence=1, due_at=parent.story.at),
    )
    broken = type(gap)(**{f: getattr(gap, f) for f in gap.__struct_fields__} | {"seq": gap.seq + 5})
    await own_eventlog.append(parent.ref, broken, parent.last)
    child = await Child(own_eventlog, parent).run()
    end = await child.put(child.story.completed())
    await project()
    async with database.read() as conn:
        position = await positions.get(conn, int(child.ref.job[-1], 16) % SHARDS)
    assert position is not None
    assert StreamSeq(position.announced) >= end
