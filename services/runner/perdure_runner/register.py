"""Tells the gateways that this runner is there and what it can run, at its start and every minute; hears "drain"."""

import contextlib
from collections.abc import Callable
from typing import Final

import structlog

from perdure.bus.call import Calls
from perdure.bus.callbodies import REGISTER, Register, Registered
from perdure.clock import Clock
from perdure.errors import PerdureError, Unavailable, UnsupportedVersion

EVERY_SECONDS: Final = 60.0
FIRST_PAUSE: Final = 0.2
LAST_PAUSE: Final = 5.0
LEAVE_SECONDS: Final = 1.0

log = structlog.get_logger(__name__)


class Registration:
    """One runner's. `record()` says what is to be told now; `drain()` is called once a gateway asks for it."""

    def __init__(
        self,
        calls: Calls,
        record: Callable[..., Register],
        drain: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._calls = calls
        self._record = record
        self._drain = drain
        self._clock = clock
        self.known = False
        """Whether a gateway has heard of this runner."""
        self._refused: set[tuple[str, str, str]] = set()

    async def first(self) -> Registered:
        """Ask until a gateway has answered, however long that takes: the flows are known from then on.

        Raises what no waiting cures: TooLarge, Malformed, Invalid.
        """
        pause, waiting = FIRST_PAUSE, False
        while True:
            try:
                answer = await self._ask()
            except (Unavailable, UnsupportedVersion) as exc:
                if not waiting:
                    log.warning("waiting for a gateway to register at", why=str(exc))
                    waiting = True
                await self._clock.sleep(pause)
                pause = min(LAST_PAUSE, 2 * pause)
            else:
                return answer

    async def keep(self) -> None:
        """Register again every minute, for ever. A gateway that is away is no reason to stop working."""
        while True:
            await self._clock.sleep(EVERY_SECONDS)
            try:
                await self._ask()
            except PerdureError as exc:
                log.warning("not registered", why=str(exc))

    async def leave(self) -> None:
        """Say that this runner ends now; whether anybody hears it does not matter."""
        with contextlib.suppress(PerdureError):
            await self._calls.ask(REGISTER, self._record(leaving=True), Registered, within=LEAVE_SECONDS)

    async def _ask(self) -> Registered:
        answer = await self._calls.ask(REGISTER, self._record(), Registered)
        self.known = True
        for name, tenants in answer.flows.items():
            for tenant, stored in tenants.items():
                problem = (name, tenant, stored.problem or "")
                if stored.problem is not None and problem not in self._refused:
                    self._refused.add(problem)
                    log.error("flow not stored", flow=name, tenant=tenant, problem=stored.problem)
        if answer.drain:
            log.warning("told to drain")
            self._drain()
        return answer
