"""Why a job is where it is, and from when on a doorbell must exist for it: told by hand."""

import pytest

from perdure.core import event as ev
from perdure.core.alarm import decides_at, due
from perdure.core.claim import ALWAYS, ready_at, runnable
from perdure.core.event import AnyData
from perdure.core.instant import later
from perdure.core.machine import JobState
from perdure.core.reason import reason
from perdure.testing.factory import BEGIN, FINGERPRINT, Story


def running() -> Story:
    story = Story()
    story.submitted(deadline_seconds=3600)
    story.started()
    return story


def suspended(*waiting: ev.Waiting) -> JobState:
    story = running()
    story.suspended(*waiting)
    return story.state


def ended(data: AnyData) -> JobState:
    story = running()
    story.add(data)
    return story.state


def failed(code: str, retryable: bool | None = None) -> JobState:
    error = ev.Failure(code=code, message="no", retryable=retryable)
    return ended(ev.FailedData(error=error, failures=1, fingerprint=FINGERPRINT))


@pytest.mark.parametrize(
    ("waiting", "why"),
    [
        (("timer", "input"), "person"),
        (("timer", "child"), "child"),
        (("timer",), "timer"),
        (("signal", "timer"), "signal"),
        (("backoff",), "backoff"),
        (("backoff", "runner"), "runner"),
        (("backoff", "code"), "code"),
        (("input", "backoff"), "person"),
    ],
)
def test_a_sleeping_job_names_what_it_waits_for(waiting: tuple[str, ...], why: str) -> None:
    assert reason(suspended(*(ev.Waiting(kind=kind) for kind in waiting))) == why  # type: ignore[arg-type]  # literals


@pytest.mark.parametrize(
    ("job", "why"),
    [
        (JobState(), None),
        (running().state, None),
        (ended(ev.CompletedData(outputs={}, fingerprint=FINGERPRINT)), None),
        (ended(ev.TimedOutData(deadline_at=BEGIN, fingerprint=FINGERPRINT)), "deadline"),
        (ended(ev.CancelledData(fingerprint=FINGERPRINT)), "cancelled_by_user"),
        (ended(ev.CancelledData(fingerprint=FINGERPRINT, reason="I changed my mind")), "cancelled_by_user"),
        (ended(ev.CancelledData(fingerprint=FINGERPRINT, reason="parent_ended")), "parent_ended"),
        (failed("runner_crashed"), "runner_crashed"),
        (failed("too_large"), "too_large"),
        (failed("the_author_s_own"), "max_failures"),
        (failed("the_author_s_own", retryable=False), "not_retryable"),
    ],
)
def test_a_job_that_does_not_sleep_names_how_it_ended(job: JobState, why: str | None) -> None:
    assert reason(job) == why


def test_what_is_runnable_is_ready_whatever_the_clock_says() -> None:
    assert ready_at(running().state) == ALWAYS
    assert ready_at(suspended(ev.Waiting(kind="runner"))) == ALWAYS
    assert ready_at(JobState()) is None
    assert ready_at(failed("x")) is None


@pytest.mark.parametrize(
    ("waiting", "ready", "decides"),
    [
        (ev.Waiting(kind="backoff", until=later(BEGIN, 60)), 60, 3600),
        (ev.Waiting(kind="code", until=later(BEGIN, 600)), 600, 3600),
        (ev.Waiting(kind="timer", name="nap", occurrence=1, until=later(BEGIN, 60)), 60, 60),
        (ev.Waiting(kind="signal", name="go", occurrence=1), 3600, 3600),
        (ev.Waiting(kind="signal", name="go", occurrence=1, until=later(BEGIN, 99)), 99, 99),
    ],
)
def test_a_sleeping_job_is_ready_when_its_wait_ends_by_itself(waiting: ev.Waiting, ready: int, decides: int) -> None:
    job = suspended(waiting)
    assert (ready_at(job), decides_at(job)) == (later(BEGIN, ready), later(BEGIN, decides))
    for at, before in ((ready, runnable(job, later(BEGIN, ready - 1))), (decides, due(job, later(BEGIN, decides - 1)))):
        assert not before, at
    assert runnable(job, later(BEGIN, ready))
    assert due(job, later(BEGIN, decides)) is not None


def test_a_request_s_deadline_decides_before_the_job_s() -> None:
    story = running()
    request = story.asked(expires_at=later(BEGIN, 30))
    story.suspended(ev.Waiting(kind="input", request_id=request))
    assert decides_at(story.state) == ready_at(story.state) == later(BEGIN, 30)
    story.answered(request)
    assert decides_at(story.state) == later(BEGIN, 3600)
    assert ready_at(story.state) == ALWAYS
