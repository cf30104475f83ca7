"""Seals what AUDIT holds, tenant by tenant: what was recorded since the last seal is under the next a minute later."""

from typing import Final

from perdure import log as logs
from perdure.bus.connection import Bus
from perdure.bus.seals import LastSeal, append_seal, audited_tenants, entries, last_seal, newest_record
from perdure.clock import Clock
from perdure.core.seal import sealed
from perdure.errors import Malformed, OutcomeUnknown, StreamFull, TailMoved, Unavailable, UnsupportedVersion
from perdure.ids import Tenant

SEALS_SECONDS: Final = 60.0

log = logs.get(__name__)


class Seals:
    """The duty; `run_once` seals all that there is. Of two sweepers at once one appends, and the other goes on."""

    def __init__(self, bus: Bus, clock: Clock) -> None:
        self._bus, self._clock = bus, clock
        self._last: dict[Tenant, LastSeal] = {}  # saves a look; the append decides

    async def run_once(self) -> int:
        """How many seals were appended. Raises Unavailable."""
        done = 0
        for tenant in await audited_tenants(self._bus):
            try:
                done += await self._seal(tenant)
            except (Malformed, UnsupportedVersion) as exc:  # not ours to go on from
                log.error("audit not sealed", tenant=tenant, why=str(exc))
        return done

    async def _seal(self, tenant: Tenant) -> int:
        done, newest = 0, await newest_record(self._bus, tenant)
        last = self._last.pop(tenant, None) or await last_seal(self._bus, tenant)
        while newest > (0 if last.seal is None else last.seal.upto):
            since = await entries(self._bus, tenant, 0 if last.seal is None else last.seal.upto)
            if not since:  # this replica is behind
                break
            seal = sealed(tenant, last.seal, since, self._clock.broker_now())
            try:
                last = await append_seal(self._bus, seal, last)
                done += 1
            except TailMoved:  # another sweeper's
                last = await last_seal(self._bus, tenant)
            except (OutcomeUnknown, StreamFull) as exc:
                raise Unavailable(f"seal of {tenant}: {exc}") from exc
        self._last[tenant] = last
        return done
