"""One process of `perdure up` that is kept alive: started again with back-off, given up after too many deaths."""

import asyncio
import contextlib
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import aiohttp

from perdure import log as logs
from perdure.clock import Clock
from perdure.config import Address

log = logs.get(__name__)

FIRST_PAUSE: Final = 0.1  # seconds before the first restart; doubled at each further one
LAST_PAUSE: Final = 5.0
WELL_AFTER: Final = 10.0  # a process that lived so long starts again with the first pause
DEATHS: Final = 10
DEATHS_WITHIN: Final = 60.0
SETTINGS_REFUSED: Final = 2  # the exit code of a service that does not accept its settings: it never will


class Deaths:
    """When something died lately: how long to wait before it is started again, and when to give up."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()
        self._in_a_row = 0

    def count(self, now: float, lived: float) -> float | None:
        """Count a death at `now` (monotonic) after `lived` seconds: the pause in seconds, None to give up."""
        self._times.append(now)
        while self._times[0] <= now - DEATHS_WITHIN:
            self._times.popleft()
        if len(self._times) >= DEATHS:
            return None
        self._in_a_row = 1 if lived >= WELL_AFTER else self._in_a_row + 1
        return min(LAST_PAUSE, FIRST_PAUSE * 2.0 ** (self._in_a_row - 1))


class Child:
    """A service process: `run` keeps it alive, `stop` ends it, `ready` asks its health listener.

    It has a session of its own, so that a Ctrl-C on the terminal reaches the supervisor alone and the end keeps its
    order; by PERDURE_PARENT it dies with the supervisor. Settings and credentials travel by environment, never by argv.
    """

    def __init__(
        self,
        name: str,
        module: str,
        python: str,
        environ: Mapping[str, str],
        health: Address,
        clock: Clock,
        *,
        grace: float,
        changed: Callable[[], None],
        gave_up: Callable[[str], None],
        yields: int = 0,
    ) -> None:
        """`yields`: the niceness that is added to its own, where others on this machine go first."""
        self.name, self.health, self._yields = name, health, yields
        self._argv: Sequence[str] = (python, "-P", "-m", module)
        self._environ = dict(environ)
        self._clock, self._grace = clock, grace
        self._changed, self._gave_up = changed, gave_up
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """The process that runs now."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def run(self) -> None:
        """Keep the process alive until `stop`, or until it is given up."""
        deaths = Deaths()
        try:
            while not self._stopping.is_set():
                started = self._clock.monotonic()
                self._process = await asyncio.create_subprocess_exec(
                    *self._argv,
                    env=self._environ | {"PERDURE_PARENT": str(os.getpid())},
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    start_new_session=True,
                )
                if self._yields:
                    _be_nice(self._process.pid, self._yields)
                self._changed()
                code = await self._process.wait()
                self._changed()
                if self._stopping.is_set():
                    return
                now = self._clock.monotonic()
                pause = None if code == SETTINGS_REFUSED else deaths.count(now, now - started)
                if pause is None:
                    why = "it refused its settings" if code == SETTINGS_REFUSED else f"{DEATHS} deaths in a minute"
                    log.error("service given up", name=self.name, exit_code=code, why=why)
                    self._gave_up(f"{self.name}: {why} (last exit code {code})")
                    return
                log.warning("service died", name=self.name, exit_code=code, restart_in=pause)
                await _wait(self._stopping, pause)
        finally:
            self._ended.set()

    async def stop(self) -> None:
        """End the process: SIGTERM, then SIGKILL after `grace` seconds. Returns when it is gone."""
        self._stopping.set()
        self._signal(signal.SIGTERM)
        if not await _wait(self._ended, self._grace):
            log.warning("service killed", name=self.name, grace_seconds=self._grace)
            self.kill()
            await self._ended.wait()

    def kill(self) -> None:
        """SIGKILL, without waiting."""
        self._stopping.set()
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def ready(self, http: aiohttp.ClientSession) -> bool:
        """Whether the process says that it may be sent work."""
        try:
            async with http.get(f"http://{self.health}/readyz", timeout=aiohttp.ClientTimeout(total=2)) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False


def _be_nice(pid: int, yields: int) -> None:
    """Before it has threads of its own, which inherit it."""
    with contextlib.suppress(OSError):  # gone already, or not to be had here: it works all the same
        os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, pid) + yields)


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    """Whether `event` was set within `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def either(*events: asyncio.Event) -> None:
    """Wait for the first of `events`."""
    tasks = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def reserve(address: Address) -> socket.socket:
    """A port that stays ours while processes that listen on it come and go; raises OSError where it is taken.

    Bound with SO_REUSEADDR and never listening: a child binds the same port beside it, nobody is given it meanwhile.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    held = socket.socket(family, socket.SOCK_STREAM)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((address.host, address.port))
    except BaseException:
        held.close()
        raise
    return held


def address_of(held: socket.socket) -> Address:
    """The address that `reserve` holds."""
    host, port = held.getsockname()[:2]
    return Address(host, port)
