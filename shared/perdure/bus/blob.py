"""Blobs: values too large for an event, and flow definitions, under the hash of their bytes.

A blob is chunks `blob.<tenant>.<sha256>.<i>`. Chunk 0 is written last and says how many there are, so a blob that has
one is whole. Putting twice is the same as once: a young chunk 0 means done; an old one is written again, all of it,
because a collector may be about to purge the copy that it saw.
"""

from datetime import timedelta
from hashlib import sha256
from typing import Final

from perdure.bus.connection import Bus
from perdure.bus.stream import Ask, Read, direct_batch, direct_get, leader_get, store
from perdure.bus.subject import BLOB, blob_subject
from perdure.core.instant import moment
from perdure.errors import Malformed, NotFound, OutcomeUnknown, TooLarge, Unavailable
from perdure.ids import Digest, Tenant

MOST_BYTES: Final = 64 * 1024 * 1024
CHUNK_BYTES: Final = 512 * 1024
YOUNG: Final = timedelta(hours=12)  # half of the age at which a blob that nothing names is collected
CHUNKS: Final = "Perdure-Chunks"


class Blobs:
    """The blobs over one connection, for who is handed them."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def put(self, tenant: Tenant, body: bytes) -> Digest:
        """`put` over this connection."""
        return await put(self._bus, tenant, body)

    async def get(self, tenant: Tenant, digest: Digest) -> bytes:
        """`get` over this connection."""
        return await get(self._bus, tenant, digest)


def digest_of(body: bytes) -> Digest:
    """The name of a blob with these bytes."""
    return Digest(sha256(body).hexdigest())


async def put(bus: Bus, tenant: Tenant, body: bytes) -> Digest:
    """Store `body`; its name. Raises TooLarge, Unavailable (it may be there in part: put again), StreamFull."""
    if len(body) > MOST_BYTES:
        raise TooLarge(f"a blob of {len(body)} bytes, at most {MOST_BYTES}")
    digest = digest_of(body)
    first = blob_subject(tenant, digest, 0)
    there = await leader_get(bus, BLOB, Ask(last_by_subj=first))
    if there is not None and moment(bus.clock.broker_now()) - there.at < YOUNG:
        return digest
    await write(bus, tenant, digest, body)
    return digest


async def write(bus: Bus, tenant: Tenant, digest: Digest, body: bytes) -> None:
    """Store a new copy of a blob, whatever is there. Raises Unavailable, StreamFull."""
    first = blob_subject(tenant, digest, 0)
    chunks = [body[i : i + CHUNK_BYTES] for i in range(0, len(body), CHUNK_BYTES)] or [b""]
    try:
        for number, chunk in list(enumerate(chunks))[1:]:
            await store(bus, blob_subject(tenant, digest, number), chunk)
        await store(bus, first, chunks[0], {CHUNKS: str(len(chunks))})
    except OutcomeUnknown as exc:
        raise Unavailable(f"blob {digest}: no answer") from exc


async def get(bus: Bus, tenant: Tenant, digest: Digest) -> bytes:
    """The bytes, checked against their name. Raises NotFound, Unavailable, Malformed when they are damaged."""
    first = await _chunk(bus, tenant, digest, 0)
    count = first.headers.get(CHUNKS, "")
    if not count.isdecimal() or not 0 < int(count) <= MOST_BYTES // CHUNK_BYTES:
        raise Malformed(f"blob {digest} is damaged")
    parts = [first.body]
    for number in range(1, int(count)):
        parts.append((await _chunk(bus, tenant, digest, number)).body)
    body = b"".join(parts)
    if digest_of(body) != digest:
        raise Malformed(f"blob {digest} is damaged")
    return body


async def _chunk(bus: Bus, tenant: Tenant, digest: Digest, number: int) -> Read:
    """The newest copy of a chunk. A replica may be behind, so its "not there" is asked of the leader once more."""
    subject = blob_subject(tenant, digest, number)
    read = await direct_get(bus, BLOB, Ask(last_by_subj=subject))
    if read is not None:
        return read
    kept = await leader_get(bus, BLOB, Ask(last_by_subj=subject))
    if kept is None:
        raise NotFound(f"no blob {digest}")
    # The leader's answer has no room for a header here: read that very message once a replica has it.
    found = await direct_batch(bus, BLOB, subject, kept.seq - 1, 1)
    if not found:
        raise Unavailable(f"blob {digest}: a replica is behind")
    return found[0]
