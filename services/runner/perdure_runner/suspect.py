"""Suspects: jobs whose runners died twice in a row run in a process of their own: only the guilty one goes on counting.

The runner that got the doorbell starts `perdure runner --one JOB` and keeps the lease until that process says that it
is ready. Then it hands over reply subject, doorbell and belief by stdin and lets go of the doorbell: it sends no
heartbeat and no ack any more. The child claims for itself, holds the lease and acks; the slot stays taken until the
child exits. A child dies with its runner. Whoever wrote nothing but `attempt.started` before its process died is
counted; when the lease has run out the doorbell comes back.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from typing import Final

import msgspec
import structlog
from msgspec import Struct

from perdure.bus.belief import Lease
from perdure.bus.connection import Bus
from perdure.bus.delivery import Delivery
from perdure.bus.doorbell import FORMAT, Doorbell
from perdure.bus.subject import Priority
from perdure.core import event as ev
from perdure.ids import JobId, JobRef, Queue, Tenant

log = structlog.get_logger(__name__)

SIDE_BY_SIDE: Final = 4  # a process that died takes its innocent neighbours along: all of them are suspects for a while
START_SECONDS: Final = 60.0
READY: Final = b"ready\n"


class Order(Struct, frozen=True, kw_only=True):
    """What a child is told, in one line: the doorbell, where its acks go, and how long its lease is believed.

    `received_at` is by the machine's monotonic clock, which both processes read: belief ends a lease (and its margin)
    after it.
    """

    tenant: Tenant
    job: JobId
    seq: int
    ring: str
    reply: str
    queue: Queue
    priority: Priority
    lease_seconds: float
    times: int
    received_at: float


class Suspects:
    """The children of one runner. `environ` are its settings as variables."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = dict(environ)
        self._turns = asyncio.Semaphore(SIDE_BY_SIDE)
        self._children: set[asyncio.subprocess.Process] = set()
        self._stopping = False

    @property
    def running(self) -> int:
        """How many children run now."""
        return len(self._children)

    def stop(self) -> None:
        """Have every child hand its job on and end; start no more."""
        self._stopping = True
        for child in self._children:
            if child.returncode is None:
                child.send_signal(signal.SIGTERM)

    async def run(self, delivery: Delivery, lease: Lease) -> None:
        """See to it that a child handles the doorbell; returns when the child has exited.

        The lease is kept while the child waits for its turn and starts. What goes wrong leaves the doorbell alone.
        """
        async with self._turns:
            if self._stopping:
                await delivery.nak(0)
                return
            child = await self._start(delivery.ref)
            self._children.add(child)
            try:
                await self._hand_over(child, delivery, lease)
                code = await child.wait()
            finally:
                self._children.discard(child)
                if child.returncode is None:
                    child.kill()
                    await child.wait()
            if code != 0:
                log.warning("the process of a suspect died", exit_code=code)

    async def _start(self, ref: JobRef) -> asyncio.subprocess.Process:
        log.warning("a suspect runs in a process of its own")
        return await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "perdure_runner", "--one", ref.job,
            env=self._environ | {"PERDURE_PARENT": str(os.getpid())},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip

    async def _hand_over(self, child: asyncio.subprocess.Process, delivery: Delivery, lease: Lease) -> None:
        """Give the order as soon as the child is ready; without it the child ends when its stdin does."""
        assert child.stdin is not None, "a pipe: see _start"
        assert child.stdout is not None, "a pipe: see _start"
        try:
            async with asyncio.timeout(START_SECONDS):
                ready = await child.stdout.readline() == READY
        except TimeoutError:
            ready = False
        if ready and lease.believed and not self._stopping:
            child.stdin.write(msgspec.json.encode(order(delivery, lease)) + b"\n")
            lease.release()
        child.stdin.close()


def order(delivery: Delivery, lease: Lease) -> Order:
    """The order by which another process of this machine goes on with the doorbell."""
    return Order(
        tenant=delivery.ref.tenant,
        job=delivery.ref.job,
        seq=delivery.bell.seq,
        ring=delivery.bell.ring,
        reply=delivery.reply,
        queue=delivery.queue,
        priority=delivery.priority,
        lease_seconds=lease.lease_seconds,
        times=delivery.times,
        received_at=lease.believed_until - lease.lease_seconds + lease.margin_seconds,
    )


async def ordered(bus: Bus, job: JobId) -> Delivery | None:
    """In the child: say that it is ready, and return the doorbell that it is to handle; None when there is none."""
    sys.stdout.buffer.write(READY)
    sys.stdout.flush()
    line = await asyncio.to_thread(sys.stdin.buffer.readline)
    if not line:
        return None
    told = msgspec.json.decode(line, type=Order)
    if told.job != job:
        raise ValueError(f"started for job {job} and told of {told.job}")
    doorbell = Doorbell(FORMAT, told.tenant, told.job, told.ring)
    bell = ev.Bell(seq=told.seq, ring=told.ring)
    delivery = Delivery(bus, told.reply, doorbell, bell, told.queue, told.priority, told.lease_seconds, told.times)
    delivery.received_at = told.received_at
    return delivery
