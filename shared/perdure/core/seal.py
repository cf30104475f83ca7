"""Seals over what AUDIT holds of a tenant: each is a hash over the seal before it and the records since. So whoever
changes, drops or slips in a record has to make every later seal anew.

A seal says which part of the stream it covers, `after` < sequence <= `upto`. The oldest records and seals go by and by,
oldest first, as the stream is bounded: what the stream's `first` sequence has passed is no finding.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

import msgspec
from msgspec import Struct

from perdure.core.instant import Instant
from perdure.errors import Malformed, UnsupportedVersion
from perdure.ids import Tenant

FORMAT: Final = 1
Entry = tuple[int, bytes]
"""A record as it is stored: its stream sequence and its bytes."""


class Seal(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One seal. `digest` (SHA-256, hex) is over `before`, the digest of the seal before, and the `records`."""

    v: int
    tenant: Tenant
    number: int
    at: Instant
    after: int
    upto: int
    records: int
    digest: str
    before: str | None = None  # none: the first


def sealed(tenant: Tenant, before: Seal | None, entries: Sequence[Entry], at: Instant) -> Seal:
    """The seal over `entries`, in their order, which are all of the tenant's records behind the seal `before`."""
    return Seal(
        v=FORMAT,
        tenant=tenant,
        number=1 if before is None else before.number + 1,
        at=at,
        after=0 if before is None else before.upto,
        upto=entries[-1][0],
        records=len(entries),
        digest=_digest(tenant, None if before is None else before.digest, entries),
        before=None if before is None else before.digest,
    )


def decoded(body: bytes) -> Seal:
    """The seal in `body`. Raises Malformed, UnsupportedVersion."""
    try:
        seal = msgspec.json.decode(body, type=Seal)
    except msgspec.MsgspecError as exc:
        raise Malformed(f"audit: no seal: {exc}") from exc
    if seal.v > FORMAT:
        raise UnsupportedVersion(f"audit: the seal {seal.number} has version {seal.v}")
    return seal


def faults(before: Seal | None, seal: Seal, entries: Sequence[Entry], first: int) -> list[str]:
    """What is wrong with `seal`, by the seal `before` it and the `entries` that are there of what it covers.

    `first` is the stream's first sequence: what lay before it has gone by age or size. Without `before`, `seal` is the
    first that is there.
    """
    found = []
    if before is None:
        if seal.number != 1 and seal.after >= first:
            found.append(f"seal {seal.number}: the seals before it are gone, and not by age")
    elif (seal.number, seal.before, seal.after) != (before.number + 1, before.digest, before.upto):
        found.append(f"seal {seal.number}: does not follow seal {before.number}")
    gone = seal.records - len(entries)
    if gone > 0 and seal.after + 1 < first:
        return found  # some have gone by age: the rest cannot be told from others
    if gone:
        found.append(f"seal {seal.number}: covers {seal.records} records, and {len(entries)} are there")
    elif _digest(seal.tenant, seal.before, entries) != seal.digest:
        found.append(f"seal {seal.number}: the records since the seal before, or itself, were changed")
    return found


def _digest(tenant: Tenant, before: str | None, entries: Sequence[Entry]) -> str:
    """Lengths are hashed too, so that no byte can move from one record to the next."""
    hashed = sha256(f"perdure.seal/{FORMAT}\n{tenant}\n{before or ''}\n".encode())
    for seq, body in entries:
        hashed.update(f"{seq} {len(body)}\n".encode())
        hashed.update(body)
    return hashed.hexdigest()
