"""Whom requests ask, as rows: lists against the rules of the core, on both databases; the indexes that carry them."""

import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from sqlalchemy import Select, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.core import event as ev
from perdure.core.instant import later
from perdure.core.machine import EMPTY, apply
from perdure.core.standing import Standing, visible
from perdure.core.vote import content_digest
from perdure.db import archive, inbox, jobs, requestrows
from perdure.db.engine import Database
from perdure.db.inbox import InboxFilter, Order, count_query, page_query
from perdure.db.page import PageKey
from perdure.db.requestrows import Asking, Change
from perdure.db.schema import request_assignees, requests
from perdure.ids import JobId, JobRef, Principal, StreamSeq, Tenant
from perdure.testing.factory import BEGIN, FLOW, Story

MAIN = Tenant("main")
NOW = later(BEGIN, 100)
PEOPLE = ("ann", "bob", "carol")
GROUPS = ("finance", "leads")

pools = st.one_of(
    st.none(),
    st.builds(
        ev.Assignees,
        users=st.lists(st.sampled_from(PEOPLE), max_size=2, unique=True).map(tuple),
        groups=st.lists(st.sampled_from(GROUPS), max_size=2, unique=True).map(tuple),
        anyone_with=st.sampled_from([None, None, "execute", "answer"]),
    ),
)


@st.composite
def asked(draw: st.DrawFn) -> ev.Request:
    """A request as some delegations have left it, of a job that is made by `put`."""
    story = Story()
    story.submitted()
    story.started()
    story.asked("one", expires_at=draw(st.sampled_from([None, later(BEGIN, 500), later(BEGIN, 600)])))
    (request,) = story.state.asked.values()
    hops = draw(st.lists(st.permutations(PEOPLE).map(lambda p: (p[0], p[1])), max_size=2))
    return replace(
        request,
        kind=draw(st.sampled_from(["approval", "choice"])),
        assignees=draw(pools),
        quorum=draw(st.one_of(st.none(), st.builds(ev.Quorum, n=st.just(1), of=pools))),
        reminders=draw(st.sampled_from([(), (50.0,), (500.0, 60.0)])),
        escalations=draw(st.sampled_from([(), (ev.Escalation(after_seconds=80.0, add=ev.Assignees(users=("ann",))),)])),
        delegations=tuple(
            ev.Delegation(by=Principal(f"user:{by}"), to=Principal(f"user:{to}"), at=BEGIN) for by, to in hops
        ),
    )


def numbered(number: int) -> JobId:
    return JobId(f"{number:08x}-0000-7000-8000-{number:012x}")


async def put(
    conn: AsyncConnection, number: int, request: ev.Request, tags: dict[str, str] | None = None
) -> ev.Request:
    """Write job and request as the projection does."""
    job = numbered(number)
    story = Story(job)
    story.submitted()
    whole = replace(request, id=type(request.id)(f"{job}_3"), job_id=job)
    assert story.state.submitted is not None
    state = replace(story.state, submitted=replace(story.state.submitted, tags=tags or {}), asked={whole.id: whole})
    ref = JobRef(MAIN, job)
    await jobs.upsert_all(conn, [(ref, state, StreamSeq(1))])
    await requestrows.write(conn, [Asking(ref, FLOW, tags or {}, [Change(whole, "pending")])])
    return whole


async def clear(conn: AsyncConnection) -> None:
    for table in ("requests", "job_tags", "jobs"):
        await conn.execute(text(f"DELETE FROM {table}"))


