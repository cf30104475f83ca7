"""Submitting: one job a key, accepted means appended, a lost ring is nobody's error."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace

from perdure import probe
from perdure.bus.doorbell import Doorbells
from perdure.bus.entry import Stored
from perdure.bus.eventlog import EventLog
from perdure.clock import SystemClock
from perdure.core import event as ev
from perdure.core.alarm import Alarm
from perdure.core.event import AnyEvent, Status
from perdure.core.instant import later, seconds_between
from perdure.errors import Invalid, OutcomeUnknown, Unavailable
from perdure.ids import Digest, JobRef, Principal, Queue, StreamSeq, Tenant, job_id_of_key
from perdure.jobs.desk import Desk
from perdure.jobs.submit import Submission, submit, submitted_before
from perdure.testing.hand import Hand

OTHER_BODY = Digest("e" * 64)


class DeadDoorbells(Doorbells):
    """A queue that cannot be reached."""

    async def ring(self, ref: JobRef, queue: Queue, priority: str, *, submitted: Stored | None = None) -> None:
        raise Unavailable("no answer")

    async def arm(self, ref: JobRef, queue: Queue, priority: str, alarms: Iterable[Alarm]) -> None:
        raise Unavailable("no answer")


class MuteLog(EventLog):
    """A log that stores what it is told and never answers, and cannot be read either."""

    async def append(self, ref: JobRef, event: AnyEvent, after: StreamSeq, body: bytes | None = None) -> StreamSeq:
        await super().append(ref, event, after, body)
        raise OutcomeUnknown("no answer")

    async def look(self, ref: JobRef, after: StreamSeq) -> list[Stored]:
        raise Unavailable("no answer")


class HastyClock(SystemClock):
    """Ten seconds of budget are over in a tenth."""

    def monotonic(self) -> float:
        return super().monotonic() * 100


async def rung(desk: Desk, ref: JobRef) -> bool:
    return await desk.doorbells.exists(ref, Queue("default"), "normal")


@asynccontextmanager
async def crash_at(point: str) -> AsyncIterator[None]:
    probe.arm(f"{point}=raise")
    try:
        with pytest.raises(probe.SimulatedCrash):
            yield
    finally:
        probe.arm("")


async def test_an_accepted_job_has_its_first_event_and_a_doorbell(desk: Desk, submission: Submission) -> None:
    accepted = await submit(desk, submission)
    (stored,) = await desk.eventlog.read(accepted.ref)
    assert isinstance(stored.event, ev.JobSubmitted)
    assert stored.event.refs == (submission.flow.digest,)
    left = seconds_between(stored.event.at, stored.event.data.deadline_at)
    assert 89 * 86_400 < left <= 90 * 86_400  # the event is stamped a moment after the job's instants
    assert (accepted.state.status, accepted.replayed) == (Status.QUEUED, False)
    assert await rung(desk, accepted.ref)


async def test_fifty_submits_with_one_key_at_once_make_one_job(desk: Desk, submission: Submission) -> None:
    keyed = replace(submission, idempotency_key="order-17")
    accepted = await asyncio.gather(*(submit(desk, keyed) for _ in range(50)))
    assert len({a.ref for a in accepted}) == 1
    assert [a.replayed for a in accepted].count(False) == 1
    assert len(await desk.eventlog.read(accepted[0].ref)) == 1


async def test_keys_of_two_owners_or_tenants_never_meet(desk: Desk, submission: Submission) -> None:
    keyed = replace(submission, idempotency_key="k")
    others = (replace(keyed, owner=Principal("user:bob")), replace(keyed, tenant=Tenant(f"x{keyed.tenant[:20]}")))
    found = {(await submit(desk, s)).ref.job for s in (keyed, *others)}
    assert len(found) == 3


async def test_a_replay_tells_the_job_as_it_is_now(desk: Desk, submission: Submission) -> None:
    keyed = replace(submission, idempotency_key="k")
    hand = Hand(desk, (await submit(desk, keyed)).ref)
    await hand.start()
    await hand.complete(out="done")
    again = await submit(desk, keyed)
    assert (again.replayed, again.state.status, again.state.outputs) == (True, Status.COMPLETED, {"out": "done"})
    assert len(await desk.eventlog.read(hand.ref)) == 3


async def test_another_body_under_a_used_key_is_refused_and_writes_nothing(desk: Desk, submission: Submission) -> None:
    keyed = replace(submission, idempotency_key="k")
    ref = (await submit(desk, keyed)).ref
    with pytest.raises(Invalid) as refused:
        await submit(desk, replace(keyed, fingerprint=OTHER_BODY))
    assert refused.value.code == "idempotency-key-reused"
    assert refused.value.faults[0].header == "Idempotency-Key"
    assert len(await desk.eventlog.read(ref)) == 1


async def test_a_ring_that_fails_is_no_error_and_the_replay_rings(desk: Desk, submission: Submission) -> None:
    keyed = replace(submission, idempotency_key="k")
    accepted = await submit(replace(desk, doorbells=DeadDoorbells.__new__(DeadDoorbells)), keyed)
    assert not await rung(desk, accepted.ref)
    assert (await submit(desk, keyed)).replayed
    assert await rung(desk, accepted.ref)


@pytest.mark.parametrize("point", ["submit.before_append", "submit.after_append", "submit.after_ring"])
async def test_whoever_dies_in_the_middle_is_asked_again_and_makes_one_job(
    desk: Desk, submission: Submission, point: str
) -> None:
    keyed = replace(submission, idempotency_key="k")
    async with crash_at(point):
        await submit(desk, keyed)
    accepted = await submit(desk, keyed)
    assert len(await desk.eventlog.read(accepted.ref)) == 1
    assert await rung(desk, accepted.ref)


async def test_an_append_without_an_answer_is_unknown_and_names_the_job(desk: Desk, submission: Submission) -> None:
    mute = MuteLog.__new__(MuteLog)
    mute.__dict__.update(desk.eventlog.__dict__)
    keyed = replace(submission, idempotency_key="k")
    with pytest.raises(OutcomeUnknown) as unknown:
        await submit(replace(desk, eventlog=mute, clock=HastyClock()), keyed)
    job = job_id_of_key(keyed.tenant, keyed.owner, "k")
    assert unknown.value.job_id == job
    again = await submit(desk, keyed)  # I17: what was unknown is what it is told then
    assert (again.ref.job, again.replayed) == (job, True)


async def test_a_job_that_may_not_start_yet_gets_an_alarm_and_no_doorbell(desk: Desk, submission: Submission) -> None:
    soon = later(desk.clock.broker_now(), 3600)
    accepted = await submit(desk, replace(submission, not_before=soon))
    assert accepted.state.status is Status.QUEUED
    assert not await rung(desk, accepted.ref)


async def test_what_a_key_has_made_is_found_without_a_body_that_would_do_today(
    desk: Desk, submission: Submission
) -> None:
    s = replace(submission, idempotency_key="k")
    assert await submitted_before(desk, s.tenant, s.owner, "k", s.fingerprint) is None
    accepted = await submit(desk, s)
    found = await submitted_before(desk, s.tenant, s.owner, "k", s.fingerprint)
    assert found is not None
    assert found.ref == accepted.ref
    with pytest.raises(Invalid):
        await submitted_before(desk, s.tenant, s.owner, "k", OTHER_BODY)
