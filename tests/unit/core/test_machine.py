"""Life cycles written by hand: what the fold of a log says. No expectation is read from the table under test."""

import pytest
from msgspec.structs import replace

from perdure.core import event as ev
from perdure.core.claim import crashed_out
from perdure.core.event import Status
from perdure.core.instant import Instant
from perdure.core.machine import EMPTY, JobState, apply, crashes_at_claim, fold, may_follow, stamp, status_after
from perdure.errors import BrokenLog
from perdure.ids import JobId, Principal, RequestId
from perdure.testing.factory import FINGERPRINT, JOB, OWNER, Story, event_id


def statuses(story: Story) -> list[str]:
    return [event.status.value for event in story.events]


def signal(name: str) -> ev.SignalData:
    return ev.SignalData(signal_id="s", name=name, payload=None, by=OWNER)


def cancel(grace_seconds: float = 30.0) -> ev.CancelData:
    return ev.CancelData(by=OWNER, grace_seconds=grace_seconds)


def waiting_for(request: RequestId) -> ev.Waiting:
    return ev.Waiting(kind="input", request_id=request)


def test_a_job_that_runs_through_is_queued_running_completed() -> None:
    story = Story()
    story.submitted()
    story.started()
    story.step("draft", "text", output=ev.Named(name="draft", kind="text"))
    story.completed(draft="text")
    assert statuses(story) == ["queued", "running", "running", "completed"]
    assert [(e.seq, e.attempt) for e in story.events] == [(1, 0), (2, 1), (3, 1), (4, 1)]
    job = story.state
    assert job.terminal
    assert job.exists
    assert job.outputs == {"draft": "text"}
    assert job.submitted_at == "2026-01-01T00:00:00.000Z"
    assert job.started_at == "2026-01-01T00:00:01.000Z"
    assert job.ended_at == job.updated_at == "2026-01-01T00:00:03.000Z"
    assert job.fingerprint == FINGERPRINT
    assert fold(story.events) == job
    assert fold(story.events[2:], fold(story.events[:2])) == job


def test_a_job_that_asks_sleeps_until_the_answer_resumes_it() -> None:
    story = Story()
    story.submitted()
    story.started()
    request = story.asked()
    assert request == f"{JOB}_3"
    story.suspended(waiting_for(request))
    assert list(story.state.asked) == [request]
    assert causes(story.state) == []
    story.answered(request)
    assert story.state.asked == {}
    assert story.state.settled[request].seq == 5
    assert causes(story.state) == [(5, "answer")]
    story.started("resumed", because_seq=5, cause="answer")
    assert story.state.suspension is None
    story.completed()
    assert statuses(story) == ["queued", "running", "running", "suspended", "suspended", "running", "completed"]
    assert story.state.attempt == 2


def test_an_answer_before_the_suspension_is_no_cause_of_it() -> None:
    story = Story()
    story.submitted()
    story.started()
    request = story.asked()
    story.answered(request)
    assert story.state.status is Status.RUNNING
    story.suspended(ev.Waiting(kind="timer", name="nap", occurrence=1, until=Instant("2026-01-01T00:10:00.000Z")))
    assert causes(story.state) == []


@pytest.mark.parametrize("kind", ["backoff", "runner", "code"])
def test_a_job_that_waits_for_no_person_or_event_is_retrying(kind: str) -> None:
    story = Story()
    story.submitted()
    story.started()
    story.suspended(ev.Waiting(kind=kind))  # type: ignore[arg-type]  # three of the literals
    assert story.state.status is Status.RETRYING


def test_a_job_that_waits_for_a_back_off_and_a_person_is_suspended() -> None:
    story = Story()
    story.submitted()
    story.started()
    request = story.asked()
    story.suspended(ev.Waiting(kind="backoff", until=Instant("2026-01-01T00:01:00.000Z")), waiting_for(request))
    assert story.state.status is Status.SUSPENDED


