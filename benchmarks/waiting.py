"""Figures of jobs that wait for people: many asleep at once, their inbox, a restart; answers, deadlines in bursts."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from nats.aio.msg import Msg

from benchmarks.client import IN_FLIGHT, submit
from benchmarks.cluster import Cluster, cluster, folder

ASLEEP: Final = 100_000
RESTING_SECONDS: Final = 150.0
ANSWERS: Final = 3_000
DEADLINES: Final = 20_000
PAGES: Final = (
    "", "?assignee=me", "?overdue=true", "?flow=bench_ask", "?kind=choice", "?order=asked", "?assignee=group:finance",
)  # fmt: skip


class _Event(msgspec.Struct):
    type: str
    at: str
    data: dict[str, Any] = {}  # Any: as events have it


_event: Final = msgspec.json.Decoder(_Event)
_asleep: dict[str, list[float]] = {}


class Heard:
    """What was told of all jobs of the tenant: how often each kind of event, and what a test wants kept."""

    def __init__(self) -> None:
        self.kept: dict[str, _Event] = {}
        self.counts: dict[str, int] = {}
        self.kinds: frozenset[str] = frozenset()
        self._more = asyncio.Event()

    async def heard(self, message: Msg) -> None:
        event = _event.decode(message.data)
        self.counts[event.type] = self.counts.get(event.type, 0) + 1
        if event.type in self.kinds:
            self.kept[message.subject.split(".")[2]] = event
        self._more.set()

    async def until(self, kind: str, count: int, within: float) -> None:
        """Until so many events of that kind were told."""
        async with asyncio.timeout(within):
            while self.counts.get(kind, 0) < count:
                if wrong := {ended: n for ended, n in self.counts.items() if ended in ("job.failed", "job.timed_out")}:
                    raise RuntimeError(f"jobs went wrong: {wrong}")
                self._more.clear()
                await self._more.wait()


@asynccontextmanager
async def hearing(c: Cluster) -> AsyncIterator[Heard]:
    """A Heard over all jobs of the tenant."""
    heard = Heard()
    subscription = await c.nats.subscribe(
        "job.main.*.event", cb=heard.heard, pending_msgs_limit=-1, pending_bytes_limit=-1
    )
    await c.nats.flush()
    yield heard
    await subscription.unsubscribe()


async def suspended_100k_broker_mb() -> list[float]:
    """MB of the broker with ASLEEP jobs suspended, each for a person, and everything at rest; one run."""
    return (await _with_all_asleep())["broker_mb"]


async def suspended_broker_bytes_per_job() -> list[float]:
    """Bytes of its memory for each of them: those MB without what it took before the first."""
    return (await _with_all_asleep())["bytes_per_job"]


async def inbox_page_ms() -> list[float]:
    """Milliseconds of a page of the inbox over them, the slowest filter's median of 20; one value for each filter."""
    return [max((await _with_all_asleep())["page_ms"])]


async def restart_to_ready_s() -> list[float]:
    """Seconds from the start of `perdure up` to ready with them on its disk."""
    return (await _with_all_asleep())["restart_s"]


async def _with_all_asleep() -> dict[str, list[float]]:
    """Take ASLEEP jobs to sleep once, and measure all three on them."""
    if _asleep:
        return _asleep
    with folder() as place:
        async with cluster(place) as c, hearing(c) as heard:
            before = c.memory_bytes()["nats"]
            await many(c, ASLEEP, lambda n: submit(c.http, "bench_ask"))
            await heard.until("job.suspended", ASLEEP, within=900)
            await _listed(c, ASLEEP)
            await _rest(c)
            memory = c.memory_bytes()
            _asleep["broker_mb"] = [memory["nats"] / 1e6]
            _asleep["bytes_per_job"] = [(memory["nats"] - before) / ASLEEP]
            _asleep["runner_mb"] = [sum(size for name, size in memory.items() if name.startswith("runner")) / 1e6]
            _asleep["page_ms"] = [await _page(c, query) for query in PAGES]
        begin = time.perf_counter()
        async with cluster(place) as c:
            _asleep["restart_s"] = [time.perf_counter() - begin]
            await _page(c, "")
    return _asleep


