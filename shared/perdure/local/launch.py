"""`perdure up` as a process of somebody else's: the demo's and the tests'."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from perdure.errors import PerdureError
from perdure.local.folder import ClientFile, read_client, read_up

READY_SECONDS: Final = 60.0
END_SECONDS: Final = 60.0
TAIL_CHARS: Final = 4000


class UpFailed(PerdureError):
    """`perdure up` did not become ready; the message names its log."""


class _Line(Struct):
    """The one line that `up --json` prints."""

    url: str


class UpProcess:
    """A running `perdure up`. `data` is its data folder, `log` the file that holds its log lines and its children's."""

    def __init__(self, process: asyncio.subprocess.Process, data: Path, log: Path) -> None:
        self.process, self.data, self.log = process, data, log
        self.url = ""

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        return self.process.pid

    @property
    def client(self) -> ClientFile:
        """Address and key."""
        found = read_client(self.data)
        if found is None or found.key is None:
            raise UpFailed(f"{self.data} has no key")
        return found

    def processes(self) -> dict[str, int]:
        """Who runs now: names (gateway, runner-1, sweeper, nats) and process ids."""
        up = read_up(self.data)
        return up.processes if up is not None else {}

    def kill(self, name: str) -> int:
        """SIGKILL the process `name`; the process id it had."""
        pid = self.processes()[name]
        os.kill(pid, signal.SIGKILL)
        return pid

    async def stop(self) -> int:
        """SIGTERM the supervisor and wait until everything has ended; its exit code."""
        if self.process.returncode is None:
            self.process.terminate()
        async with asyncio.timeout(END_SECONDS):
            return await self.process.wait()


@asynccontextmanager
async def launched(
    data: Path, *arguments: str, environ: Mapping[str, str] | None = None, log: Path
) -> AsyncIterator[UpProcess]:
    """`perdure up` on `data` and a free port, ready; stopped at the end. It dies with this process, however that ends.

    Raises UpFailed when it ends, or is not ready within READY_SECONDS.
    """
    command = [sys.executable, "-P", "-m", "perdure.cli.app", "up", "--data", str(data), "--port", "0", "--json"]
    with open(log, "ab") as stderr:  # noqa: ASYNC230  # opened once, written by the child
        process = await asyncio.create_subprocess_exec(
            *command,
            *arguments,
            env={**(os.environ if environ is None else environ), "PERDURE_PARENT": str(os.getpid())},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
        )
    up = UpProcess(process, data, log)
    try:
        up.url = await _ready(up)
        yield up
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(END_SECONDS):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


async def _ready(up: UpProcess) -> str:
    assert up.process.stdout is not None  # a pipe: see above
    try:
        async with asyncio.timeout(READY_SECONDS):
            line = await up.process.stdout.readline()
        return msgspec.json.decode(line, type=_Line).url
    except TimeoutError:
        raise UpFailed(f"`perdure up` was not ready after {READY_SECONDS:g} s, see {up.log}") from None
    except msgspec.DecodeError:
        code = await up.process.wait()
        raise UpFailed(f"`perdure up` ended with exit code {code}, see {up.log}") from None


def tail(log: Path) -> str:
    """The end of a log file."""
    return log.read_text(errors="replace")[-TAIL_CHARS:] if log.exists() else ""
