"""JobLog on a real broker: decisions behind the newest state, unknown outcomes looked up, fenced writers stopped."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from perdure.bus.eventlog import EventLog
from perdure.clock import SystemClock
from perdure.core import event as ev
from perdure.core.event import AnyData, AnyEvent, Status
from perdure.core.instant import Instant
from perdure.core.machine import JobState, fold
from perdure.errors import Interrupted, Malformed, OutcomeUnknown, Unavailable
from perdure.ids import EventId, JobRef, Principal, Queue, StreamSeq, Tenant, new_job_id
from perdure.jobs.joblog import JobLog
from perdure.testing.factory import FINGERPRINT, FLOW, OWNER, RUNNER

LATER = Instant("2036-01-01T00:00:00.000Z")


class LossyEventLog(EventLog):
    """The real log over a line that loses answers: each entry of `faults` befalls one append, then all is well.

    "answer": stored, the PubAck is lost. "append": lost on the way, nothing stored. Before the writer may look,
    `between` runs once: somebody else's turn.
    """

    faults: list[str]
    between: Callable[[], Awaitable[object]] | None

    async def append(self, ref: JobRef, event: AnyEvent, after: StreamSeq, body: bytes | None = None) -> StreamSeq:
        fault = self.faults.pop(0) if self.faults else None
        if fault == "append":
            await self._others()
            raise OutcomeUnknown("lost on the way")
        at = await super().append(ref, event, after, body)
        if fault == "answer":
            await self._others()
            raise OutcomeUnknown("answer lost")
        return at

    async def _others(self) -> None:
        if self.between is not None:
            turn, self.between = self.between, None
            await turn()


@pytest.fixture
def lossy(eventlog: EventLog) -> LossyEventLog:
    """The run's log behind a lossy line."""
    line = LossyEventLog.__new__(LossyEventLog)
    line.__dict__.update(eventlog.__dict__)
    line.faults, line.between = [], None
    return line


@pytest.fixture
def ref(tenant: Tenant) -> JobRef:
    """A job that nobody has submitted yet."""
    return JobRef(tenant, new_job_id())


def submitted() -> ev.SubmittedData:
    return ev.SubmittedData(
        flow=FLOW,
        input="hi",
        owner=OWNER,
        queue=Queue("default"),
        priority="normal",
        deadline_at=LATER,
        fingerprint=FINGERPRINT,
    )


def started(ring: str) -> ev.AttemptData:
    return ev.AttemptData(runner=RUNNER, doorbell=ev.Bell(seq=1, ring=ring), reason="first")


def step(name: str) -> ev.StepCompletedData:
    return ev.StepCompletedData(
        step=name, occurrence=1, result=name, started_at=Instant("2026-01-01T00:00:00.000Z"), duration_seconds=0.1
    )


def cancel() -> ev.CancelData:
    return ev.CancelData(by=Principal("user:eve"), grace_seconds=30.0)


def always(data: AnyData) -> Callable[[JobState], AnyData | None]:
    return lambda job: data


async def running(log: JobLog) -> EventId:
    """Submit and claim; the attempt's event id."""
    await log.append(always(submitted()))
    claim = await log.append(always(started("a")))
    assert claim is not None
    return claim.event.id


def steps(log: JobLog) -> list[str]:
    return [event.data.step for event in log.events if isinstance(event, ev.StepCompleted)]


@pytest.fixture
def log(lossy: LossyEventLog, ref: JobRef) -> JobLog:
    """The writer under test."""
    return JobLog(lossy, ref, SystemClock())


@pytest.fixture
def other(eventlog: EventLog, ref: JobRef) -> Callable[[AnyData], Awaitable[object]]:
    """Somebody else who appends, over a good line."""

    async def append(data: AnyData) -> object:
        theirs = await JobLog.load(eventlog, ref, SystemClock())
        return await theirs.append(always(data))

    return append


async def test_what_is_appended_is_what_another_reader_folds(log: JobLog, eventlog: EventLog, ref: JobRef) -> None:
    attempt = await running(log)
    await log.append(always(step("one")), attempt=attempt)
    read = await JobLog.load(eventlog, ref, SystemClock())
    assert read.state == log.state == fold(log.events)
    assert [event.seq for event in read.events] == [1, 2, 3]
    assert read.state.status is Status.RUNNING


async def test_a_lost_answer_is_found_stored_and_nothing_is_stored_twice(log: JobLog, lossy: LossyEventLog) -> None:
    attempt = await running(log)
    lossy.faults = ["answer"]
    stored = await log.append(always(step("one")), attempt=attempt)
    assert stored is not None
    assert stored.event.seq == 3
    assert steps(log) == ["one"]


async def test_a_lost_append_is_sent_again_under_the_same_id(log: JobLog, lossy: LossyEventLog) -> None:
    attempt = await running(log)
    lossy.faults = ["append", "append", "answer"]
    await log.append(always(step("one")), attempt=attempt)
    await log.append(always(step("two")), attempt=attempt)
    assert steps(log) == ["one", "two"]


