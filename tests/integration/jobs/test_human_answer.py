"""Answering: once, by the first, to the request that it names, as that stood; everything else leaves nothing behind."""

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace

from perdure import probe
from perdure.core import event as ev
from perdure.core.event import Status
from perdure.core.instant import later
from perdure.core.machine import JobState, Settled
from perdure.core.request import Answer, Standing
from perdure.errors import Conflict, Expired, Forbidden, Invalid, NotFound, PerdureError
from perdure.ids import JobRef, Principal, Queue, RequestId, Tenant, new_job_id
from perdure.jobs.answer import answer
from perdure.jobs.control import cancel
from perdure.jobs.desk import Desk
from perdure.jobs.submit import Submission, submit
from perdure.testing.hand import Hand

BOB = Principal("user:bob")
VIA = ev.Via(channel="api")
QUEUE = Queue("quiet")  # nobody pulls from it, so doorbells stay where they can be counted


class Said(NamedTuple):
    """An answer that settled the request, or had settled it."""

    settled: Settled
    job: JobState
    replayed: bool


@pytest.fixture
async def hand(desk: Desk, submission: Submission) -> Hand:
    """A job that runs, and whose first doorbell nobody has taken."""
    hand = Hand(desk, (await submit(desk, replace(submission, queue=QUEUE))).ref)
    await hand.start()
    return hand


def digest(hand: Hand, request: RequestId) -> str | None:
    return hand.log.state.asked[request].proposal_digest


async def say(hand: Hand, desk: Desk, request: str, action: str = "approve", **members: Any) -> Said:
    who = standing(members.pop("by", BOB))
    done = await answer(desk, hand.ref.tenant, request, who, Answer(action=action, **members), VIA)
    assert done.settled is not None
    return Said(done.settled, done.job, done.replayed)


def standing(by: Principal) -> Standing:
    return Standing(by, rights=frozenset({"read", "execute", "answer"}))


async def length(desk: Desk, ref: JobRef) -> int:
    return len(await desk.eventlog.read(ref))


