"""Which reminder an alarm rings for, and from when on a request is overdue."""

from typing import Any

import pytest
from msgspec.structs import replace

from perdure.core import event as ev
from perdure.core.alarm import Reminder, overdue_at, reminder_named, reminders_of
from perdure.core.comment import SIGNAL, commented
from perdure.core.instant import Instant, later
from perdure.core.machine import JobState
from perdure.core.restate import delegated
from perdure.ids import Principal, RequestId
from perdure.testing.factory import BEGIN, Story

LEADS = ev.Assignees(groups=("leads",))
ASKED_AT = later(BEGIN, 2)


def asking(**members: Any) -> tuple[JobState, ev.Request]:
    """A job that asks one request, the event 3, 2 s after BEGIN."""
    story = Story()
    story.submitted()
    story.started()
    asked = story.asked()
    request = replace(story.state.asked[asked], **members)
    return replace(story.state, asked={asked: request}), request


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("q3-r1", 1), ("q3-r2", 2), ("q3-r3", None), ("q3-r4", None), ("q3-r0", None), ("q4-r1", None),
        ("q3", None), ("q3-e1", None), ("wake", None), (None, None), ("q3-r1x", None), ("q03-r1", None),
    ],
)  # fmt: skip
def test_an_alarm_names_its_reminder(name: str | None, found: int | None) -> None:
    job, request = asking(reminders=(60.0, 30.0, 900.0), expires_at=later(BEGIN, 600))
    reminder = reminder_named(job, name, later(BEGIN, 70))
    assert reminder == (None if found is None else Reminder(request, found, later(ASKED_AT, (60.0, 30.0)[found - 1])))


@pytest.mark.parametrize(("now", "there"), [(later(BEGIN, 599.999), True), (later(BEGIN, 600), False)])
def test_what_is_over_is_not_reminded_of(now: Instant, there: bool) -> None:
    job, _ = asking(reminders=(60.0,), expires_at=later(BEGIN, 600))
    assert (reminder_named(job, "q3-r1", now) is not None) == there
    assert reminder_named(replace(job, asked={}), "q3-r1", BEGIN) is None


def test_reminders_come_by_their_instant_and_none_at_the_end_or_behind_it() -> None:
    _, request = asking(reminders=(60.0, 30.0, 598.0, 900.0), expires_at=later(BEGIN, 600))
    assert [(r.k, r.at) for r in reminders_of(request)] == [(2, later(ASKED_AT, 30)), (1, later(ASKED_AT, 60))]


@pytest.mark.parametrize(
    ("reminders", "escalations", "found"),
    [((), (), None), ((60.0, 30.0), (), 30), ((), (50.0, 90.0), 50), ((60.0,), (50.0,), 50), ((40.0,), (50.0,), 40)],
)
def test_a_request_is_overdue_from_its_first_reminder_or_escalation_on(
    reminders: tuple[float, ...], escalations: tuple[float, ...], found: float | None
) -> None:
    chain = tuple(ev.Escalation(after_seconds=seconds, add=LEADS) for seconds in escalations)
    _, request = asking(reminders=reminders, escalations=chain)
    assert overdue_at(request) == (None if found is None else later(ASKED_AT, found))
    assert overdue_at(replace(request, escalated=len(chain))) == overdue_at(request)


def test_a_delegation_is_told_from_other_restatements() -> None:
    job, request = asking()
    hop = ev.Delegation(by=Principal("user:ann"), to=Principal("user:bob"), at=BEGIN)
    moved = replace(request, revision=2, delegations=(hop,))
    assert delegated(job, moved) == hop
    assert delegated(job, replace(request, revision=2, assignees=LEADS)) is None
    after = replace(job, asked={request.id: moved})
    assert delegated(after, replace(moved, revision=3, assignees=LEADS)) is None
    assert delegated(replace(job, asked={}), moved) is None


@pytest.mark.parametrize(
    "payload", [None, "text", {}, {"request_id": None}, {"request_id": ["x"]}, {"request_id": "x_9"}]
)
def test_what_is_no_comment_on_any_request_is_on_none(payload: Any) -> None:
    job, request = asking()
    said = ev.SignalData(signal_id="s", name=SIGNAL, payload=payload, by=Principal("user:ann"))
    assert commented(job, said) is None
    mine = replace(said, payload={"request_id": request.id, "text": "hm"})
    assert commented(job, mine) == request
    assert commented(job, replace(mine, name="other")) is None
    assert RequestId(request.id) in job.asked
