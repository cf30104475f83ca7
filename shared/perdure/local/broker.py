"""Keeps the embedded broker well: starts it again when it ends, and when it, or a canary, says that it cannot write."""

import asyncio
import shutil
from collections.abc import Callable
from typing import Final

from perdure import log as logs
from perdure.bus import canary
from perdure.bus.connection import Bus
from perdure.clock import Clock
from perdure.errors import Unavailable
from perdure.ids import Tenant
from perdure.local.child import DEATHS, Deaths
from perdure.local.folder import DataFolder, NatsFile, OperatorFile
from perdure.local.server import Credential, NatsServer

log = logs.get(__name__)

LOOK_SECONDS: Final = 0.2  # how soon a dead broker is noticed
HEALTH_SECONDS: Final = 1.0
CANARY_SECONDS: Final = 60.0
MISSES: Final = 2
STOP_SECONDS: Final = 2.0
ROOM_BYTES: Final = 64 * 1024 * 1024  # with less left on the disk a restart would not help: it is left alone


class BrokerWatch:
    """`run` watches a started server until `stop`. A write error of the disk kills one stream until a restart, and only
    the full `/healthz` or an append there tells. Each second it is asked, and each minute, with `bus` (the supervisor's
    connection), a canary is appended, to one stream after the other, to the same one again a second after a miss: two
    misses in a row, with room on the disk, restart the broker. Not more often, because an append to a stream that is
    at rest makes the broker read its whole last block (8 MB) and keep it for a while. Where somebody else has taken its
    port meanwhile it takes another one, and `moved` says so: nobody who knows the old one will find it again.
    """

    def __init__(
        self,
        server: NatsServer,
        clock: Clock,
        *,
        changed: Callable[[], None],
        gave_up: Callable[[str], None],
        moved: Callable[[], None] | None = None,
        bus: Bus | None = None,
    ) -> None:
        self._server, self._clock, self._bus = server, clock, bus
        self._canaries = canary.subjects()
        self._next, self._canary_at = next(self._canaries), clock.monotonic()
        self._changed, self._gave_up, self._moved = changed, gave_up, moved
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
                misses = 0 if await self._well() else misses + 1
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

    async def _well(self) -> bool:
        """One look: what the broker says of itself, and whether it takes the next canary."""
        well = await asyncio.to_thread(self._server.healthy)
        if self._bus is None or not well or self._clock.monotonic() < self._canary_at:
            return well
        if not await canary.taken(self._bus, self._next):
            log.warning("canary not taken", subject=self._next)
            return False
        self._next, self._canary_at = next(self._canaries), self._clock.monotonic() + CANARY_SECONDS
        return True

    def _start(self) -> None:
        """On this thread, the main one: the broker is told to end with the thread that started it."""
        displaced = self._moved is not None and self._server.displaced()
        if displaced:
            log.warning("somebody else has the broker's port, it takes another", was=self._server.url)
            self._server.move()
        try:
            self._server.start()
        except Unavailable as exc:
            log.error("broker did not start", reason=str(exc)[-500:])
        else:
            log.info("broker started again", pid=self._server.pid)
        self._changed()
        if displaced and self._moved is not None:
            self._moved()


def tell(folder: DataFolder, server: NatsServer, watcher: Credential, tenant: Tenant, database: str) -> None:
    """Write down where the broker is, who may follow `tenant` there, and what an operator needs."""
    folder.write_nats(NatsFile(server.url, watcher.user, watcher.password, f"_INBOX.{tenant}"))
    operator = server.credentials["sweeper"]
    folder.write_operator(OperatorFile(server.url, operator.user, operator.password, database))
