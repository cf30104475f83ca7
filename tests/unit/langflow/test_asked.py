"""Requests of lfx as ours, and how ours was settled as decisions of lfx."""

from typing import Any

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from perdure.core import event as ev
from perdure.core.instant import Instant
from perdure.core.machine import JobState, Settled
from perdure.errors import Malformed, RequestExpired, RequestWithdrawn
from perdure.ids import Digest, JobId, JobRef, Principal, RequestId, Tenant
from perdure.testing.factory import OWNER, Story
from perdure_runner.langflow import asked

NOW = Instant("2026-01-01T00:00:00.000Z")
LATER = Instant("2026-01-04T00:00:00.000Z")
JOB = JobId("01a00000-0000-7000-8000-000000000001")
REF = JobRef(Tenant("main"), JOB)
GATE: dict[str, Any] = {
    "request_id": f"HumanInput-g1:{JOB}",
    "kind": "node_input",
    "prompt": "ship it?\nreally",
    "options": [{"action_id": "approve", "label": "Approve"}, {"action_id": "reject", "label": "Reject"}],
    "allowed_decisions": ["approve", "reject"],
    "timeout_seconds": 259200,
    "fallback_action": None,
    "paused_at": "…",
}
TOOL: dict[str, Any] = {
    "request_id": f"Agent-a1:{JOB}:i1",
    "kind": "tool_approval",
    "prompt": "",
    "options": [{"action_id": "approve", "label": "Approve"}, {"action_id": "edit", "label": "Edit"}],
    "allowed_decisions": ["approve", "edit"],
    "action_requests": [{"name": "add", "args": {"a": 1}, "description": "adds"}],
}


def submitted_data() -> ev.SubmittedData:
    data = Story().submitted().data
    assert isinstance(data, ev.SubmittedData)
    return data


def job() -> JobState:
    return JobState(seq=6, submitted=submitted_data(), status=ev.Status.RUNNING)


def request(raw: dict[str, Any] = GATE, component: str = "HumanInput-g1", thread: Digest | None = None) -> ev.Request:
    return asked.request_of(raw, component, REF, job(), NOW, thread)


def settled(data: Any, of: ev.Request | None = None) -> JobState:
    found = of or request()
    return replace(job(), settled={found.id: Settled(found, 8, NOW, data)})


def answered(action: str, payload: Any = UNSET, comment: str | None = None) -> ev.AnsweredData:
    return ev.AnsweredData(
        request_id=request().id,
        revision=1,
        action=action,
        payload=payload,
        comment=comment,
        by=Principal("user:bob"),
        via=ev.Via(channel="api"),
    )


def test_a_gate_is_a_choice_with_its_prompt_and_lfx_knows_it_by_its_own_id() -> None:
    found = request()
    assert found.id == RequestId(f"{JOB}_7")
    assert (found.kind, found.name, found.title, found.message) == (
        "choice",
        "HumanInput-g1",
        "ship it?",
        "ship it?\nreally",
    )
    assert [(a.id, a.label) for a in found.actions] == [("approve", "Approve"), ("reject", "Reject")]
    assert (found.asked_for, found.expires_at, found.on_timeout) == (OWNER, LATER, None)
    assert found.external_ids == {"langflow": GATE["request_id"]}
    assert asked.known(GATE, replace(job(), asked={found.id: found}))
    assert not asked.known(GATE, job())


def test_a_fallback_is_an_action_of_its_own_that_time_takes() -> None:
    raw = {**GATE, "allowed_decisions": ["approve", "reject", "fallback"], "fallback_action": "fallback"}
    found = request({**raw, "timeout_seconds": 60})
    assert [a.id for a in found.actions] == ["approve", "reject", "fallback"]
    assert found.on_timeout == ev.OnTimeout(do="answer", action="fallback")
    assert found.expires_at == "2026-01-01T00:01:00.000Z"
    expired = ev.ExpiredData(
        request_id=found.id, revision=1, cause="deadline", outcome=ev.Outcome(do="answer", action="fallback")
    )
    assert asked.decisions(settled(expired, found)) == {GATE["request_id"]: {"action_id": "fallback", "values": {}}}


def test_no_time_is_three_days_and_zero_is_for_ever() -> None:
    assert request({k: v for k, v in GATE.items() if k != "timeout_seconds"}).expires_at == LATER
    assert request({**GATE, "timeout_seconds": 0}).expires_at is None


def test_a_tool_is_shown_whole_and_its_thread_is_named() -> None:
    thread = Digest("a" * 64)
    found = request(TOOL, "Agent-a1", thread)
    assert (found.kind, found.title) == ("tool_call", "Agent-a1")
    assert found.proposal == {"action_requests": TOOL["action_requests"]}
    assert found.proposal_digest is not None
    assert asked.threads(replace(job(), asked={found.id: found})) == {"Agent-a1": thread}


def test_values_and_comments_reach_lfx() -> None:
    said = settled(answered("edit", {"args": {"a": 2}}), request(TOOL, "Agent-a1"))
    assert asked.decisions(said) == {TOOL["request_id"]: {"action_id": "edit", "values": {"args": {"a": 2}}}}
    assert asked.decisions(settled(answered("reject", comment="no"))) == {
        GATE["request_id"]: {"action_id": "reject", "values": {"message": "no"}}
    }


def test_what_expires_without_a_fallback_or_is_withdrawn_ends_the_job() -> None:
    expired = ev.ExpiredData(request_id=request().id, revision=1, cause="deadline", outcome=ev.Outcome(do="fail"))
    with pytest.raises(RequestExpired):
        asked.decisions(settled(expired))
    with pytest.raises(RequestWithdrawn):
        asked.decisions(settled(ev.WithdrawnData(request_id=request().id, reason="wrong")))


def test_an_agent_that_asks_anew_takes_the_place_of_its_older_request() -> None:
    first = request(TOOL, "Agent-a1")
    open_ = replace(job(), asked={first.id: first})
    again = {**TOOL, "request_id": f"Agent-a1:{JOB}:i2"}
    assert asked.replaced(again, "Agent-a1", open_) == first
    assert asked.replaced(TOOL, "Agent-a1", open_) is None
    assert asked.replaced(again, "Agent-b2", open_) is None
    gone = settled(ev.WithdrawnData(request_id=first.id, reason=asked.REASKED), first)
    assert asked.decisions(gone) == {}
    second = asked.request_of(again, "Agent-a1", REF, gone, NOW, None)
    assert (second.reasks, second.occurrence) == (first.id, 2)


@pytest.mark.parametrize(
    "raw",
    [
        {"request_id": "x"},
        {**GATE, "timeout_seconds": "soon"},
        {**GATE, "timeout_seconds": float("nan")},
        {**GATE, "timeout_seconds": []},
        {**GATE, "options": 5},
        {**GATE, "options": ["approve"]},
        {**GATE, "options": [{"label": "Approve"}]},
        {**GATE, "options": [], "allowed_decisions": []},
        {**GATE, "allowed_decisions": None},
        {**TOOL, "action_requests": 5},
    ],
    ids=range(10),
)
def test_a_request_in_words_of_a_components_own_is_malformed(raw: dict[str, Any]) -> None:
    with pytest.raises(Malformed, match="HumanInput-g1 asks in words that are no request's"):
        request(raw)
