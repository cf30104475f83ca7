"""The status of a job in each state, golden; requests as rows; decisions as answers; refusals of 1.13."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from msgspec import UNSET
from tests.unit.langflow.logs import ANN, JOB, PRINT, Log
from tests.unit.langflow.recordings import step, steps

from perdure.core import event as ev
from perdure.core.instant import later
from perdure.core.langflow import bodies, keys, refusal, requests
from perdure.core.langflow.bodies import Seen
from perdure.core.langflow.keys import Use
from perdure.core.langflow.refusal import Refusal
from perdure.core.machine import EMPTY, fold
from perdure.ids import Digest, JobId, JobRef, Principal, Tenant

GOLDEN: Final = Path(__file__).resolve().parents[2] / "golden" / "langflow" / "status"
REF: Final = JobRef(Tenant("main"), JOB)
SHOWN: Final[dict[str, Any]] = {
    "type": "message",
    "status": "completed",
    "display_name": "Chat Output",
    "content": "hello",
    "metadata": {"component_type": "ChatOutput"},
}
VERTEX: Final[dict[str, Any]] = {"output_meta": {"component_id": "ChatOutput-1", "vertex_type": "ChatOutput"}}


def seen(log: Log, *current: str) -> Seen:
    return Seen(ref=REF, job=log.job, log=log.events, current=current)


def running() -> Log:
    return Log().start().begin(["a"], ["a", "b", "ChatOutput-1"]).step("a", {"lfx": "1.13.0"})


def asking() -> Log:
    log = running()
    log.ask("HumanInput-a")
    log.ask("HumanInput-b", expires_at=None)
    return log.suspend()


def retrying() -> Log:
    log = running()
    error = ev.Failure(code="step_failed", message="no", step="b")
    at = log.now
    log.add(ev.StepFailedData(step="b", occurrence=1, error=error, failures=2, started_at=at, duration_seconds=1.0))
    return log.add(ev.SuspendedData(waiting=(ev.Waiting(kind="backoff", until=later(log.now, 60.0)),)))


STATES: Final[dict[str, Callable[[], Log]]] = {
    "queued": Log,
    "in_progress": running,
    "retrying": retrying,
    "suspended": asking,
    "completed": lambda: running().built(VERTEX, SHOWN).complete(),
    "failed": lambda: running().built(VERTEX, SHOWN).fail(details={"error_type": "ValueError"}),
    "timed_out": lambda: (log := running()).add(ev.TimedOutData(deadline_at=log.now, fingerprint=PRINT)),
    "cancelled": lambda: running().add(
        ev.CancelledData(fingerprint=PRINT, by=ANN, reason="superseded", superseded_by=JobId("j2"))
    ),
    "input_expired": lambda: running().fail("nobody answered", "HumanInput-a", code="request_expired"),
}


@pytest.mark.parametrize("state", STATES)
def test_033_each_state_has_its_body(state: str) -> None:
    found = msgspec.json.format(msgspec.json.encode(bodies.status(seen(STATES[state](), "a", "b"))), indent=1)
    assert found.decode() + "\n" == (GOLDEN / f"{state}.json").read_text()


@pytest.mark.parametrize("state", ["queued", "in_progress", "suspended", "completed", "cancelled"])
def test_a_status_has_every_member_of_1_13(state: str) -> None:
    theirs = {
        "queued": step(21, steps(21)[1]["name"]),
        "suspended": step(26, "status, suspended"),
        "completed": step(26, "status, completed"),
        "cancelled": step(33, "status, stopped"),
    }
    recorded = theirs.get(state, theirs["suspended"])["response"]["json"]
    ours = bodies.status(seen(STATES[state]()))
    assert [name for name in ours if name in recorded] == list(recorded)


def test_034_legacy_answers_as_1_13_for_failed_and_timed_out_jobs_only() -> None:
    theirs = step(24, "status, failed")["response"]["json"]["detail"]
    failed = bodies.legacy(seen(STATES["failed"]()))
    assert failed is not None
    assert (failed.status, list(failed.detail)) == (500, list(theirs))
    assert failed.detail["code"] == "JOB_FAILED"
    late = bodies.legacy(seen(STATES["timed_out"]()))
    assert late is not None
    assert (late.status, late.detail["code"]) == (408, "EXECUTION_TIMEOUT")
    for state in ("queued", "in_progress", "suspended", "completed", "cancelled"):
        assert bodies.legacy(seen(STATES[state]())) is None


def test_034_the_error_of_an_agui_job_is_said_in_its_words() -> None:
    log = STATES["failed"]()
    source = msgspec.structs.replace(log.job.submitted.source, protocol="agui")  # type: ignore[union-attr]
    job = msgspec.structs.replace(
        log.job,
        submitted=msgspec.structs.replace(log.job.submitted, source=source),  # type: ignore[type-var]
    )
    found = bodies.legacy(Seen(ref=REF, job=job, log=log.events))
    assert found is not None
    assert found.detail["error_detail"] == {"type": "RUN_ERROR", "message": "boom"}


def test_046_what_came_before_a_pause_is_in_the_status_and_in_the_result() -> None:
    log = running().built(VERTEX, SHOWN)
    request = log.ask()
    log.suspend()
    assert bodies.status(seen(log))["outputs"] == {"ChatOutput-1": SHOWN}
    log.answer(request).start("resumed").complete()
    assert bodies.status(seen(log))["outputs"] == {"ChatOutput-1": SHOWN}


def test_035_progress_rises_to_the_total() -> None:
    log = running()
    assert bodies.progress(seen(log, "a", "b")) == {"completed": 1, "total": 3, "current": ["b"]}
    log.add(ev.StepSkippedData(step="b", occurrence=1, reason="not taken"))
    assert bodies.progress(seen(log))["completed"] == 2
    log.built(VERTEX, SHOWN).complete()
    assert bodies.progress(seen(log)) == {"completed": 3, "total": 3, "current": []}


def test_a_row_has_the_members_of_1_13_in_their_order() -> None:
    theirs = step(26, "pending, one")["response"]["json"][0]
    log = running()
    ours = requests.row(log.ask(), bodies.about(seen(log)))
    assert list(ours)[: len(theirs)] == list(theirs)
    for name in ("kind", "prompt", "options", "allowed_decisions"):
        assert ours[name] == theirs[name]


def test_a_fallback_may_be_chosen_and_is_no_option() -> None:
    theirs = step(32, "pending, two")["response"]["json"][0]
    actions = (ev.Action(id="approve"), ev.Action(id="reject"), ev.Action(id="fallback"))
    request = running().ask(actions=actions, on_timeout=ev.OnTimeout(do="answer", action="fallback"))
    row = requests.asked(request)
    assert (row["options"], row["allowed_decisions"]) == (theirs["options"], theirs["allowed_decisions"])
    assert row["fallback_action"] == "fallback"


def test_a_request_is_found_by_either_id_and_by_no_other() -> None:
    log = running()
    request = log.ask()
    for named in (request.id, f"HumanInput-g1:{JOB}"):
        found = requests.found(log.events, named)
        assert found is not None
        assert found.id == request.id
    assert requests.found(log.events, "wrong") is None


TOOL: Final[dict[str, Any]] = {
    "kind": "tool_call",
    "proposal": {"name": "send", "arguments": {"to": "a"}},
    "proposal_digest": "sha256:x",
    "external_ids": {},
}


def test_048_a_tool_call_shows_what_it_would_do() -> None:
    row = requests.asked(running().ask(**TOOL))
    assert row["kind"] == "tool_approval"
    assert row["action_requests"] == [{"name": "send", "args": {"to": "a"}, "description": "ship it?"}]
    ours = running().ask(kind="tool_call", proposal={"action_requests": [{"name": "x", "args": {}}]})
    assert requests.asked(ours)["action_requests"] == [{"name": "x", "args": {}}]


def test_058_decisions_about_a_tool_call() -> None:
    request = running().ask(**TOOL, response_schema=None)
    edit = requests.decided(request, {"action_id": "edit", "values": {"args": {"to": "b"}}})
    assert (edit.action, edit.proposal) == ("edit", {"name": "send", "arguments": {"to": "b"}})
    reject = requests.decided(request, {"action_id": "reject", "values": {"message": "no"}})
    assert (reject.comment, reject.payload) == ("no", UNSET)
    respond = requests.decided(request, {"action_id": "respond", "values": {"message": "hi"}})
    assert respond.payload == {"response": "hi"}


@pytest.mark.parametrize("decision", [None, "x", [], {}, {"action_id": 1}, {"action_id": None, "values": "x"}])
def test_a_decision_without_an_action_names_none(decision: Any) -> None:
    assert requests.decided(running().ask(), decision).action == ""


def test_values_reach_a_form_and_are_passed_over_where_there_is_none() -> None:
    decision = {"action_id": "approve", "values": {"stars": 5}, "comment": "fine"}
    plain = requests.decided(running().ask(), decision)
    assert (plain.payload, plain.comment) == (UNSET, "fine")
    form = requests.decided(running().ask(response_schema={"type": "object"}), decision)
    assert form.payload == {"stars": 5}


def test_053_what_remains_is_what_is_waited_for() -> None:
    log = running()
    one, _ = log.ask("HumanInput-a"), log.ask("HumanInput-b")
    assert requests.remaining(log.job) == 2  # an answer before the suspension
    log.suspend().answer(one)
    assert requests.remaining(log.job) == 1


def test_idempotency_uses_a_key_again_only_after_a_bad_end() -> None:
    other = Digest("0" * 64)
    assert keys.use(EMPTY, PRINT) is Use.SUBMIT
    for state, meant in (
        ("queued", Use.REPLAY), ("suspended", Use.REPLAY), ("completed", Use.REPLAY), ("failed", Use.NEXT),
        ("cancelled", Use.NEXT), ("timed_out", Use.NEXT),
    ):  # fmt: skip
        assert keys.use(STATES[state]().job, PRINT) is meant
    assert keys.use(Log().job, other) is Use.REUSED
    assert keys.use(STATES["failed"]().job, other) is Use.NEXT


def test_the_ids_of_keys_are_frozen() -> None:
    tenant, owner = Tenant("main"), Principal("user:ann")
    assert keys.job_id(tenant, owner, "k", 0) == "019ff7b2-9af0-5bc9-ade5-051e624d7acb"
    assert keys.job_id(tenant, owner, "k", 1) != keys.job_id(tenant, owner, "k", 0)


REFUSALS: Final[dict[tuple[int, str], Callable[[Any], Refusal]]] = {
    (10, "unknown flow"): lambda d: refusal.flow_not_found(d["flow_id"]),
    (12, "sync with data"): lambda d: refusal.sync_fields(["data"]),
    (12, "stream with output_ids"): lambda d: refusal.mode_fields(
        "stream", ["output_ids"], "Output selection via output_ids only applies to mode='sync'."
    ),
    (12, "stream with an unknown stream protocol"): lambda d: refusal.unknown_protocol("nope"),
    (6, "not terminal"): lambda d: refusal.unknown_outputs(["Sleeper-join1"], d["available"]),
    (9, "refused field"): lambda d: refusal.refused_tweaks(["code"]),
    (13, "status, unknown id"): lambda d: refusal.job_not_found(d["job_id"]),
    (13, "events, unknown id"): lambda d: refusal.job_not_found(d["job_id"], "events"),
    (13, "stop, unknown id"): lambda d: refusal.job_not_found(d["job_id"], "stop"),
    (13, "resume, unknown id"): lambda d: refusal.job_not_found(d["job_id"], "resume"),
    (26, "resume, action not allowed"): lambda d: refusal.invalid_decision(d["job_id"]),
    (36, "run of a flow without data"): lambda d: refusal.invalid_flow(d["flow_id"], d["message"]),
}


@pytest.mark.parametrize(("number", "name"), REFUSALS)
def test_refusals_are_those_of_1_13(number: int, name: str) -> None:
    response = step(number, name)["response"]
    detail = response["json"]["detail"]
    found = REFUSALS[number, name](detail)
    assert (found.status, found.detail) == (response["status"], detail)


def test_not_resumable_is_that_of_1_13_and_a_reason() -> None:
    theirs = step(26, "resume, wrong request")["response"]["json"]["detail"]
    found = refusal.not_resumable(theirs["job_id"], "stale_request")
    assert found.detail == theirs | {"reason": "stale_request"}


@pytest.mark.parametrize("name", ["stop, running", "stop again", "stop, completed", "stop, failed"])
def test_what_stop_says_is_what_1_13_says(name: str) -> None:
    response = next(s for n in (33, 24) for s in steps(n) if s["name"] == name)["response"]["json"]
    job = response["job_id"]
    before = {"stop again": "cancelled", "stop, completed": "completed", "stop, failed": "failed"}.get(name, "queued")
    after = {"stop, running": "cancelled"}.get(name, before)
    found = bodies.stopped(job, STATES[before]().job, STATES[after]().job)
    assert found == response | {"status": after}


def test_a_log_that_is_a_tombstone_still_has_a_status() -> None:
    log = STATES["completed"]()
    end = log.events[-1]
    found = bodies.status(Seen(ref=REF, job=fold([end]), log=[end]))
    assert (found["status"], found["flow_id"]) == ("completed", None)
    json.dumps(found)
