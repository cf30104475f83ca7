"""Quorum, veto, no quorum; who may vote and who may answer; delegation and escalation: the rules one by one."""

from typing import Any

import pytest
from msgspec.structs import replace

from perdure.core import event as ev
from perdure.core.alarm import Alarm, alarms, decides_at, due, next_due_at, reminders
from perdure.core.instant import Instant, later
from perdure.core.machine import Settled
from perdure.core.request import Answer, Replayed, Standing, addressed, asked_in, proposal_digest, settle, visible
from perdure.core.restate import MAX_HOPS, delegate, escalation, withdraw
from perdure.core.standing import gives
from perdure.core.vote import MAX_VOTES
from perdure.errors import Conflict, Expired, Forbidden, Invalid, NotFound
from perdure.ids import Principal, RequestId
from perdure.testing.factory import BEGIN, Story

VIA = ev.Via(channel="api")
BOARD = ev.Assignees(users=("ann", "bob", "carol"))
TWO = ev.Quorum(n=2, veto=("reject",))
ACTIONS = tuple(ev.Action(id=i) for i in ("approve", "hold", "reject"))
Verdict = ev.AnsweredData | ev.VotedData | ev.ExpiredData | Settled | Replayed


def asking(**members: Any) -> tuple[Story, RequestId]:
    """A running job of ann's with one open request."""
    story = Story()
    story.submitted(deadline_seconds=90 * 86_400)
    story.started()
    asked = story.asked()
    changed = replace(story.state.asked[asked], revision=2, **({"actions": ACTIONS} | members))
    story.add(ev.RequestedData(request=changed))
    return story, asked


def user(name: str, *groups: str, rights: tuple[str, ...] = ("answer",)) -> Standing:
    return Standing(Principal(f"user:{name}"), frozenset(groups), frozenset(rights))


def say(
    story: Story, asked: RequestId, who: Standing | str, action: str = "approve", via: ev.Via = VIA, **members: Any
) -> Verdict:
    """Say it, and put what it is behind the log."""
    request = asked_in(story.events, asked)
    if request is not None and request.proposal_digest is not None:
        members.setdefault("proposal_digest", request.proposal_digest)
    somebody = user(who) if isinstance(who, str) else who
    verdict = settle(story.state, request, somebody, via, Answer(action=action, **members), later(story.at, 1.0))
    if not isinstance(verdict, Settled | Replayed):
        story.add(verdict)
    return verdict


def hand(story: Story, asked: RequestId, by: str, to: str, **standings: Standing) -> ev.RequestedData | None:
    request = asked_in(story.events, asked)
    data = delegate(story.state, request, standings.get(by, user(by)), standings.get(to, user(to)), None, story.at, VIA)
    if data is not None:
        story.add(data)
    return data


def place(error: pytest.ExceptionInfo[Invalid]) -> tuple[str | None, str]:
    (fault,) = error.value.faults
    return fault.pointer, fault.code


# ------------------------------------------------------------------------------------------------ votes


def test_votes_add_up_and_the_last_one_is_the_answer() -> None:
    story, asked = asking(assignees=BOARD, quorum=TWO)
    first = say(story, asked, "bob", payload=[120], comment="why not")
    assert isinstance(first, ev.VotedData)
    assert [(t.action, t.votes) for t in first.tally] == [("approve", 1)]
    assert asked in story.state.asked
    last = say(story, asked, "carol", payload=[120.0])  # 120.0 is 120
    assert isinstance(last, ev.AnsweredData)
    assert (last.by, last.action, last.payload) == ("user:carol", "approve", [120.0])
    assert [(vote.by, vote.action, vote.comment) for vote in last.votes] == [
        ("user:bob", "approve", None),  # his comment is in his vote's own event
        ("user:carol", "approve", None),
    ]
    assert [vote.at for vote in last.votes] == ["2026-01-01T00:00:04.000Z", "2026-01-01T00:00:05.000Z"]
    assert (story.state.asked, story.state.votes, story.state.voted_at) == ({}, {}, {})


def test_other_words_do_not_add_up() -> None:
    story, asked = asking(assignees=replace(BOARD, anyone_with="answer"), quorum=TWO)
    for who, payload in (("bob", 1), ("carol", True), ("dan", "1"), ("eve", None)):
        assert isinstance(say(story, asked, who, payload=payload), ev.VotedData)
    assert isinstance(say(story, asked, "fay", "hold", payload=1), ev.VotedData)
    assert isinstance(say(story, asked, "gus", payload=1.0), ev.AnsweredData)