async def _rest(c: Cluster) -> None:
    """Until the broker has given back what it no longer needs: a server in Go at rest collects every two minutes, and
    the buffers of what was just written (8 MB a shard) outlive two collections.
    """
    least, falling = c.memory_bytes()["nats"], time.perf_counter()
    while time.perf_counter() - falling < RESTING_SECONDS:
        await asyncio.sleep(10)
        if (now := c.memory_bytes()["nats"]) < 0.99 * least:
            least, falling = now, time.perf_counter()


async def _listed(c: Cluster, count: int) -> None:
    """Until so many requests are in the inbox."""
    while True:
        async with c.http.get("/api/inbox/counts") as answer:
            if (await answer.json())["total"] >= count:
                return
        await asyncio.sleep(0.5)


async def _page(c: Cluster, query: str) -> float:
    """The median of 20 reads of a page, in milliseconds."""
    times = []
    for _ in range(20):
        begin = time.perf_counter()
        async with c.http.get(f"/api/inbox{query}") as answer:
            if answer.status != 200:
                raise RuntimeError(f"inbox: {answer.status} {await answer.text()}")
            await answer.read()
        times.append((time.perf_counter() - begin) * 1000)
    return sorted(times)[len(times) // 2]


async def answers_burst_per_s() -> list[float]:
    """Answers a second: ANSWERS of them sent as fast as they are taken, each 200 and each job then ended."""
    async with cluster() as c, hearing(c) as heard:
        heard.kinds = frozenset({"input.requested"})
        await many(c, ANSWERS, lambda n: submit(c.http, "bench_ask"))
        await heard.until("job.suspended", ANSWERS, within=120)
        asked = [event.data["request"]["id"] for event in heard.kept.values()]
        begin = time.perf_counter()
        await many(c, ANSWERS, lambda n: _answer(c, asked[n]))
        took = time.perf_counter() - begin
        await heard.until("job.completed", ANSWERS, within=120)
        return [ANSWERS / took]


async def _answer(c: Cluster, request: str) -> None:
    async with c.http.post(f"/api/inbox/{request}/answer", json={"action": "approve"}) as answer:
        if answer.status != 200:
            raise RuntimeError(f"answer: {answer.status} {await answer.text()}")
        await answer.read()


async def deadlines_20k_s() -> list[float]:
    """Seconds from the second in which DEADLINES requests expire to the last one's `input.expired`."""
    async with cluster() as c, hearing(c) as heard:
        heard.kinds = frozenset({"input.expired"})
        at = datetime.now(UTC) + timedelta(seconds=DEADLINES / 125)
        given = {"at": at.isoformat()}
        await many(c, DEADLINES, lambda n: submit(c.http, "bench_expire", given))
        await heard.until("job.suspended", DEADLINES, within=300)
        if datetime.now(UTC) > at:
            raise RuntimeError("the deadline came before all were asleep")
        await heard.until("input.expired", DEADLINES, within=300)
        last = max(datetime.fromisoformat(event.at) for event in heard.kept.values())
        await heard.until("job.completed", DEADLINES, within=300)
        return [(last - at).total_seconds()]


async def many(c: Cluster, count: int, one: Callable[[int], Awaitable[object]]) -> None:
    """`one` of each number below `count`, IN_FLIGHT at a time."""
    numbers = iter(range(count))

    async def client() -> None:
        for n in numbers:
            await one(n)

    await asyncio.gather(*[client() for _ in range(IN_FLIGHT)])


WAITING: Final[dict[str, tuple[Callable[[], Awaitable[list[float]]], str, float, bool]]] = {
    "suspended_100k_broker_mb": (suspended_100k_broker_mb, "MB", 150, False),
    "suspended_broker_bytes_per_job": (suspended_broker_bytes_per_job, "B", 1024, False),
    "inbox_page_ms": (inbox_page_ms, "ms", 50, False),
    "restart_to_ready_s": (restart_to_ready_s, "s", 10, False),
    "answers_burst_per_s": (answers_burst_per_s, "answers/s", 1000, True),
    "deadlines_20k_s": (deadlines_20k_s, "s", 10, False),
}
"""As `figures.FIGURES`."""
