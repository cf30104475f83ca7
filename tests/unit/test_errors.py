"""The tree of errors: what an author's `except` catches, and what the messages say."""

import asyncio

import pytest

from perdure import errors
from perdure.errors import CodeChanged, Conflict, Expired, Fault, Invalid, PerdureError, StepFailed

SIGNALS = {"Suspended", "Cancelled", "Interrupted", "Closed"}


def test_everything_but_the_signals_is_a_perdure_error() -> None:
    classes = {n: c for n, c in vars(errors).items() if isinstance(c, type) and issubclass(c, BaseException)}
    strays = {n for n, c in classes.items() if not issubclass(c, PerdureError)}
    assert strays == SIGNALS


@pytest.mark.parametrize("name", sorted(SIGNALS))
def test_no_except_exception_of_an_author_stops_a_signal(name: str) -> None:
    assert not issubclass(getattr(errors, name), Exception)


def test_a_closed_branch_looks_like_a_cancelled_task() -> None:
    assert issubclass(errors.Closed, asyncio.CancelledError)


def test_an_unknown_outcome_is_never_taken_for_a_refusal() -> None:
    assert not issubclass(errors.OutcomeUnknown, errors.Unavailable)
    assert issubclass(errors.StreamFull, errors.Unavailable)
    assert issubclass(errors.TooLarge, errors.Malformed)


def test_invalid_says_where_and_what() -> None:
    faults = [
        Fault(code="required", detail="is missing", pointer="/input/brief"),
        Fault(code="unknown", detail="no such parameter", parameter="limt"),
        Fault(code="bad", detail="not printable", header="Idempotency-Key"),
        Fault(code="type", detail="not an object", pointer=""),
    ]
    error = Invalid(faults, code="invalid-input")
    assert str(error) == (
        "/input/brief: is missing; limt: no such parameter; Idempotency-Key: not printable; /: not an object"
    )
    assert error.code == "invalid-input"
    assert error.faults == tuple(faults)


def test_conflicts_and_expiries_carry_their_facts() -> None:
    for cls in (Conflict, Expired):
        error = cls("already-answered", "bob was first", {"answered_by": "user:bob"})
        assert (error.code, str(error), error.facts) == (
            "already-answered",
            "bob was first",
            {"answered_by": "user:bob"},
        )
        assert cls("x", "y").facts == {}


def test_changed_code_names_the_branch_and_both_calls() -> None:
    error = CodeChanged("", "step draft#1", "end")
    assert str(error).startswith("branch /: the log recorded step draft#1, the code now calls end;")
    assert (error.path, error.expected, error.found) == ("", "step draft#1", "end")


def test_a_failed_step_names_itself() -> None:
    error = StepFailed("draft", "model_refused", "no")
    assert str(error) == "step draft: no"
    assert error.code == "model_refused"
