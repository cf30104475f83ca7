"""People over HTTP: answers and votes, delegation, withdrawal, comments; a fault has one answer and writes nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from perdure.bus.audit import Record
from perdure.client import Client
from perdure.client.events import decode
from perdure.core import event as ev
from perdure.core.instant import later
from perdure.db.engine import Database
from perdure.db.principals import create_key, ensure_tenant
from perdure.ids import Principal, Tenant, new_job_id
from perdure.testing.hand import Hand

Gateway = Any  # the conftest's
Person = Callable[..., Awaitable[Any]]
LogBytes = Callable[[Hand], Awaitable[list[bytes]]]
Audited = Callable[[int], Awaitable[list[Record]]]
POOL = ev.Assignees(users=("ann", "bob", "cy"))


async def answer(client: Any, request: str, action: str = "approve", **members: Any) -> Any:
    return await client.post(f"/api/inbox/{request}/answer", {"action": action} | members)


async def test_of_32_different_answers_at_once_one_is_200_and_the_rest_are_409(
    gateway: Gateway, hand: Hand, log_bytes: LogBytes
) -> None:
    asked = await hand.ask()
    await hand.suspend(asked)
    found = await asyncio.gather(*(answer(gateway.client, asked, payload={"n": n}) for n in range(32)))
    assert sorted(each.status for each in found) == [200] + [409] * 31
    [won] = [each.body for each in found if each.status == 200]
    lost = [each.body for each in found if each.status == 409]
    settled = {(each["code"], each["answered_by"], each["answered_at"], each["action"]) for each in lost}
    assert settled == {("already-answered", "user:ann", won["settled"]["at"], "approve")}
    assert sum(b'"input.answered"' in line for line in await log_bytes(hand)) == 1


@pytest.mark.parametrize(
    ("body", "status", "code", "pointers"),
    [
        ({}, 422, "invalid-body", ["/action"]),
        ({"action": "approve", "payload": {"n": "x"}, "extra": 1}, 422, "invalid-body", ["/extra"]),
        ({"action": "maybe", "payload": {"n": 1}}, 422, "invalid-answer", ["/action"]),
        ({"action": "approve", "payload": {"n": "a secret"}}, 422, "invalid-answer", ["/payload/n"]),
        ({"action": "approve"}, 422, "invalid-answer", ["/payload/n"]),
        ({"action": "reject", "payload": {"n": 1}}, 422, "invalid-answer", ["/comment"]),
        ({"action": "approve", "payload": {"n": 1}, "proposal": 1}, 422, "invalid-answer", ["/proposal"]),
    ],
)
async def test_an_invalid_answer_leaves_the_log_as_it_was(
    gateway: Gateway, hand: Hand, log_bytes: LogBytes, body: dict[str, Any], status: int, code: str, pointers: list[str]
) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    asked = await hand.ask(response_schema=schema)
    await hand.suspend(asked)
    before = await log_bytes(hand)
    refused = await gateway.client.post(f"/api/inbox/{asked}/answer", body)
    assert (refused.status, refused.body["code"]) == (status, code), refused.raw
    assert [error["pointer"] for error in refused.body["errors"]] == pointers
    assert b"a secret" not in refused.raw
    assert await log_bytes(hand) == before


async def test_an_id_that_is_stale_or_another_s_finds_nothing(
    gateway: Gateway, hand: Hand, log_bytes: LogBytes, database: Database
) -> None:
    asked, other = await hand.ask(), await gateway.submit("other")
    now = gateway.desk.clock.broker_now()
    async with database.transaction() as conn:
        await ensure_tenant(conn, Tenant("elsewhere"), now=now)
        foreign = await create_key(conn, Tenant("elsewhere"), Principal("user:ann"), now=now)
    before = await log_bytes(hand)
    for request in (f"{hand.ref.job}_1", f"{other.ref.job}_{asked.split('_')[1]}", f"{new_job_id()}_3"):
        for deed, body in (
            ("answer", {"action": "approve"}),
            ("delegate", {"to": "user:bob"}),
            ("comments", {"text": "x"}),
        ):
            refused = await gateway.client.post(f"/api/inbox/{request}/{deed}", body)
            assert (refused.status, refused.body["code"]) == (404, "not-found"), (request, deed)
    stranger = gateway.client.using(foreign)
    for deed, body in (
        ("answer", {"action": "approve"}),
        ("withdraw", {}),
        ("comments", {"text": "x"}),
        ("links", {"for": "link:x"}),
    ):
        assert (await stranger.post(f"/api/inbox/{asked}/{deed}", body)).status == 404, deed
    assert (await stranger.get(f"/api/inbox/{asked}")).status == 404
    assert await log_bytes(hand) == before


async def test_a_key_that_may_only_answer_sees_what_is_addressed_to_it(
    gateway: Gateway, hand: Hand, person: Person
) -> None:
    theirs = await hand.ask(assignees=ev.Assignees(users=("cy",)))
    own = await hand.ask(name="b", assignees=ev.Assignees(users=("bob",)))
    bob, watcher = await person("bob", "answer"), await person("eve", "read", "answer")
    assert (await bob.get(f"/api/inbox/{own}")).status == 200
    for refused in (await bob.get(f"/api/inbox/{theirs}"), await answer(bob, theirs)):
        assert (refused.status, refused.body["code"]) == (404, "not-found")
    assert (await watcher.get(f"/api/inbox/{theirs}")).status == 200
    assert (await answer(watcher, theirs)).body["code"] == "not-assignee"
    assert (await answer(bob, own)).status == 200


async def test_nobody_answers_a_request_of_their_own_where_that_is_forbidden(
    gateway: Gateway, hand: Hand, person: Person
) -> None:
    asked = await hand.ask(forbid_self=True)
    refused = await answer(gateway.client, asked)
    assert (refused.status, refused.body["code"]) == (403, "self-answer-forbidden")
    linked = await gateway.client.post(f"/api/inbox/{asked}/links", {"for": "link:me"})
    assert (linked.status, linked.body["code"]) == (403, "self-answer-forbidden")
    assert (await answer(await person("bob"), asked)).status == 200


@pytest.mark.parametrize(
    ("said", "recorded"),
    [(None, "api"), ("cli", "cli"), ("api", "api"), ("link", "api"), ("console", "api"), ("CLI", "api"), ("", "api")],
)
async def test_a_channel_is_a_label_of_two(
    gateway: Gateway, hand: Hand, audited: Audited, said: str | None, recorded: str
) -> None:
    asked = await hand.ask()
    headers = {} if said is None else {"Perdure-Channel": said}
    done = await gateway.client.call("POST", f"/api/inbox/{asked}/answer", {"action": "approve"}, headers=headers)
    assert (done.status, done.body["settled"]["via"]["channel"]) == (200, recorded)
    assert [record.channel for record in await audited(1)] == [recorded]


async def test_votes_add_up_and_the_last_one_is_the_answer(
    gateway: Gateway, hand: Hand, person: Person, audited: Audited
) -> None:
    asked = await hand.ask(assignees=POOL, quorum=ev.Quorum(n=2))
    await hand.suspend(asked)
    bob, cy = await person("bob"), await person("cy")
    first = await answer(gateway.client, asked, comment="fine")
    assert (first.status, first.body["status"]) == (200, "pending")
    assert [(each["action"], each["votes"]) for each in first.body["tally"]] == [("approve", 1)]
    again = await answer(gateway.client, asked, comment="fine")
    assert (again.status, again.body["replayed"], again.body["status"]) == (200, True, "pending")
    other = await answer(gateway.client, asked, "reject", comment="no")
    assert (other.status, other.body["code"], other.body["action"]) == (409, "already-voted", "approve")
    assert (await answer(bob, asked, "reject", comment="no")).body["status"] == "pending"
    shown = (await bob.get(f"/api/inbox/{asked}")).body
    assert [(v["by"], v["action"], v["comment"]) for v in shown["votes"]] == [
        ("user:ann", "approve", "fine"),
        ("user:bob", "reject", "no"),
    ]
    assert [entry["kind"] for entry in shown["history"]] == ["asked", "voted", "voted"]
    last = await answer(cy, asked)
    assert (last.body["status"], last.body["settled"]["by"]) == ("answered", "user:cy")
    assert [vote["by"] for vote in last.body["settled"]["votes"]] == ["user:ann", "user:bob", "user:cy"]
    done = [(r.what, r.principal, r.result) for r in await audited(5)]
    assert done == [
        ("request.vote", "user:ann", "done"),
        ("request.vote", "user:ann", "done"),
        ("request.answer", "user:ann", "already-voted"),
        ("request.vote", "user:bob", "done"),
        ("request.answer", "user:cy", "done"),
    ]


async def test_a_veto_settles_alone_and_votes_that_cannot_agree_expire(
    gateway: Gateway, hand: Hand, person: Person
) -> None:
    vetoed = await hand.ask(assignees=POOL, quorum=ev.Quorum(n=2, veto=("reject",)))
    assert (await answer(gateway.client, vetoed, "reject", comment="no")).body["status"] == "answered"
    split = await hand.ask(name="b", assignees=ev.Assignees(users=("ann", "bob")), quorum=ev.Quorum(n=2))
    assert (await answer(gateway.client, split)).body["status"] == "pending"
    last = await answer(await person("bob"), split, "reject", comment="no")
    assert (last.status, last.body["status"], last.body["settled"]["cause"]) == (200, "expired", "no_quorum")
    late = await answer(await person("cy", "answer", "read"), split)
    assert late.body["code"] == "not-assignee"


async def test_a_right_moves_to_somebody_else_and_comes_back_by_name(
    gateway: Gateway, hand: Hand, person: Person, audited: Audited
) -> None:
    asked = await hand.ask(assignees=ev.Assignees(users=("ann",)))
    bob = await person("bob")
    refused = await bob.post(f"/api/inbox/{asked}/delegate", {"to": "user:cy"})
    assert (refused.status, refused.body["code"]) == (403, "not-assignee")
    for to in ("user:ann", "service:x", "bob"):
        wrong = await gateway.client.post(f"/api/inbox/{asked}/delegate", {"to": to})
        assert (wrong.status, wrong.body["errors"][0]["pointer"]) == (422, "/to"), to
    moved = await gateway.client.post(f"/api/inbox/{asked}/delegate", {"to": "user:bob", "comment": "yours"})
    assert (moved.status, moved.body["revision"], moved.body["assignees"]) == (200, 2, {"users": ["bob"]})
    again = await gateway.client.post(f"/api/inbox/{asked}/delegate", {"to": "user:bob", "comment": "yours"})
    assert (again.status, again.body.get("replayed"), again.body["revision"]) == (200, True, 2)
    assert (await answer(gateway.client, asked)).body["code"] == "not-assignee"
    shown = (await bob.get(f"/api/inbox/{asked}")).body
    assert [(d["by"], d["to"], d["comment"]) for d in shown["delegations"]] == [("user:ann", "user:bob", "yours")]
    assert [(h["kind"], h.get("to")) for h in shown["history"]] == [("asked", None), ("delegated", "user:bob")]
    assert (await answer(bob, asked)).body["settled"]["by"] == "user:bob"
    late = await bob.post(f"/api/inbox/{asked}/delegate", {"to": "user:cy"})
    assert (late.status, late.body["code"]) == (409, "already-answered")
    results = [(r.what, r.result) for r in await audited(7)]
    assert results == [
        ("request.delegate", "not-assignee"),
        ("request.delegate", "invalid-body"),
        ("request.delegate", "done"),
        ("request.delegate", "done"),
        ("request.answer", "not-assignee"),
        ("request.answer", "done"),
        ("request.delegate", "already-answered"),
    ]


async def test_who_may_edit_withdraws_and_nobody_else(gateway: Gateway, hand: Hand, person: Person) -> None:
    asked = await hand.ask()
    refused = await (await person("bob", "read", "answer")).post(f"/api/inbox/{asked}/withdraw", {"reason": "x"})
    assert (refused.status, refused.body["code"]) == (403, "forbidden")
    gone = await gateway.client.post(f"/api/inbox/{asked}/withdraw", {"reason": "not needed"})
    assert (gone.body["status"], gone.body["settled"]["reason"]) == ("withdrawn", "not needed")
    again = await gateway.client.post(f"/api/inbox/{asked}/withdraw", {"reason": "not needed"})
    assert (again.status, again.body["replayed"]) == (200, True)
    assert (await answer(gateway.client, asked)).body["code"] == "request-withdrawn"
    settled = await hand.ask(name="b")
    await answer(gateway.client, settled)
    late = await gateway.client.post(f"/api/inbox/{settled}/withdraw")
    assert (late.status, late.body["code"]) == (409, "already-answered")


async def test_a_key_without_values_reads_no_word_of_a_request_by_the_client(
    gateway: Gateway, hand: Hand, person: Person
) -> None:
    """Every text and value that somebody wrote, in every answer that shows a request; and our client reads them all."""
    secret = "canary-4711"
    pool = ev.Assignees(users=("ann", "bob", "eve"))
    asked = await hand.ask(
        title=secret, message=secret, proposal={"x": secret}, defaults={"y": secret}, assignees=pool,
        quorum=ev.Quorum(n=2), errors=(ev.Wrong(pointer="/x", detail=secret),),
    )  # fmt: skip
    await hand.suspend(asked)
    digest = (await gateway.client.get(f"/api/inbox/{asked}")).body["proposal_digest"]
    said = await answer(gateway.client, asked, comment=secret, payload={"z": secret}, proposal_digest=digest)
    assert said.body["status"] == "pending", said.raw
    await gateway.client.post(f"/api/inbox/{asked}/comments", {"text": secret})
    bob = await person("bob")
    assert (await bob.post(f"/api/inbox/{asked}/delegate", {"to": "user:cy", "comment": secret})).status == 200
    eve, job = await person("eve", "read", "answer", "edit"), asked.split("_")[0]
    paths = [f"/api/inbox/{asked}", f"/api/jobs/{job}", f"/api/jobs/{job}/requests", f"/api/jobs/{job}/state"]

    async def blind() -> None:
        for path in paths:
            found = await eve.get(path)
            assert (found.status, secret in found.raw.decode()) == (200, False), path

    await blind()
    async with Client(eve.url, eve.key) as client:
        request = await client.request(asked)
        assert (request.title, request.message, request.errors[0].detail) == ("withheld",) * 3
        assert (request.delegations[0].comment, request.comments[0]["text"]) == ("withheld",) * 2
        assert request.proposal["withheld"] is True
        assert (await client.requests(job))[0].title == "withheld"
        assert (await client.job(job)).requests[0].title == "withheld"
        voted = await client.answer(request, "approve")
        assert (voted.request.status, voted.request.title) == ("pending", "withheld")
        gone = await gateway.client.post(f"/api/inbox/{asked}/withdraw", {"reason": secret})
        assert gone.status == 200
        await blind()
        assert (await client.request(asked)).history[-1]["reason"] == "withheld"
        late = await eve.post(f"/api/inbox/{asked}/answer", {"action": "reject", "comment": "x"})
        assert (late.body["code"], secret in late.raw.decode()) == ("request-withdrawn", False)
        assert (await gateway.client.post(f"/api/inbox/{asked}/answer", {"action": "reject"})).body["reason"] == secret
        stream = client.events(job, until="input.withdrawn")
        events = [decode(frame) async for frame in stream.frames()]
    stated = next(event for event in events if isinstance(event, ev.InputRequested))
    assert (stated.data.request.title, stated.data.request.message) == ("withheld", "withheld")
    assert isinstance(events[-1], ev.InputWithdrawn)
    assert events[-1].data.reason == "withheld"


async def test_a_comment_is_said_once_and_shown(gateway: Gateway, hand: Hand, person: Person) -> None:
    asked = await hand.ask()
    said = await gateway.client.post(f"/api/inbox/{asked}/comments", {"text": "why?"}, idempotency_key="k")
    again = await gateway.client.post(f"/api/inbox/{asked}/comments", {"text": "why?"}, idempotency_key="k")
    assert (said.status, again.status, again.headers["Idempotency-Replayed"]) == (201, 201, "true")
    [comment] = (await gateway.client.get(f"/api/inbox/{asked}")).body["comments"]
    assert (comment["by"], comment["text"], comment["seq"]) == ("user:ann", "why?", said.body["seq"])
    blind = (await (await person("eve", "read")).get(f"/api/inbox/{asked}")).body["comments"]
    assert blind[0]["text"]["withheld"] is True
    for text in ("", " ", "x" * 4097):
        refused = await gateway.client.post(f"/api/inbox/{asked}/comments", {"text": text})
        assert (refused.status, refused.body["errors"][0]["pointer"]) == (422, "/text")
    await hand.complete()
    late = await gateway.client.post(f"/api/inbox/{asked}/comments", {"text": "too late"})
    assert (late.status, late.body["code"]) == (409, "job-terminal")


async def test_a_late_answer_says_what_happened_and_writes_the_expiry(
    gateway: Gateway, hand: Hand, log_bytes: LogBytes
) -> None:
    asked = await hand.ask(expires_at=later(gateway.desk.clock.broker_now(), -1))
    late = await answer(gateway.client, asked)
    assert (late.status, late.body["code"]) == (410, "request-expired")
    assert b'"input.expired"' in (await log_bytes(hand))[-1]
