"""`perdure doctor` beside a running `perdure up`: by the data folder alone, while it works."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from perdure.cli.examples import example
from perdure.local.launch import UpProcess
from perdure.testing import whole

Up = Callable[..., AbstractAsyncContextManager[UpProcess]]
Eventually = Callable[..., Awaitable[None]]


async def doctor(data: Path, environ: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-P", "-m", "perdure.cli.app", "doctor", "--data", str(data), "--json", *arguments]
    return await asyncio.to_thread(subprocess.run, command, env=environ, capture_output=True, text=True, timeout=120)


async def test_a_working_system_has_nothing_wrong_and_stays_well_when_it_is_rebuilt(
    up: Up, environ: dict[str, str], eventually: Eventually
) -> None:
    async with up() as running, whole.client_of(running) as client:
        ids = [await whole.submit(client, example("content_approval"), f"text {n}") for n in range(5)]
        for job in ids:
            await whole.events(client, job, until="suspended")
        for job in ids[:3]:
            [request] = (await client.job(job)).requests
            await client.answer(await client.request(request.id), "approve")
            await whole.events(client, job)
        examined = await doctor(running.data, environ)
        assert examined.returncode == 0, examined.stdout + examined.stderr
        said = json.loads(examined.stdout)
        assert (said["healthy"], said["looked"]["jobs"]) == (True, 5)
        rebuilt = await doctor(running.data, environ, "--rebuild", "--repair")
        assert rebuilt.returncode == 0, rebuilt.stdout + rebuilt.stderr
        assert json.loads(rebuilt.stdout)["looked"]["rebuilt"] == 5

        async def listed() -> bool:
            rows = (await client.jobs()).data
            return sorted(row.status for row in rows) == ["completed"] * 3 + ["suspended"] * 2

        await eventually(listed)
        one = await doctor(running.data, environ, "--job", ids[0])
        assert (one.returncode, json.loads(one.stdout)["looked"]["jobs"]) == (0, 1)
        gone = await doctor(running.data, environ, "--job", "00000000-0000-7000-8000-000000000000")
        assert gone.returncode == 4
