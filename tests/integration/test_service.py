"""The life of a service process: signals, readiness, and the exit code that its supervisor goes by."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from perdure.config import Address
from perdure.local.child import address_of, reserve

PROGRAM = """
import asyncio, sys, threading
from perdure.config import SweeperSettings
from perdure.service import Service, start

async def serve(settings: SweeperSettings, service: Service) -> None:
    word = sys.argv[1]
    service.facts["said"] = word
    if word == "late":
        sys.stderr.write("WAITING\\n")
        await asyncio.to_thread(sys.stdin.readline)
    service.ready = True
    if word == "raises":
        raise ValueError("this service cannot go on")
    if word == "fatal":
        service.fatal("the connection is closed for ever")
        await asyncio.sleep(600)
    if word == "fatal in a thread":
        threading.Thread(target=service.fatal, args=("the loop is stuck",)).start()
        threading.Event().wait(600)  # the loop is stuck
    if word == "fatal and hangs":
        service.fatal("and its cleanup hangs")
        try:
            await asyncio.sleep(600)
        finally:
            threading.Event().wait(600)
    if word == "unwell":
        service.checks["broker"] = lambda: False
    await service.stopping.wait()
    if word == "hangs":
        await asyncio.sleep(600)

sys.exit(start(SweeperSettings, serve, "sweeper"))
"""


class Running:
    """A service process, and what it has logged so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []

    async def until(self, event: str) -> dict[str, Any]:
        """Wait for a log line; what it says."""
        assert self.process.stderr is not None
        async with asyncio.timeout(30):
            while line := await self.process.stderr.readline():
                if line.startswith(b"{"):
                    self.lines.append(json.loads(line))
                    if self.lines[-1]["event"] == event:
                        return self.lines[-1]
                elif line.decode().strip() == event:
                    return {}
        raise AssertionError(f"it ended without {event!r}: {self.lines}")

    async def code(self) -> int:
        async with asyncio.timeout(30):
            return await self.process.wait()


@asynccontextmanager
async def service(tmp_path: Path, word: str, **environ: str) -> AsyncIterator[Running]:
    program = tmp_path / "service.py"
    program.write_text(PROGRAM)
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(program), word, env={**os.environ, "PERDURE_HEALTH": "127.0.0.1:0", **environ},
        stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield Running(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def status(url: str) -> tuple[int, int, int]:
    """What /livez, /startupz and /readyz answer."""
    found = []
    async with aiohttp.ClientSession() as http:
        for path in ("/livez", "/startupz", "/readyz"):
            async with http.get(url + path) as answer:
                found.append(answer.status)
    return found[0], found[1], found[2]


async def test_the_first_signal_lets_it_end_and_it_exits_0(tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        async with service(tmp_path, "well") as running:
            ready = await running.until("ready")
            assert (ready["said"], ready["service"], ready["pid"]) == ("well", "sweeper", running.process.pid)
            assert await status(ready["health"]) == (200, 200, 200)
            running.process.send_signal(number)
            assert (await running.until("stopped"))["exit_code"] == 0
            assert await running.code() == 0


async def test_the_second_signal_kills_what_does_not_end_and_meanwhile_it_is_not_ready(tmp_path: Path) -> None:
    async with service(tmp_path, "hangs") as running:
        health = (await running.until("ready"))["health"]
        running.process.terminate()
        await running.until("stopping")
        assert await status(health) == (200, 200, 503)
        running.process.terminate()
        assert await running.code() == 128 + signal.SIGTERM


async def test_a_terminal_that_closes_lets_it_end_however_often_it_says_so(tmp_path: Path) -> None:
    async with service(tmp_path, "hangs") as running:
        await running.until("ready")
        running.process.send_signal(signal.SIGHUP)
        await running.until("stopping")
        running.process.send_signal(signal.SIGHUP)
        running.process.send_signal(signal.SIGINT)
        assert await running.code() == 128 + signal.SIGINT


async def test_it_is_alive_before_it_has_started_and_not_ready_while_a_check_fails(tmp_path: Path) -> None:
    with reserve(Address("127.0.0.1", 0)) as held:
        health = f"http://{address_of(held)}"
        async with service(tmp_path, "late", PERDURE_HEALTH=str(address_of(held))) as running:
            await running.until("WAITING")
            assert await status(health) == (200, 503, 503)
            assert running.process.stdin is not None
            running.process.stdin.write(b"go\n")
            await running.until("ready")
            assert await status(health) == (200, 200, 200)
    async with service(tmp_path, "unwell") as running:
        assert await status((await running.until("ready"))["health"]) == (200, 200, 503)


@pytest.mark.parametrize("word", ["raises", "fatal", "fatal in a thread", "fatal and hangs"])
async def test_what_cannot_go_on_exits_1_and_says_why(tmp_path: Path, word: str) -> None:
    async with service(tmp_path, word) as running:
        line = await running.until("failed" if word == "raises" else "fatal")
        assert line["level"] == "error"
        assert line.get("reason") or "this service cannot go on" in line["exception"]
        assert await running.code() == 1


async def test_settings_that_do_not_fit_are_named_and_exit_2(tmp_path: Path) -> None:
    async with service(tmp_path, "well", PERDURE_NO_SUCH="1") as running:
        assert (await running.until("setting refused"))["setting"] == "PERDURE_NO_SUCH"
        assert await running.code() == 2


async def test_it_ends_when_its_parent_is_another_than_it_was_told(tmp_path: Path) -> None:
    """The parent died between fork and prctl: the process has been given to another one by then."""
    async with service(tmp_path, "well", PERDURE_PARENT="999999999") as running:
        assert await running.code() == 1
