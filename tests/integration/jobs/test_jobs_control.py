"""Cancelling: at once where nobody works, after a grace where somebody does."""

import asyncio

import pytest

from perdure.core import event as ev
from perdure.core.event import Status
from perdure.errors import NotFound
from perdure.ids import JobRef, Principal, Tenant, new_job_id
from perdure.jobs.control import cancel
from perdure.jobs.desk import Desk
from perdure.jobs.submit import Submission, submit
from perdure.testing.hand import Hand

BOB = Principal("user:bob")


async def a_job(desk: Desk, submission: Submission, *, run: bool = False) -> Hand:
    hand = Hand(desk, (await submit(desk, submission)).ref)
    if run:
        await hand.start()
    return hand


async def kinds(desk: Desk, ref: JobRef) -> list[str]:
    return [type(stored.event).__name__ for stored in await desk.eventlog.read(ref)]


async def test_a_job_that_nobody_runs_ends_at_once(desk: Desk, submission: Submission) -> None:
    queued = await a_job(desk, submission)
    asleep = await a_job(desk, submission, run=True)
    await asleep.suspend(await asleep.ask())
    for hand in (queued, asleep):
        job = await cancel(desk, hand.ref, BOB, reason="no longer wanted")
        assert job.status is Status.CANCELLED
        assert isinstance(job.end, ev.CancelledData)
        assert (job.end.by, job.end.reason) == (BOB, "no longer wanted")


async def test_a_running_job_is_asked_once_and_may_be_forced(desk: Desk, submission: Submission) -> None:
    hand = await a_job(desk, submission, run=True)
    job = await cancel(desk, hand.ref, BOB, grace_seconds=60)
    assert job.status is Status.RUNNING
    assert job.cancel == ev.CancelData(by=BOB, grace_seconds=60)
    assert (await cancel(desk, hand.ref, BOB)).seq == job.seq  # a second one without force changes nothing
    assert (await cancel(desk, hand.ref, BOB, force=True)).status is Status.CANCELLED
    assert await kinds(desk, hand.ref) == ["JobSubmitted", "AttemptStarted", "CancelRequested", "JobCancelled"]


async def test_whoever_asks_after_the_grace_ends_the_job(desk: Desk, submission: Submission) -> None:
    hand = await a_job(desk, submission, run=True)
    await cancel(desk, hand.ref, BOB, grace_seconds=0)
    job = await cancel(desk, hand.ref, Principal("user:carol"))
    assert isinstance(job.end, ev.CancelledData)
    assert job.end.by == BOB  # who asked for it, not who looked


async def test_an_ended_job_comes_back_unchanged(desk: Desk, submission: Submission) -> None:
    hand = await a_job(desk, submission, run=True)
    await hand.complete(out=1)
    for force in (False, True):
        assert (await cancel(desk, hand.ref, BOB, force=force)).status is Status.COMPLETED
    assert (await kinds(desk, hand.ref))[-1] == "JobCompleted"


async def test_a_job_of_nobody_or_of_another_tenant_is_not_there(desk: Desk, submission: Submission) -> None:
    hand = await a_job(desk, submission)
    for ref in (JobRef(hand.ref.tenant, new_job_id()), JobRef(Tenant("somebodyelse"), hand.ref.job)):
        with pytest.raises(NotFound):
            await cancel(desk, ref, BOB)


async def test_a_cancel_against_the_end_leaves_one_end(desk: Desk, submission: Submission) -> None:
    async def once() -> None:
        hand = await a_job(desk, submission, run=True)
        results = await asyncio.gather(cancel(desk, hand.ref, BOB, force=True), hand.complete(), return_exceptions=True)
        log = await kinds(desk, hand.ref)
        ends = [kind for kind in log if kind in ("JobCancelled", "JobCompleted")]
        assert len(ends) == 1
        assert log[-1] == ends[0]
        assert not isinstance(results[0], BaseException)
        assert results[0].status is (Status.CANCELLED if ends == ["JobCancelled"] else Status.COMPLETED)

    await asyncio.gather(*(once() for _ in range(50)))
