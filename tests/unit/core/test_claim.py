"""What a doorbell calls for: each verdict of the claim, on jobs made by hand."""

from perdure.core import event as ev
from perdure.core.claim import Asleep, Decided, Ended, Held, Start, claim, runnable
from perdure.core.instant import Instant
from perdure.testing.factory import FINGERPRINT, OWNER, Story

MINE = ev.Bell(seq=1, ring="ring-1")
OTHER = ev.Bell(seq=2, ring="ring-2")
SOON = Instant("2026-01-01T00:00:10.000Z")
LATER = Instant("2026-01-01T00:00:30.000Z")


def running() -> Story:
    story = Story()
    story.submitted()
    story.started(bell=1)
    return story


def test_a_doorbell_of_no_job_or_of_an_ended_one_is_acked() -> None:
    assert claim(Story().state, SOON, MINE) == Ended()
    assert not runnable(Story().state, SOON)
    story = running()
    story.completed()
    assert claim(story.state, SOON, MINE) == Ended()
    assert not runnable(story.state, SOON)


def test_the_first_doorbell_starts_a_queued_job() -> None:
    story = Story()
    story.submitted()
    assert claim(story.state, SOON, MINE) == Start("first")
    assert runnable(story.state, SOON)


def test_a_queued_job_that_may_not_start_yet_is_left_asleep() -> None:
    story = Story()
    story.submitted(not_before=LATER)
    assert claim(story.state, SOON, MINE) == Asleep()
    assert not runnable(story.state, SOON)
    assert claim(story.state, LATER, MINE) == Start("first")


def test_what_time_has_decided_comes_before_everything_else() -> None:
    story = Story()
    story.submitted(deadline_seconds=5)
    ended = ev.TimedOutData(deadline_at=Instant("2026-01-01T00:00:05.000Z"), fingerprint=FINGERPRINT)
    assert claim(story.state, SOON, MINE) == Decided(ended)
    assert runnable(story.state, SOON)


def test_the_same_doorbell_again_means_that_the_lease_ran_out() -> None:
    assert claim(running().state, SOON, MINE) == Start("lease_lost")


def test_another_doorbell_asks_whether_the_first_is_still_held() -> None:
    assert claim(running().state, SOON, OTHER) == Held(MINE, Start("lease_lost"))
    renumbered = ev.Bell(seq=1, ring="ring-2")  # a power cut may give two doorbells one sequence
    assert claim(running().state, SOON, renumbered) == Held(MINE, Start("lease_lost"))
    assert runnable(running().state, SOON)


def test_a_sleeping_job_is_not_woken_by_a_doorbell_alone() -> None:
    story = running()
    request = story.asked()
    story.suspended(ev.Waiting(kind="input", request_id=request))
    assert claim(story.state, SOON, OTHER) == Asleep()
    assert not runnable(story.state, SOON)


def test_an_answer_resumes_and_is_named_as_the_cause() -> None:
    story = running()
    request = story.asked()
    story.suspended(ev.Waiting(kind="input", request_id=request))
    story.answered(request)
    assert claim(story.state, SOON, OTHER) == Start("resumed", because_seq=5, cause="answer")
    assert runnable(story.state, SOON)


def test_a_drained_job_goes_on_at_once_as_a_retry() -> None:
    story = running()
    story.suspended(ev.Waiting(kind="runner"))
    assert claim(story.state, SOON, OTHER) == Start("retry")


def test_a_back_off_goes_on_when_it_is_over_or_when_somebody_says_so() -> None:
    story = running()
    story.suspended(ev.Waiting(kind="backoff", until=LATER))
    assert claim(story.state, SOON, OTHER) == Asleep()
    assert claim(story.state, LATER, OTHER) == Start("retry")
    story.add(ev.SignalData(signal_id="s", name="$retry_now", payload=None, by=OWNER))
    assert claim(story.state, SOON, OTHER) == Start("retry")


def test_a_timer_that_is_due_is_fired_first_and_is_the_cause_then() -> None:
    story = running()
    story.suspended(ev.Waiting(kind="timer", name="nap", occurrence=1, until=SOON))
    verdict = claim(story.state, SOON, OTHER)
    assert verdict == Decided(ev.TimerData(name="nap", occurrence=1, due_at=SOON))
    assert isinstance(verdict, Decided)
    story.add(verdict.data)
    assert claim(story.state, SOON, OTHER) == Start("resumed", because_seq=4, cause="timer")


def test_from_the_second_crash_in_a_row_a_job_is_a_suspect_until_it_writes_something() -> None:
    story = running()  # one attempt, which has written nothing but its own start
    assert claim(story.state, SOON, MINE) == Start("lease_lost")
    story.started("lease_lost")
    assert claim(story.state, SOON, MINE) == Start("lease_lost", suspect=True)
    assert claim(story.state, SOON, OTHER) == Held(MINE, Start("lease_lost", suspect=True))
    story.step("a")
    assert claim(story.state, SOON, MINE) == Start("lease_lost")
    story.started("lease_lost")
    story.suspended(ev.Waiting(kind="runner"))  # a drain is no crash
    assert claim(story.state, SOON, MINE) == Start("retry")
