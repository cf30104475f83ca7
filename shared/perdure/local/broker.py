"""Keeps the embedded broker well: starts it again when it ends, or when it says that a stream cannot be written."""

import asyncio
import shutil
from collections.abc import Callable
from typing import Final

from perdure import log as logs
from perdure.clock import Clock
from perdure.errors import Unavailable
from perdure.local.child import DEATHS, Deaths
from perdure.local.server import NatsServer

log = logs.get(__name__)

LOOK_SECONDS: Final = 0.2  # how soon a dead broker is noticed
HEALTH_SECONDS: Final = 1.0
MISSES: Final = 2
STOP_SECONDS: Final = 2.0
ROOM_BYTES: Final = 64 * 1024 * 1024  # with less left on the disk a restart would not help: it is left alone


class BrokerWatch:
    """`run` watches a started server until `stop`. A write error of the disk kills one stream until a restart, and only
    the full `/healthz` tells (reliability.md, hazard 22): two misses in a row, with room on the disk, restart it.
    """

    def __init__(
        self, server: NatsServer, clock: Clock, *, changed: Callable[[], None], gave_up: Callable[[str], None]
    ) -> None:
        self._server, self._clock = server, clock
        self._changed, self._gave_up = changed, gave_up
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Stop watching; the server stays as it is."""
        self._stopping.set()

    async def run(self) -> None:
        """Watch until `stop`, or until the broker is given up."""
        deaths = Deaths()
        started = looked = self._clock.monotonic()
        misses = 0
        while not self._stopping.is_set():
            now = self._clock.monotonic()
            if self._server.running and now - looked >= HEALTH_SECONDS:
                looked = now
                misses = 0 if await asyncio.to_thread(self._server.healthy) else misses + 1
                if misses >= MISSES and not self._stopping.is_set():
                    misses = 0
                    if shutil.disk_usage(self._server.folder).free < ROOM_BYTES:
                        log.error("broker unhealthy, disk full", folder=str(self._server.folder))
                    else:
                        log.error("broker unhealthy, restarted")
                        await asyncio.to_thread(self._server.stop, grace_seconds=STOP_SECONDS)
            if not self._server.running and not self._stopping.is_set():
                now = self._clock.monotonic()
                pause = deaths.count(now, now - started)
                if pause is None:
                    log.error("broker given up", why=f"{DEATHS} deaths in a minute", server_log=str(self._server.log))
                    self._gave_up(f"nats: {DEATHS} deaths in a minute")
                    return
                log.warning("broker died", restart_in=pause)
                await self._clock.sleep(pause)
                started, misses = self._clock.monotonic(), 0
                self._start()
            await self._clock.sleep(LOOK_SECONDS)

    def _start(self) -> None:
        """On this thread, the main one: the broker is told to end with the thread that started it."""
        try:
            self._server.start()
        except Unavailable as exc:
            log.error("broker did not start", reason=str(exc)[-500:])
        else:
            log.info("broker started again", pid=self._server.pid)
        self._changed()
