"""Parents and children on the real broker: told once, whoever tells and however often; ended with their parent."""

import asyncio
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from perdure import probe
from perdure.bus.connection import Bus
from perdure.bus.subject import work_subject
from perdure.core import event as ev
from perdure.core import verify
from perdure.core.event import Parent, Status
from perdure.core.instant import later
from perdure.core.machine import fold
from perdure.ids import Digest, JobId, JobRef, Principal, Queue, child_job_id, new_job_id
from perdure.jobs.control import cancel
from perdure.jobs.desk import Desk
from perdure.jobs.orphans import end_orphan, end_orphans
from perdure.jobs.parent import tell_parent
from perdure.jobs.submit import Submission, submit
from perdure.testing.hand import Hand

BOB = Principal("user:bob")


class Family:
    """A parent that runs, and its children by the names of the calls that start them."""

    def __init__(self, desk: Desk, submission: Submission, parent: Hand, bus: Bus) -> None:
        self.desk, self.submission, self.parent, self.bus = desk, submission, parent, bus

    @classmethod
    async def found(cls, desk: Desk, submission: Submission, bus: Bus) -> "Family":
        parent = Hand(desk, (await submit(desk, submission)).ref)
        await parent.start()
        return cls(desk, submission, parent, bus)

    def child(self, name: str = "sub", **members: Any) -> Submission:
        parent = Parent(job_id=self.parent.ref.job, step=name, occurrence=1, path="/1.2", **members)
        return replace(self.submission, parent=parent, source=ev.Source(surface="child"))

    async def start(self, name: str = "sub", *, run: bool = True, **members: Any) -> Hand:
        hand = Hand(self.desk, (await submit(self.desk, self.child(name, **members))).ref)
        if run:
            await hand.start()
        return hand

    async def suspend(self, *children: Hand) -> None:
        await self.parent.log.refresh()
        waiting = tuple(
            ev.Waiting(kind="child", path="/1.2", name="sub", occurrence=1, job_id=c.ref.job) for c in children
        )
        await self.parent.add(ev.SuspendedData(waiting=waiting))
        subject = work_subject(self.submission.queue, "normal", self.parent.ref.job)
        body = msgspec.json.encode({"filter": subject})
        await self.bus.ask("$JS.API.STREAM.PURGE.WORK", body)  # as the runner's ack would

    async def told(self) -> list[ev.ChildData]:
        events = [stored.event for stored in await self.desk.eventlog.read(self.parent.ref)]
        assert verify.log(events) == []
        return [e.data for e in events if isinstance(e, ev.ChildEnded)]

    async def rung(self) -> bool:
        job = self.parent.log.state.submitted
        assert job is not None
        return await self.desk.doorbells.exists(self.parent.ref, job.queue, job.priority)


@pytest.fixture
async def family(desk: Desk, submission: Submission, bus: Bus) -> Family:
    return await Family.found(desk, replace(submission, queue=Queue(submission.tenant)), bus)


async def test_a_child_submitted_again_is_the_same_job_whatever_is_said_the_second_time(family: Family) -> None:
    first = await submit(family.desk, family.child())
    again = await submit(family.desk, replace(family.child(), input={"other": 1}, fingerprint=Digest("e" * 64)))
    assert first.ref.job == child_job_id(family.parent.ref.job, "/1.2", "sub", 1)
    assert again.ref == first.ref
    assert (first.replayed, again.replayed) == (False, True)
    assert again.state.submitted is not None
    assert again.state.submitted.input == {"brief": "hello"}
    other = await submit(family.desk, family.child("other"))
    assert other.ref != first.ref


async def test_fifty_submits_at_once_make_one_child(family: Family) -> None:
    made = await asyncio.gather(*(submit(family.desk, family.child()) for _ in range(50)))
    assert len({m.ref for m in made}) == 1
    assert [m.replayed for m in made].count(False) == 1
    assert len(await family.desk.eventlog.read(made[0].ref)) == 1


async def test_a_parent_that_waits_is_told_once_and_rung(family: Family) -> None:
    child = await family.start()
    await family.suspend(child)
    assert not await family.rung()
    await child.complete(text="done")
    assert await tell_parent(family.desk, child.ref, child.log.state)
    assert await family.rung()
    assert not await tell_parent(family.desk, child.ref, child.log.state)
    [told] = await family.told()
    assert told == ev.ChildData(
        step="sub", occurrence=1, path="/1.2", job_id=child.ref.job, status=Status.COMPLETED, outputs={"text": "done"}
    )
    state = fold([s.event for s in await family.desk.eventlog.read(family.parent.ref)])
    assert state.suspension is not None
    assert [c.kind for c in state.suspension.causes] == ["child"]


async def test_twenty_who_tell_at_once_append_it_once(family: Family) -> None:
    child = await family.start()
    await child.complete()
    told = await asyncio.gather(*(tell_parent(family.desk, child.ref, child.log.state) for _ in range(20)))
    assert told.count(True) == 1
    assert len(await family.told()) == 1


