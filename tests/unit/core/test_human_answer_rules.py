"""What an answer means: the checks in their order, edits, forms, digests. Hand-made requests."""

from typing import Any

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from perdure.core import event as ev
from perdure.core import schema
from perdure.core.machine import Settled
from perdure.core.request import Answer, Standing, asked_in, decided_by_time, proposal_digest, settle
from perdure.errors import Conflict, Expired, Forbidden, Invalid, NotFound
from perdure.ids import Principal, RequestId
from perdure.testing.factory import FINGERPRINT, OWNER, Story

BOB = Principal("user:bob")
VIA = ev.Via(channel="api")


def asking(**members: Any) -> tuple[Story, RequestId]:
    """A running job with one open request."""
    story = Story()
    story.submitted()
    story.started()
    asked = story.asked()
    if members:
        changed = replace(story.state.asked[asked], revision=2, **members)
        story.add(ev.RequestedData(request=changed))
    return story, asked


def with_proposal(proposal: Any, **members: Any) -> tuple[Story, RequestId]:
    digest = proposal_digest("Publish this?", None, proposal)
    return asking(proposal=proposal, proposal_digest=digest, **members)


def say(story: Story, asked: RequestId, action: str = "approve", **members: Any) -> ev.AnsweredData | Settled:
    request = asked_in(story.events, asked)
    if request is not None and request.proposal_digest is not None:
        members.setdefault("proposal_digest", request.proposal_digest)
    who = Standing(members.pop("by", BOB), rights=frozenset({"read", "execute", "answer"}))
    verdict = settle(story.state, request, who, VIA, Answer(action=action, **members), story.at)
    assert isinstance(verdict, ev.AnsweredData | Settled)
    return verdict


def places(error: pytest.ExceptionInfo[Invalid]) -> list[str | None]:
    return [fault.pointer for fault in error.value.faults]


def test_a_fit_answer_is_the_event_that_settles_the_request() -> None:
    story, asked = asking()
    data = say(story, asked, comment="fine", payload=[1])
    assert data == ev.AnsweredData(
        request_id=asked, revision=1, action="approve", payload=[1], by=BOB, via=VIA, comment="fine"
    )
    story.add(data)
    assert story.state.asked == {}


def test_what_was_never_asked_is_not_there() -> None:
    story, _ = asking()
    for asked in (RequestId(f"{story.job}_1"), RequestId(f"{story.job}_99")):
        assert asked_in(story.events, asked) is None
        with pytest.raises(NotFound):
            say(story, asked)


def test_whether_one_may_comes_before_whether_it_is_settled() -> None:
    story, asked = asking(assignees=ev.Assignees(users=("carol",)))
    story.answered(asked)
    with pytest.raises(Forbidden):
        say(story, asked)


def test_somebody_outside_the_group_may_not_and_nobody_named_means_anybody() -> None:
    story, asked = asking(assignees=ev.Assignees(groups=("bob",)))
    with pytest.raises(Forbidden):
        say(story, asked)
    story, asked = asking(assignees=ev.Assignees(anyone_with="execute"))
    assert isinstance(say(story, asked), ev.AnsweredData)


def test_whether_it_is_settled_comes_before_whether_the_answer_fits() -> None:
    story, asked = asking()
    story.answered(asked)
    with pytest.raises(Conflict) as refused:
        say(story, asked, "no such action")
    assert refused.value.code == "already-answered"
    assert refused.value.facts == {"answered_by": BOB, "answered_at": story.at, "action": "approve"}
    assert isinstance(say(story, asked, by=OWNER), Settled)  # the same content, whoever says it


def test_the_same_answer_is_the_same_json_not_the_same_text() -> None:
    story, asked = with_proposal({"a": 1, "b": 2}, editable=("/a",))
    story.add(say(story, asked, payload={"x": 1, "y": [True]}, proposal={"a": 5, "b": 2}))  # type: ignore[arg-type]
    same: dict[str, Any] = {"payload": {"y": [True], "x": 1}, "proposal": {"b": 2, "a": 5}}
    assert isinstance(say(story, asked, **same, comment="another"), Settled)
    for other in ({"payload": {"y": [1], "x": 1}}, {"payload": UNSET}, {"proposal": UNSET}, {"proposal": {"b": 2}}):
        with pytest.raises(Conflict):
            say(story, asked, **(same | other))