def test_an_edited_proposal_is_another_vote_and_the_agreed_one_is_recorded() -> None:
    digest = proposal_digest("Publish this?", None, {"amount": 1})
    story, asked = asking(
        assignees=BOARD, quorum=TWO, proposal={"amount": 1}, proposal_digest=digest, editable=("/amount",)
    )
    assert isinstance(say(story, asked, "ann"), ev.VotedData)
    assert isinstance(say(story, asked, "bob", proposal={"amount": 2}), ev.VotedData)
    done = say(story, asked, "carol", proposal={"amount": 2.0})
    assert isinstance(done, ev.AnsweredData)
    assert (done.proposal, done.edited, len(done.votes)) == ({"amount": 2.0}, True, 3)


def test_a_veto_settles_alone() -> None:
    story, asked = asking(assignees=BOARD, quorum=TWO)
    say(story, asked, "ann")
    done = say(story, asked, "bob", "reject")
    assert isinstance(done, ev.AnsweredData)
    assert [(vote.by, vote.action) for vote in done.votes] == [("user:ann", "approve"), ("user:bob", "reject")]


def test_a_vote_is_final_and_the_same_again_is_told_so() -> None:
    story, asked = asking(assignees=BOARD, quorum=TWO)
    first = say(story, asked, "bob", payload=1)
    again = say(story, asked, "bob", payload=1.0, comment="really")
    assert isinstance(again, Replayed)
    assert again.vote == first
    for other in ({"payload": 2}, {"action": "hold", "payload": 1}, {"action": "reject"}, {"action": "no such action"}):
        with pytest.raises(Conflict) as refused:
            say(story, asked, "bob", **other)
        assert refused.value.code == "already-voted"
        assert refused.value.facts == {"voted_at": "2026-01-01T00:00:04.000Z", "action": "approve"}


def test_whoever_voted_may_ask_again_after_it_was_settled() -> None:
    story, asked = asking(assignees=BOARD, quorum=replace(TWO, n=2))
    say(story, asked, "ann", "hold")
    say(story, asked, "bob")
    say(story, asked, "carol")
    for who, action in (("bob", "approve"), ("ann", "approve"), ("ann", "hold")):  # what was decided; her own vote
        assert isinstance(say(story, asked, who, action), Settled)
    with pytest.raises(Conflict):
        say(story, asked, "bob", "hold")


def test_the_vote_after_which_nobody_can_agree_is_the_end_and_keeps_its_comment() -> None:
    outcome = ev.OnTimeout(do="answer", action="reject", payload={"why": "split"})
    story, asked = asking(assignees=BOARD, quorum=replace(TWO, n=3), on_timeout=outcome)
    say(story, asked, "ann")
    end = say(story, asked, "bob", "hold", comment="wait")
    assert isinstance(end, ev.ExpiredData)
    assert (end.cause, end.by, end.via) == ("no_quorum", "user:bob", VIA)
    assert end.outcome == ev.Outcome(do="answer", action="reject", payload={"why": "split"})
    assert [(v.by, v.comment) for v in end.votes] == [("user:ann", None), ("user:bob", "wait")]
    assert isinstance(say(story, asked, "bob", "hold"), Settled)  # his answer got lost on its way
    with pytest.raises(Expired):
        say(story, asked, "carol")


@pytest.mark.parametrize(
    "more",
    [
        {"assignees": replace(BOARD, groups=("board",))},
        {"assignees": replace(BOARD, anyone_with="execute")},
        {"escalations": (ev.Escalation(after_seconds=60.0, add=ev.Assignees(users=("dan",))),)},
        {"escalations": (ev.Escalation(after_seconds=60.0, add=ev.Assignees(groups=("leads",))),)},
    ],
)
def test_while_others_may_come_agreement_stays_possible(more: dict[str, Any]) -> None:
    story, asked = asking(**({"assignees": BOARD, "quorum": replace(TWO, n=3)} | more))
    say(story, asked, "ann")
    assert isinstance(say(story, asked, "bob", "hold"), ev.VotedData)


