"""What a failed append means: the four cases, and the two that look alike."""

from collections.abc import Sequence

import pytest

from perdure.core.event import AnyEvent
from perdure.core.fence import Verdict, judge
from perdure.ids import EventId
from perdure.testing.factory import Story, event_id

MINE = event_id(2)  # the id of this writer's own attempt.started, in every story below


def story() -> Story:
    told = Story()
    told.submitted()
    told.started()
    return told


def after(told: Story, seq: int) -> Sequence[AnyEvent]:
    return told.events[seq:]


def test_nothing_behind_means_the_same_append_again() -> None:
    assert judge(event_id(3), MINE, []) is Verdict.NONE


def test_my_event_behind_means_that_it_was_stored() -> None:
    told = story()
    told.step("draft")
    assert judge(event_id(3), MINE, after(told, 2)) is Verdict.MINE


def test_my_event_with_an_answer_behind_it_was_stored_all_the_same() -> None:
    told = story()
    request = told.asked()
    told.answered(request)
    assert judge(event_id(3), MINE, after(told, 2)) is Verdict.MINE


def test_only_the_events_of_others_are_news() -> None:
    told = story()
    request = told.asked()
    told.answered(request)
    assert judge(EventId("another"), MINE, after(told, 3)) is Verdict.NEWS


def test_a_later_attempt_fences_however_far_behind_it_lies() -> None:
    told = story()
    request = told.asked()
    told.answered(request)
    told.started("lease_lost")
    told.step("draft")
    assert judge(EventId("another"), MINE, after(told, 3)) is Verdict.FENCED


def test_a_later_attempt_fences_even_when_my_event_was_stored_before_it() -> None:
    told = story()
    told.step("draft")
    told.started("lease_lost")
    assert judge(event_id(3), MINE, after(told, 2)) is Verdict.FENCED


@pytest.mark.parametrize("appended", [event_id(2), EventId("another")])
def test_who_is_no_attempt_is_never_fenced(appended: EventId) -> None:
    told = story()
    expected = Verdict.MINE if appended == event_id(2) else Verdict.NEWS
    assert judge(appended, None, after(told, 1)) is expected


def test_a_claim_that_was_stored_is_mine_and_the_claim_of_another_fences_it() -> None:
    told = story()
    assert judge(MINE, MINE, after(told, 1)) is Verdict.MINE
    assert judge(EventId("lost claim"), EventId("lost claim"), after(told, 1)) is Verdict.FENCED