def test_an_expired_request_says_what_it_turned_into() -> None:
    story, asked = asking()
    outcome = ev.Outcome(do="branch")
    story.add(ev.ExpiredData(request_id=asked, revision=1, cause="deadline", outcome=outcome))
    with pytest.raises(Expired) as late:
        say(story, asked)
    assert late.value.facts == {"expired_at": story.at, "outcome": outcome}


def test_an_end_withdraws_what_was_open() -> None:
    story, asked = asking()
    story.completed()
    with pytest.raises(Conflict) as ended:
        say(story, asked)
    assert (ended.value.code, ended.value.facts) == ("request-withdrawn", {"job_status": "completed"})


def test_an_answer_names_what_it_saw() -> None:
    story, asked = with_proposal("text")
    with pytest.raises(Invalid) as missing:
        say(story, asked, proposal_digest=None)
    assert places(missing) == ["/proposal_digest"]
    with pytest.raises(Conflict) as changed:
        say(story, asked, "no such action", proposal_digest="sha256:0")  # before the action is looked at
    assert changed.value.facts["revision"] == 2
    story, asked = asking()
    with pytest.raises(Invalid) as unexpected:
        say(story, asked, proposal=1, proposal_digest="sha256:0")
    assert places(unexpected) == ["/proposal", "/proposal_digest"]


def test_what_is_shown_is_what_the_digest_is_of() -> None:
    digests = {
        proposal_digest("t", None, {"a": 1, "b": 2}),
        proposal_digest("t", None, {"b": 2, "a": 1}),
        proposal_digest("t", "m", {"a": 1, "b": 2}),
        proposal_digest("u", None, {"a": 1, "b": 2}),
        proposal_digest("t", None, {"a": True, "b": 2}),
        proposal_digest("t", None, None),
    }
    assert len(digests) == 5


PROPOSAL = {"amount": 1, "to": {"name": "bob", "tags": ["a", "b"]}, "a/b~c": 0}


@pytest.mark.parametrize(
    ("editable", "edit", "wrong"),
    [
        (("/amount",), {"amount": 2}, []),
        (("/amount",), {"amount": True}, []),
        ((), {"amount": 2}, ["/proposal/amount"]),
        (("/amou",), {"amount": 2}, ["/proposal/amount"]),
        (("/amount",), {"extra": 1}, ["/proposal/extra"]),
        (("/to",), {"to": "eve"}, []),
        (("/to",), {"to": {"name": "eve", "tags": ["a", "b"]}}, []),
        (("/to/name",), {"to": {"name": "eve", "tags": ["a", "c"]}}, ["/proposal/to/tags/1"]),
        (("/to/tags/0",), {"to": {"name": "bob", "tags": ["a"]}}, ["/proposal/to/tags"]),
        (("/to/name",), {"to": {"tags": ["a", "b"]}}, []),
        (("/a~1b~0c",), {"a/b~c": 1}, []),
        (("",), {"anything": {"goes": 1}}, []),
    ],
)
def test_an_edit_stays_within_its_bounds(editable: tuple[str, ...], edit: dict[str, Any], wrong: list[str]) -> None:
    story, asked = with_proposal(PROPOSAL, editable=editable)
    proposal = PROPOSAL | edit
    if not wrong:
        data = say(story, asked, proposal=proposal)
        assert isinstance(data, ev.AnsweredData)
        assert (data.proposal, data.edited) == (proposal, True)
        return
    with pytest.raises(Invalid) as refused:
        say(story, asked, proposal=proposal)
    assert places(refused) == wrong


def test_sending_the_proposal_back_unchanged_is_no_edit() -> None:
    story, asked = with_proposal(PROPOSAL)
    for proposal in (UNSET, dict(reversed(PROPOSAL.items())), PROPOSAL | {"amount": 1.0}):  # 1.0 is 1
        data = say(story, asked, proposal=proposal)
        assert isinstance(data, ev.AnsweredData)
        assert (data.proposal, data.edited) == (PROPOSAL, False)


def test_a_proposal_may_be_null() -> None:
    story, asked = with_proposal(None, editable=("",))
    unedited, edited = say(story, asked), say(story, asked, proposal=1)
    assert isinstance(unedited, ev.AnsweredData)
    assert isinstance(edited, ev.AnsweredData)
    assert (unedited.edited, edited.edited, edited.proposal) == (False, True, 1)