def test_an_asker_who_may_not_answer_is_nobody_who_could_still_agree() -> None:
    story, asked = asking(assignees=BOARD, quorum=TWO, forbid_self=True)
    with pytest.raises(Forbidden) as refused:
        say(story, asked, "ann")
    assert refused.value.code == "self-answer-forbidden"
    say(story, asked, "bob")
    assert isinstance(say(story, asked, "carol", "hold"), ev.ExpiredData)


def test_the_200th_vote_without_agreement_is_the_end() -> None:
    story, asked = asking(assignees=ev.Assignees(anyone_with="answer"), quorum=TWO)
    for number in range(MAX_VOTES - 1):
        assert isinstance(say(story, asked, f"u{number}", payload=number), ev.VotedData)
    end = say(story, asked, "last", payload="x")
    assert isinstance(end, ev.ExpiredData)
    assert len(end.votes) == MAX_VOTES


def test_a_vote_holds_for_what_was_shown() -> None:
    digest = proposal_digest("Publish this?", None, 1)
    story, asked = asking(assignees=BOARD, quorum=TWO, proposal=1, proposal_digest=digest)
    say(story, asked, "bob")
    changed = replace(story.state.asked[asked], proposal=2, proposal_digest="sha256:other", revision=3)
    story.add(ev.RequestedData(request=changed))
    assert isinstance(say(story, asked, "carol"), ev.VotedData)  # bob's vote was for something else
    done = say(story, asked, "bob")  # he may vote on what is shown now
    assert isinstance(done, ev.AnsweredData)
    assert [vote.by for vote in done.votes] == ["user:carol", "user:bob"]


def test_only_the_pool_fills_the_quorum_and_everybody_who_is_asked_may_veto() -> None:
    finance = ev.Assignees(groups=("finance",))
    story, asked = asking(assignees=ev.Assignees(users=("bob",)), quorum=replace(TWO, of=finance))
    with pytest.raises(Forbidden) as refused:
        say(story, asked, "bob")
    assert refused.value.code == "not-assignee"
    assert isinstance(say(story, asked, user("carol", "finance")), ev.VotedData)  # the pool names her too
    with pytest.raises(Forbidden):
        say(story, asked, Standing(Principal("service:ci"), frozenset({"finance"})))  # users fill a quorum
    assert isinstance(say(story, asked, "bob", "reject"), ev.AnsweredData)


def test_an_outsider_fills_no_quorum_that_does_not_name_him() -> None:
    lena = Standing(Principal("link:lena"), link="lena")
    story, asked = asking(assignees=BOARD, quorum=TWO)
    with pytest.raises(Forbidden):
        say(story, asked, lena)
    story, asked = asking(assignees=BOARD, quorum=replace(TWO, of=ev.Assignees(users=("bob", "link:lena"))))
    assert isinstance(say(story, asked, lena), ev.VotedData)
    assert isinstance(say(story, asked, "bob"), ev.AnsweredData)
    story, asked = asking(assignees=BOARD)
    assert isinstance(say(story, asked, lena), ev.AnsweredData)


def outsider(label: str, by: str) -> tuple[Standing, ev.Via]:
    """Who stands before a link that the user `by` gave out, and by which channel he speaks."""
    via = ev.Via(channel="link", link=label, link_by=Principal(f"user:{by}"))
    return Standing(Principal(f"link:{label}"), link=label), via


def test_a_link_and_whoever_gave_it_out_are_one_voter() -> None:
    (lena, by_ann), (max_, also_by_ann) = outsider("lena", "ann"), outsider("max", "ann")
    pool = ev.Assignees(users=("ann", "bob", "link:lena", "link:max"))
    story, asked = asking(assignees=pool, quorum=replace(TWO, n=3))
    assert isinstance(say(story, asked, lena, via=by_ann), ev.VotedData)
    assert isinstance(say(story, asked, lena, via=by_ann), Replayed)
    for who, via in (("ann", VIA), (max_, also_by_ann)):
        for action in ("approve", "hold", "reject"):
            with pytest.raises(Conflict) as refused:
                say(story, asked, who, action, via=via)
            assert (refused.value.code, refused.value.facts) == ("already-voted", {})  # whose the link's was, unsaid
    assert isinstance(say(story, asked, "bob"), ev.VotedData)
    assert isinstance(say(story, asked, max_, via=outsider("max", "dan")[1]), ev.AnsweredData)  # of another's hand
    story, asked = asking(assignees=pool, quorum=TWO)
    assert isinstance(say(story, asked, "ann"), ev.VotedData)
    with pytest.raises(Conflict):
        say(story, asked, lena, via=by_ann)


