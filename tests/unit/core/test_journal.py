"""The journal: entries by key, delivery in order, `now`, code that does not fit, and what a log says of usage."""

import pytest

from perdure.core import event as ev
from perdure.core.instant import later
from perdure.core.journal import Entry, Journal, changed, code_back_off, entry, fits, last_told, usage
from perdure.core.key import Key
from perdure.testing.factory import BEGIN, Story


def story() -> Story:
    told = Story()
    told.submitted()
    told.started()
    return told


def test_every_keyed_event_is_an_entry_of_its_call() -> None:
    told = story()
    told.step("draft", path="/1.2")
    told.add(ev.StepSkippedData(step="bin", occurrence=1, path="/bin", reason="no live edge"))
    told.add(ev.OutputData(name="post", occurrence=2, kind="text", value="x"))
    told.add(ev.ProgressData(name="progress", occurrence=1))
    told.add(ev.TimerData(name="nap", occurrence=3, due_at=BEGIN))
    assert [entry(e) for e in told.events] == [
        None,
        None,
        Entry("step", Key("/1.2", "draft", 1)),
        Entry("skip", Key("/bin", "bin", 1)),
        Entry("output", Key("", "post", 2)),
        Entry("progress", Key("", "progress", 1)),
        Entry("sleep", Key("", "nap", 3)),
    ]


@pytest.mark.parametrize(
    ("called", "fit"),
    [
        (Entry("step", Key("", "a", 1), "d1"), True),
        (Entry("step", Key("", "a", 1), None), True),  # it cannot be encoded now
        (Entry("step", Key("", "a", 1), "d2"), False),
        (Entry("ask", Key("", "a", 1), "d1"), False),
        (Entry("step", Key("", "b", 1), "d1"), False),
        (Entry("step", Key("/1.1", "a", 1), "d1"), False),
        (Entry("step", Key("", "a", 2), "d1"), False),
    ],
)
def test_a_call_fits_what_was_recorded_by_kind_key_and_arguments(called: Entry, fit: bool) -> None:
    assert fits(Entry("step", Key("", "a", 1), "d1"), called) is fit


def test_the_error_says_what_was_expected_and_what_was_found() -> None:
    recorded = Entry("step", Key("/1.1", "a", 1), "d1")
    error = changed(recorded, Entry("ask", Key("/1.1", "b", 2)))
    assert (error.path, error.expected, error.found) == ("/1.1", "step a#1", "ask b#2")
    assert changed(recorded, Entry("step", Key("/1.1", "a", 1), "d2")).found == "step a#1 with other arguments"
    assert changed(recorded, "end").found == "end"


def test_events_come_in_order_and_the_log_may_grow() -> None:
    told = story()
    journal = Journal(told.events)
    assert (journal.seq, journal.at_end) == (0, False)
    seen = []
    while (event := journal.peek()) is not None:
        journal.advance()
        seen.append(event.seq)
    assert (seen, journal.seq, journal.at_end) == ([1, 2], 2, True)
    told.step("a")
    assert journal.peek() is told.events[2]


def test_now_follows_the_events_that_calls_resolve_by() -> None:
    told = story()
    told.add(
        ev.StepFailedData(
            step="a",
            occurrence=1,
            error=ev.Failure(code="c", message="m"),
            failures=1,
            started_at=BEGIN,
            duration_seconds=0,
            retry_at=BEGIN,
        )
    )
    told.step("a")
    told.add(ev.SuspendedData(waiting=(ev.Waiting(kind="timer", name="nap", occurrence=1),)))
    told.add(ev.TimerData(name="nap", occurrence=1, due_at=BEGIN))
    journal, seen = Journal(told.events), []
    while not journal.at_end:
        journal.advance()
        seen.append(journal.now)
    assert seen == [BEGIN, BEGIN, BEGIN, later(BEGIN, 3), later(BEGIN, 3), later(BEGIN, 5)]


def test_now_never_falls_when_a_clock_went_back() -> None:
    told = story()
    told.step("a")
    told.add(ev.TimerData(name="nap", occurrence=1, due_at=BEGIN), after_seconds=-100)
    journal = Journal(told.events)
    while not journal.at_end:
        journal.advance()
    assert journal.now == told.events[2].at


def test_the_last_event_that_code_hears_of_is_no_start_and_no_suspension() -> None:
    told = story()
    assert last_told(told.events) == 0
    told.step("a")
    told.add(ev.SuspendedData(waiting=(ev.Waiting(kind="runner"),)))
    told.started("retry")
    assert last_told(told.events) == 3


def test_the_back_off_counts_suspensions_for_code_in_a_row() -> None:
    told = story()
    code = ev.SuspendedData(waiting=(ev.Waiting(kind="code", until=BEGIN),))
    seconds = [code_back_off(told.events)]
    for _ in range(8):
        told.add(code)
        told.started("retry")
        seconds.append(code_back_off(told.events))
    assert seconds == [10, 20, 40, 80, 160, 320, 600, 600, 600]
    told.add(ev.SuspendedData(waiting=(ev.Waiting(kind="runner"),)))
    assert code_back_off(told.events) == 10


def test_usage_is_the_sum_of_all_steps() -> None:
    told = story()
    assert usage(told.events) is None
    for model, tokens in (("m", 3), ("m", 4), (None, 0)):
        told.add(
            ev.StepCompletedData(
                step="s",
                occurrence=1,
                result=None,
                started_at=BEGIN,
                duration_seconds=0,
                usage=ev.Usage(input_tokens=tokens, output_tokens=1, model=model) if model else None,
            )
        )
    assert usage(told.events) == ev.Usage(input_tokens=7, output_tokens=2, model="m")
