"""The rows of jobs on both databases: the guarded upsert, and lists against an oracle that is written by hand."""

import asyncio
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from sqlalchemy import text

from perdure.core import event as ev
from perdure.core.event import AnyData, Status
from perdure.core.instant import Instant, later
from perdure.core.machine import JobState
from perdure.db import due, jobs
from perdure.db.engine import Database
from perdure.db.jobs import JobFilter, JobRow
from perdure.db.page import PageKey
from perdure.errors import BrokenLog
from perdure.ids import JobId, JobRef, Principal, Queue, StreamSeq, Tenant
from perdure.testing.factory import BEGIN, FINGERPRINT, FLOW, Story

MAIN, OTHER = Tenant("main"), Tenant("other")
REF = JobRef(MAIN, Story().job)


async def write(database: Database, state: JobState, *, ref: JobRef = REF, epoch: int = 1) -> bool:
    async with database.transaction() as conn:
        return await jobs.upsert(conn, ref, state, StreamSeq(state.seq * 10), epoch=epoch)


async def row(database: Database, ref: JobRef = REF) -> JobRow:
    async with database.read() as conn:
        found = await jobs.get_row(conn, ref)
    assert found is not None
    return found


def states(story: Story, *steps: Callable[[Story], object]) -> Iterator[JobState]:
    for step in steps:
        step(story)
        yield story.state


def a_life() -> list[JobState]:
    """Six states of one job, up to its answer."""
    story = Story()
    asked: list[Any] = []
    return list(
        states(
            story,
            lambda s: s.submitted(),
            lambda s: s.started(),
            lambda s: s.step("draft", "text"),
            lambda s: asked.append(s.asked(expires_at=later(s.at, 60))),
            lambda s: s.add(ev.SuspendedData(waiting=(ev.Waiting(kind="input", name="review", request_id=asked[0]),))),
        )
    )


async def test_a_row_says_what_the_fold_says(database: Database) -> None:
    *_, asleep = a_life()
    assert await write(database, asleep)
    stored = await row(database)
    assert (stored.seq, stored.stream_seq, stored.epoch, stored.attempt) == (5, 50, 1, 1)
    assert (stored.status, stored.reason) == (Status.SUSPENDED, "person")
    assert (stored.flow_id, stored.flow_name, stored.flow_version, stored.flow_kind) == (FLOW.id, "story", 1, "graph")
    assert (stored.created_at, stored.started_at, stored.updated_at) == (BEGIN, later(BEGIN, 1), later(BEGIN, 4))
    assert (stored.ended_at, stored.outputs, stored.error, stored.quarantined) == (None, None, None, None)
    assert [r.title for r in stored.requests] == ["Publish this?"]
    assert [w.kind for w in stored.waiting] == ["input"]
    assert stored.next_due_at == later(BEGIN, 2 + 60)  # the request's, before the job's own deadline
    assert stored.ready_at == stored.next_due_at


async def test_the_end_of_a_job_closes_its_row(database: Database) -> None:
    story = Story()
    story.submitted()
    story.started()
    story.add(
        ev.CompletedData(outputs={"post": "text", "n": None}, fingerprint=FINGERPRINT, usage=ev.Usage(input_tokens=3))
    )
    await write(database, story.state)
    stored = await row(database)
    assert (stored.status, stored.reason, stored.ended_at) == (Status.COMPLETED, None, later(BEGIN, 2))
    assert stored.outputs == {"post": "text", "n": None}
    assert stored.usage == ev.Usage(input_tokens=3)
    assert (stored.next_due_at, stored.ready_at) == (None, None)


async def test_a_row_never_goes_back(database: Database) -> None:
    submitted, started, *_, asleep = a_life()
    assert await write(database, started)
    assert await write(database, asleep)
    for old in (submitted, started, asleep):
        assert not await write(database, old)
    assert (await row(database)).seq == 5


async def test_a_row_of_a_replaced_log_follows_it_in_the_next_epoch(database: Database) -> None:
    submitted, *_, asleep = a_life()
    await write(database, asleep)
    assert await write(database, submitted, epoch=2)
    assert ((await row(database)).seq, (await row(database)).epoch) == (1, 2)
    assert not await write(database, asleep, epoch=1)


async def test_projectors_that_race_leave_the_highest_seq(database: Database) -> None:
    life = a_life()
    shuffled = life * 4
    random.Random(7).shuffle(shuffled)
    await asyncio.gather(*(write(database, state) for state in shuffled))
    assert (await row(database)).seq == 5


async def test_a_tombstone_leaves_the_row_that_is_there(database: Database) -> None:
    *_, asleep = a_life()
    await write(database, asleep)
    end = ev.CancelledData(fingerprint=FINGERPRINT)
    tombstone = JobState(seq=9, status=Status.CANCELLED, end=end, updated_at=BEGIN, ended_at=BEGIN)
    assert not await write(database, tombstone)
    assert (await row(database)).status is Status.SUSPENDED