def test_whoever_has_voted_by_a_link_hands_nothing_on_and_gets_nothing() -> None:
    lena, by_ann = outsider("lena", "ann")
    story, asked = asking(assignees=ev.Assignees(users=("ann", "bob", "link:lena")), quorum=TWO)
    say(story, asked, lena, via=by_ann)
    with pytest.raises(Conflict) as refused:
        hand(story, asked, "ann", "dan")
    assert refused.value.code == "already-voted"
    with pytest.raises(Invalid) as unfit:
        hand(story, asked, "bob", "ann")
    assert place(unfit) == ("/to", "already-voted")


def test_whoever_has_voted_by_a_link_is_nobody_who_could_still_agree() -> None:
    lena, by_ann = outsider("lena", "ann")
    pool = ev.Assignees(users=("ann", "bob", "link:lena"))
    story, asked = asking(assignees=pool, quorum=ev.Quorum(n=2))
    say(story, asked, lena, "hold", via=by_ann)
    assert isinstance(say(story, asked, "bob"), ev.ExpiredData)  # ann is lena's voter: none is left


@pytest.mark.parametrize(
    ("maker", "link", "may"),
    [
        (user("ann"), "link:lena", True),
        (user("ann"), "link:other", True),  # of whom the pool knows nothing: he may veto, as ann may
        (user("carol"), "link:lena", False),  # is asked, and has no vote to give
        (user("carol"), "link:other", True),
        (user("carol", rights=("answer", "admin")), "link:lena", True),
        (user("eve", rights=("answer", "admin")), "link:lena", True),  # could make herself a key of any voter
        (user("eve", rights=("answer", "admin")), "link:other", False),
        (user("eve", rights=("answer", "edit")), "link:lena", False),
        (user("bob", rights=("answer", "admin")), "link:lena", False),  # his own request
    ],
    ids=[f"{n}" for n in range(9)],
)
def test_who_gives_out_a_link(maker: Standing, link: str, may: bool) -> None:
    pool = ev.Assignees(users=("ann", "bob", "link:lena"))
    story, asked = asking(
        assignees=BOARD, quorum=replace(TWO, of=pool), forbid_self=True, asked_for=Principal("user:bob")
    )
    assert gives(story.state.asked[asked], maker, Principal(link)) is may


def test_an_answer_to_a_request_of_others_is_404_or_403_as_one_may_see_it() -> None:
    story, asked = asking(assignees=BOARD)
    with pytest.raises(NotFound):
        say(story, asked, user("eve"))
    with pytest.raises(Forbidden):
        say(story, asked, user("eve", rights=("answer", "read")))


@pytest.mark.parametrize(
    ("assignees", "who", "may"),
    [
        (None, user("eve"), False),
        (None, user("eve", rights=("execute",)), True),
        (ev.Assignees(), user("eve", rights=("execute",)), True),
        (ev.Assignees(anyone_with="answer"), user("eve"), True),
        (ev.Assignees(anyone_with="execute"), user("eve"), False),
        (ev.Assignees(users=("bob",)), user("bob", rights=()), True),
        (ev.Assignees(users=("bob",)), Standing(Principal("service:bob")), False),
        (ev.Assignees(groups=("finance",)), user("bob", "finance"), True),
        (ev.Assignees(groups=("finance",)), user("finance"), False),
        (ev.Assignees(users=("bob",), anyone_with="answer"), user("eve"), True),
    ],
)
def test_who_is_asked(assignees: ev.Assignees | None, who: Standing, may: bool) -> None:
    story, asked = asking(assignees=assignees)
    request = story.state.asked[asked]
    assert addressed(request, who) is may
    assert visible(request, who, watcher=False) is may
    assert visible(request, who, watcher=True)
    own = replace(request, forbid_self=True, asked_for=who.principal)
    assert not addressed(own, who)
    assert visible(own, who, watcher=False) is may  # he sees what he may not answer


# ------------------------------------------------------------------------------------------------ delegation


