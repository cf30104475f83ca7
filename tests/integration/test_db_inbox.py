"""The rows of requests on both databases: what each event changes, and the inbox's lists against a hand-made oracle."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from perdure.core import event as ev
from perdure.core.event import AnyEvent
from perdure.core.instant import Instant, later
from perdure.core.machine import EMPTY, apply
from perdure.db import inbox, jobs, requestrows
from perdure.db.engine import Database
from perdure.db.inbox import InboxFilter
from perdure.db.page import PageKey
from perdure.db.requestrows import Asking, Change
from perdure.ids import JobId, JobRef, Principal, StreamSeq, Tenant
from perdure.testing.factory import BEGIN, FINGERPRINT, FLOW, Story

MAIN, OTHER = Tenant("main"), Tenant("other")
ANN, BOB = Principal("user:ann"), Principal("user:bob")


def changes_of(events: Sequence[AnyEvent]) -> list[Change]:
    """Every change that a log brings."""
    found: list[Change] = []
    state = EMPTY
    for event in events:
        before, state = state, apply(state, event)
        found += requestrows.changes(before, event, state)
    return found


def asking(*names: str) -> Story:
    story = Story()
    story.submitted()
    story.started()
    for name in names:
        story.asked(name)
    return story


def last_words(story: Story) -> list[tuple[str, str, int | None, str | None, str | None]]:
    last = {change.request.name: change for change in changes_of(story.events)}
    return [(n, c.status, c.settled_seq, c.settled_by, c.action) for n, c in last.items()]


def test_an_asked_request_is_pending_and_a_restated_one_is_the_new_record() -> None:
    story = asking("one")
    [request] = story.state.asked.values()
    story.add(ev.RequestedData(request=replace(request, revision=2, title="Still?")))
    first, second = changes_of(story.events)
    assert (first.status, first.request.title) == ("pending", "Publish this?")
    assert (second.status, second.request.title, second.request.revision) == ("pending", "Still?", 2)


def test_an_answer_an_expiry_and_a_withdrawal_settle() -> None:
    story = asking("answered", "expired", "withdrawn")
    one, two, three = story.state.asked
    story.answered(one)
    story.add(
        ev.ExpiredData(request_id=two, revision=1, cause="deadline", outcome=ev.Outcome(do="answer", action="no"))
    )
    story.add(ev.WithdrawnData(request_id=three, reason="not needed", by=ANN))
    assert last_words(story) == [
        ("answered", "answered", 6, BOB, "approve"),
        ("expired", "expired", 7, None, "no"),
        ("withdrawn", "withdrawn", 8, ANN, None),
    ]


def test_the_end_of_a_job_withdraws_what_is_open() -> None:
    story = asking("answered", "open")
    story.answered(next(iter(story.state.asked)))
    story.add(ev.CancelledData(fingerprint=FINGERPRINT))
    assert last_words(story) == [("answered", "answered", 5, BOB, "approve"), ("open", "withdrawn", 6, None, None)]


# ------------------------------------------------------------------------------------------------ lists

FLOWS = ("post", "mail")


@pytest.fixture
async def stored(database: Database) -> list[tuple[Tenant, Change, str]]:
    """40 requests of two tenants and two flows; many share an instant."""
    chance = random.Random(20261125)
    made: list[tuple[Tenant, Change, str]] = []
    async with database.transaction() as conn:
        for n in range(20):
            flow, tenant = replace(FLOW, name=chance.choice(FLOWS)), chance.choice((MAIN, MAIN, OTHER))
            story = Story(
                job=JobId(f"{chance.randrange(16**8):08x}-0000-7000-8000-{n:012x}"), begin=later(BEGIN, n % 4)
            )
            story.submitted()
            story.started()
            for name in ("a", "b"):
                until = chance.choice((None, later(BEGIN, 30), later(BEGIN, 60)))
                request = story.asked(name, expires_at=until)
                if chance.random() < 0.4:
                    story.answered(request)
            last = {change.request.id: change for change in changes_of(story.events)}
            made += [(tenant, change, flow.name) for change in last.values()]
            ref = JobRef(tenant, story.job)
            await jobs.upsert(conn, ref, story.state, StreamSeq(1))
            await requestrows.write(conn, [Asking(ref, flow, {}, list(last.values()))])
    return made


narrows = st.builds(
    InboxFilter,
    statuses=st.sampled_from([("pending",), ("answered",), ("pending", "answered"), (), ("expired",)]),
    flows=st.sampled_from([(), ("post",), ("post", "gone"), (FLOW.id,)]),
    kinds=st.sampled_from([(), ("approval",), ("choice",)]),
    expires_before=st.sampled_from([None, later(BEGIN, 31), later(BEGIN, 30)]),
)


def matches(change: Change, flow: str, narrow: InboxFilter) -> bool:
    """What the filters mean, by hand."""
    until: Instant | None = change.request.expires_at
    return (
        (not narrow.statuses or change.status in narrow.statuses)
        and (not narrow.flows or flow in narrow.flows or FLOW.id in narrow.flows)
        and (not narrow.kinds or change.request.kind in narrow.kinds)
        and (narrow.expires_before is None or (until is not None and until < narrow.expires_before))
    )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(narrow=narrows, order=st.sampled_from(("urgency", "asked")), limit=st.integers(1, 7))
async def test_pages_hold_exactly_what_matches_in_order(
    database: Database, stored: list[tuple[Tenant, Change, str]], narrow: InboxFilter, order: inbox.Order, limit: int
) -> None:
    wanted = [c.request for tenant, c, flow in stored if tenant == MAIN and matches(c, flow, narrow)]
    if order == "urgency":
        wanted.sort(key=lambda r: (r.expires_at is None, r.expires_at or "", r.id))
    else:
        wanted.sort(key=lambda r: (r.asked_at, r.id), reverse=True)
    seen: list[ev.Request] = []
    after: PageKey | None = None
    async with database.read() as conn:
        while True:
            page = await inbox.list_requests(conn, MAIN, narrow, order=order, limit=limit, after=after)
            seen += [row.record for row in page.rows]
            if (after := page.next) is None:
                break
            assert len(page.rows) == limit
    assert seen == wanted


async def test_a_job_s_requests_and_a_single_one_are_found(
    database: Database, stored: list[tuple[Tenant, Change, str]]
) -> None:
    tenant, change, flow = stored[0]
    async with database.read() as conn:
        row = await inbox.get_request(conn, tenant, change.request.id)
        narrow = InboxFilter(statuses=(), jobs=(change.request.job_id,))
        page = await inbox.list_requests(conn, tenant, narrow, order="asked")
        foreign = await inbox.get_request(conn, OTHER if tenant == MAIN else MAIN, change.request.id)
    assert row is not None
    assert (row.record, row.status, row.flow_name) == (change.request, change.status, flow)
    assert [r.name for r in page.rows] == ["b", "a"]
    assert foreign is None
