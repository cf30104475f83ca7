"""Seals in AUDIT: read, appended by compare-and-set, and held against the records that they cover."""

from collections.abc import AsyncIterator
from typing import Final

import msgspec
from msgspec import Struct

from perdure.bus import subject as names
from perdure.bus.connection import Bus
from perdure.bus.inventory import first_sequence, subjects
from perdure.bus.stream import BATCH, Ask, direct_batch, leader_get, store
from perdure.bus.subject import AUDIT
from perdure.core.instant import Instant, instant, later
from perdure.core.seal import Entry, Seal, decoded, faults
from perdure.ids import StreamSeq, Tenant, is_token

LATE_SECONDS: Final = 600.0  # a record that is older and not sealed is a finding


class LastSeal(Struct, frozen=True):
    """The last seal of a tenant, and where it lies: 0 and None where there is none yet."""

    at: StreamSeq = StreamSeq(0)
    seal: Seal | None = None


class Verdict(Struct, kw_only=True):
    """What the seals of a tenant say about its records."""

    tenant: Tenant
    findings: list[str]
    seals: int = 0
    records: int = 0  # that seals cover and that are there
    unsealed: int = 0
    first: Seal | None = None
    last: Seal | None = None
    known: bool | None = None  # whether the digest that was asked for is that of a seal


async def audited_tenants(bus: Bus) -> list[Tenant]:
    """Every tenant of which AUDIT holds a record, by name. Raises Unavailable."""
    found = [subject.partition(".")[2] for subject in await subjects(bus, AUDIT, "audit.*")]
    return sorted(Tenant(name) for name in found if is_token(name))


async def last_seal(bus: Bus, tenant: Tenant) -> LastSeal:
    """The last seal of a tenant. Raises Malformed, Unavailable, UnsupportedVersion."""
    found = await leader_get(bus, AUDIT, Ask(last_by_subj=names.seal_subject(tenant)))
    return LastSeal() if found is None else LastSeal(found.seq, decoded(found.body))


async def newest_record(bus: Bus, tenant: Tenant) -> StreamSeq:
    """Where the newest record of a tenant lies; 0 when there is none. Raises Unavailable."""
    found = await leader_get(bus, AUDIT, Ask(last_by_subj=names.audit_subject(tenant)))
    return StreamSeq(0) if found is None else found.seq


async def entries(bus: Bus, tenant: Tenant, after: int) -> list[Entry]:
    """The records of a tenant behind a place, in order, BATCH at most. Raises Unavailable."""
    found = await direct_batch(bus, AUDIT, names.audit_subject(tenant), after, BATCH)
    return [(read.seq, read.body) for read in found]


async def append_seal(bus: Bus, seal: Seal, last: LastSeal) -> LastSeal:
    """Append `seal` if `last` is still the last. Raises TailMoved, OutcomeUnknown, StreamFull, Unavailable."""
    headers = {"Nats-Expected-Last-Subject-Sequence": str(last.at)}
    at = await store(bus, names.seal_subject(seal.tenant), msgspec.json.encode(seal), headers)
    return LastSeal(at, seal)


async def verified(bus: Bus, tenant: Tenant, now: Instant, known: str | None = None) -> Verdict:
    """Hold every seal of a tenant against its records. `known`: a digest that some seal must bear.

    Raises Malformed for what is no seal, Unavailable, UnsupportedVersion.
    """
    first = await first_sequence(bus, AUDIT)
    while True:
        verdict = await _held(bus, tenant, now, known, first)
        before, first = first, await first_sequence(bus, AUDIT)
        if not verdict.findings or first == before:  # else what is missed may have gone by age while we read
            return verdict


async def _held(bus: Bus, tenant: Tenant, now: Instant, known: str | None, first: int) -> Verdict:
    verdict = Verdict(tenant=tenant, findings=[], known=None if known is None else False)
    records = _Records(bus, tenant)
    async for seal in _seals(bus, tenant):
        mine = await records.upto(seal.upto)
        verdict.findings += faults(verdict.last, seal, mine, first)
        verdict.seals, verdict.records = verdict.seals + 1, verdict.records + len(mine)
        verdict.first, verdict.last = verdict.first or seal, seal
        verdict.known = verdict.known or (None if known is None else seal.digest == known)
    async for stored_at in records.rest():
        verdict.unsealed += 1
        if verdict.unsealed == 1 and stored_at < later(now, -LATE_SECONDS):
            verdict.findings.append(f"what was recorded since {stored_at} is not sealed: does a sweeper run?")
    if known is not None and not verdict.known:
        verdict.findings.append("no seal has the digest that was given")
    return verdict


async def _seals(bus: Bus, tenant: Tenant) -> AsyncIterator[Seal]:
    after = 0
    while page := await direct_batch(bus, AUDIT, names.seal_subject(tenant), after, BATCH):
        for read in page:
            yield decoded(read.body)
        after = page[-1].seq


class _Records:
    """The records of a tenant, from the first one on, a page in memory."""

    def __init__(self, bus: Bus, tenant: Tenant) -> None:
        self._bus, self._subject = bus, names.audit_subject(tenant)
        self._page: list[tuple[int, bytes, Instant]] = []
        self._after, self._ended = 0, False

    async def upto(self, last: int) -> list[Entry]:
        """Those that were not taken yet, up to the sequence `last`."""
        taken: list[Entry] = []
        while await self._more() and self._page[0][0] <= last:
            here = [entry for entry in self._page if entry[0] <= last]
            taken += [(seq, body) for seq, body, _ in here]
            self._page = self._page[len(here) :]
        return taken

    async def rest(self) -> AsyncIterator[Instant]:
        """When each of the others was stored."""
        while await self._more():
            for _, _, stored_at in self._page:
                yield stored_at
            self._page = []

    async def _more(self) -> bool:
        if not self._page and not self._ended:
            found = await direct_batch(self._bus, AUDIT, self._subject, self._after, BATCH)
            self._page = [(read.seq, read.body, instant(read.at)) for read in found]
            self._after, self._ended = (found[-1].seq, False) if found else (self._after, True)
        return bool(self._page)