def test_a_right_that_was_handed_on_is_gone_and_the_other_has_it() -> None:
    story, asked = asking(assignees=ev.Assignees(users=("bob",), groups=("finance",)))
    data = hand(story, asked, "bob", "carol")
    assert data is not None
    assert data.request.assignees == ev.Assignees(users=("carol",), groups=("finance",))
    assert (data.request.revision, data.request.delegations[0].by) == (3, "user:bob")
    with pytest.raises(NotFound):
        say(story, asked, user("bob", "finance"))  # nor by his group
    assert hand(story, asked, "bob", "carol") is None  # the same again
    hand(story, asked, "carol", "bob")
    assert isinstance(say(story, asked, "bob"), ev.AnsweredData)


def test_where_everybody_is_asked_everybody_else_still_is() -> None:
    story, asked = asking()
    by, eve = user("bob", rights=("execute",)), user("eve", rights=("execute",))
    hand(story, asked, "bob", "carol", bob=by)
    request = story.state.asked[asked]
    assert (addressed(request, by), addressed(request, eve), addressed(request, user("carol"))) == (False, True, True)


def test_a_right_goes_through_five_hands() -> None:
    story, asked = asking(assignees=ev.Assignees(users=("u0",)))
    for n in range(MAX_HOPS):
        hand(story, asked, f"u{n}", f"u{n + 1}")
    with pytest.raises(Invalid) as refused:
        hand(story, asked, f"u{MAX_HOPS}", "u9")
    assert place(refused) == ("/to", "too-many-hops")


@pytest.mark.parametrize(
    ("members", "by", "to", "code"),
    [
        ({"assignees": BOARD}, user("bob"), user("bob"), "same"),
        ({"assignees": BOARD}, user("bob"), Standing(Principal("service:ci")), "not-a-user"),
        ({"assignees": BOARD}, user("bob"), Standing(Principal("user:")), "not-a-user"),
        ({"assignees": BOARD, "forbid_self": True}, user("bob"), user("ann"), "self-answer-forbidden"),
        ({"assignees": BOARD, "quorum": replace(TWO, of=BOARD)}, user("bob"), user("eve"), "not-in-pool"),
        ({"assignees": BOARD, "quorum": replace(TWO, n=3)}, user("bob"), user("carol"), "too-few-voters"),
        ({"assignees": BOARD, "quorum": replace(TWO, n=3, of=BOARD)}, user("bob"), user("carol"), "too-few-voters"),
    ],
)
def test_not_everybody_can_take_it(members: dict[str, Any], by: Standing, to: Standing, code: str) -> None:
    story, asked = asking(**members)
    before = list(story.events)
    with pytest.raises(Invalid) as refused:
        delegate(story.state, story.state.asked[asked], by, to, None, story.at)
    assert place(refused) == ("/to", code)
    assert story.events == before


def test_a_pool_that_is_named_holds_for_whoever_takes_a_vote() -> None:
    story, asked = asking(assignees=BOARD, quorum=replace(TWO, n=1, of=ev.Assignees(groups=("finance",))))
    carol = user("carol", "finance")
    hand(story, asked, "bob", "carol", bob=user("bob", "finance"), carol=carol)
    with pytest.raises(NotFound):
        say(story, asked, user("bob", "finance"))
    assert isinstance(say(story, asked, carol), ev.AnsweredData)


def test_whoever_has_voted_has_nothing_to_hand_on_and_gets_nothing() -> None:
    story, asked = asking(assignees=BOARD, quorum=TWO)
    say(story, asked, "bob")
    with pytest.raises(Conflict) as voted:
        hand(story, asked, "bob", "eve")
    assert voted.value.code == "already-voted"
    with pytest.raises(Invalid) as refused:
        hand(story, asked, "carol", "bob")
    assert place(refused) == ("/to", "already-voted")
    assert hand(story, asked, "carol", "eve") is not None
    assert isinstance(say(story, asked, "eve"), ev.AnsweredData)
    with pytest.raises(Conflict) as settled:
        hand(story, asked, "ann", "dan")
    assert settled.value.code == "already-answered"


# ------------------------------------------------------------------------------------------------ time


CHAIN = (
    ev.Escalation(after_seconds=60.0, add=ev.Assignees(groups=("leads",))),
    ev.Escalation(after_seconds=120.0, add=ev.Assignees(users=("boss",))),
)


def at(seconds: float) -> Instant:
    """Seconds after the asking, which is at 00:00:02."""
    return later(BEGIN, 2 + seconds)


