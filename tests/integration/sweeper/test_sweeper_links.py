"""Old answer links: told what became of them for a while after they expired, then forgotten."""

import asyncio

import pytest

from perdure.core.instant import later
from perdure.db.engine import Database
from perdure.db.links import LinkRow, add_link, get_link, mark_used, revoke_link
from perdure.db.principals import ensure_tenant
from perdure.ids import Principal, RequestId, Tenant
from perdure.testing.clock import FakeClock
from perdure_sweeper.duties import links
from perdure_sweeper.duties.links import KEEP_DAYS, OldLinks

DAY = 86_400.0
ANN = Principal("user:ann")


def link_id(number: int) -> str:
    return f"01990000-0000-7000-8000-{number:012}"


@pytest.fixture
async def made(database: Database, tenant: Tenant, clock: FakeClock) -> list[int]:
    """Links that expired so many days ago, by number: two of the last hours, and old ones, used and revoked too."""
    ago = [-1.0, KEEP_DAYS - 0.01, KEEP_DAYS + 0.01, KEEP_DAYS + 1, KEEP_DAYS + 2, KEEP_DAYS + 90]
    now = clock.broker_now()
    async with database.transaction() as conn:
        await ensure_tenant(conn, tenant, now=now)
        for number, days in enumerate(ago):
            expires = later(now, -days * DAY)
            link = LinkRow(
                tenant=tenant,
                link_id=link_id(number),
                request_id=RequestId(f"{link_id(1)}_3"),
                revision=1,
                audience=Principal("link:board"),
                actions=(),
                created_at=later(expires, -DAY),
                created_by=ANN,
                expires_at=expires,
            )
            await add_link(conn, link)
        for number in (0, 3):
            await mark_used(conn, tenant, link_id(number), now)
        for number in (1, 4):
            await revoke_link(conn, tenant, link_id(number), by=ANN, now=now)
    return list(range(len(ago)))


async def left(database: Database, tenant: Tenant, made: list[int]) -> list[int]:
    async with database.read() as conn:
        return [number for number in made if await get_link(conn, tenant, link_id(number)) is not None]


async def test_links_are_forgotten_a_month_after_they_expired(
    database: Database, tenant: Tenant, clock: FakeClock, made: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "ROWS", 2)
    unsure = OldLinks(database, clock, lambda: False)
    assert await unsure.run_once() == 0
    assert await left(database, tenant, made) == made
    duty = OldLinks(database, clock, lambda: True)
    assert await duty.run_once() == 4
    assert await left(database, tenant, made) == [0, 1]
    assert await duty.run_once() == 0
    clock.advance(DAY)
    assert await duty.run_once() == 1
    assert await left(database, tenant, made) == [0]


async def test_two_sweepers_forget_links_side_by_side(
    database: Database, tenant: Tenant, clock: FakeClock, made: list[int]
) -> None:
    both = [OldLinks(database, clock, lambda: True) for _ in range(2)]
    assert sum(await asyncio.gather(*(duty.run_once() for duty in both))) == 4
    assert await left(database, tenant, made) == [0, 1]