async def all_of(database: Database, narrow: InboxFilter, order: Order, limit: int) -> list[ev.Request]:
    """Every page of a list."""
    found: list[ev.Request] = []
    after: PageKey | None = None
    async with database.read() as conn:
        while True:
            page = await inbox.list_requests(conn, MAIN, narrow, order=order, limit=limit, after=after)
            found += [row.record for row in page.rows]
            if (after := page.next) is None:
                return found


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    made=st.lists(asked(), min_size=1, max_size=8),
    who=st.sampled_from(PEOPLE),
    groups=st.lists(st.sampled_from(GROUPS), unique=True),
    rights=st.sampled_from([("execute", "answer"), ("answer",), ()]),
    order=st.sampled_from(("urgency", "asked")),
    limit=st.integers(1, 4),
)
async def test_what_is_somebody_s_is_what_the_core_lets_him_see(
    database: Database,
    made: list[ev.Request],
    who: str,
    groups: list[str],
    rights: tuple[str, ...],
    order: Order,
    limit: int,
) -> None:
    async with database.transaction() as conn:
        await clear(conn)
        there = [await put(conn, number, request) for number, request in enumerate(made)]
    standing = Standing(Principal(f"user:{who}"), frozenset(groups), frozenset(rights))
    mine = [f"user:{who}", *(f"group:{name}" for name in groups), *(f"anyone:{right}" for right in rights)]
    found = await all_of(database, InboxFilter(assignees=mine), order, limit)
    assert {r.id for r in found} == {r.id for r in there if visible(r, standing, watcher=False)}
    assert len(found) == len({r.id for r in found})
    by = [(r.expires_at or "9", r.id) if order == "urgency" else (r.asked_at, r.id) for r in found]
    assert by == sorted(by, reverse=order == "asked")
    of_a_job = InboxFilter(assignees=mine, jobs=[there[0].job_id])
    assert await all_of(database, of_a_job, order, limit) == [r for r in found if r.id == there[0].id]


async def test_overdue_tagged_and_counted(database: Database) -> None:
    story = Story()
    story.submitted()
    story.started()
    story.asked("one")
    (request,) = story.state.asked.values()
    late = replace(request, reminders=(600.0, 50.0))  # asked 2 s after BEGIN
    escalates = replace(request, escalations=(ev.Escalation(after_seconds=98.0, add=ev.Assignees(users=("x",))),))
    async with database.transaction() as conn:
        await put(conn, 1, request)
        await put(conn, 2, late, {"team": "red"})
        await put(conn, 3, escalates, {"team": "blue", "size": "l"})
        await put(conn, 4, replace(late, kind="choice"), {"team": "red"})

    async def numbers(**narrow: object) -> list[int]:
        found = await all_of(database, InboxFilter(**narrow), "urgency", 3)  # type: ignore[arg-type]  # by name
        return [int(r.job_id[:8], 16) for r in found]

    assert await numbers() == [1, 2, 3, 4]
    assert await numbers(overdue_at=later(BEGIN, 52)) == [2, 4]
    assert await numbers(overdue_at=NOW) == [2, 3, 4]
    assert await numbers(overdue_at=later(NOW, -0.001)) == [2, 4]
    assert await numbers(tags=[("team", "red")]) == [2, 4]
    assert await numbers(tags=[("team", "blue"), ("size", "l")]) == [3]
    assert await numbers(tags=[("team", "red")], kinds=["choice"], assignees=["anyone"]) == [4]
    assert await numbers(assignees=["user:bob", "group:leads"]) == []
    async with database.read() as conn:
        counts = await inbox.count_requests(conn, MAIN, now=NOW)
        some = await inbox.count_requests(conn, MAIN, InboxFilter(assignees=["anyone", "user:x"]), now=BEGIN)
        row = await inbox.get_request(conn, MAIN, type(request.id)(f"{numbered(3)}_3"))
    assert [(c.status, c.kind, c.flow_name, c.requests, c.overdue) for c in counts] == [
        ("pending", "approval", "story", 3, 2),
        ("pending", "choice", "story", 1, 1),
    ]
    assert [(c.requests, c.overdue) for c in some] == [(3, 0), (1, 0)]
    assert row is not None
    assert (row.tags, row.overdue_at) == ({"team": "blue", "size": "l"}, NOW)


