"""The life of a service process: settings, signals, readiness, health, exit code. What it does comes from outside.

    def main() -> int:                                  # a service's __main__
        return start(GatewaySettings, serve, "gateway")

`serve(settings, service)` works until `service.stopping` is set (the first SIGTERM, SIGINT or SIGHUP), ends what it has
begun and returns; the process then exits 0. A second signal kills, though not a second SIGHUP (a closing terminal sends
several), and under `nohup` SIGHUP stays ignored. An exception that leaves `serve`, or `service.fatal`, is exit 1,
settings that do not fit are 2: a supervisor restarts the first and gives up on the second.
"""

import asyncio
import contextlib
import ctypes
import gc
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeVar

import uvloop
from aiohttp import web

from perdure import log as logs
from perdure.clock import SystemClock
from perdure.config import Address, NatsSettings
from perdure.errors import Invalid

log = logs.get(__name__)

Check = Callable[[], bool]
S = TypeVar("S", bound=NatsSettings)
GC_YOUNG: Final = 20_000  # new objects until a collection; events and frames come and go by the thousand
LAST_SECONDS: Final = 5.0  # what a process that is doomed may still take for its cleanup
_PR_SET_PDEATHSIG: Final = 1


class Service:
    """What a service process tells and is told. `clock` is the process's one clock; its offset is set by the Bus.

    `ready` is set by `serve` when it may be sent work; `checks` are asked on top at each look, by name, and must be
    cheap. `facts` (addresses, ids) stand in the log line that says ready.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.clock = SystemClock()
        self.stopping = asyncio.Event()
        self.checks: dict[str, Check] = {}
        self.facts: dict[str, object] = {}
        self.exit_code = 0
        self._ready = False
        self._started = False
        self._main: asyncio.Task[None] | None = None
        self._loop_thread = threading.get_ident()

    @property
    def ready(self) -> bool:
        """Whether it may be sent work now."""
        return self._ready and not self.stopping.is_set() and all(check() for check in self.checks.values())

    @ready.setter
    def ready(self, value: bool) -> None:
        if value and not self._ready:
            log.info("ready" if not self._started else "ready again", **self.facts)
        elif not value and self._ready:
            log.warning("not ready")
        self._ready = value
        self._started = self._started or value

    @property
    def started(self) -> bool:
        """Whether it was ready once: `/startupz`."""
        return self._started

    def stop(self) -> None:
        """Begin the end: what the first SIGTERM does."""
        self.stopping.set()

    def fatal(self, reason: str) -> None:
        """End the process with exit 1; whoever supervises it starts a new one. May be called from any thread.

        From a thread other than the loop's it does not return: the loop may be the thing that is stuck.
        """
        log.error("fatal", reason=reason)
        self.exit_code = 1
        if threading.get_ident() != self._loop_thread:
            os._exit(1)
        last = threading.Timer(LAST_SECONDS, os._exit, (1,))
        last.daemon = True
        last.start()
        if self._main is not None:
            self._main.cancel()

    def health(self, path: str) -> tuple[int, str]:
        """Status and word for `/livez`, `/startupz` or `/readyz`: for this listener and the gateway's own."""
        match path:
            case "/livez":
                return 200, "ok"
            case "/startupz":
                return (200, "ok") if self.started else (503, "starting")
            case _:
                return (200, "ok") if self.ready else (503, "draining" if self.stopping.is_set() else "not ready")

    async def run(self, main: Callable[["Service"], Awaitable[None]], health: Address | None) -> int:
        """Run `main` under signal handlers and the health listener; the exit code of the process."""
        loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        numbers = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        for number in numbers:
            loop.add_signal_handler(number, self._signalled, number)
        try:
            async with self._listener(health):
                self._main = asyncio.ensure_future(_as_coroutine(main, self))
                await self._main
        except asyncio.CancelledError:
            if not self.exit_code:
                raise
        except Exception:  # the top of the process: the reason is logged, the supervisor starts a new one
            log.exception("failed")
            self.exit_code = self.exit_code or 1
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)
        log.info("stopped", exit_code=self.exit_code)
        return self.exit_code

    def _signalled(self, number: int) -> None:
        if self.stopping.is_set():
            if number == signal.SIGHUP:
                return
            log.warning("killed by a second signal")
            os._exit(128 + number)
        log.info("stopping", signal=signal.Signals(number).name)
        self.stop()

    @contextlib.asynccontextmanager
    async def _listener(self, address: Address | None) -> AsyncIterator[None]:
        if address is None:
            yield
            return
        app = web.Application()
        for path in ("/livez", "/readyz", "/startupz"):
            app.router.add_get(path, self._answer)
        runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await runner.setup()
        try:
            await web.TCPSite(runner, address.host, address.port).start()
            host, port = runner.addresses[0][:2]
            self.facts["health"] = f"http://{Address(host, port)}"
            yield
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        status, word = self.health(request.path)
        return web.json_response({"status": word}, status=status, headers={"Cache-Control": "no-store"})


async def _as_coroutine(main: Callable[[Service], Awaitable[None]], service: Service) -> None:
    await main(service)


def run_service(
    main: Callable[[Service], Awaitable[None]], name: str, *, health: Address | None = None, fast: bool = False
) -> int:
    """Run `main` as this process's service `name`; the exit code. `fast`: on uvloop, for those that carry the load."""

    async def body() -> int:
        return await Service(name).run(main, health)

    gc.freeze()  # what was imported lives as long as the process: collections need not look at it
    gc.set_threshold(GC_YOUNG)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if fast else None) as runner:
        return runner.run(body())


def start(
    settings_type: type[S],
    serve: Callable[[S, Service], Awaitable[None]],
    name: str,
    **flags: object,
) -> int:
    """Load the settings, set up the log, run `serve`: all that a `__main__` does. The exit code (2: settings)."""
    die_with_parent()
    logs.configure(name)
    try:
        settings = settings_type.load(**flags)
    except Invalid as exc:
        for fault in exc.faults:
            log.error("setting refused", setting=fault.parameter, reason=fault.detail)
        return 2
    logs.configure(name, settings.log_level)
    return run_service(lambda service: serve(settings, service), name, health=settings.health, fast=True)


def die_with_parent() -> None:
    """Where PERDURE_PARENT names the parent: be killed when it ends, however it ends (Linux; elsewhere nothing).

    The kernel is asked first and the parent looked at after, so one that died in between is seen too.
    """
    parent = os.environ.pop("PERDURE_PARENT", None)  # not for our own children: their parent is this process
    if parent is None or not sys.platform.startswith("linux"):
        return
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != int(parent):
        os._exit(1)
