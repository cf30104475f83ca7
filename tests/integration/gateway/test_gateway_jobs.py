"""Jobs over HTTP, on a real broker and both databases."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from perdure.core.instant import later
from perdure.testing.hand import Hand

Gateway = Any  # the conftest's


async def test_a_job_is_accepted_followed_answered_and_ends(gateway: Gateway) -> None:
    client = gateway.client
    accepted = await client.post("/api/jobs", {"flow": "echo", "input": "hello", "tags": {"team": "a"}})
    job = accepted.body["id"]
    assert (accepted.status, accepted.headers["Location"]) == (202, f"/api/jobs/{job}")
    assert accepted.headers["Retry-After"] == "1"
    assert (accepted.body["status"], accepted.body["seq"], accepted.body["tags"]) == ("queued", 1, {"team": "a"})
    assert accepted.body["flow"]["name"] == "echo"
    hand = gateway.hand(job)
    await hand.start()
    asked = await hand.ask(proposal="a post")
    await hand.suspend(asked)
    waiting = (await client.get(f"/api/jobs/{job}")).body
    assert (waiting["status"], waiting["reason"]) == ("suspended", "person")
    assert [r["id"] for r in waiting["requests"]] == [asked]
    digest = (await client.get(f"/api/inbox/{asked}")).body["proposal_digest"]
    answered = await client.post(f"/api/inbox/{asked}/answer", {"action": "approve", "proposal_digest": digest})
    assert (answered.status, answered.body["status"]) == (200, "answered")
    await hand.start()
    await hand.complete(post="a post")
    done = (await client.get(f"/api/jobs/{job}")).body
    assert (done["status"], done["outputs"], done["requests"]) == ("completed", {"post": "a post"}, [])
    assert "error" not in done  # a member without a value is absent
    frames = [frame async for frame in client.stream(f"/api/jobs/{job}/events")]
    assert [frame.event for frame in frames] == [
        "job.submitted",
        "attempt.started",
        "input.requested",
        "job.suspended",
        "input.answered",
        "attempt.started",
        "job.completed",
    ]


async def test_whoever_wrote_reads_what_was_written_and_is_told_when_nothing_changed(gateway: Gateway) -> None:
    hand = await gateway.submit()
    path = f"/api/jobs/{hand.ref.job}"
    first = await gateway.client.get(path)
    tag = first.headers["ETag"]
    assert tag == '"1"'
    assert first.headers["Cache-Control"] == "private, no-cache"
    same = await gateway.client.get(path, **{"If-None-Match": tag})
    assert (same.status, same.raw, same.headers["ETag"]) == (304, b"", tag)
    await hand.start()
    changed = await gateway.client.get(path, **{"If-None-Match": tag})
    assert (changed.status, changed.body["status"]) == (200, "running")


async def test_fifty_submits_with_one_key_at_once_make_one_job(gateway: Gateway) -> None:
    body = {"flow": "echo", "input": "hello"}
    keys = ["order-17", '"order-17"']  # bare or quoted, it is one key
    answers = await asyncio.gather(
        *(gateway.client.post("/api/jobs", body, idempotency_key=keys[n % 2]) for n in range(50))
    )
    assert {answer.status for answer in answers} == {202}
    assert len({answer.body["id"] for answer in answers}) == 1
    assert sum("Idempotency-Replayed" not in answer.headers for answer in answers) == 1


async def test_a_replay_is_the_job_as_it_is_now_and_another_body_is_refused(gateway: Gateway) -> None:
    body = {"flow": "echo", "input": "hello"}
    first = await gateway.client.post("/api/jobs", body, idempotency_key="k")
    hand = gateway.hand(first.body["id"])
    await hand.start()
    await hand.complete(out=1)
    spelled_out = {"priority": "normal", "queue": "default", "tags": {}, "input": "hello", "flow": "echo"}
    for same in (body, spelled_out):  # defaults filled in: the same body
        again = await gateway.client.post("/api/jobs", same, idempotency_key="k")
        assert (again.status, again.headers["Idempotency-Replayed"]) == (200, "true")
        assert (again.body["id"], again.body["outputs"]) == (first.body["id"], {"out": 1})
    other = await gateway.client.post("/api/jobs", body | {"input": "bye"}, idempotency_key="k")
    assert (other.status, other.body["code"]) == (422, "idempotency-key-reused")
    assert b"bye" not in other.raw


async def test_a_replay_does_not_care_what_has_become_of_the_flow(gateway: Gateway) -> None:
    body = {"flow": "echo", "input": "hello"}
    first = await gateway.client.post("/api/jobs", body, idempotency_key="k")
    other = {
        "format": "perdure.graph/1",
        "name": "echo",
        "nodes": [
            {"id": "a", "component": "chat_input"},
            {"id": "b", "component": "chat_input"},
            {"id": "out", "component": "text_output"},
            {"id": "out2", "component": "text_output"},
        ],
        "edges": [{"from": "a.text", "to": "out.text"}, {"from": "b.text", "to": "out2.text"}],
    }
    changed = await gateway.client.call("PUT", "/api/flows/echo", {"definition": other}, headers={"If-Match": '"1"'})
    assert changed.status == 200, changed.raw
    assert (await gateway.client.post("/api/jobs", body)).status == 422  # two inputs now: a bare string is none of them
    again = await gateway.client.post("/api/jobs", body, idempotency_key="k")
    assert again.body["id"] == first.body["id"]
    assert again.body["flow"]["version"] == 1
    assert (await gateway.client.post("/api/jobs", body | {"flow": "echo@1"})).status == 202


UNFIT: dict[str, tuple[dict[str, Any], int, str, list[str]]] = {
    "no flow": ({}, 422, "invalid-body", ["/flow"]),
    "unknown member": ({"flow": "echo", "inputs": "x"}, 422, "invalid-body", ["/inputs"]),
    "null": ({"flow": "echo", "queue": None}, 422, "invalid-body", ["/queue"]),
    "flow name": ({"flow": "Echo"}, 422, "invalid-body", ["/flow"]),
    "flow version": ({"flow": "echo@0"}, 422, "invalid-body", ["/flow"]),
    "queue": ({"flow": "echo", "input": "x", "queue": "a.*"}, 422, "invalid-body", ["/queue"]),
    "priority": ({"flow": "echo", "priority": "urgent"}, 422, "invalid-body", ["/priority"]),
    "text for a number": ({"flow": "echo", "deadline_seconds": "60"}, 422, "invalid-body", ["/deadline_seconds"]),
    "no time": ({"flow": "echo", "deadline_seconds": 0}, 422, "invalid-body", ["/deadline_seconds"]),
    "too much time": (
        {"flow": "echo", "deadline_seconds": 400 * 86_400 + 1},
        422,
        "invalid-body",
        ["/deadline_seconds"],
    ),
    "17 tags": ({"flow": "echo", "tags": {f"t{n}": "x" for n in range(17)}}, 422, "invalid-body", ["/tags"]),
    "tag that is no text": ({"flow": "echo", "tags": {"a": 1}}, 422, "invalid-body", ["/tags/a"]),
    "tag without a name": ({"flow": "echo", "tags": {"": "x"}}, 422, "invalid-body", ["/tags/"]),
    "instant": ({"flow": "echo", "not_before": "tomorrow"}, 422, "invalid-body", ["/not_before"]),
    "local instant": ({"flow": "echo", "not_before": "2036-01-01T00:00:00"}, 422, "invalid-body", ["/not_before"]),
    "tries": ({"flow": "echo", "max_failures": 0}, 422, "invalid-body", ["/max_failures"]),
    "several": ({"flow": "echo", "a": 1, "b": 2}, 422, "invalid-body", ["/a", "/b"]),
    "after its deadline": (
        {"flow": "echo", "input": "x", "not_before": "2036-01-01T00:00:00Z", "deadline_seconds": 60},
        422,
        "invalid-body",
        ["/not_before"],
    ),
    "input": ({"flow": "echo", "input": {"breif": "x"}}, 422, "invalid-input", ["/input/breif", "/input/brief"]),
    "no input": ({"flow": "echo"}, 422, "invalid-input", ["/input/brief"]),
    "no such flow": ({"flow": "other", "input": "x"}, 404, "not-found", []),
    "no such version": ({"flow": "echo@2", "input": "x"}, 404, "not-found", []),
}


@pytest.mark.parametrize("case", UNFIT)
async def test_a_submit_that_does_not_fit_says_where_and_makes_nothing(gateway: Gateway, case: str) -> None:
    body, status, code, pointers = UNFIT[case]
    refused = await gateway.client.post("/api/jobs", body, idempotency_key="k")
    assert (refused.status, refused.body["code"]) == (status, code), refused.raw
    assert [error["pointer"] for error in refused.body.get("errors", [])] == pointers
    fit = await gateway.client.post("/api/jobs", {"flow": "echo", "input": "x"}, idempotency_key="k")
    assert fit.status == 202  # the key had made nothing
    assert "Idempotency-Replayed" not in fit.headers


async def test_what_a_job_may_say_of_itself_is_kept(gateway: Gateway) -> None:
    begin = later(gateway.desk.clock.broker_now(), 3600)
    body = {
        "flow": "echo@1",
        "input": {"brief": "x"},
        "session_id": "s 1",
        "tags": {f"t{n}": "é" for n in range(16)},
        "queue": "slow",
        "priority": "high",
        "not_before": begin.replace("Z", "+00:00"),
        "deadline_seconds": 7200.5,
        "max_failures": 3,
    }
    shown = (await gateway.client.post("/api/jobs", body)).body
    for name in ("session_id", "tags", "queue", "priority"):
        assert shown[name] == body[name]
    assert shown["not_before"] == begin
    (stored,) = await gateway.desk.eventlog.read(gateway.hand(shown["id"]).ref)
    assert stored.event.data.max_failures == 3


async def test_a_cancel_is_done_or_under_way(gateway: Gateway) -> None:
    hand = await gateway.submit()
    path = f"/api/jobs/{hand.ref.job}/cancel"
    await hand.start()
    asked = await gateway.client.post(path, {"grace_seconds": 60, "reason": "no"})
    assert (asked.status, asked.body["status"]) == (202, "running")
    forced = await gateway.client.post(path, {"force": True})
    assert (forced.status, forced.body["status"], forced.body["reason"]) == (200, "cancelled", "cancelled_by_user")
    again = await gateway.client.post(path)  # no body at all
    assert (again.status, again.body["seq"]) == (200, forced.body["seq"])
    refused = await gateway.client.post(path, {"grace_seconds": -1})
    assert (refused.status, refused.body["errors"][0]["pointer"]) == (422, "/grace_seconds")


async def test_every_request_of_a_job_is_told_with_how_it_ended(gateway: Gateway) -> None:
    hand = await gateway.submit()
    await hand.start()
    first, second = await hand.ask(name="a"), await hand.ask(name="b")
    await gateway.client.post(f"/api/inbox/{first}/answer", {"action": "approve", "payload": {"n": 1}})
    await hand.complete()
    told = (await gateway.client.get(f"/api/jobs/{hand.ref.job}/requests")).body["data"]
    assert [(r["id"], r["status"]) for r in told] == [(first, "answered"), (second, "withdrawn")]
    assert told[0]["settled"]["payload"] == {"n": 1}


async def test_a_list_is_narrowed_paged_and_never_another_tenants(
    gateway: Gateway, project: Callable[[Hand], Awaitable[None]]
) -> None:
    hands = [await gateway.submit(tags={"n": str(n % 2)}, session_id="s" if n < 2 else "t") for n in range(5)]
    await hands[0].start()
    for hand in hands:
        await project(hand)
    client = gateway.client

    async def ids(query: str) -> list[str]:
        answer = await client.get(f"/api/jobs{query}")
        assert answer.status == 200, answer.raw
        return [job["id"] for job in answer.body["data"]]

    newest_first = [hand.ref.job for hand in reversed(hands)]
    assert await ids("") == newest_first
    assert await ids("?status=running") == [hands[0].ref.job]
    assert await ids("?status=queued,running&session=s") == [hands[1].ref.job, hands[0].ref.job]
    assert await ids("?tag=n:1") == [hands[3].ref.job, hands[1].ref.job]
    assert await ids("?flow=echo&owner=user:ann&order=created") == newest_first
    assert await ids("?flow=other") == []
    assert await ids("?waiting=person") == []
    assert await ids("?created_after=2036-01-01T00:00:00Z") == []
    seen, path = [], "/api/jobs?limit=2&tag=n:0"
    while path:
        page = await client.get(path)
        seen += [job["id"] for job in page.body["data"]]
        cursor = page.body.get("next")
        assert ("Link" in page.headers) is (cursor is not None)
        path = f"/api/jobs?limit=2&tag=n:0&cursor={cursor}" if cursor else ""
    assert seen == [hands[n].ref.job for n in (4, 2, 0)]


async def test_a_cursor_that_was_touched_or_belongs_elsewhere_is_refused(
    gateway: Gateway, project: Callable[[Hand], Awaitable[None]]
) -> None:
    for _ in range(2):
        await project(await gateway.submit())
    cursor = (await gateway.client.get("/api/jobs?limit=1")).body["next"]
    touched = cursor[:-1] + ("A" if cursor[-1] != "A" else "B")
    for path in (
        f"/api/jobs?limit=1&status=queued&cursor={cursor}",
        f"/api/inbox?limit=1&cursor={cursor}",
        f"/api/jobs?cursor={touched}",
        "/api/jobs?cursor=*",
        "/api/jobs?cursor=",
        f"/api/jobs?cursor={'A' * 5000}",
    ):
        refused = await gateway.client.get(path)
        assert (refused.status, refused.body["code"]) == (400, "invalid-cursor"), path
    assert (await gateway.client.get(f"/api/jobs?limit=1&cursor={cursor}")).status == 200


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("stauts=running", "stauts"),
        ("status=running&status=queued", "status"),
        ("status=done", "status"),
        ("status=", "status"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=-1", "limit"),
        ("limit=1e3", "limit"),
        ("limit=\u0661", "limit"),
        ("order=seq", "order"),
        ("tag=x", "tag"),
        ("parent=1", "parent"),
        ("waiting=timer", "waiting"),
        ("created_after=now", "created_after"),
        ("created_before=9999-99-99T00:00:00Z", "created_before"),
    ],
)
async def test_a_list_never_guesses_what_a_query_means(gateway: Gateway, query: str, parameter: str) -> None:
    refused = await gateway.client.get(f"/api/jobs?{query}")
    assert (refused.status, refused.body["code"]) == (400, "invalid-parameter")
    assert [error["parameter"] for error in refused.body["errors"]] == [parameter]


async def test_the_inbox_lists_who_waits_and_shows_each_from_the_log(
    gateway: Gateway, project: Callable[[Hand], Awaitable[None]]
) -> None:
    hand = await gateway.submit()
    await hand.start()
    first = await hand.ask(name="a", expires_at=later(gateway.desk.clock.broker_now(), 3600))
    second = await hand.ask(name="b", proposal=None)
    await project(hand)

    async def ids(query: str) -> list[str]:
        answer = await gateway.client.get(f"/api/inbox{query}")
        assert answer.status == 200, answer.raw
        return [request["id"] for request in answer.body["data"]]

    assert await ids("") == [first, second]  # the next to expire first
    assert await ids("?order=asked") == [second, first]
    assert await ids(f"?job={hand.ref.job}&kind=approval&flow=echo&limit=1") == [first]
    assert await ids("?status=answered,expired") == []
    said = await gateway.client.post(f"/api/inbox/{first}/answer", {"action": "approve"})
    assert said.status == 200
    assert await ids("") == [first, second]  # the list may be behind
    assert (await gateway.client.get(f"/api/inbox/{first}")).body["status"] == "answered"  # the log is not
    await project(hand)
    assert await ids("") == [second]
    (listed,) = (await gateway.client.get("/api/inbox")).body["data"]
    shown = (await gateway.client.get(f"/api/inbox/{second}")).body
    told = {name: shown.pop(name) for name in ("comments", "history")}
    assert listed | {"flow": shown["flow"]} == shown
    assert (told["comments"], [entry["kind"] for entry in told["history"]]) == ([], ["asked"])
    assert shown["proposal"] is None  # a proposal whose value is null is still there
    assert msgspec.json.decode((await gateway.client.get(f"/api/inbox/{second}")).raw)["links"]["job"] == (
        f"/api/jobs/{hand.ref.job}"
    )
