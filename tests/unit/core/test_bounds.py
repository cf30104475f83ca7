"""How much a log may hold: the bound, one before it, and what may still be said."""

import pytest
from msgspec.structs import replace

from perdure.core import bounds, verify
from perdure.core import event as ev
from perdure.core.bounds import MAX_EVENTS, MAX_LOG_BYTES
from perdure.core.codec import MAX_EVENT_BYTES
from perdure.core.event import Status
from perdure.core.instant import Instant
from perdure.core.machine import JobState
from perdure.ids import Digest
from perdure.testing.factory import Story

STEP = ev.StepCompletedData(
    step="a", occurrence=1, result=1, started_at=Instant("2026-01-01T00:00:00.000Z"), duration_seconds=0.1
)
END = ev.CompletedData(outputs={}, fingerprint=Digest("f" * 64))


def running(seq: int) -> JobState:
    return JobState(seq=seq, status=Status.RUNNING, attempt=1, fingerprint=Digest("f" * 64), failures=2)


@pytest.mark.parametrize(
    ("seq", "size", "full"),
    [
        (MAX_EVENTS - 2, 0, False),
        (MAX_EVENTS - 1, 0, True),
        (10, MAX_LOG_BYTES - 2 * MAX_EVENT_BYTES, False),
        (10, MAX_LOG_BYTES - 2 * MAX_EVENT_BYTES + 1, True),
    ],
)
def test_the_last_place_in_a_log_is_for_its_end(seq: int, size: int, full: bool) -> None:
    said = bounds.fitting(running(seq), STEP, size)
    assert bounds.fitting(running(seq), END, size) is END
    if not full:
        assert said is STEP
        return
    assert isinstance(said, ev.FailedData)
    assert (said.error.code, said.error.retryable, said.failures) == ("too_large", False, 2)
    assert "child" in said.error.message


@pytest.mark.parametrize(
    ("seq", "size", "warns"),
    [
        (MAX_EVENTS * 4 // 5 - 1, 0, False),
        (MAX_EVENTS * 4 // 5, 0, True),
        (1, MAX_LOG_BYTES * 4 // 5, False),
        (1, MAX_LOG_BYTES * 4 // 5 + 1, True),
    ],
)
def test_a_running_job_warns_at_four_fifths(seq: int, size: int, warns: bool) -> None:
    assert (bounds.warning(running(seq), size) is not None) is warns
    assert bounds.warning(replace(running(seq), status=Status.SUSPENDED), size) is None


def test_a_log_knows_that_it_has_warned() -> None:
    story = Story()
    log = [story.submitted(), story.started()]
    assert not bounds.warned(log)
    log.append(story.add(ev.ProgressData(name=bounds.WARNING, occurrence=1)))
    assert bounds.warned(log)
    assert verify.log(log) == []


@pytest.mark.parametrize(
    ("seq", "size", "deaf"),
    [
        (45_000 - 1, 0, False),
        (45_000, 0, True),
        (10, int(MAX_LOG_BYTES * 0.9) - 1, False),
        (10, int(MAX_LOG_BYTES * 0.9) + 1, True),
    ],
)
def test_at_nine_tenths_nobody_may_talk_to_it_any_more(seq: int, size: int, deaf: bool) -> None:
    assert bounds.deaf(running(seq), size) is deaf