def test_an_edited_proposal_still_fits_its_schema() -> None:
    rule = {"type": "object", "properties": {"amount": {"type": "integer", "maximum": 10}}}
    story, asked = with_proposal({"amount": 1}, editable=("/amount",), proposal_schema=rule)
    with pytest.raises(Invalid) as refused:
        say(story, asked, proposal={"amount": 11})
    assert places(refused) == ["/proposal/amount"]


def test_an_action_replaces_what_the_form_requires() -> None:
    rule = {"type": "object", "properties": {"why": {"type": "string"}, "n": {"type": "integer"}}, "required": ["n"]}
    actions = (
        ev.Action(id="plain"),
        ev.Action(id="reject", requires=("why", "comment")),
        ev.Action(id="skip", requires=()),
    )
    story, asked = asking(response_schema=rule, actions=actions)
    wrong = {"plain": ["/payload/n"], "reject": ["/payload/why", "/comment"], "skip": []}
    for action, missing in wrong.items():
        if not missing:
            assert isinstance(say(story, asked, action), ev.AnsweredData)
            continue
        with pytest.raises(Invalid) as refused:
            say(story, asked, action)
        assert places(refused) == missing
    with pytest.raises(Invalid) as refused:
        say(story, asked, "skip", payload={"n": "1"})  # the rest of the schema always holds
    assert places(refused) == ["/payload/n"]


def test_without_a_form_an_action_may_still_require() -> None:
    story, asked = asking(actions=(ev.Action(id="reject", requires=("why", "comment")),))
    for payload, missing in (
        (UNSET, ["/payload/why", "/comment"]),
        ("why", ["/payload/why", "/comment"]),
        ({"why": None}, ["/comment"]),
    ):
        with pytest.raises(Invalid) as refused:
            say(story, asked, "reject", payload=payload)
        assert places(refused) == missing


def test_time_decides_before_an_answer_does() -> None:
    story = Story()
    story.submitted(deadline_seconds=100)
    story.started()
    late = story.asked("late", expires_at="2026-01-01T00:00:10.000Z")  # type: ignore[arg-type]  # a literal instant
    other = story.asked("other")
    job = story.state
    assert decided_by_time(job, late, "2026-01-01T00:00:09.999Z") is None  # type: ignore[arg-type]
    expired = decided_by_time(job, late, "2026-01-01T00:00:10.000Z")  # type: ignore[arg-type]
    assert isinstance(expired, ev.ExpiredData)
    assert decided_by_time(job, other, "2026-01-01T00:00:11.000Z") is None  # type: ignore[arg-type]  # not its business
    ended = decided_by_time(job, other, "2026-01-01T00:01:40.000Z")  # type: ignore[arg-type]
    assert ended == ev.TimedOutData(deadline_at="2026-01-01T00:01:40.000Z", fingerprint=FINGERPRINT)  # type: ignore[arg-type]


def test_values_that_do_not_fit_a_schema_are_named_and_never_shown() -> None:
    rule = {
        "type": "object",
        "properties": {"a": {"type": "string", "maxLength": 3}, "b": {"type": "array", "items": {"enum": ["x"]}}},
        "required": ["a", "c"],
        "additionalProperties": False,
    }
    found = schema.faults(rule, {"a": "secret", "b": ["x", "secret"], "~/": "secret"}, "/payload")
    assert {(fault.pointer, fault.code) for fault in found} == {
        ("/payload/a", "maxLength"),
        ("/payload/b/1", "enum"),
        ("/payload/c", "required"),
        ("/payload/~0~1", "additionalProperties"),
    }
    assert not any("secret" in fault.detail for fault in found)


@pytest.mark.parametrize(
    "rule",
    [
        {"type": "objekt"},
        {"$ref": "https://example.com/schema"},
        {"$ref": "file:///etc/passwd"},
        {"pattern": "(a)\\1"},
        {"pattern": "(?=a)"},
        {"properties": 1},
    ],
)
def test_a_schema_that_is_none_or_reaches_out_is_refused(rule: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as refused:
        schema.check_schema(rule, "/response_schema")
    place = "/response_schema/$ref" if "$ref" in rule else "/response_schema"
    assert (refused.value.code, refused.value.faults[0].pointer) == ("invalid-schema", place)
    with pytest.raises(Invalid):
        schema.faults(rule, {"a": 1}, "/payload")


def test_a_pattern_takes_linear_time() -> None:
    assert schema.faults({"type": "string", "pattern": "^(a+)+$"}, "a" * 50_000 + "b", "") != []