class CountedRings:
    """How often somebody rang."""

    def __init__(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rings: list[JobRef] = []
        real = desk.doorbells.ring

        async def ring(ref: JobRef, *args: Any, **kwargs: Any) -> None:
            self.rings.append(ref)
            await real(ref, *args, **kwargs)

        monkeypatch.setattr(desk.doorbells, "ring", ring)


@pytest.fixture
def rings(desk: Desk, hand: Hand, monkeypatch: pytest.MonkeyPatch) -> list[JobRef]:
    """Every ring after the submit, in order."""
    return CountedRings(desk, monkeypatch).rings


async def test_an_answer_is_appended_then_rung_and_tells_how_it_is(desk: Desk, hand: Hand, rings: list[JobRef]) -> None:
    asked = await hand.ask()
    await hand.suspend(asked)
    done = await say(hand, desk, asked, "reject", comment="no", payload={"why": 1})
    assert not done.replayed
    assert isinstance(done.settled.data, ev.AnsweredData)
    assert (done.settled.data.by, done.settled.data.action, done.settled.data.payload) == (BOB, "reject", {"why": 1})
    assert (await desk.eventlog.read(hand.ref))[-1].event.data == done.settled.data
    assert rings == [hand.ref]
    assert done.job.status is Status.SUSPENDED  # an answer wakes nobody; the doorbell after it does


async def test_of_32_different_answers_at_once_one_wins_and_the_rest_learn_who(desk: Desk, hand: Hand) -> None:
    asked = await hand.ask()
    await hand.suspend(asked)
    before = await length(desk, hand.ref)
    people = [Principal(f"user:p{n}") for n in range(32)]
    results = await asyncio.gather(
        *(say(hand, desk, asked, by=p, payload={"n": i}) for i, p in enumerate(people)), return_exceptions=True
    )
    won = [r for r in results if isinstance(r, Said)]
    lost = [r for r in results if isinstance(r, Conflict)]
    assert (len(won), len(lost)) == (1, 31)
    data = won[0].settled.data
    assert isinstance(data, ev.AnsweredData)
    assert {r.code for r in lost} == {"already-answered"}
    assert {(r.facts["answered_by"], r.facts["answered_at"]) for r in lost} == {(data.by, won[0].settled.at)}
    assert await length(desk, hand.ref) == before + 1


async def test_32_people_who_say_the_same_at_once_are_all_told_yes(desk: Desk, hand: Hand) -> None:
    asked = await hand.ask()
    results = await asyncio.gather(*(say(hand, desk, asked, by=Principal(f"user:p{n}")) for n in range(32)))
    assert [r.replayed for r in results].count(False) == 1
    assert len({r.settled.seq for r in results}) == 1


async def test_the_same_answer_again_is_the_recorded_one_and_rings_nobody(
    desk: Desk, hand: Hand, rings: list[JobRef]
) -> None:
    asked = await hand.ask(proposal={"amount": 1}, editable=("/amount",))
    sent: dict[str, Any] = {
        "proposal_digest": digest(hand, asked),
        "proposal": {"amount": 2},
        "payload": {"a": 1, "b": [1.0]},
    }
    first = await say(hand, desk, asked, **sent)
    again = await say(hand, desk, asked, **(sent | {"payload": {"b": [1.0], "a": 1}}))
    assert (again.replayed, again.settled) == (True, first.settled)
    assert rings == [hand.ref]
    with pytest.raises(Conflict):
        await say(hand, desk, asked, **(sent | {"payload": {"a": True, "b": [1.0]}}))  # true is not 1


async def test_the_same_answer_again_counts_after_the_job_went_on_and_ended(desk: Desk, hand: Hand) -> None:
    asked = await hand.ask()
    await say(hand, desk, asked)
    await hand.complete()
    assert (await say(hand, desk, asked)).replayed
    with pytest.raises(Conflict) as late:
        await say(hand, desk, asked, "reject", comment="too late")
    assert late.value.code == "already-answered"


Bad = Callable[[Hand, RequestId], dict[str, Any]]
UNFIT: dict[str, tuple[Bad, type[PerdureError], str, str]] = {
    "no digest": (lambda h, r: {"proposal_digest": None}, Invalid, "invalid-answer", "/proposal_digest"),
    "old digest": (lambda h, r: {"proposal_digest": "sha256:" + "0" * 64}, Conflict, "proposal-changed", ""),
    "unknown action": (lambda h, r: {"action": "Approve"}, Invalid, "invalid-answer", "/action"),
    "no comment": (lambda h, r: {"action": "reject"}, Invalid, "invalid-answer", "/comment"),
    "blank comment": (lambda h, r: {"action": "reject", "comment": " "}, Invalid, "invalid-answer", "/comment"),
    "edit": (
        lambda h, r: {"proposal": {"amount": 1, "to": "eve"}},
        Invalid,
        "invalid-answer",
        "/proposal/to",
    ),
    "type": (lambda h, r: {"payload": {"note": 7}}, Invalid, "invalid-answer", "/payload/note"),
    "unknown": (lambda h, r: {"payload": {"x": 7}}, Invalid, "invalid-answer", "/payload/x"),
    "not a form": (lambda h, r: {"payload": None}, Invalid, "invalid-answer", "/payload"),
}


@pytest.mark.parametrize("case", UNFIT)
async def test_an_answer_that_does_not_fit_writes_nothing_and_wakes_nobody(
    desk: Desk, hand: Hand, rings: list[JobRef], case: str
) -> None:
    make, error, code, place = UNFIT[case]
    schema = {"type": "object", "properties": {"note": {"type": "string"}}, "additionalProperties": False}
    asked = await hand.ask(proposal={"amount": 1, "to": "bob"}, editable=("/amount",), response_schema=schema)
    await hand.suspend(asked)
    before = await length(desk, hand.ref)
    fit: dict[str, Any] = {"action": "approve", "proposal_digest": digest(hand, asked), "payload": {"note": "x"}}
    with pytest.raises(error) as refused:
        await say(hand, desk, asked, **(fit | make(hand, asked)))
    assert getattr(refused.value, "code") == code  # noqa: B009 - of two classes
    if isinstance(refused.value, Invalid):
        assert [f.pointer for f in refused.value.faults] == [place]
    assert await length(desk, hand.ref) == before
    assert rings == []
    assert (await say(hand, desk, asked, **fit)).replayed is False  # the request stayed as it was


async def test_a_request_of_another_tenant_or_of_nobody_is_not_there(desk: Desk, hand: Hand) -> None:
    asked = await hand.ask()
    said = Answer(action="approve")
    for tenant, request in (
        (Tenant("somebodyelse"), asked),
        (hand.ref.tenant, RequestId(f"{hand.ref.job}_1")),  # an event of this job that asked nothing
        (hand.ref.tenant, RequestId(f"{hand.ref.job}_99")),
        (hand.ref.tenant, RequestId(f"{new_job_id()}_3")),
        (hand.ref.tenant, RequestId(f"{hand.ref.job}_3.*")),
        (hand.ref.tenant, RequestId("*")),
    ):
        with pytest.raises(NotFound):
            await answer(desk, tenant, request, standing(BOB), said, VIA)


async def test_a_late_answer_expires_the_request_and_rings(desk: Desk, hand: Hand, rings: list[JobRef]) -> None:
    past = later(desk.clock.broker_now(), -1)
    asked = await hand.ask(expires_at=past, on_timeout=ev.OnTimeout(do="answer", action="reject"))
    await hand.suspend(asked)
    with pytest.raises(Expired) as late:
        await say(hand, desk, asked)
    with pytest.raises(Expired):
        await say(hand, desk, asked)
    assert late.value.code == "request-expired"
    assert late.value.facts["outcome"] == ev.Outcome(do="answer", action="reject")
    last = (await desk.eventlog.read(hand.ref))[-1].event
    assert isinstance(last, ev.InputExpired)
    assert late.value.facts["expired_at"] == last.at
    assert rings == [hand.ref]  # an expiry is a cause: the job goes on; the second answer found it written


async def test_answers_against_the_deadline_leave_one_outcome_each(desk: Desk, submission: Submission) -> None:
    async def once(n: int) -> tuple[bool, str]:
        hand = Hand(desk, (await submit(desk, replace(submission, queue=QUEUE))).ref)
        await hand.start()
        asked = await hand.ask(expires_at=later(desk.clock.broker_now(), 0.004 * (n % 8)))
        try:
            accepted = not (await say(hand, desk, asked)).replayed
        except Expired:
            accepted = False
        settled = [type(s.event).__name__ for s in await desk.eventlog.read(hand.ref)][3:]
        assert len(settled) == 1
        return accepted, settled[0]

    outcomes = set(await asyncio.gather(*(once(n) for n in range(64))))
    assert outcomes <= {(True, "InputAnswered"), (False, "InputExpired")}
    assert (False, "InputExpired") in outcomes  # n = 0 has expired when it is asked


async def test_an_answer_to_what_was_withdrawn_or_ended_is_a_conflict(desk: Desk, hand: Hand) -> None:
    first, second = await hand.ask(name="a"), await hand.ask(name="b")
    await hand.add(ev.WithdrawnData(request_id=first, reason="closed"))
    with pytest.raises(Conflict) as withdrawn:
        await say(hand, desk, first)
    await hand.complete()
    with pytest.raises(Conflict) as ended:
        await say(hand, desk, second)
    assert (withdrawn.value.code, ended.value.code) == ("request-withdrawn", "request-withdrawn")
    assert ended.value.facts == {"job_status": Status.COMPLETED}


async def test_an_answer_after_the_jobs_own_deadline_ends_the_job(desk: Desk, submission: Submission) -> None:
    hand = Hand(desk, (await submit(desk, replace(submission, deadline_seconds=0.001))).ref)
    await hand.start()
    asked = await hand.ask()
    with pytest.raises(Conflict):
        await say(hand, desk, asked)
    assert isinstance((await desk.eventlog.read(hand.ref))[-1].event, ev.JobTimedOut)


async def test_only_those_who_are_asked_may_answer(desk: Desk, hand: Hand) -> None:
    asked = await hand.ask(assignees=ev.Assignees(users=("carol",)))
    with pytest.raises(Forbidden) as refused:
        await say(hand, desk, asked)
    assert refused.value.code == "not-assignee"
    assert not (await say(hand, desk, asked, by=Principal("user:carol"))).replayed


async def test_a_restated_request_wants_the_digest_of_its_last_revision(desk: Desk, hand: Hand) -> None:
    asked = await hand.ask(proposal="first draft")
    old = digest(hand, asked)
    request = hand.log.state.asked[asked]
    restated = replace(request, revision=2, proposal="second draft", proposal_digest="sha256:" + "1" * 64)
    await hand.add(ev.RequestedData(request=restated))
    with pytest.raises(Conflict) as changed:
        await say(hand, desk, asked, proposal_digest=old)
    assert changed.value.facts == {"revision": 2, "proposal_digest": restated.proposal_digest}
    done = await say(hand, desk, asked, proposal_digest=restated.proposal_digest)
    assert isinstance(done.settled.data, ev.AnsweredData)
    assert (done.settled.data.proposal, done.settled.data.revision) == ("second draft", 2)


async def test_an_edit_within_bounds_is_recorded_as_approved(desk: Desk, hand: Hand) -> None:
    asked = await hand.ask(proposal={"amount": 1, "to": "bob"}, editable=("/amount",))
    done = await say(hand, desk, asked, proposal_digest=digest(hand, asked), proposal={"amount": 5, "to": "bob"})
    assert isinstance(done.settled.data, ev.AnsweredData)
    assert (done.settled.data.proposal, done.settled.data.edited) == ({"amount": 5, "to": "bob"}, True)
    assert done.settled.data.proposal_digest == digest(hand, asked)  # what was shown


async def test_an_answer_while_somebody_else_appends_is_decided_anew(desk: Desk, hand: Hand) -> None:
    asked = await hand.ask()

    async def work() -> None:
        for n in range(20):
            await hand.step("s", n, occurrence=n + 1)

    results = await asyncio.gather(
        work(), *(say(hand, desk, asked, payload=n) for n in range(4)), return_exceptions=True
    )
    assert sum(isinstance(r, Said) for r in results) == 1
    kinds = [type(s.event).__name__ for s in await desk.eventlog.read(hand.ref)]
    assert (kinds.count("StepCompleted"), kinds.count("InputAnswered")) == (20, 1)


@pytest.mark.parametrize(
    "point", ["answer.after_auth", "answer.before_append", "answer.after_append", "answer.after_ring"]
)
async def test_whoever_dies_in_the_middle_of_an_answer_may_say_it_again(desk: Desk, hand: Hand, point: str) -> None:
    asked = await hand.ask()
    probe.arm(f"{point}=raise")
    with pytest.raises(probe.SimulatedCrash):
        await say(hand, desk, asked)
    probe.arm("")
    again = await say(hand, desk, asked)
    assert again.replayed is (point in ("answer.after_append", "answer.after_ring"))
    kinds = [type(s.event).__name__ for s in await desk.eventlog.read(hand.ref)]
    assert kinds.count("InputAnswered") == 1


async def test_an_answer_against_a_cancel_leaves_one_order_and_both_are_told_it(
    desk: Desk, submission: Submission
) -> None:
    async def once() -> None:
        hand = Hand(desk, (await submit(desk, replace(submission, queue=QUEUE))).ref)
        await hand.start()
        asked = await hand.ask()
        await hand.suspend(asked)
        said, job = await asyncio.gather(say(hand, desk, asked), cancel(desk, hand.ref, BOB), return_exceptions=True)
        kinds = [type(s.event).__name__ for s in await desk.eventlog.read(hand.ref)]
        assert kinds[-1] == "JobCancelled"
        assert not isinstance(job, BaseException)
        assert ("InputAnswered" in kinds) is isinstance(said, Said)

    await asyncio.gather(*(once() for _ in range(30)))