async def test_a_quarantined_row_is_swept_by_nobody_until_it_folds_again(database: Database) -> None:
    submitted, started, *_ = a_life()
    await write(database, submitted)
    async with database.transaction() as conn:
        assert await jobs.quarantine(conn, REF, "broken", BEGIN, StreamSeq(10))
        assert not await jobs.quarantine(conn, REF, "broken", BEGIN, StreamSeq(10))
        assert await due.ready(conn, later(BEGIN, 9), limit=10) == []
        assert await due.overdue(conn, later(BEGIN, 99999), limit=10) == []
    await write(database, started)
    assert (await row(database)).quarantined is None


async def test_a_log_that_was_broken_from_its_first_event_has_a_row(database: Database) -> None:
    story = Story()
    story.submitted()
    async with database.transaction() as conn:
        assert await jobs.quarantine(conn, REF, "unsupported", BEGIN, StreamSeq(10))
        assert await due.unsupported(conn) == [REF]
    stored = await row(database)
    assert (stored.seq, stored.status, stored.quarantined) == (0, Status.QUEUED, "unsupported")
    assert await write(database, story.state)
    assert (await row(database)).flow_name == "story"


async def test_the_sweeper_sees_each_open_job_once_by_instant(database: Database) -> None:
    for n in range(7):
        story = Story(job=JobId(f"01990000-0000-7000-8000-0000000000{n:02d}"), begin=later(BEGIN, n // 2))
        story.submitted(deadline_seconds=60, not_before=story.at)
        story.state = replace(story.state, updated_at=BEGIN)  # told early, to start at its own instant
        await write(database, story.state, ref=JobRef(MAIN, story.job))
    seen: list[str] = []
    after: PageKey | None = None
    async with database.read() as conn:
        while found := await due.ready(conn, later(BEGIN, 2), limit=2, after=after):
            seen += [r.job_id[-2:] for r in found]
            after = (str(found[-1].ready_at), found[-1].job_id)
        assert seen == ["00", "01", "02", "03", "04", "05"]  # the last one begins a second later
        assert len(await due.overdue(conn, later(BEGIN, 59), limit=10)) == 0
        assert len(await due.overdue(conn, later(BEGIN, 61), limit=10)) == 4
        seen, after = [], None
        while found := await due.overdue(conn, later(BEGIN, 61), limit=3, after=after):
            seen += [r.job_id[-2:] for r in found]
            after = (str(found[-1].next_due_at), found[-1].job_id)
        assert seen == ["03", "02", "01", "00"]


# ------------------------------------------------------------------------------------------------ lists

OWNERS = ("user:ann", "user:bob", "service:ci")
FLOWS = ("post", "mail", "p%st")
SESSIONS = (None, "s1", "s-2")
TAGS = (("team", "red"), ("team", "blue"), ("env", "red"), ("x", "%"), ("x", "_"))

AFTER_START: tuple[AnyData, ...] = (
    ev.CompletedData(outputs={}, fingerprint=FINGERPRINT),
    ev.SuspendedData(waiting=(ev.Waiting(kind="runner"),)),
    ev.CancelledData(fingerprint=FINGERPRINT),
)


def population(seed: int) -> dict[JobRef, JobState]:
    """60 jobs of two tenants in all kinds of states; many share an instant."""
    chance = random.Random(seed)
    made: dict[JobRef, JobState] = {}
    for n in range(60):
        story = Story(job=JobId(f"{n:08x}-0000-7000-8000-{chance.randrange(16**12):012x}"))
        story.at = later(BEGIN, chance.randrange(8))
        flow = chance.choice(FLOWS)
        story.add(
            ev.SubmittedData(
                flow=replace(FLOW, name=flow, id=f"id-of-{flow}"),
                input=None,
                owner=Principal(chance.choice(OWNERS)),
                queue=Queue("default"),
                priority="normal",
                deadline_at=later(BEGIN, 3600),
                fingerprint=FINGERPRINT,
                session_id=chance.choice(SESSIONS),
                tags=dict(chance.sample(TAGS, chance.randrange(3))),
            )
        )
        for step in range(chance.randrange(4)):
            asks = chance.random() < 0.3
            try:
                if step == 0:
                    story.started()
                elif asks:
                    story.asked(f"q{step}")
                else:
                    story.add(chance.choice(AFTER_START))
            except BrokenLog:  # what cannot follow does not
                break
        made[JobRef(chance.choice((MAIN, MAIN, MAIN, OTHER)), story.job)] = story.state
    return made


def matches(state: JobState, narrow: JobFilter) -> bool:
    """What the filters mean, by hand."""
    asked = state.submitted
    assert asked is not None
    assert state.submitted_at is not None
    assert state.updated_at is not None
    return (
        (not narrow.statuses or state.status in narrow.statuses)
        and (not narrow.flows or asked.flow.name in narrow.flows or asked.flow.id in narrow.flows)
        and all(asked.tags.get(name) == value for name, value in narrow.tags)
        and (not narrow.sessions or asked.session_id in narrow.sessions)
        and (not narrow.owners or asked.owner in narrow.owners)
        and (not narrow.waiting_for_person or bool(state.asked))
        and (narrow.created_after is None or state.submitted_at > narrow.created_after)
        and (narrow.created_before is None or state.submitted_at < narrow.created_before)
        and (narrow.updated_after is None or state.updated_at > narrow.updated_after)
    )


def some(values: tuple[Any, ...]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(st.sampled_from(values), max_size=2, unique=True).map(tuple)


instants = st.none() | st.integers(0, 9).map(lambda n: later(BEGIN, n))
filters = st.builds(
    JobFilter,
    statuses=some(tuple(Status)),
    flows=some((*FLOWS, "id-of-mail", "id-of-p%st", "gone")),
    tags=some(TAGS),
    sessions=some(("s1", "s-2", "")),
    owners=some(OWNERS),
    waiting_for_person=st.booleans(),
    created_after=instants,
    created_before=instants,
    updated_after=instants,
)


@pytest.fixture
async def populated(database: Database) -> dict[JobRef, JobState]:
    made = population(20261125)
    async with database.transaction() as conn:
        for ref, state in made.items():
            await jobs.upsert(conn, ref, state, StreamSeq(1))
    return made


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(narrow=filters, order=st.sampled_from(("created", "updated")), limit=st.integers(1, 7))
async def test_pages_hold_exactly_what_matches_newest_first(
    database: Database, populated: dict[JobRef, JobState], narrow: JobFilter, order: jobs.Order, limit: int
) -> None:
    wanted = [
        (state.submitted_at if order == "created" else state.updated_at, ref.job)
        for ref, state in populated.items()
        if ref.tenant == MAIN and matches(state, narrow)
    ]
    seen: list[str] = []
    after: PageKey | None = None
    async with database.read() as conn:
        while True:
            page = await jobs.list_jobs(conn, MAIN, narrow, order=order, limit=limit, after=after)
            assert len(page.rows) <= limit
            seen += [r.job_id for r in page.rows]
            if (after := page.next) is None:
                break
            assert len(page.rows) == limit
    assert seen == [job for _, job in sorted(wanted, key=lambda w: (str(w[0]), w[1]), reverse=True)]


async def test_every_filter_was_met_and_missed(populated: dict[JobRef, JobState]) -> None:
    """The population above proves something: each filter splits it."""
    for narrow in (
        JobFilter(statuses=(Status.CANCELLED,)),
        JobFilter(flows=("p%st",)),
        JobFilter(tags=(("x", "%"),)),
        JobFilter(sessions=("s1",)),
        JobFilter(owners=("service:ci",)),
        JobFilter(waiting_for_person=True),
        JobFilter(created_after=Instant(later(BEGIN, 3))),
    ):
        split = {matches(state, narrow) for state in populated.values()}
        assert split == {True, False}, narrow


async def test_jobs_that_come_while_somebody_pages_hide_and_repeat_nothing(database: Database) -> None:
    async def put(n: int, at: int) -> None:
        story = Story(job=JobId(f"{n:08x}-0000-7000-8000-000000000000"), begin=later(BEGIN, at))
        story.submitted()
        await write(database, story.state, ref=JobRef(MAIN, story.job))

    for n in range(6):
        await put(n, n)
    async with database.read() as conn:
        first = await jobs.list_jobs(conn, MAIN, limit=3)
    await put(99, 99)
    async with database.read() as conn:
        second = await jobs.list_jobs(conn, MAIN, limit=3, after=first.next)
    assert [int(r.job_id[:8], 16) for r in (*first.rows, *second.rows)] == [5, 4, 3, 2, 1, 0]
    assert second.next is None


async def test_deleted_jobs_are_in_no_list(database: Database, populated: dict[JobRef, JobState]) -> None:
    async with database.transaction() as conn:
        before = await jobs.count_by_status(conn, OTHER)
        assert sum(before.values()) == len([ref for ref in populated if ref.tenant == OTHER])
        await conn.execute(text("UPDATE jobs SET deleted_at = :now"), {"now": BEGIN})
        assert (await jobs.list_jobs(conn, MAIN)).rows == ()
        assert await jobs.count_by_status(conn, OTHER) == {}


@pytest.mark.parametrize("limit", [0, -1, 201])
async def test_a_page_of_no_size_is_a_mistake(database: Database, limit: int) -> None:
    async with database.read() as conn:
        with pytest.raises(ValueError, match="limit"):
            await jobs.list_jobs(conn, MAIN, limit=limit)
