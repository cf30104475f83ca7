"""The format of the log, frozen: one golden file per event type. A release may add members, never change these bytes.

Each sample gives every member of its type a value, so a renamed or dropped member shows as a difference.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from msgspec import UNSET, Struct
from msgspec.structs import fields, replace

from perdure.core import blob, codec
from perdure.core import event as ev
from perdure.core.event import EVENT_OF, FORMAT, AnyData, AnyEvent, Status
from perdure.core.instant import Instant
from perdure.errors import Malformed
from perdure.ids import Digest, EventId, JobId, Principal, Queue, RequestId, RunnerId

GOLDEN: Final = Path(__file__).resolve().parents[2] / "golden" / "events"
REFERENCES: Final = GOLDEN.with_name("events-with-blobs")
JOB = JobId("01990000-0000-7000-8000-000000000001")
CHILD = JobId("01990000-0000-7000-8000-000000000002")
REQUEST = RequestId(f"{JOB}_3")
ANN, BOB = Principal("user:ann"), Principal("user:bob")
AT, LATER = Instant("2026-01-01T00:00:00.000Z"), Instant("2026-01-01T00:10:00.000Z")
PRINT = Digest("f" * 64)
ERROR = ev.Failure(code="step_failed", message="no", retryable=True, step="draft", details={"error_type": "ValueError"})
USAGE = ev.Usage(input_tokens=12, output_tokens=34, model="scripted")
VIA = ev.Via(channel="link", key_id="k1", link="lena", link_by=Principal("user:ann"), run_id="r1")
VOTE = ev.Vote(by=BOB, action="approve", payload_digest="p" * 64, at=AT, via=VIA, comment="fine")
OUTCOME = ev.Outcome(do="answer", action="reject", payload={"why": "late"})
BEFORE: Final = GOLDEN.with_name("events-before")  # as types were stored before they gained members
USERS: Final = frozenset(
    {"ui", "external_ids", "input", "result", "payload", "value", "outputs", "tags", "proposal", "defaults", "details"}
) | {
    "sealed",
    "thread",
    "preview",
    "original",
    "proposal_schema",
    "response_schema",
}
KEY: Final[dict[str, Any]] = {"step": "draft", "occurrence": 2, "path": "/1.2"}  # any member of three types

SAMPLES: Final[dict[str, AnyData]] = {
    "job.submitted": ev.SubmittedData(
        flow=ev.FlowRef(id="f1", name="story", version=3, kind="graph", digest=Digest("d" * 64)),
        input={"brief": None},
        owner=ANN,
        queue=Queue("default"),
        priority="high",
        deadline_at=LATER,
        fingerprint=PRINT,
        source=ev.Source(
            surface="schedule",
            schedule_id="s1",
            thread_id="t1",
            run_id="r1",
            mode="stream",
            protocol="langflow",
            graph_state=True,
            output_ids=("post",),
        ),
        tags={"team": "docs"},
        on_behalf_of=BOB,
        session_id="chat-1",
        not_before=AT,
        max_failures=3,
        parent=ev.Parent(job_id=CHILD, step="sub", occurrence=1, path="/1.1", detached=True),
        effect_root=CHILD,
        traceparent="00-1-2-01",
        sealed={"v": 1},
        thread={"messages": [{"id": "u1", "role": "user", "content": "hello"}], "state": {"theme": None}},
    ),
    "attempt.started": ev.AttemptData(
        runner=RunnerId("r1"),
        doorbell=ev.Bell(seq=7, ring="ring-7"),
        reason="resumed",
        code_digest="c" * 64,
        because_seq=5,
        cause="answer",
    ),
    "job.suspended": ev.SuspendedData(
        waiting=(
            ev.Waiting(kind="input", path="/review", name="review", occurrence=1, request_id=REQUEST, until=LATER),
            ev.Waiting(kind="child", job_id=CHILD),
            ev.Waiting(kind="code", expected="step a#1", found="end"),
        ),
        more=2,
        resume="all",
        wake_at=LATER,
    ),
    "step.completed": ev.StepCompletedData(
        **KEY,
        result=None,
        started_at=AT,
        duration_seconds=1.25,
        args_digest="a" * 16,
        component="chat_model",
        output=ev.Named(name="post", kind="text"),
        usage=USAGE,
        preview={"valid": True},
    ),
    "step.failed": ev.StepFailedData(
        **KEY,
        error=ERROR,
        failures=2,
        started_at=AT,
        duration_seconds=0.5,
        args_digest="a" * 16,
        component="chat_model",
        retry_at=LATER,
        final=True,
        preview={"valid": False},
    ),
    "step.skipped": ev.StepSkippedData(**KEY, reason="not_taken", component="text_output"),
    "output": ev.OutputData(name="report", occurrence=1, kind="table", value=None, path="/1.2", step="draft"),
    "message": ev.MessageData(
        message_id="m1",
        role="assistant",
        text="é\n",
        path="/1.2",
        step="draft",
        original={"sender": "Machine"},
        removed=True,
    ),
    "progress": ev.ProgressData(
        name="pages", occurrence=1, path="/1.2", done=1.0, total=2.5, text="one", data={"page": 1}
    ),
    "input.requested": ev.RequestedData(
        request=ev.Request(
            id=REQUEST,
            job_id=JOB,
            name="review",
            occurrence=1,
            revision=2,
            kind="approval",
            title="Publish this?",
            asked_at=AT,
            asked_for=ANN,
            actions=(ev.Action(id="approve", label="Yes", style="primary", requires=("comment",)),),
            path="/review",
            message="Please read",
            proposal={"text": "draft"},
            proposal_digest="p" * 64,
            proposal_schema={"type": "object"},
            editable=("/text",),
            response_schema={"type": "object"},
            defaults={"mood": "good"},
            assignees=ev.Assignees(users=("user:bob",), groups=("editors",), anyone_with="answer"),
            expires_at=LATER,
            on_timeout=ev.OnTimeout(do="answer", action="reject", payload={"why": "late"}),
            reasks=RequestId(f"{CHILD}_3"),
            forbid_self=True,
            quorum=ev.Quorum(
                n=2, of=ev.Assignees(users=("bob",), groups=("editors",), anyone_with="execute"), veto=("reject",)
            ),
            reminders=(3600.0,),
            escalations=(
                ev.Escalation(
                    after_seconds=14400.0,
                    add=ev.Assignees(users=("carol",), groups=("leads",), anyone_with="answer"),
                ),
            ),
            escalated=1,
            delegations=(ev.Delegation(by=BOB, to=Principal("user:dan"), at=AT, comment="away", via=VIA),),
            ui={"order": ["mood"]},
            external_ids={"langflow": "v:1"},
            errors=(ev.Wrong(pointer="/payload/mood", detail="no such mood"),),
        )
    ),
    "input.voted": ev.VotedData(
        request_id=REQUEST,
        revision=1,
        action="approve",
        payload=None,
        payload_digest="p" * 64,
        by=BOB,
        via=VIA,
        comment="fine",
        proposal={"text": "edited"},
        proposal_digest="p" * 64,
        edited=True,
        tally=(ev.Tally(action="approve", digest="p" * 64, votes=1),),
    ),
    "input.answered": ev.AnsweredData(
        request_id=REQUEST,
        revision=1,
        action="approve",
        payload={"stars": 5},
        by=BOB,
        via=VIA,
        proposal={"text": "edited"},
        proposal_digest="p" * 64,
        edited=True,
        comment="fine",
        votes=(VOTE,),
    ),
    "input.expired": ev.ExpiredData(
        request_id=REQUEST, revision=1, cause="no_quorum", outcome=OUTCOME, votes=(VOTE,), by=BOB, via=VIA
    ),
    "input.withdrawn": ev.WithdrawnData(request_id=REQUEST, reason="branch closed", by=BOB, via=VIA),
    "signal.received": ev.SignalData(signal_id="s1", name="go", payload=None, by=BOB, via=VIA),
    "cancel.requested": ev.CancelData(by=BOB, grace_seconds=30.0, reason="stop"),
    "timer.fired": ev.TimerData(name="nap", occurrence=1, due_at=LATER, path="/1.2"),
    "child.ended": ev.ChildData(**KEY, job_id=CHILD, status=Status.FAILED, outputs={"report": None}, error=ERROR),
    "job.completed": ev.CompletedData(outputs={"post": "hello"}, fingerprint=PRINT, usage=USAGE),
    "job.failed": ev.FailedData(error=ERROR, failures=5, fingerprint=PRINT),
    "job.cancelled": ev.CancelledData(fingerprint=PRINT, by=BOB, reason="stop", superseded_by=CHILD),
    "job.timed_out": ev.TimedOutData(deadline_at=LATER, fingerprint=PRINT),
}
REF: Final = ev.BlobRef(sha256=Digest("b" * 64), size_bytes=200_000, media_type="application/json")
# The same with their users' values in blobs.
REFERRING: Final[dict[str, AnyData]] = {
    "job.submitted": replace(
        SAMPLES["job.submitted"], input=UNSET, input_ref=REF, sealed=None, sealed_ref=REF, thread=None, thread_ref=REF
    ),
    "step.completed": replace(SAMPLES["step.completed"], result=UNSET, result_ref=REF, preview=None, preview_ref=REF),
    "step.failed": replace(SAMPLES["step.failed"], preview=None, preview_ref=REF),
    "message": replace(SAMPLES["message"], original=None, original_ref=REF),
    "output": replace(SAMPLES["output"], value=UNSET, value_ref=REF),
    "progress": replace(SAMPLES["progress"], data=None, data_ref=REF),
    "input.requested": ev.RequestedData(
        request=replace(
            SAMPLES["input.requested"].request,  # type: ignore[union-attr]  # this sample has one
            proposal=None,
            proposal_ref=REF,
            on_timeout=ev.OnTimeout(do="answer", action="reject", payload_ref=REF),
        )
    ),
    "input.voted": replace(SAMPLES["input.voted"], payload=UNSET, payload_ref=REF, proposal=None, proposal_ref=REF),
    "input.answered": replace(
        SAMPLES["input.answered"], payload=UNSET, payload_ref=REF, proposal=None, proposal_ref=REF
    ),
    "input.expired": replace(
        SAMPLES["input.expired"], outcome=ev.Outcome(do="answer", action="reject", payload_ref=REF)
    ),
    "signal.received": replace(SAMPLES["signal.received"], payload=UNSET, payload_ref=REF),
    "child.ended": replace(SAMPLES["child.ended"], outputs={"short": None}, outputs_ref={"report": REF}),
    "job.completed": replace(SAMPLES["job.completed"], outputs={"short": None}, outputs_ref={"post": REF}),
}


def event(type_: str, samples: Mapping[str, AnyData] = SAMPLES) -> AnyEvent:
    """The sample of a type, in an envelope that does not care what may follow what."""
    data = samples[type_]
    return EVENT_OF[type(data)](
        v=1,
        id=EventId("01990000-0000-7000-8000-00000000e001"),
        seq=17,
        attempt=2,
        at=AT,
        status=Status.RUNNING,
        refs=(Digest("b" * 64),),
        data=data,  # type: ignore[arg-type]  # EVENT_OF pairs them
    )


def strict(body: bytes) -> AnyEvent:
    """The event in `body`; Malformed when `body` holds anything that this version does not know or would leave out."""
    found = codec.decode(body)
    if json.loads(codec.encode(found)) != json.loads(body):
        raise Malformed("members that no event has")
    return found


def test_there_is_one_golden_file_for_each_type_and_no_other() -> None:
    assert FORMAT == 1
    assert {f.name for f in GOLDEN.iterdir()} == {f"{t}.json" for t in SAMPLES}
    assert {EVENT_OF[type(d)].__struct_config__.tag for d in SAMPLES.values()} == set(SAMPLES)
    assert set(EVENT_OF.values()) == {EVENT_OF[type(d)] for d in SAMPLES.values()}


@pytest.mark.parametrize("type_", SAMPLES)
def test_an_event_is_encoded_to_its_golden_bytes(type_: str) -> None:
    assert codec.encode(event(type_)) + b"\n" == (GOLDEN / f"{type_}.json").read_bytes()


@pytest.mark.parametrize("type_", SAMPLES)
def test_golden_bytes_are_decoded_to_their_event(type_: str) -> None:
    assert strict((GOLDEN / f"{type_}.json").read_bytes()) == event(type_)


@pytest.mark.parametrize("type_", REFERRING)
def test_an_event_whose_values_lie_in_blobs_has_golden_bytes_too(type_: str) -> None:
    golden = (REFERENCES / f"{type_}.json").read_bytes()
    assert codec.encode(event(type_, REFERRING)) + b"\n" == golden
    assert strict(golden) == event(type_, REFERRING)


@pytest.mark.parametrize("file", sorted(BEFORE.iterdir()), ids=lambda file: file.stem)
def test_an_event_of_before_its_type_gained_members_keeps_its_bytes(file: Path) -> None:
    assert codec.encode(strict(file.read_bytes())) + b"\n" == file.read_bytes()


def test_every_type_that_may_refer_to_blobs_has_such_a_golden_file() -> None:
    assert {f.name for f in REFERENCES.iterdir()} == {f"{t}.json" for t in REFERRING}
    assert {EVENT_OF[type(d)] for d in REFERRING.values()} == {EVENT_OF[t] for t in (*blob.VALUES, *blob.NAMED)}


def places(tree: Any, found: list[dict[str, Any]], depth: int = 0) -> list[dict[str, Any]]:
    """Every object of an event, users' own apart, in which a later release may add a member."""
    if isinstance(tree, dict):
        found.append(tree)
        for name, value in tree.items():
            if name not in USERS and (name != "data" or depth == 0):
                places(value, found, depth + 1)
    elif isinstance(tree, list):
        for value in tree:
            places(value, found, depth + 1)
    return found


