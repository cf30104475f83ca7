"""What a gateway remembers of SQL: fresh, stale, away; read once for all who ask; never what was revoked meanwhile."""

import asyncio

import pytest

from perdure.errors import Unavailable
from perdure.testing.clock import FakeClock
from perdure_gateway.memory import FRESH_SECONDS, Memory


class Sql:
    """One value behind a gate."""

    def __init__(self) -> None:
        self.value: str | None = "old"
        self.reads = 0
        self.open = asyncio.Event()
        self.open.set()
        self.away = False

    async def read(self) -> str | None:
        self.reads += 1
        value = self.value
        await self.open.wait()
        if self.away:
            raise Unavailable("away")
        return value


@pytest.fixture
def sql() -> Sql:
    return Sql()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def memory(sql: Sql, clock: FakeClock) -> Memory[str, str]:
    return Memory(clock, 900.0, lambda: False)


async def test_what_was_read_a_moment_ago_is_not_read_again(
    memory: Memory[str, str], sql: Sql, clock: FakeClock
) -> None:
    assert [await memory.get("k", sql.read) for _ in range(3)] == ["old"] * 3
    assert sql.reads == 1
    sql.value = "new"
    clock.advance(FRESH_SECONDS + 1)
    assert await memory.get("k", sql.read) == "new"


async def test_all_who_ask_at_once_share_one_reading(memory: Memory[str, str], sql: Sql) -> None:
    sql.open.clear()
    asking = [asyncio.ensure_future(memory.get("k", sql.read)) for _ in range(100)]
    await asyncio.sleep(0)
    asking[0].cancel()  # the one that began it: the others get their answer all the same
    await asyncio.sleep(0)
    sql.open.set()
    assert [await one for one in asking[1:]] == ["old"] * 99
    assert sql.reads == 1


async def test_a_reading_that_a_revocation_overtook_is_not_kept(memory: Memory[str, str], sql: Sql) -> None:
    sql.open.clear()
    asking = asyncio.ensure_future(memory.get("k", sql.read))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert sql.reads == 1
    sql.value = None  # revoked, and said so
    memory.forget("k")
    sql.open.set()
    await asking
    assert await memory.get("k", sql.read) is None


async def test_all_who_share_a_reading_that_fails_hear_so_and_the_next_one_reads_again(
    memory: Memory[str, str], sql: Sql
) -> None:
    sql.away = True
    asking = [asyncio.ensure_future(memory.get("k", sql.read)) for _ in range(3)]
    heard = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(one) for one in heard] == [Unavailable] * 3
    sql.away = False
    assert await memory.get("k", sql.read) == "old"


async def test_a_known_value_stays_good_while_sql_is_away_and_not_for_ever(
    memory: Memory[str, str], sql: Sql, clock: FakeClock
) -> None:
    assert await memory.get("k", sql.read) == "old"
    sql.away = True
    clock.advance(FRESH_SECONDS + 1)
    assert await memory.get("k", sql.read) == "old"
    clock.advance(900.0)
    with pytest.raises(Unavailable):
        await memory.get("k", sql.read)
