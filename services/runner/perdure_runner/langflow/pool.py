"""Children that are ready to run a flow: one process that has lfx in memory forks them, a few ahead.

A child is used once. Whatever becomes of it concerns its job alone; when the process that forks dies, its children die
with it and another one is started. Nothing of the runner's environment reaches them but what the operator lists.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import structlog
from msgspec import Struct

from perdure.clock import Clock
from perdure.errors import Malformed, Unavailable
from perdure_runner.langflow.deaths import UNKNOWN
from perdure_runner.langflow.frames import HEAD, FromChild, FromParent, encode, from_child, size

log = structlog.get_logger(__name__)

SERVER: Final = "perdure_runner.langflow.child.server"
START_SECONDS: Final = 120.0  # to import lfx
TAKE_SECONDS: Final = 120.0  # for a child that is ready
MOST_SAID: Final = 2_000  # characters of an error that are logged
AGAIN_SECONDS: Final = 2.0  # before the process that forks is started again
ALWAYS: Final = ("PATH", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")  # of the runner's environment


class Confines(Struct, frozen=True, kw_only=True):
    """`ahead`: children that wait for work. `memory_mb`, `cpu_seconds`: of each. `environ`: all that they see."""

    ahead: int = 2
    memory_mb: int = 1024
    cpu_seconds: int = 3_600
    environ: Mapping[str, str] = {}


def visible(environ: Mapping[str, str], listed: tuple[str, ...]) -> dict[str, str]:
    """What children see of `environ`: what every process needs to run at all, and what the operator lists."""
    return {name: environ[name] for name in (*ALWAYS, *listed) if name in environ}


class Child:
    """A process that runs one pass. `status` is how it ended, as `waitpid` has it, once that is known."""

    def __init__(self, end: socket.socket, server: "_Server") -> None:
        self._end = end
        self._server = server
        self.pid: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def open(self) -> None:
        """Connect to it. Raises Unavailable when it could not be forked."""
        await asyncio.shield(self.pid)  # who waits no longer takes nothing from the process that tells it
        self._reader, self._writer = await asyncio.open_unix_connection(sock=self._end)

    async def send(self, frame: FromParent) -> None:
        """Say it; nobody hears it where the child has died."""
        assert self._writer is not None, "open"
        with contextlib.suppress(ConnectionError):
            self._writer.write(encode(frame))
            await self._writer.drain()

    async def receive(self) -> FromChild | None:
        """The next thing that it says, None when it has ended. Raises Malformed."""
        assert self._reader is not None, "open"
        try:
            head = await self._reader.readexactly(HEAD)
            return from_child(await self._reader.readexactly(size(head)))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def kill(self) -> None:
        """SIGKILL, for it and all that it has started."""
        if self.pid.done() and not self.pid.cancelled() and self.pid.exception() is None:
            self._server.ask(f"kill {self.pid.result()}")

    def drop(self) -> None:
        """Let go of the pipe of one that nobody has opened: it ends then."""
        self._end.close()

    def died(self, status: int) -> None:
        """Note how it ended. What it has said can still be read; what it has started and left behind says no more."""
        self.status.set_result(status)
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_RD)

    async def close(self) -> None:
        """Kill it where it still runs, and let go of the pipe."""
        if not self.status.done():
            self.kill()
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(ConnectionError):
                await self._writer.wait_closed()
        else:
            self._end.close()


class Pool:
    """The children of one runner."""

    def __init__(self, confines: Confines, clock: Clock) -> None:
        self._confines = confines
        self._clock = clock
        self._server: _Server | None = None
        self._changed = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def running(cls, confines: Confines, clock: Clock) -> AsyncIterator["Pool"]:
        """A pool whose children are there soon; all of them end with the context."""
        pool = cls(confines, clock)
        keeping = asyncio.create_task(pool._keep())
        try:
            yield pool
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])

    @property
    def ready(self) -> bool:
        """Whether a child could be taken now."""
        return self._server is not None

    async def take(self) -> Child:
        """A fresh child. Raises Unavailable when none can be had."""
        try:
            async with asyncio.timeout(TAKE_SECONDS):
                while True:
                    while self._server is None:
                        self._changed.clear()
                        await self._changed.wait()
                    with contextlib.suppress(Unavailable):  # it has just died: the next one forks
                        return await self._server.take()
                    await asyncio.sleep(0)
        except TimeoutError:
            raise Unavailable("no process to run the flow in") from None

    async def _keep(self) -> None:
        """Keep a process that forks, for as long as the pool runs."""
        while True:
            async with _Server.running(self._confines) as server:
                if server is not None:
                    self._server = server
                    self._changed.set()
                    try:
                        await server.serve()
                    except Malformed as exc:
                        log.error("the process that runs flows of Langflow is given up", error=str(exc))
                    self._server = None
            log.warning("the process that runs flows of Langflow died", again_in=AGAIN_SECONDS)
            await self._clock.sleep(AGAIN_SECONDS)


class _Server:
    """The process that forks."""

    def __init__(self, confines: Confines, control: socket.socket) -> None:
        self._ahead = confines.ahead
        self._control = control
        self._waiting: deque[Child] = deque()  # ready, or soon
        self._forking: deque[Child] = deque()  # asked for, in the order of the answers
        self._alive: dict[int, Child] = {}
        self._gone = False

    @classmethod
    @asynccontextmanager
    async def running(cls, confines: Confines) -> AsyncIterator["_Server | None"]:
        """It, ready; None when it did not come up. It ends with the context, and its folder goes."""
        folder = Path(tempfile.mkdtemp(prefix="perdure-langflow-"))
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        environ = {**confines.environ, "HOME": str(folder), "TMPDIR": str(folder), "LANGFLOW_CONFIG_DIR": str(folder)}
        said = folder / "server.log"
        with said.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", SERVER, str(theirs.fileno()), str(folder),
                str(confines.memory_mb), str(confines.cpu_seconds),
                env=environ, pass_fds=[theirs.fileno()], cwd=folder, start_new_session=True,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=stderr,
            )  # fmt: skip
        theirs.close()
        server = cls(confines, ours)
        try:
            if await server._started():
                yield server
            else:  # no flow has run: what it said is its own
                log.error("lfx cannot be imported", said=said.read_text(errors="replace")[-MOST_SAID:])
                yield None
        finally:
            server._end()
            ours.close()  # it ends then, and kills what it has forked
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            shutil.rmtree(folder, ignore_errors=True)

    async def take(self) -> Child:
        """The child that has waited longest. Raises Unavailable when the process dies meanwhile."""
        while len(self._waiting) <= self._ahead and not self._gone:
            self._fork()
        if self._gone or not self._waiting:
            raise Unavailable("the process that forks has died")
        child = self._waiting.popleft()
        try:
            await child.open()
        except BaseException:
            child.drop()
            raise
        return child

    async def serve(self) -> None:
        """Hear what it says, until it has died."""
        for _ in range(self._ahead):
            self._fork()
        while (line := await self._line()) is not None:
            match line.split():
                case ["forked", pid]:
                    child = self._forking.popleft()
                    self._alive[int(pid)] = child
                    child.pid.set_result(int(pid))
                case ["dead", pid, status]:
                    dead = self._alive.pop(int(pid))
                    dead.died(int(status))
                    if dead in self._waiting:
                        self._waiting.remove(dead)
                        dead.drop()
                case _:
                    raise Malformed(f"the process that forks said {line!r}")

    def ask(self, line: str, ends: tuple[int, ...] = ()) -> None:
        """Tell it something; it reads all the time, so that this does not wait."""
        with contextlib.suppress(OSError):
            socket.send_fds(self._control, [f"{line}\n".encode()], ends)

    def _fork(self) -> None:
        ours, theirs = socket.socketpair()
        child = Child(ours, self)
        try:
            socket.send_fds(self._control, [b"fork\n"], [theirs.fileno()])
        except OSError:
            self._gone = True
            ours.close()
            return
        finally:
            theirs.close()
        self._forking.append(child)
        self._waiting.append(child)

    async def _started(self) -> bool:
        try:
            async with asyncio.timeout(START_SECONDS):
                return await self._line() == "ready"
        except TimeoutError:
            return False

    _buffer = b""

    async def _line(self) -> str | None:
        loop = asyncio.get_running_loop()
        while b"\n" not in self._buffer:
            try:
                more = await loop.sock_recv(self._control, 4_096)
            except OSError:
                return None
            if not more:
                return None
            self._buffer += more
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def _end(self) -> None:
        self._gone = True
        for child in self._forking:
            child.pid.set_exception(Unavailable("the process that forks has died"))
            child.pid.exception()  # somebody may never ask
        for pid, child in self._alive.items():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)  # children die with it; what they have started does not
            child.status.set_result(UNKNOWN)
        for child in self._waiting:
            child.drop()
