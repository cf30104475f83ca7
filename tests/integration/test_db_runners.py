"""The presence of runners, on both databases."""

import pytest
from msgspec.structs import replace

from perdure.core.instant import later
from perdure.db import runners
from perdure.db.engine import Database
from perdure.db.runners import KEPT_SECONDS, RunnerRow
from perdure.errors import NotFound
from perdure.ids import Digest, Principal, Queue, RunnerId, Tenant, new_runner_id
from perdure.testing.factory import BEGIN

T1, T2 = Tenant("t1"), Tenant("t2")
ANN, BOB = Principal("user:ann"), Principal("user:bob")


def row(runner: RunnerId, *tenants: Tenant, after_seconds: float = 0.0) -> RunnerRow:
    at = later(BEGIN, after_seconds)
    return RunnerRow(
        runner=runner,
        version="0.1.0",
        queues=(Queue("default"), Queue("gpu")),
        priorities=("high",),
        slots=64,
        running=3,
        tenants=tenants or (T1,),
        flows={"order": Digest("d" * 64)},
        components=({"name": "shout"},),
        first_seen_at=at,
        seen_at=at,
    )


async def test_a_runner_is_there_as_it_said_last(database: Database) -> None:
    runner = new_runner_id()
    async with database.transaction() as conn:
        assert await runners.see(conn, row(runner)) is None
    again = replace(row(runner, T1, T2, after_seconds=60), running=9, flows={})
    async with database.transaction() as conn:
        before = await runners.see(conn, again)
    assert before == row(runner)
    async with database.read() as conn:
        [found] = await runners.list_runners(conn, T1)
    assert found == replace(again, first_seen_at=BEGIN)


async def test_a_tenant_sees_the_runners_that_serve_it_youngest_first(database: Database) -> None:
    first, other, last = new_runner_id(), new_runner_id(), new_runner_id()
    async with database.transaction() as conn:
        for one in (row(first, T1), row(other, T2), row(last, T2, T1)):
            await runners.see(conn, one)
    async with database.read() as conn:
        assert [r.runner for r in await runners.list_runners(conn, T1)] == [last, first]
        assert await runners.list_runners(conn, Tenant("t")) == []


async def test_the_first_who_asks_for_a_drain_is_noted_and_registering_does_not_undo_it(database: Database) -> None:
    runner = new_runner_id()
    async with database.transaction() as conn:
        await runners.see(conn, row(runner))
        await runners.drain(conn, runner, ANN, later(BEGIN, 1))
        drained = await runners.drain(conn, runner, BOB, later(BEGIN, 2))
    assert (drained.drain_by, drained.drain_at) == (ANN, later(BEGIN, 1))
    async with database.transaction() as conn:
        before = await runners.see(conn, row(runner, after_seconds=60))
    assert before is not None
    assert before.drain_by == ANN
    async with database.read() as conn:
        [found] = await runners.list_runners(conn, T1)
    assert (found.drain_by, found.seen_at) == (ANN, later(BEGIN, 60))


async def test_one_that_is_not_there_cannot_be_drained(database: Database) -> None:
    async with database.transaction() as conn:
        with pytest.raises(NotFound):
            await runners.drain(conn, new_runner_id(), ANN, BEGIN)


async def test_who_has_left_or_was_not_heard_of_for_a_day_is_forgotten(database: Database) -> None:
    left, lost, there = new_runner_id(), new_runner_id(), new_runner_id()
    async with database.transaction() as conn:
        await runners.see(conn, row(left))
        await runners.see(conn, row(lost))
        await runners.forget(conn, left)
        await runners.see(conn, row(there, after_seconds=KEPT_SECONDS + 1))
    async with database.read() as conn:
        assert [r.runner for r in await runners.list_runners(conn, T1)] == [there]
