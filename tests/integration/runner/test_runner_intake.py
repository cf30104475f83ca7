"""The claim on a real broker: which doorbells start an attempt, are acked, are left; and what is written."""

import asyncio
import uuid

from tests.conftest import SHARDS
from tests.integration.runner.bench import BOB, Bench, Eventually

from perdure.bus.purge import purge_log
from perdure.bus.stream import Ask, leader_get
from perdure.bus.subject import WORK, alarm_subject
from perdure.core import event as ev
from perdure.core.event import Status
from perdure.testing.factory import FINGERPRINT, RUNNER


async def test_a_new_job_is_claimed_under_its_doorbell(bench: Bench) -> None:
    await bench.submit()
    async with bench.runner() as runner:
        await bench.ring()
        claimed = await runner.started.get()
        job = (await bench.log()).state
        assert job.status is Status.RUNNING
        assert job.attempt_id == claimed.attempt_id
        assert job.attempt_data is not None
        assert job.attempt_data.reason == "first"
        assert job.attempt_data.doorbell == claimed.delivery.bell


async def test_a_stale_copy_of_the_first_event_in_the_doorbell_starts_nothing_twice(
    bench: Bench, eventually: Eventually
) -> None:
    await bench.submit()
    first = (await bench.log()).entries[0]
    await bench.append(ev.CancelledData(fingerprint=FINGERPRINT))
    async with bench.runner() as runner:
        await bench.doorbells.ring(bench.ref, bench.queue, "normal", submitted=first)
        await eventually(bench.empty)
        assert runner.started.empty()
    assert (await bench.log()).state.seq == 2


async def test_a_doorbell_of_nobodys_job_is_acked(bench: Bench, eventually: Eventually) -> None:
    async with bench.runner() as runner:
        await bench.ring()
        await eventually(bench.empty)
        assert runner.started.empty()
    assert (await bench.log()).state.seq == 0


async def test_a_doorbell_that_outlives_the_purge_of_its_log_is_acked(bench: Bench, eventually: Eventually) -> None:
    await bench.submit()
    first = (await bench.log()).entries[0]
    await bench.append(ev.CancelledData(fingerprint=FINGERPRINT))
    await purge_log(bench.bus, SHARDS, bench.ref, (await bench.log()).tail, tombstone=False)
    async with bench.runner() as runner:
        await bench.doorbells.ring(bench.ref, bench.queue, "normal", submitted=first)
        await eventually(bench.empty)
        assert runner.started.empty()
    assert (await bench.log()).state.seq == 0


async def test_a_sleeping_job_is_not_woken_by_a_doorbell_and_its_alarm_is_armed(
    bench: Bench, eventually: Eventually
) -> None:
    asked = await bench.asleep(expires_in=600.0)
    async with bench.runner() as runner:
        await bench.ring()
        await eventually(bench.empty)
        assert runner.started.empty()
    log = await bench.log()
    assert log.state.status is Status.SUSPENDED
    assert asked in log.state.asked
    alarm = alarm_subject(bench.ref.job, "q3")
    assert await leader_get(bench.bus, WORK, Ask(last_by_subj=alarm)) is not None


async def test_a_recorded_answer_resumes_and_is_named_as_the_cause(bench: Bench) -> None:
    asked = await bench.asleep()
    via = ev.Via(channel="api")
    await bench.append(ev.AnsweredData(request_id=asked, revision=1, action="approve", payload=None, by=BOB, via=via))
    async with bench.runner() as runner:
        await bench.ring()
        claimed = await runner.started.get()
        data = claimed.joblog.state.attempt_data
        assert data is not None
        assert (data.reason, data.cause, data.because_seq) == ("resumed", "answer", 5)


