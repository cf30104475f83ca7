"""The figures: each a function that returns the values of its runs. What is timed is the client's view, over HTTP."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

import aiohttp

from benchmarks.client import IN_FLIGHT, submit
from benchmarks.cluster import Cluster, cluster
from benchmarks.ending import Endings, endings
from benchmarks.langflow import LANGFLOW
from benchmarks.streams import STREAMS
from benchmarks.waiting import WAITING

RUNS = 3


async def noop_jobs_per_s() -> list[float]:
    """Jobs a second, submit by HTTP to terminal event, closed loop of IN_FLIGHT clients, 4 s a run."""
    async with cluster() as c, endings(c.nats) as seen:
        await _burst(c, seen, 1.0)
        return [await _burst(c, seen, 4.0) for _ in range(RUNS)]


async def _burst(c: Cluster, seen: Endings, seconds: float) -> float:
    begin = time.perf_counter()
    ended: list[float] = []

    async def client() -> None:
        while time.perf_counter() < begin + seconds:
            ended.append(await seen.of(await submit(c.http, "bench_noop")))

    await asyncio.gather(*[client() for _ in range(IN_FLIGHT)])
    return len(ended) / (max(ended) - begin)


async def submit_to_done_p50_ms() -> list[float]:
    """Milliseconds from the POST to the terminal event at a NATS client, one job at a time, median of 300."""
    async with cluster() as c, endings(c.nats) as seen:

        async def one() -> float:
            begin = time.perf_counter()
            job = await submit(c.http, "bench_noop")
            return (await seen.of(job) - begin) * 1000

        return await _medians(one, 300)


async def steps_per_s() -> list[float]:
    """Steps a second of one job with 500 steps, `attempt.started` to `job.completed` as their `at` say."""
    async with cluster() as c, endings(c.nats) as seen:

        async def one() -> float:
            begin = time.perf_counter()
            job = await submit(c.http, "bench_steps", {"steps": 500})
            return 500 / (await seen.of(job) - begin)

        await one()
        return [await one() for _ in range(RUNS)]


async def answer_to_done_p50_ms() -> list[float]:
    """Milliseconds from the POST of an answer to the terminal event, one at a time, median of 150."""
    async with cluster() as c, endings(c.nats) as seen:

        async def one() -> float:
            job = await submit(c.http, "bench_ask")
            await seen.of(job)  # suspended
            async with c.http.get(f"/api/jobs/{job}/requests") as answer:
                (request,) = (await answer.json())["data"]
            body = {"action": "approve"}
            begin = time.perf_counter()
            async with c.http.post(f"/api/inbox/{request['id']}/answer", json=body) as answer:
                if answer.status != 200:
                    raise RuntimeError(f"answer: {answer.status} {await answer.text()}")
            return (await seen.of(job) - begin) * 1000

        return await _medians(one, 150)


async def sse_idle_1000_mb() -> list[float]:
    """MB of memory that the gateway holds for 1,000 idle event streams of a sleeping job (100 to a key)."""
    runs = []
    for _ in range(RUNS):
        async with cluster() as c, endings(c.nats) as seen:
            job = await submit(c.http, "bench_ask")
            await seen.of(job)
            async with c.http.get(f"/api/jobs/{job}") as answer:
                await answer.read()
            keys = [await _key(c, n) for n in range(11)]
            before = c.memory_bytes()["gateway"]
            streams = await asyncio.gather(*[_attach(c, job, keys[n // 95]) for n in range(1000)])
            runs.append((c.memory_bytes()["gateway"] - before) / 1e6)
            for stream in streams:
                stream.close()
    return runs


async def _key(c: Cluster, number: int) -> str:
    """A key of its own: a key may hold 100 streams."""
    body = {"name": f"bench {number}", "service": f"bench-{number}"}
    async with c.http.post("/api/keys", json=body) as answer:
        if answer.status != 201:
            raise RuntimeError(f"key: {answer.status} {await answer.text()}")
        return str((await answer.json())["secret"])


async def _attach(c: Cluster, job: str, key: str) -> aiohttp.ClientResponse:
    headers = {"Accept": "text/event-stream", "Authorization": f"Bearer {key}"}
    stream = await c.http.get(f"/api/jobs/{job}/events", headers=headers, timeout=None)
    if stream.status != 200:
        raise RuntimeError(f"attach: {stream.status} {await stream.text()}")
    async for line in stream.content:
        if line == b"event: job.suspended\n":
            return stream
    raise RuntimeError("the stream ended")


async def idle_cluster_mb() -> list[float]:
    """MB of memory of an idle `perdure up`, all processes (proportional set size), after some work."""
    runs = []
    for _ in range(RUNS):
        async with cluster() as c, endings(c.nats) as seen:
            for _ in range(20):
                await seen.of(await submit(c.http, "bench_noop"))
            await asyncio.sleep(5.0)
            runs.append(sum(c.memory_bytes().values()) / 1e6)
    return runs


async def idle_cluster_cpu_pct() -> list[float]:
    """Per cent of one core that an idle `perdure up` takes, all processes, over 20 s a run."""
    async with cluster() as c:
        await asyncio.sleep(5.0)
        runs = []
        for _ in range(RUNS):
            begin, used = time.perf_counter(), sum(c.cpu_seconds().values())
            await asyncio.sleep(20.0)
            runs.append(100 * (sum(c.cpu_seconds().values()) - used) / (time.perf_counter() - begin))
        return runs


async def _medians(one: Callable[[], Awaitable[float]], count: int) -> list[float]:
    for _ in range(20):
        await one()
    return [statistics.median([await one() for _ in range(count)]) for _ in range(RUNS)]


FIGURES: dict[str, tuple[Callable[[], Awaitable[list[float]]], str, float, bool]] = {
    "noop_jobs_per_s": (noop_jobs_per_s, "jobs/s", 900, True),
    "submit_to_done_p50_ms": (submit_to_done_p50_ms, "ms", 4, False),
    "steps_per_s": (steps_per_s, "steps/s", 1500, True),
    "answer_to_done_p50_ms": (answer_to_done_p50_ms, "ms", 7, False),
    "sse_idle_1000_mb": (sse_idle_1000_mb, "MB", 120, False),
    "idle_cluster_mb": (idle_cluster_mb, "MB", 350, False),
    "idle_cluster_cpu_pct": (idle_cluster_cpu_pct, "%", 2, False),
    **WAITING,
    **STREAMS,
    **LANGFLOW,
}
"""Name -> function, unit, figure to reach, whether more is better."""
