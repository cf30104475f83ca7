"""Blobs on a real broker: what is put comes back whole, or is refused, or is not there."""

import asyncio
from hashlib import sha256

import pytest

from perdure.bus import blob
from perdure.bus.blob import CHUNK_BYTES, MOST_BYTES, get, put
from perdure.bus.connection import Bus
from perdure.bus.stream import Ask, leader_get, store
from perdure.bus.subject import blob_subject
from perdure.clock import SystemClock
from perdure.core.instant import later
from perdure.errors import Malformed, NotFound, TooLarge
from perdure.ids import Digest, StreamSeq, Tenant
from perdure.local.server import NatsServer
from perdure.testing.servers import connect

SIZES = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 5 * CHUNK_BYTES + 7]


async def last(bus: Bus, tenant: Tenant, digest: Digest, chunk: int) -> StreamSeq:
    """Where the newest copy of a chunk lies."""
    read = await leader_get(bus, "BLOB", Ask(last_by_subj=blob_subject(tenant, digest, chunk)))
    assert read is not None
    return read.seq


@pytest.mark.parametrize("size", SIZES)
async def test_what_is_put_comes_back_whole(bus: Bus, tenant: Tenant, size: int) -> None:
    body = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    digest = await put(bus, tenant, body)
    assert digest == sha256(body).hexdigest()
    assert await get(bus, tenant, digest) == body


async def test_the_services_put_and_get_with_their_own_rights(nats_server: NatsServer, tenant: Tenant) -> None:
    async with connect(nats_server, "gateway") as gateway, connect(nats_server, "runner") as runner:
        digest = await put(gateway, tenant, b"x" * (2 * CHUNK_BYTES))
        assert await get(runner, tenant, digest) == b"x" * (2 * CHUNK_BYTES)
        assert (gateway.errors, runner.errors) == (0, 0)


async def test_a_blob_is_its_tenants_alone(bus: Bus, tenant: Tenant) -> None:
    digest = await put(bus, tenant, b"secret")
    with pytest.raises(NotFound):
        await get(bus, Tenant(tenant[:-1] + "z"), digest)


async def test_a_second_put_writes_nothing_while_the_first_is_young(bus: Bus, tenant: Tenant) -> None:
    digest = await put(bus, tenant, b"twice")
    there = await last(bus, tenant, digest, 0)
    assert await put(bus, tenant, b"twice") == digest
    assert await last(bus, tenant, digest, 0) == there


async def test_a_put_over_an_old_copy_writes_all_of_it_again(
    nats_server: NatsServer, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = b"old" * CHUNK_BYTES
    clock = SystemClock()
    async with connect(nats_server, clock=clock) as bus:
        await bus.measure_offset()
        digest = await put(bus, tenant, body)
        before = [await last(bus, tenant, digest, n) for n in range(3)]
        tomorrow = later(clock.broker_now(), 86_400.0)
        monkeypatch.setattr(clock, "broker_now", lambda: tomorrow)
        await put(bus, tenant, body)  # a day later
        after = [await last(bus, tenant, digest, n) for n in range(3)]
        assert all(a > b for a, b in zip(after, before, strict=True))
        assert await get(bus, tenant, digest) == body


async def test_many_writers_of_one_blob_leave_it_whole(bus: Bus, tenant: Tenant) -> None:
    body = b"race" * CHUNK_BYTES
    digests = await asyncio.gather(*(put(bus, tenant, body) for _ in range(6)))
    assert set(digests) == {sha256(body).hexdigest()}
    assert await get(bus, tenant, digests[0]) == body


async def test_a_blob_whose_first_chunk_is_missing_is_not_there(bus: Bus, tenant: Tenant) -> None:
    digest = Digest(sha256(b"half").hexdigest())
    await store(bus, blob_subject(tenant, digest, 1), b"lf")
    with pytest.raises(NotFound):
        await get(bus, tenant, digest)


async def test_a_damaged_blob_is_noticed(bus: Bus, tenant: Tenant) -> None:
    digest = await put(bus, tenant, b"sound")
    await store(bus, blob_subject(tenant, digest, 0), b"other", {blob.CHUNKS: "1"})
    with pytest.raises(Malformed):
        await get(bus, tenant, digest)
    await store(bus, blob_subject(tenant, digest, 0), b"other", {blob.CHUNKS: "many"})
    with pytest.raises(Malformed):
        await get(bus, tenant, digest)
    await store(bus, blob_subject(tenant, digest, 0), b"other")
    with pytest.raises(Malformed):
        await get(bus, tenant, digest)


async def test_a_blob_beyond_its_bound_or_without_a_name_is_refused(bus: Bus, tenant: Tenant) -> None:
    with pytest.raises(TooLarge):
        await put(bus, tenant, b"x" * (MOST_BYTES + 1))
    for digest in ("*", "", "a" * 63):
        with pytest.raises(Malformed):
            await get(bus, tenant, Digest(digest))
