"""Removes messages for good. What may be removed is decided elsewhere; here it is only made sure that a name is exact.

A purge says up to which stream sequence, or how many stay: what is written meanwhile is never touched. It may be done
twice.
"""

from typing import Final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from perdure.bus import subject as names
from perdure.bus.connection import Bus
from perdure.bus.stream import NO_STREAM, Answer, refusal
from perdure.bus.subject import BLOB, WORK
from perdure.ids import Digest, JobRef, StreamSeq, Tenant

SECONDS: Final = 5.0


class _Purge(Struct, frozen=True):
    filter: str
    seq: int | UnsetType = UNSET  # up to, not including
    keep: int | UnsetType = UNSET


class _Purged(Answer):
    purged: int = 0


async def purge_log(bus: Bus, shards: int, ref: JobRef, upto: StreamSeq, *, tombstone: bool) -> int:
    """Remove the log of an ended job, whose terminal event lies at `upto`; with `tombstone` that event stays. How many
    messages went. Raises Unavailable.
    """
    stream, subject = names.event_stream(names.shard_of(ref.job, shards)), names.event_subject(shards, ref)
    return await _purge(bus, stream, _Purge(subject, seq=upto if tombstone else upto + 1))


async def purge_blob(bus: Bus, tenant: Tenant, digest: Digest, upto: StreamSeq) -> int:
    """Remove the chunks of a blob whose newest chunk 0 lies at `upto`; a copy that is written meanwhile stays. How many
    messages went. Raises Unavailable.
    """
    subject = names.blob_subject(tenant, digest, 0).removesuffix("0") + "*"
    return await _purge(bus, BLOB, _Purge(subject, seq=upto + 1))


async def purge_canaries(bus: Bus, shards: int) -> int:
    """Remove all but the last canary of each kind; how many went. Raises Unavailable."""
    gone = 0
    for shard in range(shards):
        gone += await _purge(bus, names.event_stream(shard), _Purge(names.canary_event(shard), keep=1))
    gone += await _purge(bus, WORK, _Purge(names.CANARY_WORK, keep=1))
    return gone + await _purge(bus, BLOB, _Purge(names.CANARY_BLOB, keep=1))


async def _purge(bus: Bus, stream: str, what: _Purge) -> int:
    reply = await bus.ask(f"$JS.API.STREAM.PURGE.{stream}", msgspec.json.encode(what), within=SECONDS)
    answer = msgspec.json.decode(reply, type=_Purged)
    if answer.error is not None:
        if answer.error.err_code == NO_STREAM:  # declared again by somebody else, empty
            return 0
        raise refusal(answer.error, f"purge of {stream}")
    return answer.purged