async def test_a_row_follows_votes_delegation_and_settling(database: Database) -> None:
    story = Story()
    story.submitted()
    story.started()
    asked_id = story.asked("one")
    board = ev.Assignees(users=("bob", "carol"), groups=("leads",))
    whole = replace(story.state.asked[asked_id], revision=2, assignees=board, quorum=ev.Quorum(n=2))
    story.add(ev.RequestedData(request=whole))
    seen: list[tuple[str, int, list[tuple[str, int]], list[str]]] = []

    async def project(number: int) -> None:
        changes = []
        state = EMPTY
        for event in story.events:
            before, state = state, apply(state, event)
            changes += requestrows.changes(before, event, state)
        ref = JobRef(MAIN, story.job)
        async with database.transaction() as conn:
            await jobs.upsert_all(conn, [(ref, story.state, StreamSeq(number))])
            await requestrows.write(conn, [Asking(ref, FLOW, {}, changes)])
            row = await inbox.get_request(conn, MAIN, asked_id)
            who = await conn.execute(select(request_assignees.c.who, request_assignees.c.status))
            names = sorted(f"{name} {status}" for name, status in who)
        assert row is not None
        seen.append((row.status, row.votes, [(t.action, t.votes) for t in row.tally or ()], names))

    await project(1)
    digest = content_digest("approve", None, None, None)
    vote = ev.VotedData(
        request_id=asked_id, revision=2, action="approve", payload=None, payload_digest=digest,
        by=Principal("user:bob"), via=ev.Via(channel="api"),
    )  # fmt: skip
    story.add(vote)
    await project(2)
    hop = ev.Delegation(by=Principal("user:carol"), to=Principal("user:dan"), at=BEGIN)
    given_on = replace(whole, revision=3, assignees=replace(board, users=("bob", "dan")), delegations=(hop,))
    story.add(ev.RequestedData(request=given_on))
    await project(3)
    story.answered(asked_id)
    await project(4)
    pending = ["group:leads pending", "user:bob pending"]
    assert seen == [
        ("pending", 0, [], [*pending, "user:carol pending"]),
        ("pending", 1, [("approve", 1)], [*pending, "user:carol pending"]),
        ("pending", 1, [("approve", 1)], [pending[0], "not:user:carol pending", pending[1], "user:dan pending"]),
        (
            "answered",
            0,
            [],
            ["group:leads answered", "not:user:carol answered", "user:bob answered", "user:dan answered"],
        ),
    ]


async def test_rows_of_the_release_before_are_completed(database: Database) -> None:
    story = Story()
    story.submitted()
    story.started()
    story.asked("one")
    (request,) = story.state.asked.values()
    bobs = replace(request, assignees=ev.Assignees(users=("bob",)), reminders=(50.0,))
    async with database.transaction() as conn:
        there = [await put(conn, number, bobs, {"team": "red"}) for number in range(5)]
        old = {"tags": None, "overdue_at": None, "remind_at": None}
        await conn.execute(update(requests).where(requests.c.request_id != there[0].id).values(old))
        await conn.execute(text("DELETE FROM request_assignees"))
    narrow = InboxFilter(assignees=["user:bob"], overdue_at=NOW)
    assert await all_of(database, narrow, "urgency", 50) == []
    done = []
    for _ in range(3):
        async with database.transaction() as conn:
            done.append(await requestrows.unlisted(conn, limit=3))
    assert done == [3, 1, 0]
    assert await all_of(database, narrow, "urgency", 50) == there[1:]
    async with database.read() as conn:
        row = await inbox.get_request(conn, MAIN, there[1].id)
    assert row is not None
    assert (row.tags, row.overdue_at) == ({"team": "red"}, later(BEGIN, 52))


async def test_what_is_forgotten_leaves_nobody_asked(database: Database) -> None:
    story = Story()
    story.submitted()
    story.started()
    story.asked("one")
    (request,) = story.state.asked.values()
    async with database.transaction() as conn:
        for number in range(3):
            await put(conn, number, request)
        await archive.empty(conn, JobRef(MAIN, numbered(0)))
        await archive.forget(conn, JobRef(MAIN, numbered(1)))
        left = (await conn.execute(select(request_assignees.c.request_id))).scalars().all()
    assert left == [f"{numbered(2)}_3"]


# ------------------------------------------------------------------------------------------------ indexes

