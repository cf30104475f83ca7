"""What a gateway remembers: fresh for a minute, good for an outage, read again when SQL is back."""

import pytest

from perdure.clock import SystemClock
from perdure.errors import Unavailable
from perdure_gateway.memory import FRESH_SECONDS, Memory


class HandClock(SystemClock):
    """Time goes on when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.at = 1000.0

    def monotonic(self) -> float:
        return self.at


class Table:
    """A database of one row."""

    def __init__(self) -> None:
        self.row: str | None = "first"
        self.away = False
        self.reads = 0

    async def read(self) -> str | None:
        self.reads += 1
        if self.away:
            raise Unavailable("away")
        return self.row


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def memory(clock: HandClock) -> Memory[str, str]:
    return Memory(clock, 900.0, lambda: False)


async def test_an_entry_is_read_once_a_minute(memory: Memory[str, str], clock: HandClock) -> None:
    table = Table()
    assert await memory.get("k", table.read) == "first"
    table.row = "second"
    clock.at += FRESH_SECONDS - 1
    assert (await memory.get("k", table.read), table.reads) == ("first", 1)
    clock.at += 1
    assert (await memory.get("k", table.read), table.reads) == ("second", 2)


async def test_an_outage_is_outlived_for_its_time_and_no_longer(memory: Memory[str, str], clock: HandClock) -> None:
    table = Table()
    await memory.get("k", table.read)
    table.away = True
    clock.at += 899
    assert await memory.get("k", table.read) == "first"
    with pytest.raises(Unavailable):
        await memory.get("other", table.read)  # not in memory: nobody knows
    clock.at += 1
    with pytest.raises(Unavailable):
        await memory.get("k", table.read)
    table.away = False
    assert await memory.get("k", table.read) == "first"


async def test_a_database_that_is_known_to_be_away_is_not_asked(clock: HandClock) -> None:
    table = Table()
    memory: Memory[str, str] = Memory(clock, 900.0, lambda: table.away)
    await memory.get("k", table.read)
    table.away = True
    clock.at += FRESH_SECONDS
    assert await memory.get("k", table.read) == "first"
    with pytest.raises(Unavailable):
        await memory.get("other", table.read)
    assert table.reads == 1


async def test_what_is_not_there_may_appear_and_what_was_there_may_go(
    memory: Memory[str, str], clock: HandClock
) -> None:
    table = Table()
    table.row = None
    assert await memory.get("k", table.read) is None
    table.row = "first"
    assert await memory.get("k", table.read) == "first"
    table.row = None
    clock.at += FRESH_SECONDS
    assert await memory.get("k", table.read) is None
    table.away = True
    with pytest.raises(Unavailable):
        await memory.get("k", table.read)  # it was gone when it was last seen


async def test_an_entry_that_is_forgotten_is_read_anew(memory: Memory[str, str]) -> None:
    table = Table()
    await memory.get("k", table.read)
    table.row = "second"
    memory.forget("k")
    assert await memory.get("k", table.read) == "second"
