"""What the doctor found, and how fast it may look."""

from typing import Final, Literal

from msgspec import Struct

from perdure.clock import Clock
from perdure.ids import JobRef

Area = Literal["configuration", "broker", "log", "row", "doorbell", "alarm", "blob", "archive"]
REQUESTS_PER_SECOND: Final = 2000.0


class Finding(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that is wrong. `invariant` is that of `core.verify` or of the design; `repaired`: it was, just now."""

    area: Area
    text: str
    invariant: str | None = None
    tenant: str | None = None
    job_id: str | None = None
    seq: int | None = None
    repaired: bool = False

    def __str__(self) -> str:
        where = "" if self.job_id is None else f" {self.job_id}"
        at = "" if self.seq is None else f" at {self.seq}"
        invariant = "" if self.invariant is None else f" [{self.invariant}]"
        return f"{self.area}{where}{at}{invariant}: {self.text}{' (repaired)' if self.repaired else ''}"


class Report:
    """Everything that was found, and how much was looked at."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.looked: dict[str, int] = {}

    def add(
        self, area: Area, text: str, *, ref: JobRef | None = None, invariant: str | None = None,
        seq: int | None = None, repaired: bool = False,
    ) -> None:  # fmt: skip
        """Note a finding."""
        tenant, job = (None, None) if ref is None else (ref.tenant, ref.job)
        finding = Finding(
            area=area, text=text, invariant=invariant, tenant=tenant, job_id=job, seq=seq, repaired=repaired
        )
        self.findings.append(finding)

    def count(self, what: str, number: int = 1) -> None:
        """Note that so much was looked at."""
        self.looked[what] = self.looked.get(what, 0) + number


class Pace:
    """A bound for how much is asked of a system that has other work: REQUESTS_PER_SECOND on average."""

    def __init__(self, clock: Clock, per_second: float = REQUESTS_PER_SECOND) -> None:
        self._clock, self._seconds = clock, 1.0 / per_second
        self._free_at = clock.monotonic()

    async def spend(self, requests: int = 1) -> None:
        """Wait until so many more requests may be sent."""
        now = self._clock.monotonic()
        self._free_at = max(self._free_at, now) + requests * self._seconds
        if self._free_at - now > 0.05:
            await self._clock.sleep(self._free_at - now)