MINE = ("user:bob", "group:finance", "group:leads", "anyone")
LISTS = {
    "everything": InboxFilter(),
    "mine": InboxFilter(assignees=MINE),
    "one user's": InboxFilter(assignees=["user:bob"]),
    "mine and overdue": InboxFilter(assignees=MINE, overdue_at=NOW),
    "one kind": InboxFilter(kinds=["choice"]),
    "one flow's": InboxFilter(flows=["story"], assignees=MINE),
    "one job's": InboxFilter(jobs=[numbered(1)], assignees=MINE),
}


async def plan(database: Database, query: Select[tuple[object, ...]]) -> str:
    """How the database would go about it; Postgres as if the tables were too large to be read whole."""
    async with database.read() as conn:
        compiled = str(query.compile(conn.sync_engine, compile_kwargs={"literal_binds": True}))
        how = "EXPLAIN QUERY PLAN " if database.dialect == "sqlite" else "EXPLAIN "
        if database.dialect == "postgresql":
            await conn.execute(text("SET LOCAL enable_seqscan = off"))
            await conn.execute(text("SET LOCAL enable_hashjoin = off"))
        rows = (await conn.exec_driver_sql(how + compiled.replace("%%", "%"))).all()
    return "\n".join(str(row[-1]) for row in rows)


@pytest.fixture
async def crowded(database: Database) -> Database:
    """2,000 requests, of which few are bob's, and what Postgres knows of them."""
    story = Story()
    story.submitted()
    story.started()
    story.asked("one")
    (request,) = story.state.asked.values()
    chance = random.Random(7)
    async with database.transaction() as conn:
        folds, asking = [], []
        for number in range(2_000):
            job = numbered(number)
            own = Story(job)
            own.submitted()
            pool = (
                ev.Assignees(users=("bob",)) if number % 500 == 0 else chance.choice((None, ev.Assignees(users=("x",))))
            )
            whole = replace(
                request, id=type(request.id)(f"{job}_3"), job_id=job, assignees=pool, asked_at=later(BEGIN, number)
            )
            ref = JobRef(MAIN, job)
            folds.append((ref, replace(own.state, asked={whole.id: whole}), StreamSeq(1)))
            asking.append(Asking(ref, FLOW, {}, [Change(whole, "pending")]))
        await jobs.upsert_all(conn, folds)
        await requestrows.write(conn, asking)
        if database.dialect == "postgresql":
            await conn.execute(text("ANALYZE"))
    return database


@pytest.mark.parametrize("order", ["urgency", "asked"])
@pytest.mark.parametrize("name", LISTS)
async def test_a_page_is_found_in_an_index(crowded: Database, name: str, order: Order) -> None:
    narrow = LISTS[name]
    said = await plan(crowded, page_query(MAIN, narrow, order, 50, None))
    table = "request_assignees" if narrow.assignees else "requests"
    wanted = "ix_requests_job" if narrow.jobs else f"ix_{table}_{'urgent' if order == 'urgency' else 'asked'}"
    assert wanted in said, said
    assert "SCAN requests" not in said, said
    assert "Seq Scan on" not in said, said


async def test_counts_are_found_in_an_index(crowded: Database) -> None:
    said = await plan(crowded, count_query(MAIN, InboxFilter(assignees=["user:bob"]), NOW))
    assert "ix_request_assignees_" in said, said
    assert "Seq Scan on" not in said, said


async def test_more_names_than_a_union_has_branches_find_the_same(crowded: Database) -> None:
    names = [*(f"group:g{number}" for number in range(300)), *(f"user:u{number}" for number in range(300)), "user:bob"]
    found = await all_of(crowded, InboxFilter(assignees=names), "asked", 3)
    assert [int(r.job_id[:8], 16) for r in found] == [1500, 1000, 500, 0]


async def test_each_name_that_a_request_asks_has_one_row(crowded: Database) -> None:
    async with crowded.read() as conn:
        rows = await conn.execute(select(request_assignees.c.who, func.count()).group_by(request_assignees.c.who))
        counts = Counter({str(who): int(n) for who, n in rows})
    assert counts["user:bob"] == 4
    assert counts.total() == 2_000
