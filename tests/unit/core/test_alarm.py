"""What time decides: hand-made jobs, hand-made instants."""

from perdure.core import event as ev
from perdure.core.alarm import Alarm, alarms, asleep, due, next_due_at
from perdure.core.instant import Instant
from perdure.testing.factory import FINGERPRINT, JOB, OWNER, Story


def at(clock: str) -> Instant:
    return Instant(f"2026-01-01T{clock}.000Z")


def running(deadline_seconds: float = 3600.0) -> Story:
    story = Story()
    story.submitted(deadline_seconds=deadline_seconds)
    story.started()
    return story


def timer(name: str, until: Instant) -> ev.Waiting:
    return ev.Waiting(kind="timer", name=name, occurrence=1, until=until)


def test_nothing_is_due_before_a_deadline_and_the_end_by_time_at_it() -> None:
    job = running(60).state
    assert due(job, at("00:00:59")) is None
    assert due(job, at("00:01:00")) == ev.TimedOutData(deadline_at=at("00:01:00"), fingerprint=FINGERPRINT)


def test_a_grace_that_is_over_comes_before_the_deadline() -> None:
    story = running(32)
    story.add(ev.CancelData(by=OWNER, grace_seconds=30.0, reason="stop"))
    assert due(story.state, at("00:00:31")) is None
    assert due(story.state, at("00:00:32")) == ev.CancelledData(fingerprint=FINGERPRINT, by=OWNER, reason="stop")


def test_a_cancel_without_a_reason_says_that_a_user_asked() -> None:
    story = running()
    story.add(ev.CancelData(by=OWNER, grace_seconds=0.0))
    ended = due(story.state, at("00:00:02"))
    assert isinstance(ended, ev.CancelledData)
    assert ended.reason == "cancelled_by_user"


def test_a_request_expires_as_it_says() -> None:
    story = running()
    then = ev.OnTimeout(do="answer", action="reject", payload={"why": "late"})
    request = story.asked(expires_at=at("00:00:10"), on_timeout=then)
    assert due(story.state, at("00:00:09")) is None
    expired = due(story.state, at("00:00:10"))
    outcome = ev.Outcome(do="answer", action="reject", payload={"why": "late"})
    assert expired == ev.ExpiredData(request_id=request, revision=1, cause="deadline", outcome=outcome)


def test_requests_and_timers_are_due_in_the_order_of_their_instants() -> None:
    story = running()
    late = story.asked("late", expires_at=at("00:00:20"))
    early = story.asked("early", expires_at=at("00:00:10"))
    story.suspended(
        timer("nap", at("00:00:15")),
        ev.Waiting(kind="input", request_id=late),
        ev.Waiting(kind="input", request_id=early),
    )
    met: list[str] = []
    while (data := due(story.state, at("00:01:00"))) is not None:
        met.append(data.request_id if isinstance(data, ev.ExpiredData) else type(data).__name__)
        story.add(data)
    assert met == [early, "TimerData", late]


def test_two_timers_of_one_instant_are_due_in_the_order_of_their_keys() -> None:
    story = running()
    story.suspended(timer("b", at("00:00:10")), timer("a", at("00:00:10")))
    first = due(story.state, at("00:00:10"))
    assert first == ev.TimerData(name="a", occurrence=1, due_at=at("00:00:10"))


def test_a_fired_timer_is_not_due_again() -> None:
    story = running()
    story.suspended(timer("nap", at("00:00:10")))
    story.add(ev.TimerData(name="nap", occurrence=1, due_at=at("00:00:10")))
    assert due(story.state, at("00:00:20")) is None
    assert alarms(story.state, at("00:00:20")) == (Alarm("deadline", at("01:00:00")),)


def test_nothing_is_due_after_the_end_or_before_the_beginning() -> None:
    story = running(60)
    assert due(Story().state, at("09:00:00")) is None
    story.completed()
    assert due(story.state, at("09:00:00")) is None
    assert alarms(story.state, at("00:00:00")) == ()
    assert next_due_at(story.state) is None


def test_a_queued_job_sleeps_until_it_may_start() -> None:
    story = Story()
    story.submitted(not_before=at("00:10:00"))
    assert asleep(story.state, at("00:09:59"))
    assert not asleep(story.state, at("00:10:00"))
    assert alarms(story.state, at("00:00:00")) == (
        Alarm("deadline", at("01:00:00")),
        Alarm("wake", at("00:10:00")),
    )
    assert next_due_at(story.state) == at("00:10:00")


def test_a_queued_or_running_job_is_not_asleep() -> None:
    story = Story()
    story.submitted()
    assert not asleep(story.state, at("00:00:01"))
    story.started()
    assert not asleep(story.state, at("00:00:01"))


def test_a_job_that_waits_for_a_person_sleeps_until_the_answer() -> None:
    story = running()
    request = story.asked(expires_at=at("00:30:00"))
    story.suspended(ev.Waiting(kind="input", request_id=request, until=at("00:30:00")))
    assert asleep(story.state, at("00:29:59"))
    story.answered(request)
    assert not asleep(story.state, at("00:00:06"))


def test_a_job_that_waits_for_all_sleeps_until_the_last_answer() -> None:
    story = running()
    first, second = story.asked("one"), story.asked("two")
    both = [ev.Waiting(kind="input", request_id=r) for r in (first, second)]
    story.suspended(*both, resume="all")
    story.answered(first)
    assert asleep(story.state, at("00:00:09"))
    story.answered(second)
    assert not asleep(story.state, at("00:00:09"))


def test_a_drained_job_is_never_asleep() -> None:
    story = running()
    story.suspended(ev.Waiting(kind="runner"))
    assert not asleep(story.state, at("00:00:03"))


def test_a_back_off_sleeps_until_its_instant_and_asks_for_one_alarm() -> None:
    story = running()
    story.suspended(ev.Waiting(kind="backoff", until=at("00:00:30")))
    assert asleep(story.state, at("00:00:29"))
    assert not asleep(story.state, at("00:00:30"))
    assert Alarm("wake", at("00:00:30")) in alarms(story.state, at("00:00:03"))
    assert next_due_at(story.state) == at("00:00:30")


def test_the_alarms_of_a_suspended_job_are_named_by_what_they_are_for() -> None:
    story = running()
    request = story.asked(expires_at=at("00:20:00"))
    assert request == f"{JOB}_3"
    story.add(ev.CancelData(by=OWNER, grace_seconds=600.0))
    story.suspended(timer("nap", at("00:15:00")), ev.Waiting(kind="input", request_id=request))
    assert set(alarms(story.state, at("00:00:05"))) == {
        Alarm("deadline", at("01:00:00")),
        Alarm("wake", at("00:15:00")),
        Alarm("grace", at("00:10:03")),
        Alarm("q3", at("00:20:00")),
    }
    assert next_due_at(story.state) == at("00:10:03")


def test_what_lies_beyond_a_day_is_left_to_the_sweeper() -> None:
    story = running(90 * 24 * 3600.0)
    assert alarms(story.state, at("00:00:00")) == ()
    assert next_due_at(story.state) == "2026-04-01T00:00:00.000Z"
