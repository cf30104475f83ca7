"""What wakes the projectors: each shard by its own logs, all of them after much, and no silent end."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from perdure.bus.subject import public_event_subject, shard_of
from perdure.bus.wake import DEAF_SECONDS, MANY, shard_news
from perdure.ids import JobRef, Tenant, new_job_id
from perdure.local.server import NatsServer
from perdure.testing.servers import connect

SHARDS = 8
Eventually = Callable[..., Awaitable[None]]


async def test_a_shard_is_woken_by_its_own_logs_and_all_are_after_much(
    nats_server: NatsServer, tenant: Tenant, eventually: Eventually
) -> None:
    told: list[str] = []
    ref = JobRef(tenant, new_job_id())
    mine = shard_of(ref.job, SHARDS)
    async with connect(nats_server, "admin") as bus, shard_news(bus, SHARDS, told.append) as grown:
        await bus.publish(public_event_subject(ref), b"{}")
        await eventually(grown[mine].is_set)
        for _ in range(2 * MANY):
            await bus.publish(public_event_subject(ref), b"{}")
        await eventually(lambda: all(event.is_set() for event in grown), 20 * DEAF_SECONDS)
        grown[mine].clear()
        await bus.publish(public_event_subject(ref), b"{}")  # and it hears again
        await eventually(grown[mine].is_set)
    assert told == []


async def test_whoever_is_woken_no_more_is_told_so(
    nats_server: NatsServer, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    async with connect(nats_server, "admin") as bus, shard_news(bus, SHARDS, told.put_nowait):
        slept = bus.clock.sleep

        async def closed(seconds: float) -> None:
            if seconds <= DEAF_SECONDS:
                await bus.nc.close()  # for ever, while nobody listens
            await slept(seconds)

        monkeypatch.setattr(bus.clock, "sleep", closed)
        for _ in range(MANY):
            await bus.publish(public_event_subject(JobRef(tenant, new_job_id())), b"{}")
        async with asyncio.timeout(20):
            reason = await told.get()
    assert "nothing wakes the projectors any more" in reason
    assert "closed" in reason
    assert told.empty()