def test_failed_steps_count_and_leave_the_job_running() -> None:
    story = Story()
    story.submitted()
    story.started()
    story.failed_step("draft", retry_at=Instant("2026-01-01T00:00:09.000Z"))
    story.failed_step("draft", final=True)
    assert story.state.status is Status.RUNNING
    assert story.state.failures == 2
    error = ev.Failure(code="step_failed", message="no", step="draft")
    story.add(ev.FailedData(error=error, failures=2, fingerprint=FINGERPRINT))
    assert statuses(story) == ["queued", "running", "running", "running", "failed"]


def test_a_cancel_of_a_running_job_waits_for_it_and_the_first_one_counts() -> None:
    story = Story()
    story.submitted()
    story.started()
    story.add(cancel(30.0))
    story.add(cancel(1.0))
    assert story.state.status is Status.RUNNING
    assert story.state.cancel == cancel(30.0)
    assert story.state.cancel_at == "2026-01-01T00:00:02.000Z"
    story.add(ev.CancelledData(fingerprint=FINGERPRINT))
    assert statuses(story) == ["queued", "running", "running", "running", "cancelled"]


@pytest.mark.parametrize("asleep", [False, True])
def test_a_job_that_does_not_run_is_cancelled_without_a_request(asleep: bool) -> None:
    story = Story()
    story.submitted()
    if asleep:
        story.started()
        story.suspended(ev.Waiting(kind="signal", name="go"))
    assert not may_follow(story.state, cancel())
    story.add(ev.CancelledData(fingerprint=FINGERPRINT))
    assert story.state.status is Status.CANCELLED


def test_the_deadline_ends_a_queued_job() -> None:
    story = Story()
    story.submitted(deadline_seconds=5)
    story.add(ev.TimedOutData(deadline_at=Instant("2026-01-01T00:00:05.000Z"), fingerprint=FINGERPRINT))
    assert story.state.status is Status.TIMED_OUT


def test_the_end_withdraws_every_open_request() -> None:
    story = Story()
    story.submitted()
    story.started()
    story.asked()
    story.completed()
    assert story.state.asked == {}
    assert story.state.settled == {}


def test_nothing_follows_the_end() -> None:
    story = Story()
    story.submitted()
    story.started()
    request = story.asked()
    story.completed()
    late: list[ev.AnyData] = [
        ev.CompletedData(outputs={}, fingerprint=FINGERPRINT),
        ev.CancelledData(fingerprint=FINGERPRINT),
        ev.TimedOutData(deadline_at=Instant("2026-01-01T01:00:00.000Z"), fingerprint=FINGERPRINT),
        ev.WithdrawnData(request_id=request, reason="late"),
        ev.AttemptData(runner=story.events[1].data.runner, doorbell=ev.Bell(seq=9, ring="r"), reason="rung"),  # type: ignore[union-attr]  # the second event is the start
        signal("go"),
        cancel(),
    ]
    assert [status_after(story.state, data) for data in late] == [None] * len(late)
    with pytest.raises(BrokenLog, match=r"job\.cancelled cannot follow completed at 4"):
        story.add(ev.CancelledData(fingerprint=FINGERPRINT))


def test_a_log_begins_with_its_submission_and_only_once() -> None:
    story = Story()
    with pytest.raises(BrokenLog):
        story.started()
    story.submitted()
    with pytest.raises(BrokenLog):
        story.submitted()


def test_only_a_running_job_makes_progress() -> None:
    story = Story()
    story.submitted()
    for refused in (story.step, story.failed_step):
        with pytest.raises(BrokenLog):
            refused("draft")
    story.started()
    story.suspended(ev.Waiting(kind="runner"))
    with pytest.raises(BrokenLog):
        story.suspended(ev.Waiting(kind="runner"))
    with pytest.raises(BrokenLog):
        story.completed()


