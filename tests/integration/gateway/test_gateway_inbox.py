"""Answers over HTTP: each fault has one answer, with pointers into the body, and leaves the request as it was."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from perdure.core import event as ev
from perdure.core.instant import later
from perdure.db.engine import Database
from perdure.db.principals import create_key, ensure_tenant
from perdure.ids import Principal, Tenant, new_job_id
from perdure.testing.hand import Hand

Gateway = Any  # the conftest's
SCHEMA = {"type": "object", "properties": {"note": {"type": "string", "maxLength": 5}}, "required": ["note"]}


@pytest.fixture
def dialect() -> str:
    """Nothing here asks SQL for more than a key."""
    return "sqlite"


def digest(hand: Hand, request: Any) -> str | None:
    return hand.log.state.asked[request].proposal_digest


async def answer(gateway: Gateway, request: str, body: Any) -> Any:
    return await gateway.client.post(f"/api/inbox/{request}/answer", body)


async def test_of_32_answers_at_once_one_wins_and_the_rest_are_told_who_and_when(gateway: Gateway, hand: Hand) -> None:
    asked = await hand.ask()
    await hand.suspend(asked)
    answers = await asyncio.gather(
        *(answer(gateway, asked, {"action": "approve", "payload": {"n": n}}) for n in range(32))
    )
    won = [a for a in answers if a.status == 200]
    lost = [a for a in answers if a.status == 409]
    assert (len(won), len(lost)) == (1, 31)
    settled = won[0].body["settled"]
    for each in lost:
        assert (each.body["code"], each.body["answered_by"]) == ("already-answered", "user:ann")
        assert (each.body["answered_at"], each.body["action"]) == (settled["at"], "approve")
    again = await answer(gateway, asked, {"action": "approve", "payload": settled["payload"]})
    assert (again.status, again.body["replayed"]) == (200, True)
    assert again.body["settled"] == settled


UNFIT: dict[str, tuple[dict[str, Any], int, str, list[str]]] = {
    "no action": ({"action": None}, 422, "invalid-body", ["/action"]),
    "unknown member": ({"answer": 1}, 422, "invalid-body", ["/answer"]),
    "long comment": ({"comment": "x" * 4097}, 422, "invalid-body", ["/comment"]),
    "no digest": ({"proposal_digest": ...}, 422, "invalid-answer", ["/proposal_digest"]),
    "other digest": ({"proposal_digest": "sha256:0"}, 409, "proposal-changed", []),
    "unknown action": ({"action": "maybe"}, 422, "invalid-answer", ["/action"]),
    "no payload": ({"payload": ...}, 422, "invalid-answer", ["/payload/note"]),
    "payload": ({"payload": {"note": "secret text"}}, 422, "invalid-answer", ["/payload/note"]),
    "edit": ({"proposal": {"amount": 1, "to": "eve"}}, 422, "invalid-answer", ["/proposal/to"]),
    "comment": ({"action": "reject"}, 422, "invalid-answer", ["/comment"]),
}


@pytest.mark.parametrize("case", UNFIT)
async def test_an_answer_that_does_not_fit_says_where_and_changes_nothing(
    gateway: Gateway, hand: Hand, case: str
) -> None:
    change, status, code, pointers = UNFIT[case]
    asked = await hand.ask(proposal={"amount": 1, "to": "bob"}, editable=("/amount",), response_schema=SCHEMA)
    await hand.suspend(asked)
    fit: dict[str, Any] = {"action": "approve", "payload": {"note": "ok"}, "proposal_digest": digest(hand, asked)}
    refused = await answer(gateway, asked, {n: v for n, v in (fit | change).items() if v is not ...})
    assert (refused.status, refused.body["code"]) == (status, code), refused.raw
    assert [error["pointer"] for error in refused.body.get("errors", [])] == pointers
    assert b"secret text" not in refused.raw
    assert await hand.log.refresh() == 0
    assert (await answer(gateway, asked, fit)).status == 200


async def test_answers_that_come_too_late_say_what_happened(gateway: Gateway, hand: Hand) -> None:
    late = await hand.ask(
        expires_at=later(gateway.desk.clock.broker_now(), -1), on_timeout=ev.OnTimeout(do="answer", action="reject")
    )
    gone = await answer(gateway, late, {"action": "approve"})
    assert (gone.status, gone.body["code"]) == (410, "request-expired")
    assert gone.body["outcome"] == {"do": "answer", "action": "reject"}
    withdrawn = await hand.ask(name="b")
    await hand.add(ev.WithdrawnData(request_id=withdrawn, reason="closed"))
    assert (await answer(gateway, withdrawn, {"action": "approve"})).body["code"] == "request-withdrawn"
    ended = await hand.ask(name="c")
    await hand.complete()
    told = await answer(gateway, ended, {"action": "approve"})
    assert (told.status, told.body["code"], told.body["job_status"]) == (409, "request-withdrawn", "completed")


async def test_a_request_of_somebody_else_is_not_there_and_one_for_somebody_else_is_not_yours(
    gateway: Gateway, hand: Hand, database: Database
) -> None:
    asked = await hand.ask(assignees=ev.Assignees(users=("bob",)))
    assert (await answer(gateway, asked, {"action": "approve"})).body["code"] == "not-assignee"
    for request in (f"{new_job_id()}_3", f"{hand.ref.job}_1", f"{hand.ref.job}_0", f"{hand.ref.job}_3x", "*", "a.b"):
        assert (await answer(gateway, request, {"action": "approve"})).status == 404, request
    now = gateway.desk.clock.broker_now()
    async with database.transaction() as conn:
        await ensure_tenant(conn, Tenant("elsewhere"), now=now)
        foreign = await create_key(conn, Tenant("elsewhere"), Principal("user:bob"), now=now)
        mine = await create_key(conn, hand.ref.tenant, Principal("user:bob"), now=now)
    gateway.client.key = foreign
    assert (await answer(gateway, asked, {"action": "approve"})).status == 404
    for path in ("", "/events", "/requests"):
        assert (await gateway.client.get(f"/api/jobs/{hand.ref.job}{path}")).status == 404
    gateway.client.key = mine
    assert (await answer(gateway, asked, {"action": "approve"})).body["settled"]["by"] == "user:bob"


async def test_a_restated_request_must_be_looked_at_again(gateway: Gateway, hand: Hand) -> None:
    asked = await hand.ask(proposal="first")
    old = digest(hand, asked)
    new = "sha256:" + "1" * 64
    restated = replace(hand.log.state.asked[asked], revision=2, proposal="second", proposal_digest=new)
    await hand.add(ev.RequestedData(request=restated))
    stale = await answer(gateway, asked, {"action": "approve", "proposal_digest": old})
    assert (stale.status, stale.body["code"], stale.body["revision"], stale.body["proposal_digest"]) == (
        409,
        "proposal-changed",
        2,
        new,
    )


@pytest.mark.parametrize(
    "query",
    [
        "status=open",
        "kind=x",
        "job=1",
        "order=age",
        "assignee=you",
        "assignee=user:",
        "overdue=1",
        "tag=x",
        "expires_before=soon",
    ],
)
async def test_the_inbox_never_guesses_what_a_query_means(gateway: Gateway, query: str) -> None:
    refused = await gateway.client.get(f"/api/inbox?{query}")
    assert (refused.status, refused.body["code"]) == (400, "invalid-parameter")
