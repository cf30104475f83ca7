"""Figures of event streams: latency, attach, many idle readers, their return, tokens, readers that stop reading."""

import asyncio
import json
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Final

import aiohttp
import msgspec
from nats.aio.msg import Msg

from benchmarks.client import submit
from benchmarks.cluster import Cluster, cluster, many_files, pss
from benchmarks.ending import endings
from perdure.client import Client
from perdure.client.sse import SseParser

FOLLOWERS: Final = 1_000
EVENTS: Final = 1_000
IDLE: Final = 10_000
TOKEN_JOBS: Final = 60
CHANNELS: Final = 4
TOKEN_SECONDS: Final = 8
STALLED: Final = 40
RUNS: Final = 3
PER_KEY: Final = 95  # of the 100 streams that a key may have


async def follow_event_p50_ms() -> list[float]:
    """Milliseconds from when a NATS client heard an event to when a follower of the job did, median of 200, while
    FOLLOWERS others follow.
    """
    async with cluster() as c, endings(c.nats) as seen:
        job = await submit(c.http, "bench_ask")
        await seen.of(job)
        async with crowd(c, job, FOLLOWERS), _listening(c, await submit(c.http, "bench_ask")) as heard:
            return [statistics.median([await heard() for _ in range(200)]) * 1000 for _ in range(RUNS)]


@asynccontextmanager
async def _listening(c: Cluster, job: str) -> AsyncIterator[Callable[[], Awaitable[float]]]:
    """A signal sent to `job`: the seconds between its event at a NATS client and at a follower over HTTP."""
    published: asyncio.Queue[float] = asyncio.Queue()
    shown: asyncio.Queue[float] = asyncio.Queue()

    async def on_nats(message: Msg) -> None:
        if b'"signal.received"' in message.data:
            published.put_nowait(time.perf_counter())

    async def follow(stream: aiohttp.ClientResponse) -> None:
        parser = SseParser()
        async for chunk in stream.content.iter_any():
            now = time.perf_counter()
            for frame in parser.feed(chunk):
                if frame.event == "signal.received":
                    shown.put_nowait(now)

    async def one() -> float:
        async with c.http.post(f"/api/jobs/{job}/signals/tick", json={}) as answer:
            if answer.status != 202:
                raise RuntimeError(f"signal: {answer.status} {await answer.text()}")
        return await shown.get() - await published.get()

    subscription = await c.nats.subscribe(f"job.main.{job}.event", cb=on_nats)
    headers = {"Accept": "text/event-stream"}
    async with c.http.get(f"/api/jobs/{job}/events", headers=headers, timeout=None) as stream:
        following = asyncio.create_task(follow(stream))
        yield one
        following.cancel()
    await subscription.unsubscribe()


async def attach_1000_events_ms() -> list[float]:
    """Milliseconds from the GET of a stream to the last of EVENTS events that are in the log, median of 20."""
    async with cluster() as c, endings(c.nats) as seen:
        job = await submit(c.http, "bench_steps", {"steps": EVENTS - 3})
        await seen.of(job)

        async def one() -> float:
            begin, headers = time.perf_counter(), {"Accept": "text/event-stream"}
            async with c.http.get(f"/api/jobs/{job}/events", headers=headers) as stream:
                body = await stream.read()
            took = time.perf_counter() - begin
            if (count := body.count(b"\nid: ")) != EVENTS:
                raise RuntimeError(f"{count} events")
            return took * 1000

        return [statistics.median([await one() for _ in range(20)]) for _ in range(RUNS)]


_idle: dict[str, list[float]] = {}


async def sse_idle_10k_mb() -> list[float]:
    """MB of the gateway with IDLE idle event streams of a sleeping job, all of its memory; one run."""
    return (await _with_all_idle())["mb"]


async def reattach_10k_s() -> list[float]:
    """Seconds from when a gateway that was killed is ready again until all IDLE readers are attached; one run."""
    return (await _with_all_idle())["back_s"]


async def _with_all_idle() -> dict[str, list[float]]:
    if _idle:
        return _idle
    many_files()
    async with cluster() as c, endings(c.nats) as seen:
        job = await submit(c.http, "bench_ask")
        await seen.of(job)
        async with crowd(c, job, IDLE) as attached:
            await asyncio.sleep(20.0)  # each has beaten once
            _idle["mb"] = [pss(c.processes()["gateway"]) / 1e6]
            pid = c.up.kill("gateway")
            while c.up.processes().get("gateway", pid) == pid or not await _ready(c):  # noqa: ASYNC110  # of another process
                await asyncio.sleep(0.02)
            begin = time.monotonic()
            _idle["back_s"] = [await attached() - begin]
    return _idle


async def _ready(c: Cluster) -> bool:
    try:
        async with c.http.get("/readyz") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