@pytest.mark.parametrize("type_", SAMPLES)
def test_a_member_of_a_later_release_is_ignored_by_services_and_refused_by_tests(type_: str) -> None:
    golden = (GOLDEN / f"{type_}.json").read_bytes()
    count = len(places(json.loads(golden), []))
    assert count >= 2
    for number in range(count):
        body = json.loads(golden)
        places(body, [])[number]["member_of_a_later_release"] = {"anything": [1]}
        assert codec.decode(json.dumps(body).encode()) == event(type_)
        with pytest.raises(Malformed):
            strict(json.dumps(body).encode())


def unset(value: object, path: str = "") -> list[str]:
    """Members of a sample that were left at their default: they would not be in the golden file."""
    if isinstance(value, tuple):
        return [u for n, v in enumerate(value) for u in unset(v, f"{path}[{n}]")] if len(value) == 1 else []
    if not isinstance(value, Struct):
        return []
    found = []
    for field in fields(value):
        member = getattr(value, field.name)
        if field.name.endswith("_ref"):  # stands for a value that is here: see REFERRING
            continue
        if not field.required and member == field.default:
            found.append(f"{path}.{field.name}")
        found += unset(member, f"{path}.{field.name}")
    return found


@pytest.mark.parametrize("type_", SAMPLES)
def test_every_member_of_a_sample_has_a_value(type_: str) -> None:
    assert unset(event(type_)) == []


def test_members_without_a_value_are_absent_but_user_values_are_null() -> None:
    bare = ev.StepCompleted(
        v=1,
        id=EventId("e"),
        seq=3,
        attempt=1,
        at=AT,
        status=Status.RUNNING,
        data=ev.StepCompletedData(step="draft", occurrence=1, result=None, started_at=AT, duration_seconds=0.0),
    )
    assert json.loads(codec.encode(bare)) == {
        "type": "step.completed",
        "v": 1,
        "id": "e",
        "seq": 3,
        "attempt": 1,
        "at": "2026-01-01T00:00:00.000Z",
        "status": "running",
        "data": {
            "step": "draft",
            "occurrence": 1,
            "result": None,
            "started_at": "2026-01-01T00:00:00.000Z",
            "duration_seconds": 0.0,
        },
    }
