"""What followers are shown of requests: golden frames, whole and without users' values. A release may add members.

To write them anew: `PERDURE_GOLDEN=write pytest tests/unit/core/test_human_frames.py`.
"""

import os
from pathlib import Path
from typing import Final

import msgspec
import pytest
from msgspec.structs import replace

from perdure.core import codec
from perdure.core import event as ev
from perdure.core.comment import comment
from perdure.core.event import AnyEvent
from perdure.core.request import Answer, Standing, proposal_digest, settle
from perdure.core.restate import delegate, escalation, withdraw
from perdure.core.stream import withheld
from perdure.core.stream.frame import Frame
from perdure.core.stream.native import Native
from perdure.ids import EventId, Principal, RequestId
from perdure.testing.factory import JOB, Story

GOLDEN: Final = Path(__file__).resolve().parents[2] / "golden" / "streams"
VIA: Final = ev.Via(channel="console", key_id="k1")
RIGHTS: Final = frozenset({"read", "execute", "answer", "edit"})
SECRETS: Final = ("secret", "SECRET", "4711", "Publish this?", "asked twice")


def who(name: str) -> Standing:
    return Standing(Principal(f"user:{name}"), frozenset({"finance"}), RIGHTS)


def ask(story: Story) -> RequestId:
    """A request with everything on it, asked again by itself because of an answer before."""
    asked = story.asked("refund")
    proposal = {"amount": 4711}
    story.add(
        ev.RequestedData(
            request=replace(
                story.state.asked[asked],
                revision=2,
                message="a secret message",
                proposal=proposal,
                proposal_digest=proposal_digest("Publish this?", "a secret message", proposal),
                editable=("/amount",),
                defaults={"note": "secret"},
                assignees=ev.Assignees(users=("bob",), groups=("finance",)),
                quorum=ev.Quorum(n=2, veto=("reject",)),
                reminders=(60.0,),
                escalations=(ev.Escalation(after_seconds=120.0, add=ev.Assignees(groups=("leads",))),),
                on_timeout=ev.OnTimeout(do="answer", action="reject", payload={"why": "SECRET"}),
                errors=(ev.Wrong(pointer="/payload/note", detail="the secret note is wrong"),),
                external_ids={"langflow": "v:1"},
            )
        )
    )
    return asked


def say(story: Story, asked: RequestId, name: str, action: str = "approve", amount: int = 4711) -> None:
    request = story.state.asked[asked]
    said = Answer(
        action=action,
        payload={"note": "secret"},
        proposal={"amount": amount},
        proposal_digest=request.proposal_digest,
        comment="a secret comment",
    )
    data = settle(story.state, request, who(name), VIA, said, story.at)
    assert isinstance(data, ev.VotedData | ev.AnsweredData | ev.ExpiredData)
    story.add(data)


def told() -> list[AnyEvent]:
    """A life of requests, told by the functions that write it."""
    story = Story()
    story.submitted()
    story.started()
    first, second, third = ask(story), ask(story), ask(story)
    story.add(comment(story.state, story.state.asked[first], who("ann"), "a secret remark", EventId("s1"), VIA))
    handed = delegate(story.state, story.state.asked[first], who("bob"), who("carol"), "a secret reason", story.at, VIA)
    assert handed is not None
    story.add(handed)
    more = escalation(story.state, first, story.state.asked[first].asked_at[:14] + "59:59.000Z")  # type: ignore[arg-type]
    assert more is not None
    story.add(more)
    say(story, first, "carol")
    say(story, first, "dan")
    only = replace(
        story.state.asked[second],
        revision=3,
        assignees=ev.Assignees(users=("bob", "carol")),
        escalations=(),
    )
    story.add(ev.RequestedData(request=only))
    say(story, second, "bob", amount=1)
    say(story, second, "carol", amount=2)
    gone = withdraw(story.state, story.state.asked[third], who("ann"), "asked twice", VIA)
    assert isinstance(gone, ev.WithdrawnData)
    story.add(gone)
    return story.events


def frames(*, values: bool) -> bytes:
    native, shown = Native(JOB), list[Frame]()
    for event in told():
        body = codec.encode(event)
        shown += native.on_event(body if values else withheld.event(body), event)
    return b"".join(frame.encode() for frame in shown)


@pytest.mark.parametrize(("name", "values"), [("human.sse", True), ("human-withheld.sse", False)])
def test_the_frames_of_a_requests_life_are_the_golden_ones(name: str, values: bool) -> None:
    found = frames(values=values)
    if os.environ.get("PERDURE_GOLDEN") == "write":
        GOLDEN.mkdir(exist_ok=True)
        (GOLDEN / name).write_bytes(found)
    assert found == (GOLDEN / name).read_bytes()


def test_the_life_that_is_told_has_every_event_of_a_request() -> None:
    assert {type(event) for event in told()} >= {
        ev.InputRequested,
        ev.InputVoted,
        ev.InputAnswered,
        ev.InputExpired,
        ev.InputWithdrawn,
        ev.SignalReceived,
    }


def test_without_the_right_to_values_no_word_of_them_is_shown_and_their_digests_are() -> None:
    text = frames(values=False).decode()
    assert [word for word in SECRETS if word in text] == []
    answered = next(event for event in told() if isinstance(event, ev.InputAnswered))
    shown = msgspec.json.decode(withheld.event(codec.encode(answered)))["data"]
    assert shown["payload"] == withheld.withhold({"note": "secret"})
    assert shown["comment"]["withheld"] is True
    assert [vote["by"] for vote in shown["votes"]] == ["user:carol", "user:dan"]  # who and when is no value
    assert shown["action"] == "approve"


def test_why_somebody_withdrew_is_his_word_and_why_a_branch_did_is_ours() -> None:
    gone = next(event for event in told() if isinstance(event, ev.InputWithdrawn))
    assert withheld.data(msgspec.to_builtins(gone.data), "input.withdrawn")["reason"]["withheld"] is True
    ours = {"request_id": gone.data.request_id, "reason": "branch_closed"}
    assert withheld.data(ours, "input.withdrawn") == ours