async def test_a_second_doorbell_of_a_running_job_is_acked_and_starts_nothing(
    bench: Bench, eventually: Eventually
) -> None:
    await bench.submit()
    async with bench.runner() as first, bench.runner() as second:
        await bench.ring()
        await bench.ring()
        await bench.ring()
        running = asyncio.ensure_future(first.started.get()), asyncio.ensure_future(second.started.get())
        done, pending = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        held = next(iter(done)).result()

        async def one_left() -> bool:
            read = await leader_get(bench.bus, WORK, Ask(last_by_subj=f"work.{bench.queue}.normal.{bench.ref.job}"))
            return read is not None and read.seq == held.delivery.bell.seq

        await eventually(one_left)
        for task in pending:
            task.cancel()
        assert first.started.empty()
        assert second.started.empty()
    assert (await bench.log()).state.attempt == 1


async def test_a_job_whose_doorbell_is_gone_is_taken_over_by_another(bench: Bench) -> None:
    await bench.submit()
    gone = ev.Bell(seq=1, ring=str(uuid.uuid4()))
    await bench.append(ev.AttemptData(runner=RUNNER, doorbell=gone, reason="first"))
    async with bench.runner() as runner:
        await bench.ring()
        claimed = await runner.started.get()
        data = claimed.joblog.state.attempt_data
        assert data is not None
        assert (data.reason, claimed.joblog.state.attempt) == ("lease_lost", 2)


async def test_a_dead_runners_job_is_redelivered_and_taken_over(bench: Bench) -> None:
    await bench.submit()
    async with bench.runner() as first:
        first.dies = True
        await bench.ring()
        before = await first.started.get()
        first.dies = False
        after = await first.started.get()
        assert after.delivery.bell == before.delivery.bell
        assert after.joblog.state.attempt == 2
        assert after.joblog.state.crashes == 1


async def test_a_job_that_crashes_every_runner_ends_at_the_fifth(bench: Bench, eventually: Eventually) -> None:
    await bench.submit()
    for number in range(5):
        reason = "first" if number == 0 else "lease_lost"
        bell = ev.Bell(seq=number + 1, ring="gone")
        await bench.append(ev.AttemptData(runner=RUNNER, doorbell=bell, reason=reason))  # type: ignore[arg-type]  # one of two literals
    async with bench.runner() as runner:
        await bench.ring()
        await eventually(bench.empty)
        assert runner.started.empty()
    job = (await bench.log()).state
    assert job.status is Status.FAILED
    assert isinstance(job.end, ev.FailedData)
    assert job.end.error.code == "runner_crashed"
    assert job.attempt == 5


async def test_a_flow_that_this_runner_lacks_is_handed_back_and_nothing_is_written(bench: Bench) -> None:
    await bench.submit()
    async with bench.runner() as lacking:
        lacking.flows.known = False
        await bench.ring()
        await lacking.flows.refused.wait()
        assert (await bench.log()).state.seq == 1
        lacking.flows.known = True  # learns it, and gets the same doorbell again
        claimed = await lacking.started.get()
        assert claimed.delivery.times > 1
        assert claimed.joblog.state.attempt == 1


async def test_what_time_has_decided_is_written_by_whoever_looks(bench: Bench, eventually: Eventually) -> None:
    await bench.submit(deadline_seconds=-1.0)
    async with bench.runner() as runner:
        await bench.ring()
        await eventually(bench.empty)
        assert runner.started.empty()
    assert (await bench.log()).state.status is Status.TIMED_OUT


async def test_an_expired_request_resumes_the_job_with_the_expiry_as_cause(bench: Bench) -> None:
    asked = await bench.asleep(expires_in=-1.0, on_timeout=ev.OnTimeout(do="answer", action="approve"))
    async with bench.runner() as runner:
        await bench.ring()
        claimed = await runner.started.get()
        job = claimed.joblog.state
        assert job.attempt_data is not None
        assert (job.attempt_data.reason, job.attempt_data.cause) == ("resumed", "expiry")
        settled = job.settled[asked].data
        assert isinstance(settled, ev.ExpiredData)
        assert settled.outcome.action == "approve"


async def test_a_runner_that_stops_hands_its_doorbells_back(bench: Bench) -> None:
    await bench.submit()
    async with bench.runner() as leaving:
        leaving.intake.stopping = True
        async with bench.runner() as staying:
            await bench.ring()
            claimed = await staying.started.get()
            assert claimed.joblog.state.attempt == 1
        assert leaving.started.empty()
