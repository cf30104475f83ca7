"""What this gateway tells AUDIT: who did or tried what, from where. Written behind the answers, never before them.

A record waits in memory for a moment and is written again until the broker has it. An answer that is in its log stands
whatever becomes of its record: what a log says, the projector writes to AUDIT as well, under the event's id. Only the
address, and what was refused, can be lost with this process, in the moment before they are written; what does not find
room is logged instead.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Final

import msgspec
import structlog
import uuid_utils
from aiohttp import web

from perdure.bus.audit import FORMAT, Audit, Record
from perdure.bus.connection import Bus
from perdure.clock import Clock
from perdure.errors import PerdureError, Unavailable
from perdure.ids import Principal, Tenant
from perdure_gateway.auth import CALLER, channel

MOST_WAITING: Final = 20_000
BATCH: Final = 256
AGAIN_SECONDS: Final = 0.5
LAST_SECONDS: Final = 2.0  # how long the rest is written when the gateway ends
DONE: Final = "done"

log = structlog.get_logger(__name__)


class Trail:
    """Records on their way to AUDIT."""

    def __init__(self, bus: Bus, clock: Clock) -> None:
        self._audit = Audit(bus)
        self._clock = clock
        self._waiting: deque[Record] = deque()
        self._some = asyncio.Event()

    def note(
        self,
        request: web.Request,
        what: str,
        about: str,
        result: str = DONE,
        **facts: Any,  # Any: short values of JSON
    ) -> None:
        """Record what the caller of `request` did to `about`, or tried. Facts that are None are left out."""
        caller = request[CALLER]
        by = (caller.tenant, caller.principal)
        self.put(request, *by, what, about, result, caller.key_id, channel=channel(request), facts=facts)

    def put(
        self,
        request: web.Request,
        tenant: Tenant,
        principal: Principal,
        what: str,
        about: str,
        result: str = DONE,
        key_id: str | None = None,
        *,
        channel: str,
        facts: dict[str, Any],  # Any: short values of JSON
    ) -> None:
        """Record what `principal` did or tried; for a caller without a key, such as the holder of a link."""
        record = Record(
            v=FORMAT,
            id=str(uuid_utils.uuid7()),
            at=self._clock.broker_now(),
            tenant=tenant,
            what=what,
            principal=principal,
            object=about,
            result=result,
            key_id=key_id,
            channel=channel,
            address=request.remote,
            facts={name: value for name, value in facts.items() if value is not None},
        )
        if len(self._waiting) >= MOST_WAITING:
            _lost([self._waiting.popleft()])
        self._waiting.append(record)
        self._some.set()

    async def written(self) -> None:
        """Write what waits, to the last record. Raises Unavailable: what the broker does not have still waits."""
        while self._waiting:
            batch = [self._waiting[i] for i in range(min(BATCH, len(self._waiting)))]
            try:
                await self._audit.write(batch)
            except Unavailable:
                raise
            except PerdureError:  # one of them will never be taken
                await self._one_by_one(batch)
            for record in batch:
                if self._waiting and self._waiting[0] is record:
                    self._waiting.popleft()

    async def _one_by_one(self, batch: Sequence[Record]) -> None:
        for record in batch:
            try:
                await self._audit.write([record])
            except Unavailable:
                raise
            except PerdureError as exc:
                log.error("audit refused", error=str(exc))
                _lost([record])

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Write records while the context lasts, and what is left at its end."""
        writer = asyncio.create_task(self._write())
        try:
            yield
        finally:
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writer
            try:
                async with asyncio.timeout(LAST_SECONDS):
                    await self.written()
            except (Unavailable, TimeoutError):
                _lost(self._waiting)

    async def _write(self) -> None:
        while True:
            await self._some.wait()
            self._some.clear()
            try:
                await self.written()
            except Unavailable as exc:
                log.warning("audit waits", waiting=len(self._waiting), error=str(exc))
                await self._clock.sleep(AGAIN_SECONDS)
                self._some.set()


def _lost(records: Iterable[Record]) -> None:
    for record in records:
        log.error("audit record not written", record=msgspec.to_builtins(record))