async def test_a_stored_event_behind_a_lost_answer_is_found_when_others_followed(
    log: JobLog, lossy: LossyEventLog, other: Callable[[AnyData], Awaitable[object]]
) -> None:
    attempt = await running(log)
    lossy.faults, lossy.between = ["answer"], lambda: other(cancel())
    stored = await log.append(always(step("one")), attempt=attempt)
    assert stored is not None
    assert (stored.event.seq, log.state.seq) == (3, 4)
    assert log.state.cancel is not None
    assert steps(log) == ["one"]


async def test_news_before_a_lost_append_is_folded_and_the_event_still_stands(
    log: JobLog, lossy: LossyEventLog, other: Callable[[AnyData], Awaitable[object]]
) -> None:
    attempt = await running(log)
    lossy.faults, lossy.between = ["append"], lambda: other(cancel())
    stored = await log.append(always(step("one")), attempt=attempt)
    assert stored is not None
    assert [type(event) for event in log.events[2:]] == [ev.CancelRequested, ev.StepCompleted]


async def test_a_decision_that_no_longer_fits_after_news_is_dropped(
    log: JobLog, lossy: LossyEventLog, other: Callable[[AnyData], Awaitable[object]]
) -> None:
    attempt = await running(log)
    lossy.faults, lossy.between = ["append"], lambda: other(cancel())
    stored = await log.append(lambda job: step("one") if job.cancel is None else None, attempt=attempt)
    assert stored is None
    assert steps(log) == []


@pytest.mark.parametrize("fault", ["answer", "append"])
async def test_a_takeover_fences_whatever_became_of_the_append(
    log: JobLog, lossy: LossyEventLog, other: Callable[[AnyData], Awaitable[object]], fault: str
) -> None:
    attempt = await running(log)
    lossy.faults, lossy.between = [fault], lambda: other(started("b"))
    with pytest.raises(Interrupted):
        await log.append(always(step("one")), attempt=attempt)
    with pytest.raises(Interrupted):
        await log.append(always(step("two")), attempt=attempt)
    assert steps(log) == (["one"] if fault == "answer" else [])


async def test_nothing_follows_the_end_of_the_job_by_somebody_else(
    log: JobLog, other: Callable[[AnyData], Awaitable[object]]
) -> None:
    attempt = await running(log)
    await other(ev.CancelledData(fingerprint=FINGERPRINT))
    assert await log.append(always(step("one")), attempt=attempt) is None
    assert log.state.status is Status.CANCELLED
    assert steps(log) == []


async def test_twenty_writers_at_once_leave_one_dense_log(eventlog: EventLog, ref: JobRef) -> None:
    first = JobLog(eventlog, ref, SystemClock())
    await running(first)

    async def signal(number: int) -> None:
        mine = await JobLog.load(eventlog, ref, SystemClock())
        data = ev.SignalData(signal_id=str(number), name="go", payload=number, by=OWNER)
        assert await mine.append(always(data)) is not None

    await asyncio.gather(*[signal(n) for n in range(20)])
    read = await JobLog.load(eventlog, ref, SystemClock())
    said = [event.data.payload for event in read.events if isinstance(event, ev.SignalReceived)]
    assert sorted(said) == list(range(20))
    assert [event.seq for event in read.events] == list(range(1, 23))


async def test_an_outcome_that_cannot_be_learnt_is_said_to_be_unknown(log: JobLog, lossy: LossyEventLog) -> None:
    await log.append(always(submitted()))
    lossy.faults = ["append"] * 1000

    with pytest.raises(OutcomeUnknown):
        await log.append(always(started("a")), budget_seconds=0.2)
    lossy.faults = []


async def test_a_log_that_refuses_for_the_whole_budget_is_unavailable_and_nothing_is_stored(
    log: JobLog, lossy: LossyEventLog, eventlog: EventLog, ref: JobRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(
        self: EventLog, ref: JobRef, event: AnyEvent, after: StreamSeq, body: bytes | None = None
    ) -> StreamSeq:
        raise Unavailable("no leader")

    await log.append(always(submitted()))
    monkeypatch.setattr(LossyEventLog, "append", refuse)
    with pytest.raises(Unavailable, match="no leader"):
        await log.append(always(started("a")), budget_seconds=0.2)
    assert (await JobLog.load(eventlog, ref, SystemClock())).state.seq == 1


async def test_an_event_that_nobody_could_read_back_is_refused_and_the_log_stays_whole(
    log: JobLog, eventlog: EventLog, ref: JobRef
) -> None:
    await running(log)
    error = ev.Failure(code=5, message="x", retryable=False)  # type: ignore[arg-type]  # what users' code may hand in
    for wrong in (error, ev.Failure(code="\ud800", message="x", retryable=False)):
        failed = ev.FailedData(error=wrong, failures=0, fingerprint=FINGERPRINT)
        with pytest.raises(Malformed):
            await log.append(lambda job, data=failed: data)  # type: ignore[misc]  # bound now
    assert fold(entry.event for entry in await eventlog.read(ref)) == log.state