@asynccontextmanager
async def crowd(c: Cluster, job: str, count: int) -> AsyncIterator[Callable[[], Awaitable[float]]]:
    """`count` readers of `job` in another process, attached; the next time when all of them are, by `monotonic`."""
    keys = [await _key(c, number) for number in range(-(-count // PER_KEY))]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.crowd", c.up.url, job, str(count),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(keys).encode())
    process.stdin.close()

    async def attached() -> float:
        assert process.stdout is not None
        async with asyncio.timeout(180):
            line = await process.stdout.readline()
        return float(json.loads(line)["at"])

    try:
        await attached()
        yield attached
    finally:
        process.kill()
        await process.wait()


async def _key(c: Cluster, number: int) -> str:
    body = {"name": f"crowd {number}", "service": f"crowd-{number}"}
    async with c.http.post("/api/keys", json=body) as answer:
        if answer.status != 201:
            raise RuntimeError(f"key: {answer.status} {await answer.text()}")
        return str((await answer.json())["secret"])


async def tokens_per_s() -> list[float]:
    """Deltas a second through one gateway, each job's follower told all of them: TOKEN_JOBS jobs that speak on CHANNELS
    channels, as often as a runner sends what is said.
    """
    async with cluster(arguments=("--runners", "2")) as c, Client(c.up.url, c.key) as client:
        return [await _speech(c, client) for _ in range(RUNS)]


async def _speech(c: Cluster, client: Client) -> float:
    words = TOKEN_SECONDS * 25
    given = {"words": words, "channels": CHANNELS}
    spans: list[tuple[float, float]] = []

    async def one() -> int:
        job, texts, count, begin = await submit(c.http, "bench_tokens", given), dict[str, str](), 0, 0.0
        async with aclosing(client.events(job).frames()) as frames:
            async for frame in frames:
                if frame.type == "delta.text":
                    said = _delta.decode(frame.data)
                    begin = begin or time.perf_counter()
                    texts[said.channel] = texts.get(said.channel, "")[: said.pos] + said.text
                    count += 1
                elif frame.type == "step.completed":
                    spans.append((begin, time.perf_counter()))
                    whole = "".join(f"{word} " for word in range(words))
                    if any(texts.get(f"m-{n}") != whole for n in range(CHANNELS)):
                        raise RuntimeError("tokens were lost")
        return count

    told = await asyncio.gather(*(one() for _ in range(TOKEN_JOBS)))
    return sum(told) / (max(end for _, end in spans) - min(begin for begin, _ in spans))


class _Delta(msgspec.Struct):
    channel: str
    pos: int
    text: str


_delta: Final = msgspec.json.Decoder(_Delta)


async def stalled_reader_kb() -> list[float]:
    """KB of the gateway for a reader that takes nothing while its job says 24 MB, the most of half a minute, mean of
    STALLED of them, half of which came before it was said and half behind.
    """
    runs = []
    for _ in range(RUNS):
        async with cluster() as c, endings(c.nats) as seen:
            await seen.of(await submit(c.http, "bench_noop"))
            keys = [await _key(c, 0)]
            job = await submit(c.http, "bench_large", {"steps": 400, "chars": 60_000})
            await seen.of(job)  # it waits for somebody to say go on
            pid = c.processes()["gateway"]
            await _read_once(c, job)
            before = pss(pid)
            stalled = [_stall(c, job, keys[0]) for _ in range(STALLED // 2)]
            async with c.http.get(f"/api/jobs/{job}/requests") as answer:
                (request,) = (await answer.json())["data"]
            async with c.http.post(f"/api/inbox/{request['id']}/answer", json={"action": "approve"}) as answer:
                await answer.read()
            await seen.of(job)
            stalled += [_stall(c, job, keys[0]) for _ in range(STALLED - len(stalled))]
            most = 0
            for _ in range(20):
                await asyncio.sleep(0.25)
                most = max(most, pss(pid) - before)
            runs.append(most / STALLED / 1024)
            for each in stalled:
                each.close()
    return runs


async def _read_once(c: Cluster, job: str) -> None:
    """What a first reader loads is nobody's."""
    headers = {"Accept": "text/event-stream"}
    async with c.http.get(f"/api/jobs/{job}/events?until=head", headers=headers) as stream:
        await stream.read()


def _stall(c: Cluster, job: str, key: str) -> socket.socket:
    """A reader that asks and never reads, with as little room as the kernel gives."""
    host, port = c.up.url.removeprefix("http://").split(":")
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.connect((host, int(port)))
    made.sendall(
        f"GET /api/jobs/{job}/events HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n"
        f"Authorization: Bearer {key}\r\n\r\n".encode()
    )
    return made


STREAMS: Final[dict[str, tuple[Callable[[], Awaitable[list[float]]], str, float, bool]]] = {
    "follow_event_p50_ms": (follow_event_p50_ms, "ms", 3, False),
    "attach_1000_events_ms": (attach_1000_events_ms, "ms", 25, False),
    "sse_idle_10k_mb": (sse_idle_10k_mb, "MB", 250, False),
    "reattach_10k_s": (reattach_10k_s, "s", 10, False),
    "tokens_per_s": (tokens_per_s, "deltas/s", 5_000, True),
    "stalled_reader_kb": (stalled_reader_kb, "KB", 1_024, False),
}
"""As `figures.FIGURES`."""
