"""Hears when jobs end: one NATS subscription, as any client may have it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg


class _Head(msgspec.Struct):
    type: str


_head = msgspec.json.Decoder(_Head)


class Endings:
    """When each job was seen to end (or to suspend), by this process's `perf_counter`."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}
        self.failed: list[str] = []
        self._waiting: dict[str, asyncio.Future[float]] = {}
        self._count: tuple[int, asyncio.Event] | None = None

    async def heard(self, message: Msg) -> None:
        kind = _head.decode(message.data).type
        if not kind.startswith("job.") or kind == "job.submitted":
            return
        job = message.subject.split(".")[2]
        self.at[job] = now = time.perf_counter()
        if kind not in ("job.completed", "job.suspended"):
            self.failed.append(f"{job} {kind}")
        waiting = self._waiting.pop(job, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(now)
        if self._count is not None and len(self.at) >= self._count[0]:
            self._count[1].set()

    async def of(self, job: str) -> float:
        """When `job` next ends or suspends; now, if it has already. Forgets it."""
        if job not in self.at:
            self._waiting[job] = asyncio.get_running_loop().create_future()
            await self._waiting[job]
        return self.at.pop(job)

    async def all(self, count: int) -> None:
        """Until `count` different jobs have ended or suspended since the last `forget`."""
        self._count = (count, asyncio.Event())
        if len(self.at) < count:
            await self._count[1].wait()

    def forget(self) -> None:
        """Begin to count anew. Raises RuntimeError when a job ended in another way than it should."""
        if self.failed:
            raise RuntimeError(f"{len(self.failed)} jobs went wrong, the first: {self.failed[0]}")
        self.at.clear()


@asynccontextmanager
async def endings(nc: Client) -> AsyncIterator[Endings]:
    """An Endings over all jobs of the tenant."""
    seen = Endings()
    subscription = await nc.subscribe("job.main.*.event", cb=seen.heard, pending_msgs_limit=-1, pending_bytes_limit=-1)
    await nc.flush()
    yield seen
    await subscription.unsubscribe()
