"""The blocking client on real processes: who follows a job through it does not notice that its gateway was killed."""

import asyncio
import re
from pathlib import Path

from perdure.client import Delta, Snapshot, SyncClient
from perdure.core.event import InputRequested, JobCompleted
from perdure.local.launch import launched

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "howto" / "test-your-flows.md").read_text()
[FLOW, *_] = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)


async def test_a_blocking_follow_outlasts_the_death_of_its_gateway(tmp_path: Path, environ: dict[str, str]) -> None:
    (tmp_path / "refunds.py").write_text(FLOW)
    app = environ | {"PYTHONPATH": f"{tmp_path}:{environ.get('PYTHONPATH', '')}"}
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    seqs: list[int] = []

    def follow(client: SyncClient, job: str) -> bool:
        with client.follow(job) as told:
            for record in told:
                if isinstance(record, Delta | Snapshot):
                    continue
                seqs.append(record.seq)
                if isinstance(record, InputRequested):
                    loop.call_soon_threadsafe(asked.set)
            return isinstance(record, JobCompleted)

    def answer(client: SyncClient, job: str) -> None:
        client.answer(client.next_request(job, timeout=60), "approve")

    async with launched(tmp_path / "data", "--app", "refunds", environ=app, log=tmp_path / "up.log") as up:
        assert up.client.key is not None
        client = SyncClient(up.client.url, up.client.key, retry_seconds=60)
        try:
            job = await asyncio.to_thread(client.submit, "refund", 120)
            following = asyncio.create_task(asyncio.to_thread(follow, client, job.id))
            async with asyncio.timeout(90):
                await asked.wait()
                up.kill("gateway")
                await asyncio.to_thread(answer, client, job.id)
                assert await following
            assert seqs == list(range(1, seqs[-1] + 1))
            assert len(seqs) == (await asyncio.to_thread(client.log, job.id)).count(b"\n")
        finally:
            await asyncio.to_thread(client.close)
