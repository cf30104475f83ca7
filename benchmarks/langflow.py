"""Langflow flow files: an echo in the background, by Langflow's API. Measured where lfx is (`make bench-langflow`)."""

import asyncio
import importlib.util
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from benchmarks.cluster import Cluster, cluster
from benchmarks.ending import Endings, endings

RUNS: Final = 3
CLIENTS: Final = 16  # as many as Langflow was measured with: more only wait
AHEAD: Final = "8"


async def langflow_jobs_per_s() -> list[float]:
    """Echo flows a second in background mode, POST to terminal event, closed loop of CLIENTS clients, 5 s a run."""
    async with _ready() as (c, seen, flow):

        async def burst() -> float:
            begin, ended = time.perf_counter(), list[float]()

            async def client() -> None:
                while time.perf_counter() < begin + 5.0:
                    ended.append(await seen.of(await _submit(c, flow)))

            await asyncio.gather(*[client() for _ in range(CLIENTS)])
            return len(ended) / (max(ended) - begin)

        return [await burst() for _ in range(RUNS)]


async def langflow_submit_to_done_p50_ms() -> list[float]:
    """Milliseconds from the POST to the terminal event, one at a time, processes ready, median of 40."""
    async with _ready() as (c, seen, flow):

        async def one() -> float:
            begin = time.perf_counter()
            job = await _submit(c, flow)
            return (await seen.of(job) - begin) * 1000

        return [statistics.median([await one() for _ in range(40)]) for _ in range(RUNS)]


@asynccontextmanager
async def _ready() -> AsyncIterator[tuple[Cluster, Endings, str]]:
    """A cluster with an echo flow, which has run."""
    from tests.langflow.flowfiles import flows  # made from the installed lfx

    async with cluster(langflow="true", langflow_ahead=AHEAD) as c, endings(c.nats) as seen:
        async with c.http.post("/api/v1/flows/", json=flows()["echo"]) as answer:
            flow = str((await answer.json())["id"])
        await seen.of(await _submit(c, flow))
        yield c, seen, flow


async def _submit(c: Cluster, flow: str) -> str:
    body = {"flow_id": flow, "input_value": "hello", "mode": "background"}
    async with c.http.post("/api/v2/workflows", json=body) as answer:
        if answer.status != 200:
            raise RuntimeError(f"submit: {answer.status} {await answer.text()}")
        return str((await answer.json())["job_id"])


LANGFLOW: Final[dict[str, tuple[Callable[[], Awaitable[list[float]]], str, float, bool]]] = (
    {}
    if importlib.util.find_spec("lfx") is None
    else {
        "langflow_jobs_per_s": (langflow_jobs_per_s, "jobs/s", 60, True),
        "langflow_submit_to_done_p50_ms": (langflow_submit_to_done_p50_ms, "ms", 40, False),
    }
)
"""Like `figures.FIGURES`; empty where there is no lfx."""
