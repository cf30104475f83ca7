"""A job whose client has left ends when nobody comes back in time, and only then."""

from typing import Any

from tests.unit.langflow.logs import ANN, Log

from perdure.core import event as ev
from perdure.core.alarm import Alarm, alarms, decides_at, due, orphan_at
from perdure.core.instant import later


def said(name: str, payload: Any = None) -> ev.SignalData:
    return ev.SignalData(signal_id="s", name=name, payload=payload, by=ANN)


def detached() -> Log:
    return Log(mode="stream").start().add(said("$detached", {"seconds": 60}))


def test_it_is_given_its_seconds_and_an_alarm_that_rings_then() -> None:
    log = detached()
    gone = later(log.events[-1].at, 60.0)
    assert orphan_at(log.job) == decides_at(log.job) == gone
    assert Alarm("orphan", gone) in alarms(log.job, log.now)
    assert due(log.job, later(gone, -0.001)) is None
    end = due(log.job, gone)
    assert isinstance(end, ev.CancelData)
    assert (end.reason, end.by, end.grace_seconds) == ("client_gone", ANN, 5.0)


def test_who_comes_back_is_missed_no_more() -> None:
    log = detached().add(said("$attached"))
    assert orphan_at(log.job) is None
    assert due(log.job, later(log.now, 3600.0)) is None


def test_leaving_again_counts_from_then() -> None:
    log = detached().add(said("$attached"), said("$detached", {"seconds": 10}))
    assert orphan_at(log.job) == later(log.events[-1].at, 10.0)


def test_a_job_that_does_not_run_ends_at_once_and_one_that_is_being_cancelled_is_left_to_its_grace() -> None:
    log = Log(mode="stream").add(said("$detached", {"seconds": 60}))
    assert isinstance(due(log.job, later(log.now, 61.0)), ev.CancelledData)
    log = detached().add(ev.CancelData(by=ANN, grace_seconds=300.0, reason="stopped"))
    assert due(log.job, later(log.now, 61.0)) is None
    assert [alarm.name for alarm in alarms(log.job, log.now)] == ["deadline", "grace"]


def test_it_resumes_nothing_and_a_payload_that_says_nothing_means_nothing() -> None:
    log = Log(mode="stream").start()
    log.ask()
    log.suspend().add(said("$detached", {"seconds": 60}))
    assert log.job.suspension is not None
    assert log.job.suspension.causes == ()
    for payload in (None, "x", {"seconds": "60"}):
        assert Log(mode="stream").add(said("$detached", payload)).job.detached is None
