"""What lies in the stream of blobs, and which blobs the logs name: for who collects or examines them.

Both are long reads, done once a day or by hand. Logs are read leniently: whatever looks like a blob's name in an event
that this version cannot read counts as one.
"""

import re
from collections.abc import AsyncGenerator, Iterator
from datetime import datetime
from typing import Final

import msgspec
from msgspec import Struct

from perdure.bus import subject as names
from perdure.bus.connection import Bus
from perdure.bus.stream import NO_STREAM, Answer, Ask, direct_batch, leader_get, refusal
from perdure.bus.subject import BLOB
from perdure.errors import Malformed
from perdure.ids import Digest, StreamSeq, Tenant

SECONDS: Final = 10.0
PAGE: Final = 500
HEX: Final = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")

Name = tuple[Tenant, Digest]
"""Whose blob, and which."""


class Newest(Struct, frozen=True):
    """The newest chunk of a blob: its stream sequence, and when it was stored."""

    at: StreamSeq
    stored_at: datetime


class _State(Struct):
    subjects: dict[str, int] = {}


class _Info(Answer):
    state: _State | None = None
    total: int = 0
    limit: int = 0


class _Refs(Struct):
    refs: tuple[str, ...] = ()


_refs: Final = msgspec.json.Decoder(_Refs)


async def blobs(bus: Bus) -> dict[Name, int]:
    """Every blob of which anything is there, with the number of its highest chunk; the canary is none.

    Raises Unavailable.
    """
    found: dict[Name, int] = {}
    offset = 0
    while True:
        ask = msgspec.json.encode({"subjects_filter": "blob.>", "offset": offset})
        info = msgspec.json.decode(await bus.ask(f"$JS.API.STREAM.INFO.{BLOB}", ask, within=SECONDS), type=_Info)
        if info.error is not None:
            if info.error.err_code == NO_STREAM:
                return found
            raise refusal(info.error, BLOB)
        page = info.state.subjects if info.state is not None else {}
        for subject in page:
            try:
                tenant, digest, chunk = names.parse_blob_subject(subject)
            except Malformed:
                continue
            if tenant != names.CANARY:
                found[tenant, digest] = max(chunk, found.get((tenant, digest), 0))
        offset += len(page)
        if not page or offset >= info.total:
            return found


async def newest(bus: Bus, name: Name, highest: int) -> Newest | None:
    """The newest of a blob's chunks up to number `highest`, by the leader's word; None when all are gone.

    Raises Unavailable.
    """
    found: Newest | None = None
    for chunk in range(highest + 1):
        read = await leader_get(bus, BLOB, Ask(last_by_subj=names.blob_subject(*name, chunk)))
        if read is not None and (found is None or read.seq > found.at):
            found = Newest(read.seq, read.at)
    return found


async def named(bus: Bus, shard: int) -> AsyncGenerator[Iterator[Name]]:
    """The blobs that the logs of a shard name, batch by batch to its end. Raises Unavailable."""
    after = StreamSeq(0)
    while reads := await direct_batch(bus, names.event_stream(shard), names.shard_filter(shard), after, PAGE):
        after = reads[-1].seq
        yield ((Tenant(read.subject.split(".")[2]), digest) for read in reads for digest in references(read.body))


def references(body: bytes) -> Iterator[Digest]:
    """The blobs that the event in `body` names."""
    try:
        found = _refs.decode(body).refs
    except (msgspec.DecodeError, UnicodeDecodeError):
        yield from mentioned(body)
        return
    yield from (Digest(ref) for ref in found)


def mentioned(body: bytes) -> Iterator[Digest]:
    """Whatever looks like a blob's name in `body`."""
    yield from (Digest(found.decode()) for found in HEX.findall(body))
