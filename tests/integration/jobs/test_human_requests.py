"""What people do with a request, on a real broker: vote, delegate, withdraw, comment; escalations, and the clock."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from perdure import probe
from perdure.bus.connection import Bus
from perdure.bus.doorbell import Doorbells
from perdure.bus.eventlog import EventLog
from perdure.clock import SystemClock
from perdure.core import bounds, verify
from perdure.core import comment as comments_of
from perdure.core import event as ev
from perdure.core.alarm import due
from perdure.core.comment import comments_on
from perdure.core.event import AnyEvent, type_of
from perdure.core.instant import later
from perdure.core.request import Answer, Standing
from perdure.errors import Conflict, Expired, Forbidden, Invalid, NotFound, PerdureError
from perdure.ids import JobRef, Principal, Queue, RequestId
from perdure.jobs.answer import Answered, answer
from perdure.jobs.desk import Desk
from perdure.jobs.human import comment, delegate, withdraw
from perdure.jobs.joblog import JobLog
from perdure.jobs.signal import signal
from perdure.jobs.submit import Submission, submit
from perdure.testing.clock import FakeClock
from perdure.testing.hand import Hand

VIA = ev.Via(channel="console", key_id="k1")
QUEUE = Queue("quiet")  # nobody pulls from it
BOARD = ev.Assignees(users=("bob", "carol", "dan"))
TWO = ev.Quorum(n=2, veto=("reject",))


@pytest.fixture
async def hand(desk: Desk, submission: Submission) -> Hand:
    """A job that runs."""
    return await job(desk, submission)


async def job(desk: Desk, submission: Submission) -> Hand:
    hand = Hand(desk, (await submit(desk, replace(submission, queue=QUEUE))).ref)
    await hand.start()
    return hand


@pytest.fixture
def rings(desk: Desk, hand: Hand, monkeypatch: pytest.MonkeyPatch) -> list[JobRef]:
    """Every ring after the submit, in order; they ring all the same."""
    heard: list[JobRef] = []
    real = desk.doorbells.ring

    async def ring(ref: JobRef, *args: Any, **kwargs: Any) -> None:
        heard.append(ref)
        await real(ref, *args, **kwargs)

    monkeypatch.setattr(desk.doorbells, "ring", ring)
    return heard


def user(name: str, *groups: str, rights: tuple[str, ...] = ("answer",)) -> Standing:
    return Standing(Principal(f"user:{name}"), frozenset(groups), frozenset(rights))


EDITOR = user("ann", rights=("read", "edit"))


async def say(
    desk: Desk,
    hand: Hand,
    asked: RequestId,
    who: str | Standing | Callable[[], Awaitable[Standing]],
    action: str = "approve",
    **members: Any,
) -> Answered:
    somebody = user(who) if isinstance(who, str) else who
    return await answer(desk, hand.ref.tenant, asked, somebody, Answer(action=action, **members), VIA)


async def log(desk: Desk, hand: Hand) -> list[AnyEvent]:
    events = [stored.event for stored in await desk.eventlog.read(hand.ref)]
    assert verify.log(events) == []
    return events


async def kinds(desk: Desk, hand: Hand) -> list[str]:
    return [type_of(event) for event in await log(desk, hand) if type_of(event).startswith(("input", "signal"))]


# ------------------------------------------------------------------------------------------------ votes


async def test_two_of_three_settle_and_only_the_last_vote_wakes(desk: Desk, hand: Hand, rings: list[JobRef]) -> None:
    asked = await hand.ask(assignees=BOARD, quorum=TWO)
    await hand.suspend(asked)
    first = await say(desk, hand, asked, "bob")
    assert (first.settled, first.replayed, rings) == (None, False, [])
    assert first.vote is not None
    assert [(t.action, t.votes) for t in first.vote.tally] == [("approve", 1)]
    again = await say(desk, hand, asked, "bob")
    assert (again.settled, again.replayed, again.vote) == (None, True, first.vote)
    last = await say(desk, hand, asked, "carol")
    assert last.settled is not None
    assert isinstance(last.settled.data, ev.AnsweredData)
    assert [vote.by for vote in last.settled.data.votes] == ["user:bob", "user:carol"]
    assert rings == [hand.ref]
    assert await kinds(desk, hand) == ["input.requested", "input.voted", "input.answered"]


async def test_a_veto_against_the_filling_vote_leaves_one_outcome(desk: Desk, submission: Submission) -> None:
    async def once() -> str:
        hand = await job(desk, submission)
        asked = await hand.ask(assignees=BOARD, quorum=TWO, actions=(ev.Action(id="approve"), ev.Action(id="reject")))
        await say(desk, hand, asked, "bob")
        results = await asyncio.gather(
            say(desk, hand, asked, "carol"), say(desk, hand, asked, "dan", "reject"), return_exceptions=True
        )
        won = [r for r in results if isinstance(r, Answered)]
        assert len(won) == 1
        assert [type(r) for r in results if not isinstance(r, Answered)] == [Conflict]
        assert won[0].settled is not None
        assert isinstance(won[0].settled.data, ev.AnsweredData)
        assert (await kinds(desk, hand))[-2:] == ["input.voted", "input.answered"]
        return won[0].settled.data.action

    outcomes = await asyncio.gather(*(once() for _ in range(20)))
    assert set(outcomes) <= {"approve", "reject"}


async def test_of_32_voters_at_once_the_first_n_equal_ones_settle(desk: Desk, hand: Hand) -> None:
    asked = await hand.ask(assignees=ev.Assignees(anyone_with="answer"), quorum=ev.Quorum(n=20))
    results = await asyncio.gather(*(say(desk, hand, asked, f"u{n}") for n in range(32)), return_exceptions=True)
    done = [r for r in results if isinstance(r, Answered)]
    assert len(done) == 32  # those after the 20th say what was decided
    assert [r.replayed for r in done].count(False) == 20
    found = await kinds(desk, hand)
    assert (found.count("input.voted"), found.count("input.answered")) == (19, 1)
    answered = next(event for event in await log(desk, hand) if isinstance(event, ev.InputAnswered))
    assert len({vote.by for vote in answered.data.votes}) == 20


async def test_a_vote_that_makes_agreement_impossible_expires_the_request_and_rings(
    desk: Desk, hand: Hand, rings: list[JobRef]
) -> None:
    asked = await hand.ask(
        assignees=ev.Assignees(users=("bob", "carol")),
        quorum=ev.Quorum(n=2),
        on_timeout=ev.OnTimeout(do="branch"),
        actions=(ev.Action(id="approve"), ev.Action(id="hold")),
    )
    await say(desk, hand, asked, "bob")
    end = await say(desk, hand, asked, "carol", "hold")
    assert end.settled is not None
    assert isinstance(end.settled.data, ev.ExpiredData)
    assert (end.settled.data.cause, end.settled.data.outcome.do) == ("no_quorum", "branch")
    assert (end.replayed, (await say(desk, hand, asked, "carol", "hold")).replayed) == (False, True)
    assert rings == [hand.ref]


# ------------------------------------------------------------------------------------------------ who it is, anew


async def test_who_belongs_to_a_group_is_looked_up_for_every_append(desk: Desk, hand: Hand) -> None:
    asked = await hand.ask(assignees=ev.Assignees(groups=("finance",)))
    looked: list[int] = []

    async def who() -> Standing:
        """Bob, who is taken out of the group while he answers, after somebody else wrote to the log."""
        looked.append(len(looked))
        if len(looked) == 1:
            await hand.step("meanwhile")
            return user("bob", "finance", rights=("answer", "read"))
        return user("bob", rights=("answer", "read"))

    with pytest.raises(Forbidden):
        await say(desk, hand, asked, who)
    assert looked == [0, 1]
    assert await kinds(desk, hand) == ["input.requested"]


REFUSED: list[tuple[Any, type[PerdureError]]] = [
    (lambda d, t, r: withdraw(d, t, r, user("bob"), "no", VIA), Forbidden),
    (lambda d, t, r: withdraw(d, t, r, user("eve"), "no", VIA), NotFound),
    (lambda d, t, r: delegate(d, t, r, user("eve", rights=("read",)), user("bob"), None, VIA), Forbidden),
    (lambda d, t, r: delegate(d, t, r, user("bob"), user("bob"), None, VIA), Invalid),
    (lambda d, t, r: comment(d, t, r, user("eve"), "hello", VIA), NotFound),
    (lambda d, t, r: comment(d, t, r, user("bob"), "  ", VIA), Invalid),
    (lambda d, t, r: comment(d, t, "nonsense", user("bob"), "hello", VIA), NotFound),
    (lambda d, t, r: answer(d, t, r, user("bob"), Answer(action="nonsense"), VIA), Invalid),
    (lambda d, t, r: answer(d, t, r, user("eve"), Answer(action="approve"), VIA), NotFound),
]


@pytest.mark.parametrize(("act", "error"), REFUSED)
async def test_what_is_refused_leaves_nothing_and_wakes_nobody(
    desk: Desk, hand: Hand, rings: list[JobRef], act: Any, error: type[PerdureError]
) -> None:
    asked = await hand.ask(assignees=BOARD)
    before = len(await log(desk, hand))
    with pytest.raises(error):
        await act(desk, hand.ref.tenant, asked)
    assert len(await log(desk, hand)) == before
    assert rings == []


# ------------------------------------------------------------------------------------------------ restating


async def test_a_right_is_handed_on_once_and_wakes_nobody(desk: Desk, hand: Hand, rings: list[JobRef]) -> None:
    asked = await hand.ask(assignees=BOARD, proposal={"n": "x" * 200_000})  # it lies in a blob, and stays there
    await hand.suspend(asked)
    done = await delegate(desk, hand.ref.tenant, asked, user("bob"), user("eve"), "on holiday", VIA)
    assert (done.request.revision, done.replayed) == (2, False)
    assert done.request.delegations[0].via == VIA
    assert (await delegate(desk, hand.ref.tenant, asked, user("bob"), user("eve"), None, VIA)).replayed
    assert rings == []
    stated = [e for e in await log(desk, hand) if isinstance(e, ev.InputRequested)]
    assert [e.data.request.proposal_ref is not None for e in stated] == [True, True]
    assert stated[0].refs == stated[1].refs != ()
    with pytest.raises(NotFound):
        await say(desk, hand, asked, "bob", proposal_digest=done.request.proposal_digest)
    settled = await say(desk, hand, asked, "eve", proposal_digest=done.request.proposal_digest)
    assert settled.settled is not None
    assert await kinds(desk, hand) == ["input.requested", "input.requested", "input.answered"]


async def test_two_who_hand_on_the_same_right_at_once_are_one(desk: Desk, hand: Hand) -> None:
    asked = await hand.ask(assignees=BOARD)
    results = await asyncio.gather(
        *(delegate(desk, hand.ref.tenant, asked, user("bob"), user(f"e{n}"), None, VIA) for n in range(8)),
        return_exceptions=True,
    )
    assert sum(isinstance(r, NotFound) for r in results) == 7
    assert (await kinds(desk, hand)).count("input.requested") == 2


async def test_a_withdrawal_ends_the_request_once_and_rings(desk: Desk, hand: Hand, rings: list[JobRef]) -> None:
    asked = await hand.ask(assignees=BOARD)
    await hand.suspend(asked)
    done = await withdraw(desk, hand.ref.tenant, asked, EDITOR, "asked twice", VIA)
    assert done.settled is not None
    assert done.settled.data == ev.WithdrawnData(request_id=asked, reason="asked twice", by=EDITOR.principal, via=VIA)
    assert (await withdraw(desk, hand.ref.tenant, asked, EDITOR, "asked twice", VIA)).replayed
    assert rings == [hand.ref]
    with pytest.raises(Conflict) as late:
        await say(desk, hand, asked, "bob")
    assert late.value.code == "request-withdrawn"


async def test_a_withdrawal_against_an_answer_leaves_one_of_the_two(desk: Desk, submission: Submission) -> None:
    async def once() -> None:
        hand = await job(desk, submission)
        asked = await hand.ask(assignees=BOARD)
        both = await asyncio.gather(
            say(desk, hand, asked, "bob"),
            withdraw(desk, hand.ref.tenant, asked, EDITOR, "no", VIA),
            return_exceptions=True,
        )
        assert sorted(isinstance(r, Conflict) for r in both) == [False, True]
        assert len([k for k in await kinds(desk, hand) if k in ("input.answered", "input.withdrawn")]) == 1

    await asyncio.gather(*(once() for _ in range(20)))


@pytest.mark.parametrize("act", ["delegate", "withdraw", "comment"])
async def test_whoever_dies_behind_the_append_may_do_it_again(desk: Desk, hand: Hand, act: str) -> None:
    asked = await hand.ask(assignees=BOARD)

    async def do() -> bool:
        if act == "delegate":
            return (await delegate(desk, hand.ref.tenant, asked, user("bob"), user("eve"), None, VIA)).replayed
        if act == "withdraw":
            return (await withdraw(desk, hand.ref.tenant, asked, EDITOR, "no", VIA)).replayed
        return (await comment(desk, hand.ref.tenant, asked, user("bob"), "hello", VIA, key="k")).replayed

    probe.arm("human.after_append=raise")
    with pytest.raises(probe.SimulatedCrash):
        await do()
    probe.arm("")
    length = len(await log(desk, hand))
    assert await do()
    assert len(await log(desk, hand)) == length


# ------------------------------------------------------------------------------------------------ comments


async def test_comments_are_in_the_log_wake_nobody_and_stay_when_it_is_settled(
    desk: Desk, hand: Hand, rings: list[JobRef]
) -> None:
    asked, other = await hand.ask(assignees=BOARD), await hand.ask(name="other")
    await hand.suspend(asked, other)
    for name, text in (("bob", "why?"), ("carol", "because")):
        await comment(desk, hand.ref.tenant, asked, user(name), text, VIA)
    assert rings == []
    await say(desk, hand, asked, "dan")
    await comment(desk, hand.ref.tenant, asked, user("bob"), "too late", VIA)
    found = comments_on(await log(desk, hand), asked)
    assert [(c.data.by, c.data.payload["text"], c.data.via) for c in found] == [
        ("user:bob", "why?", VIA),
        ("user:carol", "because", VIA),
        ("user:bob", "too late", VIA),
    ]
    assert comments_on(await log(desk, hand), other) == []
    await hand.start()
    await hand.complete()
    with pytest.raises(Conflict) as ended:
        await comment(desk, hand.ref.tenant, asked, user("bob"), "hello", VIA)
    assert ended.value.code == "job-terminal"


async def test_a_request_takes_so_many_comments_and_answers_all_the_same(
    desk: Desk, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, other = await hand.ask(assignees=BOARD), await hand.ask(name="other", assignees=BOARD)
    monkeypatch.setattr(comments_of, "MAX_COMMENTS", 2)
    for name in ("bob", "carol"):
        await comment(desk, hand.ref.tenant, asked, user(name), "hello", VIA, key=name)
    before = len(await log(desk, hand))
    with pytest.raises(Conflict) as refused:
        await comment(desk, hand.ref.tenant, asked, user("dan"), "hello", VIA)
    assert (refused.value.code, refused.value.facts) == ("comments-full", {"limit": 2})
    assert (await comment(desk, hand.ref.tenant, asked, user("bob"), "hello", VIA, key="bob")).replayed
    assert len(await log(desk, hand)) == before
    assert not (await comment(desk, hand.ref.tenant, other, user("dan"), "hello", VIA)).replayed
    assert (await say(desk, hand, asked, "bob")).settled is not None


async def test_a_log_that_is_nearly_full_takes_answers_but_no_more_talk(
    desk: Desk, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = await hand.ask(assignees=BOARD)
    monkeypatch.setattr(bounds, "MAX_EVENTS", 3)  # this log has as many
    for talk in (
        comment(desk, hand.ref.tenant, asked, user("bob"), "hello", VIA),
        signal(desk, hand.ref, "go", None, Principal("user:bob")),
    ):
        with pytest.raises(Conflict) as refused:
            await talk
        assert refused.value.code == "job-full"
    assert (await say(desk, hand, asked, "bob")).settled is not None


# ------------------------------------------------------------------------------------------------ time


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def timed(bus: Bus, eventlog: EventLog, clock: FakeClock) -> Desk:
    """A desk whose clock a test moves."""
    return Desk(eventlog, Doorbells(bus), clock)


async def test_whoever_meets_a_late_request_escalates_and_expires_it_first(
    timed: Desk, clock: FakeClock, submission: Submission
) -> None:
    hand = await job(timed, submission)
    begin = clock.broker_now()
    chain = (ev.Escalation(after_seconds=60.0, add=ev.Assignees(users=("lead",))),)
    asked = await hand.ask(assignees=BOARD, escalations=chain, expires_at=later(begin, 120.0))
    with pytest.raises(NotFound):
        await say(timed, hand, asked, "lead")
    clock.advance(60.0)
    other = await hand.ask(assignees=BOARD, escalations=chain)
    assert (await say(timed, hand, asked, "lead")).settled is not None  # though no alarm has rung
    assert await kinds(timed, hand) == ["input.requested", "input.requested", "input.requested", "input.answered"]
    clock.advance(600.0)
    third = await hand.ask(assignees=BOARD, expires_at=later(clock.broker_now(), 1.0))
    clock.advance(1.0)
    with pytest.raises(Expired) as late:
        await say(timed, hand, third, "bob")
    assert late.value.facts["outcome"] == ev.Outcome(do="fail")
    with pytest.raises(NotFound):
        await delegate(timed, hand.ref.tenant, other, user("eve"), user("bob"), None, VIA)
    assert (await log(timed, hand))[-1].data.request.escalated == 1  # type: ignore[union-attr]  # a restatement


class Untold(SystemClock):
    """A clock to which the broker has not told its time; the machine's is a year ahead."""

    def now(self) -> datetime:
        return super().now().astimezone(UTC).replace(year=super().now().year + 1)


