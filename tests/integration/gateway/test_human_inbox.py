"""The inbox: each caller sees what it may answer or watch, by every filter, and counts are of the same."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from perdure.core import event as ev
from perdure.core.instant import later
from perdure.ids import RequestId
from perdure.testing.hand import Hand

Gateway = Any  # the conftest's
Person = Callable[..., Awaitable[Any]]
Project = Callable[[Hand], Awaitable[None]]


@pytest.fixture
async def asked(gateway: Gateway, project: Project) -> dict[str, RequestId]:
    """Requests of one job, by name, as the inbox lists them: for bob, for leads, for anyone who may answer, for all."""
    hand: Hand = await gateway.submit(tags={"team": "a"})
    await hand.start()
    now = gateway.desk.clock.broker_now()
    found = {
        "bob": await hand.ask(name="bob", assignees=ev.Assignees(users=("bob",)), kind="input"),
        "leads": await hand.ask(name="leads", assignees=ev.Assignees(groups=("leads",))),
        "answerers": await hand.ask(name="answerers", assignees=ev.Assignees(anyone_with="answer")),
        "all": await hand.ask(name="all", reminders=(0.001,), expires_at=later(now, 3600)),
    }
    await gateway.client.call("PUT", "/api/groups/leads/members/user:cy")
    assert (await gateway.client.call("PUT", "/api/groups/leads/members/user:ann")).status == 204
    await hand.suspend(*found.values())
    await project(hand)
    return found


async def names(client: Any, query: str = "") -> set[str]:
    answer = await client.get(f"/api/inbox{query}")
    assert answer.status == 200, answer.raw
    return {row["name"] for row in answer.body["data"]}


async def test_each_sees_what_it_may_answer_or_watch(
    gateway: Gateway, asked: dict[str, RequestId], person: Person
) -> None:
    for client, seen in (
        (gateway.client, {"bob", "leads", "answerers", "all"}),
        (await person("bob", "answer"), {"bob", "answerers"}),
        (await person("cy", "answer"), {"leads", "answerers"}),
        (await person("dan", "answer", "execute"), {"answerers", "all"}),
        (await person("eve", "read"), {"bob", "leads", "answerers", "all"}),
    ):
        assert await names(client) == seen
        assert (await client.get("/api/inbox/counts")).body["total"] == len(seen)
        for name, request in asked.items():
            assert ((await client.get(f"/api/inbox/{request}")).status == 200) is (name in seen)
    nothing = await person("fay", "execute")
    assert (await nothing.get("/api/inbox")).status == 403


async def test_who_is_asked_narrows_the_list(gateway: Gateway, asked: dict[str, RequestId], person: Person) -> None:
    client = gateway.client
    assert await names(client, "?assignee=any") == {"bob", "leads", "answerers", "all"}
    assert await names(client, "?assignee=me") == {"leads", "answerers", "all"}
    assert await names(client, "?assignee=user:bob") == {"bob"}
    assert await names(client, "?assignee=group:leads") == {"leads"}
    assert await names(client, "?assignee=group:nobody") == set()
    assert await names(await person("bob"), "?assignee=me") == {"bob", "answerers", "all"}
    narrow = await person("cy", "answer")
    assert await names(narrow, "?assignee=user:bob") == set()
    assert (await narrow.get("/api/inbox/counts?assignee=user:bob")).body["total"] == 0
    assert await names(narrow, "?assignee=group:leads") == {"leads"}


async def test_other_filters_and_their_counts(gateway: Gateway, asked: dict[str, RequestId]) -> None:
    client = gateway.client
    job = asked["bob"].split("_")[0]
    soon = later(gateway.desk.clock.broker_now(), 7200)
    for query, seen in (
        ("?kind=input", {"bob"}),
        ("?tag=team:a", {"bob", "leads", "answerers", "all"}),
        ("?tag=team:b", set()),
        ("?overdue=true", {"all"}),
        ("?overdue=false", {"bob", "leads", "answerers", "all"}),
        (f"?expires_before={soon}", {"all"}),
        (f"?job={job}&assignee=user:bob", {"bob"}),
        ("?flow=echo&kind=approval&overdue=true", {"all"}),
        ("?status=answered", set()),
    ):
        assert await names(client, query) == seen, query
        assert (await client.get(f"/api/inbox/counts{query}")).body["total"] == len(seen), query
    counts = (await client.get("/api/inbox/counts")).body
    assert counts == {
        "total": 4,
        "overdue": 1,
        "status": {"pending": 4},
        "kind": {"approval": 3, "input": 1},
        "flow": {"echo": 4},
    }


async def test_pages_hold_what_the_caller_may_see(
    gateway: Gateway, asked: dict[str, RequestId], person: Person
) -> None:
    for client in (gateway.client, await person("dan", "answer", "execute")):
        seen: list[str] = []
        path = "/api/inbox?limit=1&order=asked"
        while path:
            page = (await client.get(path)).body
            seen += [row["name"] for row in page["data"]]
            path = f"/api/inbox?limit=1&order=asked&cursor={page['next']}" if "next" in page else ""
        assert sorted(seen) == sorted(await names(client))


async def test_whoever_handed_a_right_on_sees_it_no_more(
    gateway: Gateway, project: Project, asked: dict[str, RequestId], person: Person
) -> None:
    cy = await person("cy", "answer")
    assert (await cy.post(f"/api/inbox/{asked['leads']}/delegate", {"to": "user:dan"})).status == 200
    await project(gateway.hand(asked["leads"].split("_")[0]))
    for query, seen in (("", {"answerers"}), ("?assignee=group:leads", set())):
        assert await names(cy, query) == seen
        assert (await cy.get(f"/api/inbox/counts{query}")).body["total"] == len(seen)
    assert await names(gateway.client, "?assignee=group:leads") == {"leads"}  # the others of the group are asked still
    assert (await cy.get(f"/api/inbox/{asked['leads']}")).status == 404
    assert await names(await person("dan", "answer")) == {"leads", "answerers"}
    assert await names(gateway.client, "?assignee=me") == {"leads", "answerers", "all"}
