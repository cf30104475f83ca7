"""Who did what, told to the stream AUDIT: append-only by its rights, a subject a tenant. What logs do not say is here:
who tried and was refused, from where, by which key.

Records are written at least once; the broker drops a repeated `id` within its window (5 minutes).
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from perdure.bus import subject as names
from perdure.bus.connection import Bus
from perdure.bus.stream import BATCH, direct_batch, store
from perdure.core.instant import Instant
from perdure.errors import Malformed, OutcomeUnknown, Unavailable, UnsupportedVersion
from perdure.ids import Principal, StreamSeq, Tenant

FORMAT: Final = 1


class Record(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that somebody did or tried. `object` is what it was done to, `result` `done` or a problem's code.

    `facts` holds ids, digests and counts, never what somebody wrote.
    """

    v: int
    id: str
    at: Instant
    tenant: Tenant
    what: str  # `<kind>.<deed>`: request.answer, key.create, …
    principal: Principal
    object: str
    result: str
    key_id: str | None = None
    channel: str | None = None
    address: str | None = None
    facts: dict[str, Any] = {}  # Any: short values of JSON


class Audit:
    """Writes records. A service of its own decides what becomes of those that the broker does not take."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def write(self, records: Sequence[Record]) -> None:
        """Have `records` stored, in order. Raises Unavailable: write all of them again, none is stored twice.

        Only the last is waited for: the broker takes what one connection sends in the order in which it was sent.
        """
        if not records:
            return
        for record in records[:-1]:
            await self._bus.publish(_subject(record), _bytes(record), headers=_headers(record))
        last = records[-1]
        try:
            await store(self._bus, _subject(last), _bytes(last), _headers(last))
        except OutcomeUnknown as exc:
            raise Unavailable("audit: no answer") from exc


async def records(bus: Bus, tenant: Tenant, after: StreamSeq, most: int = BATCH) -> list[tuple[StreamSeq, Record]]:
    """Up to `most` records of a tenant behind the place `after`, in order, each with its place. None: that was all.

    Needs the right to read the stream, which gateways and runners do not have. Raises Malformed, Unavailable,
    UnsupportedVersion for a record of a newer version.
    """
    found = []
    for read in await direct_batch(bus, names.AUDIT, names.audit_subject(tenant), after, most):
        try:
            record = msgspec.json.decode(read.body, type=Record)
        except msgspec.MsgspecError as exc:
            raise Malformed(f"audit: the message {read.seq} is no record") from exc
        if record.v > FORMAT:
            raise UnsupportedVersion(f"audit: the record {record.id} has version {record.v}")
        found.append((read.seq, record))
    return found


def _subject(record: Record) -> str:
    return names.audit_subject(record.tenant)


def _bytes(record: Record) -> bytes:
    return msgspec.json.encode(record)


def _headers(record: Record) -> dict[str, str]:
    return {"Nats-Msg-Id": record.id}