def test_a_request_is_settled_once_and_only_when_it_was_asked() -> None:
    story = Story()
    story.submitted()
    story.started()
    with pytest.raises(BrokenLog):
        story.answered(RequestId(f"{JOB}_9"))
    request = story.asked()
    story.answered(request)
    with pytest.raises(BrokenLog):
        story.answered(request, "reject")
    with pytest.raises(BrokenLog):
        story.add(ev.WithdrawnData(request_id=request, reason="changed my mind"))
    settled = story.state.settled[request]
    assert isinstance(settled.data, ev.AnsweredData)
    assert settled.data.action == "approve"


def test_a_restated_request_keeps_its_id_and_the_status() -> None:
    story = Story()
    story.submitted()
    story.started()
    request = story.asked()
    story.suspended(waiting_for(request))
    again = replace(story.state.asked[request], revision=2, title="Publish this, please?")
    story.add(ev.RequestedData(request=again))
    assert story.state.status is Status.SUSPENDED
    assert story.state.asked[request].title == "Publish this, please?"
    story.answered(request)
    assert not may_follow(story.state, ev.RequestedData(request=replace(again, revision=3)))


def test_a_first_asking_comes_from_a_running_job_only() -> None:
    story = Story()
    story.submitted()
    story.started()
    request = story.state.asked
    story.suspended(ev.Waiting(kind="runner"))
    assert request == {}
    with pytest.raises(BrokenLog):
        story.asked()


def test_an_event_out_of_turn_breaks_the_log() -> None:
    story = Story()
    story.submitted()
    story.started()
    fits = stamp(story.state, event_id(3), story.at, ev.StepSkippedData(step="bin", occurrence=1, reason="not_taken"))
    assert apply(story.state, fits).seq == 3
    for wrong in (
        replace(fits, seq=4),
        replace(fits, seq=2),
        replace(fits, attempt=0),
        replace(fits, attempt=2),
        replace(fits, status=Status.QUEUED),
    ):
        with pytest.raises(BrokenLog):
            apply(story.state, wrong)


def test_a_tombstone_still_says_how_the_job_ended() -> None:
    story = Story()
    story.submitted()
    story.started()
    story.completed(draft="text")
    job = fold(story.events[-1:])
    assert (job.seq, job.status, job.attempt) == (3, Status.COMPLETED, 1)
    assert job.fingerprint == FINGERPRINT
    assert job.outputs == {"draft": "text"}
    assert job.submitted is None
    assert job.terminal


def test_a_log_whose_beginning_is_missing_is_no_tombstone() -> None:
    story = Story()
    story.submitted()
    story.started()
    story.completed()
    with pytest.raises(BrokenLog):
        fold(story.events[1:])
    with pytest.raises(BrokenLog):
        apply(EMPTY, replace(story.events[0], seq=2, status=Status.COMPLETED))


def test_attempts_that_wrote_nothing_count_as_crashes_in_a_row() -> None:
    story = Story()
    story.submitted()
    assert crashes_at_claim(story.state) == 0
    for crashes in range(4):
        story.started("lease_lost")
        assert story.state.crashes == crashes
        assert crashes_at_claim(story.state) == crashes + 1
        assert crashed_out(story.state) is None
    story.started("lease_lost")
    end = crashed_out(story.state)
    assert end is not None
    assert end.error.code == "runner_crashed"
    assert end.error.message == "5 attempts in a row ended without a word; the last one was attempt 5"


def test_one_word_of_an_attempt_sets_the_crashes_to_nought() -> None:
    story = Story()
    story.submitted()
    for _ in range(4):
        story.started("lease_lost")
    story.step("draft")
    assert story.state.crashes == crashes_at_claim(story.state) == 0
    story.started("lease_lost")
    assert crashes_at_claim(story.state) == 1


def test_what_others_write_into_a_silent_attempt_leaves_it_a_crash() -> None:
    story = Story()
    story.submitted()
    story.started()
    request = story.asked()
    story.started("lease_lost")
    story.answered(request)
    story.add(signal("go"))
    story.add(cancel())
    assert crashes_at_claim(story.state) == 1


def test_a_drained_attempt_is_no_crash() -> None:
    story = Story()
    story.submitted()
    for _ in range(10):
        story.started()
        story.suspended(ev.Waiting(kind="runner"))
    assert crashes_at_claim(story.state) == 0


