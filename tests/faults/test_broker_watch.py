"""A broker that cannot write, by its own word or by a canary's, is restarted (reliability, hazard 22)."""

import asyncio
import resource
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from perdure.bus import canary
from perdure.bus.eventlog import EventLog
from perdure.bus.stream import Ask, leader_get
from perdure.bus.subject import CANARY_BLOB, CANARY_WORK, canary_event
from perdure.bus.topology import Topology, declare
from perdure.clock import SystemClock
from perdure.core import event as ev
from perdure.core.event import AnyEvent
from perdure.core.machine import EMPTY, stamp
from perdure.errors import OutcomeUnknown, Unavailable
from perdure.ids import JobId, JobRef, StreamSeq, Tenant, new_event_id, new_job_id
from perdure.local.broker import BrokerWatch
from perdure.local.server import NatsServer
from perdure.testing.factory import BEGIN, Story
from perdure.testing.servers import connect

LIMIT_BYTES = 2 * 1024 * 1024


def large(ref: JobRef) -> AnyEvent:
    submitted = Story(ref.job).submitted()
    assert isinstance(submitted, ev.JobSubmitted)
    data = ev.SubmittedData(
        flow=submitted.data.flow, input="x" * 100_000, owner=submitted.data.owner, queue=submitted.data.queue,
        priority="normal", deadline_at=submitted.data.deadline_at, fingerprint=submitted.data.fingerprint,
    )  # fmt: skip
    return stamp(EMPTY, new_event_id(), BEGIN, data)


async def test_a_stream_that_cannot_be_written_lives_again_with_everything_acknowledged(
    own_nats_server: NatsServer, tenant: Tenant, eventually: Callable[..., Awaitable[None]]
) -> None:
    server, first = own_nats_server, own_nats_server.pid
    assert first is not None
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    acknowledged: list[JobRef] = []
    async with connect(server) as bus:
        eventlog = EventLog(bus, 8)
        resource.prlimit(first, resource.RLIMIT_FSIZE, (LIMIT_BYTES, resource.RLIM_INFINITY))
        while len(acknowledged) < 100:
            ref = JobRef(tenant, JobId(new_job_id()[:-1] + "0"))  # all in one shard
            try:
                await eventlog.append(ref, large(ref), StreamSeq(0))
            except (OutcomeUnknown, Unavailable):
                break
            acknowledged.append(ref)
        assert 0 < len(acknowledged) < 100
        await eventually(lambda: not server.healthy())
        resource.prlimit(first, resource.RLIMIT_FSIZE, unlimited)
        restarted: list[int | None] = []
        gave_up: list[str] = []
        watch = BrokerWatch(server, SystemClock(), changed=lambda: restarted.append(server.pid), gave_up=gave_up.append)
        watching = asyncio.ensure_future(watch.run())
        await eventually(lambda: restarted and bus.connected)
        watch.stop()
        await watching
        assert restarted[0] not in (None, first)
        assert not gave_up
        assert server.healthy()
        for ref in acknowledged:
            assert await eventlog.tail(ref) is not None
        ref = JobRef(tenant, JobId(new_job_id()[:-1] + "0"))
        await eventlog.append(ref, large(ref), StreamSeq(0))


class Blind(NatsServer):
    """A broker that says of itself that all is well, whatever is."""

    def healthy(self) -> bool:
        return True


async def test_two_canaries_that_are_not_taken_restart_a_broker_that_says_it_is_well(
    tmp_path: Path, eventually: Callable[..., Awaitable[None]]
) -> None:
    server = Blind(tmp_path / "nats")
    server.start()
    try:
        first = server.pid
        async with connect(server) as admin, connect(server, "supervisor") as bus:
            restarted: list[Any] = []
            watch = BrokerWatch(
                server, SystemClock(), changed=lambda: restarted.append(server.pid), gave_up=restarted.append, bus=bus
            )
            assert await canary.taken(bus, canary_event(0))  # no such stream: nobody can say
            await declare(admin, Topology(shards=1))
            for subject in (canary_event(0), CANARY_WORK, CANARY_BLOB):
                assert await canary.taken(bus, subject)
                stream = {"ev": "EV_0", "work": "WORK", "blob": "BLOB"}[subject.split(".")[0]]
                assert await leader_get(admin, stream, Ask(last_by_subj=subject)) is not None
            watching = asyncio.ensure_future(watch.run())
            server.signal(signal.SIGSTOP)  # it takes bytes and writes nothing
            await eventually(lambda: restarted)
            assert restarted[0] not in (None, first)
            await eventually(lambda: bus.connected and admin.connected)
            assert await canary.taken(bus, canary_event(0))
            watch.stop()
            await watching
            assert len(restarted) == 1
    finally:
        server.stop()
