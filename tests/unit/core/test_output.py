"""Output resolution: one, several, none, not text, failed, unfinished."""

from typing import Any

import pytest
from msgspec.structs import replace

from perdure.core import event as ev
from perdure.core.machine import JobState
from perdure.core.output import Failed, Nothing, One, Several, Unfinished, resolve
from perdure.testing.factory import BEGIN, FINGERPRINT


def completed(outputs: dict[str, Any]) -> JobState:
    return JobState(outputs=outputs, end=ev.CompletedData(outputs=outputs, fingerprint=FINGERPRINT))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("hello", "hello"),
        ("", ""),
        ({"text": "hello", "role": "ai"}, "hello"),
        ({"text": 3}, None),
        ({"a": 1}, None),
        (7, None),
        (None, None),
        (["a"], None),
    ],
)
def test_one_output_is_the_answer_with_its_text_if_it_has_one(value: Any, text: str | None) -> None:
    assert resolve(completed({"post": value})) == One("post", value, text)


def test_several_outputs_are_not_one_answer() -> None:
    outputs = {"post": "a", "data": {"x": 1}, "note": {"text": "n"}}
    assert resolve(completed(outputs)) == Several(outputs, {"post": "a", "note": "n"})


def test_a_job_may_have_nothing_to_say() -> None:
    assert resolve(completed({})) == Nothing()


def test_a_job_that_did_not_complete_says_why() -> None:
    error = ev.Failure(code="c", message="m")
    state = JobState(outputs={"post": "half"})
    failed = ev.FailedData(error=error, failures=1, fingerprint=FINGERPRINT)
    assert resolve(replace(state, end=failed)) == Failed(error)
    cancelled = resolve(replace(state, end=ev.CancelledData(fingerprint=FINGERPRINT, reason="parent_ended")))
    assert isinstance(cancelled, Failed)
    assert (cancelled.error.code, cancelled.error.message) == ("cancelled", "parent_ended")
    late = resolve(replace(state, end=ev.TimedOutData(deadline_at=BEGIN, fingerprint=FINGERPRINT)))
    assert isinstance(late, Failed)
    assert late.error.code == "deadline"


def test_an_unfinished_job_has_what_it_gave_out_so_far() -> None:
    assert resolve(JobState(outputs={"post": "half"})) == Unfinished({"post": "half"})