def test_an_escalation_adds_and_the_end_of_the_chain_is_the_end_of_the_request() -> None:
    story, asked = asking(assignees=ev.Assignees(users=("bob",)), escalations=CHAIN, expires_at=at(180))
    assert escalation(story.state, asked, at(59.9)) is None
    for upto, users, groups in ((60, ("bob",), ("leads",)), (120, ("bob", "boss"), ("leads",))):
        data = escalation(story.state, asked, at(upto))
        assert data is not None
        assert due(story.state, at(upto)) == data
        assert data.request.assignees == ev.Assignees(users=users, groups=groups)
        story.add(data)
    assert story.state.asked[asked].escalated == 2
    assert due(story.state, at(179.9)) is None
    assert isinstance(due(story.state, at(180)), ev.ExpiredData)
    assert addressed(story.state.asked[asked], user("eve", "leads"))


def test_what_nobody_looked_at_for_long_is_made_up_for_in_order() -> None:
    story, _ = asking(assignees=ev.Assignees(users=("bob",)), escalations=CHAIN, expires_at=at(90))
    story.add(ev.SuspendedData(waiting=(ev.Waiting(kind="timer", name="nap", occurrence=1, until=at(70)),)))
    seen = []
    while (data := due(story.state, at(500))) is not None:
        seen.append(type(data).__name__)
        story.add(data)
    assert seen == ["RequestedData", "TimerData", "ExpiredData"]  # the second escalation would have come too late


def test_everybody_who_is_asked_already_is_not_narrowed_by_an_escalation() -> None:
    story, asked = asking(escalations=CHAIN)
    story.add(escalation(story.state, asked, at(60)))  # type: ignore[arg-type]  # it is due
    assert addressed(story.state.asked[asked], user("eve", rights=("execute",)))


def test_alarms_ring_for_the_end_for_reminders_and_for_escalations() -> None:
    story, asked = asking(
        assignees=BOARD, escalations=CHAIN, reminders=(30.0, 90.0, 200.0), expires_at=at(180), quorum=TWO
    )
    assert set(alarms(story.state, at(40))) == {
        Alarm("q3", at(180)),
        Alarm("q3-r2", at(90)),  # the first has rung, the third would come too late
        Alarm("q3-e1", at(60)),
        Alarm("q3-e2", at(120)),
    }
    story.add(escalation(story.state, asked, at(60)))  # type: ignore[arg-type]  # it is due
    assert [a.name for a in alarms(story.state, at(61))] == ["q3", "q3-r2", "q3-e2"]
    assert decides_at(story.state) == next_due_at(story.state) == at(120)
    assert next_due_at(story.state, reminded=at(61)) == at(90)
    assert next_due_at(story.state, reminded=at(90)) == at(120)


def test_reminders_are_told_once_by_whoever_remembers_up_to_when() -> None:
    story, asked = asking(reminders=(30.0, 90.0, 200.0), expires_at=at(200))
    found = reminders(story.state, BEGIN, at(500))
    assert [(r.request.id, r.k, r.at) for r in found] == [(asked, 1, at(30)), (asked, 2, at(90))]
    assert reminders(story.state, at(30), at(89.9)) == ()
    assert [r.k for r in reminders(story.state, at(89.9), at(90))] == [2]
    say(story, asked, user("bob", rights=("execute",)))
    assert reminders(story.state, BEGIN, at(500)) == ()


# ------------------------------------------------------------------------------------------------ withdrawal


def test_whoever_may_edit_withdraws_once() -> None:
    story, asked = asking(assignees=BOARD)
    request, editor = story.state.asked[asked], user("eve", rights=("read", "edit"))
    with pytest.raises(Forbidden):
        withdraw(story.state, request, user("bob"), "no")
    with pytest.raises(NotFound):
        withdraw(story.state, request, user("dan"), "no")
    gone = withdraw(story.state, request, editor, "asked twice", VIA)
    assert gone == ev.WithdrawnData(request_id=asked, reason="asked twice", by=editor.principal, via=VIA)
    story.add(gone)
    assert isinstance(withdraw(story.state, request, editor, "asked twice"), Settled)
    with pytest.raises(Conflict):
        withdraw(story.state, request, editor, "another reason")
    story, asked = asking(assignees=BOARD)
    say(story, asked, "bob")
    with pytest.raises(Conflict) as answered:
        withdraw(story.state, asked_in(story.events, asked), editor, "too late")
    assert answered.value.code == "already-answered"