def asleep_on(*waiting: ev.Waiting, more: int = 0) -> Story:
    story = Story()
    story.submitted()
    story.started()
    story.suspended(*waiting, more=more)
    return story


def causes(job: JobState) -> list[tuple[int, str | None]]:
    assert job.suspension is not None
    return [(cause.seq, cause.kind) for cause in job.suspension.causes]


def test_a_signal_resumes_who_waits_for_its_name() -> None:
    story = asleep_on(ev.Waiting(kind="signal", name="go"))
    story.add(signal("stay"))
    assert causes(story.state) == []
    story.add(signal("go"))
    assert causes(story.state) == [(5, "signal")]


def test_a_timer_resumes_the_one_call_it_belongs_to() -> None:
    nap = ev.Waiting(kind="timer", path="/1.2", name="nap", occurrence=2, until=Instant("2026-01-01T00:01:00.000Z"))
    story = asleep_on(nap)
    due = Instant("2026-01-01T00:01:00.000Z")
    story.add(ev.TimerData(path="/1.1", name="nap", occurrence=2, due_at=due))
    story.add(ev.TimerData(path="/1.2", name="nap", occurrence=1, due_at=due))
    assert causes(story.state) == []
    story.add(ev.TimerData(path="/1.2", name="nap", occurrence=2, due_at=due))
    assert causes(story.state) == [(6, "timer")]
    assert ("/1.2", "nap", 2) in story.state.fired


def test_a_child_resumes_the_parent_that_waits_for_it() -> None:
    child = JobId("01990000-0000-7000-8000-00000000c41d")
    story = asleep_on(ev.Waiting(kind="child", job_id=child))
    story.add(ev.ChildData(step="sub", occurrence=1, job_id=JOB, status=Status.COMPLETED))
    story.add(ev.ChildData(step="sub", occurrence=1, job_id=child, status=Status.COMPLETED))
    assert causes(story.state) == [(5, "child")]


def test_retry_now_ends_a_back_off_but_no_wait_for_a_person() -> None:
    story = asleep_on(ev.Waiting(kind="backoff", until=Instant("2026-01-01T01:00:00.000Z")))
    story.add(signal("$comment"))
    assert causes(story.state) == []
    story.add(signal("$retry_now"))
    assert causes(story.state) == [(5, None)]
    person = asleep_on(ev.Waiting(kind="signal", name="go"))
    person.add(signal("$retry_now"))
    assert causes(person.state) == []


def test_with_more_waits_than_are_listed_every_resolving_event_is_a_cause() -> None:
    story = asleep_on(ev.Waiting(kind="signal", name="go"), more=1)
    story.add(signal("another"))
    story.add(signal("$comment"))
    assert causes(story.state) == [(4, "signal")]


def test_expiry_and_withdrawal_are_causes_with_their_own_names() -> None:
    story = Story()
    story.submitted()
    story.started()
    first, second = story.asked("one"), story.asked("two")
    story.suspended(waiting_for(first), waiting_for(second))
    outcome = ev.Outcome(do="fail")
    story.add(ev.ExpiredData(request_id=first, revision=1, cause="deadline", outcome=outcome))
    story.add(ev.WithdrawnData(request_id=second, reason="not needed", by=Principal("user:bob")))
    assert causes(story.state) == [(6, "expiry"), (7, "withdrawal")]


def test_outputs_progress_and_messages_are_kept_as_the_workflow_gave_them() -> None:
    story = Story()
    story.submitted()
    story.started()
    story.add(ev.OutputData(name="report", occurrence=1, kind="data", value={"n": 1}))
    story.add(ev.MessageData(message_id="m", role="assistant", text="hi"))
    story.add(ev.ProgressData(name="pages", occurrence=1, done=1, total=2))
    assert story.state.outputs == {"report": {"n": 1}}
    assert story.state.progress is not None
    assert story.state.progress.done == 1
