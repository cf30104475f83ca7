"""The README's walk with curl alone does what it says."""

import asyncio
import json
import re
import shutil
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final

import pytest

from perdure.local.launch import UpProcess

ROOT: Final = Path(__file__).resolve().parents[2]
Up = Callable[..., AbstractAsyncContextManager[UpProcess]]
Eventually = Callable[..., Awaitable[None]]


def block() -> list[str]:
    """The lines of the README's walk, comments and blank lines left out."""
    [text] = re.findall(r"^```sh\n(API=.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    return [line.split("   #")[0].rstrip() for line in text.splitlines() if line.strip()]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_the_walk_with_curl_does_what_the_readme_says(up: Up, eventually: Eventually) -> None:
    async with up() as running:
        known = {"pdr_…": str(running.client.key), "http://127.0.0.1:8480": running.url}
        first, define, *steps = block()

        async def run(line: str) -> str:
            script = "\n".join((first, define, *(f"{n}={v}" for n, v in known.items() if n.isupper()), line))
            for name, value in known.items():
                script = script if name.isupper() else script.replace(name, value)
            process = await asyncio.create_subprocess_exec(
                "sh", "-c", script, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
            async with asyncio.timeout(60):
                out, err = await process.communicate()
            assert process.returncode == 0, err.decode()
            return out.decode()

        async def answer(line: str) -> Any:  # any JSON
            return json.loads(await run(line))

        push, submit, assign, whole, rest, inbox, decide, show = steps
        assert (await answer(push))["version"] == 1
        job = (await answer(submit))["id"]
        assert assign == "JOB=…"
        known["JOB"] = job

        async def asked() -> bool:
            return bool((await answer(inbox))["data"])

        await eventually(asked)
        [request] = (await answer(inbox))["data"]
        assert request["id"] == f"{job}_5"
        known["sha256:…"] = request["proposal_digest"]
        assert (await answer(decide))["status"] == "answered"
        events = re.findall(r"^id: (\d+)$", await run(whole), re.MULTILINE)
        assert events == [str(n) for n in range(1, len(events) + 1)]
        assert re.findall(r"^id: (\d+)$", await run(rest), re.MULTILINE) == events[3:]
        done = await answer(show)
        assert done["status"] == "completed"
        assert "hello" in done["outputs"]["post"]