async def test_what_a_parent_reads_says_how_the_child_ended(family: Family) -> None:
    failed, cancelled, late = [await family.start(name) for name in ("a", "b", "c")]
    fingerprint = failed.log.state.fingerprint
    assert fingerprint is not None
    error = ev.Failure(code="card_refused", message="no", step="pay")
    await failed.add(ev.FailedData(error=error, failures=1, fingerprint=fingerprint))
    await cancelled.add(ev.CancelledData(fingerprint=fingerprint, by=BOB, reason="no longer wanted"))
    now = family.desk.clock.broker_now()
    await late.add(ev.TimedOutData(deadline_at=later(now, -1), fingerprint=fingerprint))
    for child in (failed, cancelled, late):
        assert await tell_parent(family.desk, child.ref, child.log.state)
    told = {t.step: t for t in await family.told()}
    assert (told["a"].status, told["a"].error) == (Status.FAILED, error)
    assert told["b"].status is Status.CANCELLED
    assert told["b"].error == ev.Failure(code="cancelled", message="no longer wanted", retryable=False)
    assert told["c"].status is Status.TIMED_OUT
    assert told["c"].error is not None
    assert told["c"].error.code == "deadline"


async def test_nobody_is_told_of_an_open_a_detached_or_a_parentless_job(family: Family) -> None:
    open_ = await family.start("open")
    detached = await family.start("detached", detached=True)
    await detached.complete()
    alone = Hand(family.desk, (await submit(family.desk, family.submission)).ref)
    await alone.start()
    await alone.complete()
    for hand in (open_, detached, alone):
        assert not await tell_parent(family.desk, hand.ref, hand.log.state)
    assert await family.told() == []


async def test_a_parent_that_has_ended_or_is_gone_is_left_alone(family: Family) -> None:
    child = await family.start()
    await child.complete()
    await family.parent.complete()
    assert not await tell_parent(family.desk, child.ref, child.log.state)
    assert await family.told() == []
    lost = replace(family.child(), parent=Parent(job_id=new_job_id(), step="sub", occurrence=1))
    orphan = Hand(family.desk, (await submit(family.desk, lost)).ref)
    await orphan.start()
    await orphan.complete()
    assert not await tell_parent(family.desk, orphan.ref, orphan.log.state)
    assert await family.desk.eventlog.tail(JobRef(orphan.ref.tenant, lost.parent.job_id)) is None  # type: ignore[union-attr]  # set above


async def test_a_tombstone_still_tells_when_the_caller_names_the_parent(family: Family) -> None:
    child = await family.start()
    last = await child.complete(text="done")
    tombstone = fold([last.event])
    assert tombstone.submitted is None
    assert not await tell_parent(family.desk, child.ref, tombstone)
    parent = Parent(job_id=family.parent.ref.job, step="sub", occurrence=1, path="/1.2")
    assert await tell_parent(family.desk, child.ref, tombstone, parent)
    assert [t.outputs for t in await family.told()] == [{"text": "done"}]


async def test_outputs_that_are_too_large_for_an_event_reach_the_parent_by_reference(family: Family) -> None:
    child = await family.start("s" * 9_000)
    await child.complete(text="x" * 190_000, short="y")
    assert await tell_parent(family.desk, child.ref, child.log.state)
    [told] = await family.told()
    assert (told.status, told.outputs) == (Status.COMPLETED, {"short": "y"})
    assert told.outputs_ref["text"].size_bytes == 190_002


@pytest.mark.parametrize("point", ["child.after_end", "child.after_parent_append"])
async def test_a_teller_that_dies_is_followed_by_another_and_the_parent_goes_on(family: Family, point: str) -> None:
    child = await family.start()
    await family.suspend(child)
    await child.complete()
    probe.arm(f"{point}=raise:n1")
    try:
        with pytest.raises(probe.SimulatedCrash):
            await tell_parent(family.desk, child.ref, child.log.state)
    finally:
        probe.arm("")
    assert not await family.rung()
    await tell_parent(family.desk, child.ref, child.log.state)
    assert len(await family.told()) == 1
    assert await family.rung()


async def test_a_cancelled_child_tells_its_parent(family: Family) -> None:
    child = await family.start(run=False)
    await cancel(family.desk, child.ref, BOB)
    assert [t.status for t in await family.told()] == [Status.CANCELLED]
    await cancel(family.desk, child.ref, BOB)
    assert len(await family.told()) == 1


async def test_the_open_children_of_an_ended_parent_are_cancelled_save_the_detached(family: Family) -> None:
    queued = await family.start("queued", run=False)
    running = await family.start("running")
    done = await family.start("done")
    await done.complete()
    detached = await family.start("detached", detached=True)
    gone = JobRef(family.parent.ref.tenant, JobId(new_job_id()))
    everyone = [queued.ref, running.ref, done.ref, detached.ref, gone]
    assert await end_orphans(family.desk, everyone) == 0
    assert [len(await family.desk.eventlog.read(ref)) for ref in everyone] == [1, 2, 3, 2, 0]  # the parent goes on
    await family.parent.complete()
    assert await end_orphans(family.desk, everyone) == 0
    first = await end_orphan(family.desk, queued.ref)
    assert first is not None
    assert isinstance(first.end, ev.CancelledData)
    assert (first.end.reason, first.end.by) == ("parent_ended", Principal("user:ann"))
    second = await end_orphan(family.desk, running.ref)
    assert second is not None
    assert (second.status, second.cancel is not None) == (Status.RUNNING, True)  # it has its grace
    assert [len(await family.desk.eventlog.read(ref)) for ref in everyone] == [2, 3, 3, 2, 0]


async def test_no_python_flow_names_a_blob(desk: Desk, submission: Submission) -> None:
    flow = replace(submission.flow, kind="python")
    job = await submit(desk, replace(submission, flow=flow))
    [stored] = await desk.eventlog.read(job.ref)
    assert stored.event.refs == ()
    graph = await submit(desk, submission)
    [stored] = await desk.eventlog.read(graph.ref)
    assert stored.event.refs == (submission.flow.digest,)
