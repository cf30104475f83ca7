"""The judge: silent on good logs, and naming the invariant that each kind of damage breaks."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from perdure.core import event as ev
from perdure.core import verify
from perdure.core.event import EVENT_OF, AnyData, AnyEvent, Status
from perdure.core.instant import Instant
from perdure.ids import JobId, Principal, RequestId
from perdure.testing.factory import FINGERPRINT, JOB, OWNER, Story, event_id

SOON = Instant("2026-01-01T00:00:30.000Z")


def forced(story: Story, data: AnyData, *, attempt: int | None = None, status: Status | None = None) -> None:
    """Put an event behind the log that the life cycle would refuse."""
    story.events.append(
        EVENT_OF[type(data)](
            v=1,
            id=event_id(len(story.events) + 1),
            seq=len(story.events) + 1,
            attempt=story.state.attempt if attempt is None else attempt,
            at=story.at,
            status=status or story.events[-1].status,
            data=data,  # type: ignore[arg-type]  # EVENT_OF pairs them
        )
    )


def invariants(events: list[AnyEvent]) -> set[str]:
    return {finding.invariant for finding in verify.log(events)}


def running() -> Story:
    story = Story()
    story.submitted()
    story.started()
    return story


def whole() -> Story:
    story = running()
    story.step("draft")
    request = story.asked()
    story.suspended(ev.Waiting(kind="input", request_id=request))
    story.answered(request)
    story.started("resumed", because_seq=6, cause="answer")
    story.failed_step("send", retry_at=SOON)
    story.suspended(ev.Waiting(kind="runner"))
    story.started("retry")
    story.step("send")
    story.completed()
    return story


def test_a_good_log_and_each_beginning_of_it_have_no_findings() -> None:
    story = whole()
    for length in range(len(story.events) + 1):
        assert verify.log(story.events[:length]) == []


def test_a_tombstone_is_a_good_log_and_another_end_of_one_is_not() -> None:
    story = whole()
    assert verify.log(story.events[-1:]) == []
    assert "I3" in invariants(story.events[-2:])


def test_a_second_end_is_found() -> None:
    story = whole()
    forced(story, ev.CancelledData(fingerprint=FINGERPRINT), status=Status.CANCELLED)
    assert "I2" in invariants(story.events)


def test_anything_after_the_end_is_found() -> None:
    story = whole()
    forced(story, ev.SignalData(signal_id="s", name="go", payload=None, by=OWNER))
    assert "I2" in invariants(story.events)


@pytest.mark.parametrize(
    "damage",
    [
        lambda events: events[:3] + events[4:],
        lambda events: [*events[:3], events[3], *events[3:]],
        lambda events: [*events[:3], events[4], events[3], *events[5:]],
        lambda events: [*events[:2], replace(events[2], status=Status.SUSPENDED), *events[3:]],
        lambda events: [*events[:6], replace(events[6], attempt=3), *events[7:]],
        lambda events: events[1:],
    ],
    ids=["hole", "twice", "swapped", "status", "attempt", "no beginning"],
)
def test_a_log_that_is_not_dense_or_not_its_own_fold_is_found(
    damage: Callable[[list[AnyEvent]], list[AnyEvent]],
) -> None:
    assert "I3" in invariants(damage(whole().events))


def test_a_step_of_an_earlier_attempt_is_found() -> None:
    story = running()
    story.started("lease_lost")
    zombie = ev.StepSkippedData(step="bin", occurrence=1, reason="not_taken")
    forced(story, zombie, attempt=1)
    assert {"I3", "I4"} <= invariants(story.events)


def test_what_a_runner_wrote_after_its_suspension_is_found() -> None:
    story = running()
    story.suspended(ev.Waiting(kind="runner"))
    forced(story, ev.ProgressData(name="pages", occurrence=1), status=Status.RUNNING)
    assert "I4" in invariants(story.events)


def test_a_restatement_may_come_from_anybody_while_the_job_sleeps() -> None:
    story = running()
    request = story.asked()
    story.suspended(ev.Waiting(kind="input", request_id=request))
    story.add(ev.RequestedData(request=replace(story.state.asked[request], revision=2)))
    assert verify.log(story.events) == []


def test_a_step_that_was_over_and_is_recorded_again_is_found() -> None:
    for first in ("completed", "failed"):
        story = running()
        if first == "completed":
            story.step("draft")
        else:
            story.failed_step("draft", final=True)
        story.step("draft", path="/1.1")
        assert verify.log(story.events) == []
        story.step("draft")
        assert [(f.invariant, f.seq) for f in verify.log(story.events)] == [("I5", 5)]


def test_a_failure_of_a_step_that_was_over_is_found() -> None:
    story = running()
    story.step("draft")
    story.failed_step("draft", retry_at=SOON)
    assert invariants(story.events) == {"I5"}


def asleep(*waiting: ev.Waiting) -> Story:
    story = running()
    story.suspended(*waiting)
    return story


def test_a_resume_without_a_cause_is_found() -> None:
    story = asleep(ev.Waiting(kind="signal", name="go"))
    story.started("rung")
    assert [(f.invariant, f.seq) for f in verify.log(story.events)] == [("I7", 4)]


def test_a_resume_by_what_nobody_waited_for_is_found() -> None:
    story = asleep(ev.Waiting(kind="signal", name="go"))
    story.add(ev.SignalData(signal_id="s", name="stay", payload=None, by=OWNER))
    story.started("resumed", because_seq=4, cause="signal")
    assert invariants(story.events) == {"I7"}


def test_a_resume_that_names_the_wrong_event_or_kind_is_found() -> None:
    for because, cause in ((4, "answer"), (3, "signal"), (9, "signal")):
        story = asleep(ev.Waiting(kind="signal", name="go"))
        story.add(ev.SignalData(signal_id="s", name="go", payload=None, by=OWNER))
        story.started("resumed", because_seq=because, cause=cause)  # type: ignore[arg-type]  # two of the literals
        assert invariants(story.events) == {"I7"}


def test_a_back_off_that_is_not_over_is_no_reason_to_go_on() -> None:
    story = asleep(ev.Waiting(kind="backoff", until=SOON))
    story.started("retry")
    assert invariants(story.events) == {"I7"}
    story = asleep(ev.Waiting(kind="backoff", until=SOON))
    story.at = SOON
    story.started("retry")
    assert verify.log(story.events) == []
    story = asleep(ev.Waiting(kind="backoff", until=SOON))
    story.add(ev.SignalData(signal_id="s", name="$retry_now", payload=None, by=OWNER))
    story.started("retry")
    assert verify.log(story.events) == []


def test_one_answer_does_not_resume_a_job_that_waits_for_all() -> None:
    story = running()
    first, second = story.asked("one"), story.asked("two")
    story.suspended(*(ev.Waiting(kind="input", request_id=r) for r in (first, second)), resume="all")
    story.answered(first)
    story.started("resumed", because_seq=6, cause="answer")
    assert invariants(story.events) == {"I7"}


def test_timers_and_children_are_causes_of_their_own_waits_only() -> None:
    child = JobId("01990000-0000-7000-8000-00000000c41d")
    for job, found in ((child, set()), (JOB, {"I7"})):
        story = asleep(ev.Waiting(kind="child", job_id=child))
        story.add(ev.ChildData(step="sub", occurrence=1, job_id=job, status=Status.COMPLETED))
        story.started("resumed", because_seq=4, cause="child")
        assert invariants(story.events) == found
    for occurrence, found in ((1, set()), (2, {"I7"})):
        story = asleep(ev.Waiting(kind="timer", name="nap", occurrence=1, until=SOON))
        story.add(ev.TimerData(name="nap", occurrence=occurrence, due_at=SOON))
        story.started("resumed", because_seq=4, cause="timer")
        assert invariants(story.events) == found


def test_a_takeover_of_a_running_attempt_needs_no_cause() -> None:
    story = running()
    story.started("lease_lost")
    assert verify.log(story.events) == []


def test_a_request_settled_twice_or_never_asked_is_found() -> None:
    story = running()
    request = story.asked()
    story.answered(request)
    forced(story, ev.WithdrawnData(request_id=request, reason="late"))
    assert {"I8"} <= invariants(story.events)
    story = running()
    forced(story, ev.WithdrawnData(request_id=request, reason="whose"))
    assert {"I8"} <= invariants(story.events)


def test_a_vote_on_what_is_not_open_and_a_second_vote_of_one_person_are_found() -> None:
    def vote(
        request: RequestId, by: str = "user:bob", shown: str | None = None, link_by: str | None = None
    ) -> ev.VotedData:
        return ev.VotedData(
            request_id=request,
            revision=1,
            action="approve",
            payload=None,
            payload_digest="p",
            proposal_digest=shown,
            by=Principal(by),
            via=ev.Via(channel="api", link_by=None if link_by is None else Principal(link_by)),
        )

    story = running()
    request = story.asked()
    for fit in (vote(request), vote(request, "user:carol"), vote(request, shown="sha256:1")):
        story.add(fit)
    assert invariants(story.events) == set()
    story.add(vote(request))
    assert invariants(story.events) == {"I8"}
    for second in (vote(request), vote(request, "link:max", link_by="user:bob"), vote(request, "link:lena")):
        story = running()
        story.asked()
        story.add(vote(request, "link:lena", link_by="user:bob"))
        story.add(second)
        assert invariants(story.events) == {"I8"}
    story = running()
    request = story.asked()
    story.answered(request)
    forced(story, vote(request))
    assert "I8" in invariants(story.events)


def test_a_request_that_skips_a_revision_or_names_another_event_is_found() -> None:
    story = running()
    request = story.asked()
    story.add(ev.RequestedData(request=replace(story.state.asked[request], revision=3)))
    assert invariants(story.events) == {"I8"}
    story = running()
    story.step("draft")
    other = running()
    other.asked()
    (asked,) = other.state.asked.values()
    story.add(ev.RequestedData(request=asked))  # its id says 3, the event is 4
    assert invariants(story.events) == {"I8"}