async def test_nothing_is_over_by_a_clock_that_the_broker_has_not_set(
    bus: Bus, eventlog: EventLog, desk: Desk, hand: Hand
) -> None:
    asked = await hand.ask(assignees=BOARD, expires_at=later(desk.clock.broker_now(), 3600.0))
    untold = Desk(eventlog, Doorbells(bus), Untold())
    assert untold.clock.broker_now() > later(desk.clock.broker_now(), 3600.0)
    assert not untold.clock.broker_known
    done = await say(untold, hand, asked, "bob")
    assert done.settled is not None
    assert isinstance(done.settled.data, ev.AnsweredData)


async def test_a_clock_is_known_once_told_and_for_ten_minutes() -> None:
    clock = SystemClock()
    assert not clock.broker_known
    clock.tell(datetime.now(UTC), clock.elapsed() - 599.0)
    assert clock.broker_known
    clock.tell(datetime.now(UTC), clock.elapsed() - 601.0)
    assert not clock.broker_known


async def test_an_answer_at_the_instant_of_the_deadline_has_one_outcome(
    timed: Desk, clock: FakeClock, submission: Submission
) -> None:
    seen: set[str] = set()

    async def look(hand: Hand, late: int) -> None:
        """The deadline strikes after `late` round trips, and somebody who was rung for it looks."""
        for _ in range(late):
            await timed.eventlog.tail(hand.ref)
        clock.advance(0.001)
        seen_by_alarm = await JobLog.load(timed.eventlog, hand.ref, clock)
        await seen_by_alarm.append(lambda job: due(job, clock.broker_now()))

    for n in range(200):
        hand = await job(timed, submission)
        asked = await hand.ask(assignees=BOARD, expires_at=later(clock.broker_now(), 1.0))
        clock.advance(0.999)
        said, looked = await asyncio.gather(say(timed, hand, asked, "bob"), look(hand, n % 4), return_exceptions=True)
        assert looked is None
        (found,) = {type_of(e) for e in await log(timed, hand)} & {"input.answered", "input.expired"}
        assert isinstance(said, Answered if found == "input.answered" else Expired)
        seen.add(found)
    assert seen == {"input.answered", "input.expired"}
