"""The streams and consumers: made as designed, compared, raised, and never anything else."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from perdure.bus.connection import Bus
from perdure.bus.lease import set_lease
from perdure.bus.topology import Topology, compare, declare, ensure_queue
from perdure.errors import Conflict, Malformed, Unavailable
from perdure.ids import Queue
from perdure.local.server import NatsServer
from perdure.testing.servers import connect

MIB = 1024 * 1024
GIB = 1024 * MIB
SECOND = 1_000_000_000
EVENTS = {
    "retention": "limits", "storage": "file", "discard": "new", "max_bytes": 2 * GIB, "max_age": 0, "max_msgs": -1,
    "max_msg_size": 256 * 1024, "max_consumers": 64, "allow_direct": True, "deny_delete": True, "deny_purge": False,
    "num_replicas": 1, "compression": "none",
    "republish": {"src": "ev.*.*.*", "dest": "job.{{wildcard(2)}}.{{wildcard(3)}}.event"},
}  # fmt: skip
WANTED = {
    **{f"EV_{s}": {**EVENTS, "subjects": [f"ev.{s}.*.*"]} for s in range(8)},
    "WORK": {
        "subjects": ["work.*.*.*", "at.*.*"], "retention": "workqueue", "storage": "file", "discard": "old",
        "max_bytes": GIB, "max_msgs_per_subject": -1, "allow_msg_schedules": True, "allow_msg_ttl": True,
        "persist_mode": "async", "num_replicas": 1,
    },
    "LIVE": {
        "subjects": ["job.*.*.delta"], "retention": "limits", "storage": "memory", "discard": "old",
        "max_bytes": 128 * MIB, "max_age": 900 * SECOND, "max_msgs_per_subject": 20_000, "allow_direct": True,
        "num_replicas": 1,
    },
    "BLOB": {
        "subjects": ["blob.*.*.*"], "retention": "limits", "storage": "file", "max_bytes": 16 * GIB,
        "max_msg_size": 768 * 1024, "allow_direct": True, "num_replicas": 1,
    },
    "AUDIT": {
        "subjects": ["audit.*", "audit.*.seal"], "retention": "limits", "storage": "file", "max_bytes": 2 * GIB,
        "max_age": 400 * 86_400 * SECOND, "deny_delete": True, "deny_purge": True, "duplicate_window": 300 * SECOND,
        "num_replicas": 1,
    },
}  # fmt: skip


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[NatsServer]:
    """A nats-server without streams."""
    with NatsServer(tmp_path) as server:
        yield server


async def config(bus: Bus, what: str) -> dict[str, Any]:  # Any: JSON
    """What the broker itself says about a stream or consumer."""
    said: dict[str, Any] = msgspec.json.decode(await bus.ask(f"$JS.API.{what}", b""))["config"]
    return said


async def names(bus: Bus) -> set[str]:
    return set(msgspec.json.decode(await bus.ask("$JS.API.STREAM.NAMES", b""))["streams"] or ())


@pytest.mark.parametrize("stream", WANTED)
async def test_each_stream_is_as_designed(bus: Bus, stream: str) -> None:
    said = await config(bus, f"STREAM.INFO.{stream}")
    assert {k: said.get(k) for k in WANTED[stream]} == WANTED[stream]


async def test_a_queue_is_as_designed_and_its_lease_is_its_own(bus: Bus, tenant: str) -> None:
    queue = Queue(tenant)
    assert await ensure_queue(bus, queue, "high", 2.5) == 2.5
    assert await ensure_queue(bus, queue, "high", 60.0) == 2.5
    said = await config(bus, f"CONSUMER.INFO.WORK.{queue}_high")
    wanted = {
        "durable_name": f"{queue}_high", "filter_subject": f"work.{queue}.high.*", "ack_policy": "explicit",
        "ack_wait": int(2.5 * SECOND), "max_deliver": -1, "max_ack_pending": 50_000, "max_waiting": 8_192,
    }  # fmt: skip
    assert {k: said.get(k) for k in wanted} == wanted
    assert "deliver_subject" not in said


async def test_runners_that_make_a_queue_at_once_agree_on_its_lease(bus: Bus, tenant: str) -> None:
    wanted = [float(n) for n in range(2, 12)]
    leases = await asyncio.gather(*(ensure_queue(bus, Queue(tenant), "low", lease) for lease in wanted))
    assert len(set(leases)) == 1
    assert leases[0] in wanted


async def test_a_consumer_that_is_not_ours_is_refused(bus: Bus, tenant: str) -> None:
    body = {
        "stream_name": "WORK", "action": "create",
        "config": {
            "name": f"{tenant}_low", "durable_name": f"{tenant}_low", "filter_subject": f"work.{tenant}.low.*",
            "ack_policy": "explicit", "max_deliver": 3,
        },
    }  # fmt: skip
    create = f"$JS.API.CONSUMER.CREATE.WORK.{tenant}_low.work.{tenant}.low.*"
    assert "error" not in msgspec.json.decode(await bus.ask(create, msgspec.json.encode(body)))
    with pytest.raises(Conflict):
        await ensure_queue(bus, Queue(tenant), "low", 2.0)


async def test_a_queue_is_named_by_a_token(bus: Bus) -> None:
    for queue in ("*", "a.b", ">", "A"):
        with pytest.raises(Malformed):
            await ensure_queue(bus, Queue(queue), "low", 2.0)


async def test_declaring_again_changes_nothing(bare: NatsServer) -> None:
    async with connect(bare, "sweeper") as bus:
        await declare(bus, Topology())
        before = {name: await config(bus, f"STREAM.INFO.{name}") for name in WANTED}
        await declare(bus, Topology())
        assert {name: await config(bus, f"STREAM.INFO.{name}") for name in WANTED} == before
        assert await names(bus) == set(WANTED)
        assert bus.errors == 0


async def test_what_is_declared_is_read_back_by_those_who_may_not_declare(bare: NatsServer) -> None:
    wanted = Topology(
        shards=2, lease_seconds=7.5, event_bytes=64 * MIB, work_bytes=MIB, blob_bytes=MIB, audit_bytes=MIB
    )
    async with connect(bare, "sweeper") as sweeper, connect(bare, "runner") as runner:
        with pytest.raises(Unavailable):
            await compare(runner)
        await declare(sweeper, wanted)
        assert await compare(runner) == wanted
        await sweeper.ask("$JS.API.STREAM.DELETE.BLOB", b"")
        with pytest.raises(Unavailable):
            await compare(runner)
        await declare(sweeper, wanted)
        assert await compare(runner) == wanted
        assert runner.errors == 0


async def test_sizes_are_raised_and_never_lowered(bare: NatsServer) -> None:
    async with connect(bare) as bus:
        await declare(bus, Topology(shards=1, event_bytes=MIB, work_bytes=MIB))
        larger = Topology(shards=1, event_bytes=2 * MIB, work_bytes=2 * MIB, lease_seconds=20.0)
        await declare(bus, larger)
        assert await compare(bus) == larger
        for smaller in (
            Topology(shards=1, event_bytes=MIB, work_bytes=2 * MIB),
            Topology(shards=1, event_bytes=2 * MIB, work_bytes=MIB),
        ):
            with pytest.raises(Conflict, match="max_bytes"):
                await declare(bus, smaller)


@pytest.mark.parametrize("shards", [4, 16])
async def test_another_shard_count_is_refused_and_nothing_is_made(bare: NatsServer, shards: int) -> None:
    async with connect(bare) as bus:
        await declare(bus, Topology(shards=8))
        with pytest.raises(Conflict):
            await declare(bus, Topology(shards=shards))
        assert await names(bus) == set(WANTED)
        assert (await compare(bus)).shards == 8


async def test_of_two_that_declare_at_once_with_other_shard_counts_one_is_refused(bare: NatsServer) -> None:
    async with connect(bare) as one, connect(bare) as two:
        results = await asyncio.gather(
            declare(one, Topology(shards=2)), declare(two, Topology(shards=4)), return_exceptions=True
        )
        assert sorted(type(r).__name__ for r in results) == ["Conflict", "NoneType"]
        winner = 2 if results[0] is None else 4
        assert (await compare(one)).shards == winner
        assert len([n for n in await names(one) if n.startswith("EV_")]) == winner


@pytest.mark.parametrize("shards", [0, 3, 32])
async def test_a_shard_count_that_cannot_be_is_refused(bare: NatsServer, shards: int) -> None:
    async with connect(bare) as bus:
        with pytest.raises(Conflict):
            await declare(bus, Topology(shards=shards))
        assert await names(bus) == set()


async def test_a_stream_of_somebody_else_is_not_taken_over(bare: NatsServer) -> None:
    async with connect(bare) as bus:
        body = msgspec.json.encode({"name": "EV_0", "subjects": ["ev.0.*.*"], "retention": "limits", "storage": "file"})
        await bus.ask("$JS.API.STREAM.CREATE.EV_0", body)
        with pytest.raises(Conflict):
            await compare(bus)
        with pytest.raises(Conflict):
            await declare(bus, Topology())


async def test_a_stream_that_was_changed_by_hand_is_noticed(bare: NatsServer) -> None:
    async with connect(bare) as bus:
        await declare(bus, Topology(shards=1))
        said = await config(bus, "STREAM.INFO.EV_0")
        answer = await bus.ask("$JS.API.STREAM.UPDATE.EV_0", msgspec.json.encode({**said, "max_age": 3600 * SECOND}))
        assert "error" not in msgspec.json.decode(answer)
        with pytest.raises(Conflict, match="max_age"):
            await compare(bus)
        with pytest.raises(Conflict, match="max_age"):
            await declare(bus, Topology(shards=1))


async def test_the_lease_of_queues_changes_for_all_of_them_while_nobody_serves_any(
    own_nats_server: NatsServer,
) -> None:
    async with connect(own_nats_server, "admin") as bus:
        await declare(bus, Topology())
        for priority in ("high", "low"):
            await ensure_queue(bus, Queue("default"), priority, 10.0)
        assert sorted(await set_lease(bus, 2.5)) == ["default_high", "default_low"]
        assert await set_lease(bus, 2.5) == []
        assert await ensure_queue(bus, Queue("default"), "high", 60.0) == 2.5
        inbox = bus.nc.new_inbox()
        await bus.nc.subscribe(inbox)
        await bus.nc.publish("$JS.API.CONSUMER.MSG.NEXT.WORK.default_low", b'{"batch":1,"expires":30000000000}', inbox)
        await bus.nc.flush()
        with pytest.raises(Conflict, match="default_low") as refused:
            await set_lease(bus, 60.0)
        assert refused.value.code == "runners-running"
        assert await ensure_queue(bus, Queue("default"), "high", 60.0) == 2.5
