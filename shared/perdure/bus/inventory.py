"""What lies in a stream, by its subjects; which blobs there are, and which of them the logs name: for who collects or
examines them.

These are long reads, done once a day or by hand. Logs are read leniently: whatever looks like a blob's name in an event
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
    first_seq: int = 0
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
    for subject in await subjects(bus, BLOB, "blob.>"):
        try:
            tenant, digest, chunk = names.parse_blob_subject(subject)
        except Malformed:
            continue
        if tenant != names.CANARY:
            found[tenant, digest] = max(chunk, found.get((tenant, digest), 0))
    return found


async def subjects(bus: Bus, stream: str, matching: str) -> list[str]:
    """Every subject of a stream that matches, of which anything is there; none where there is no stream.

    Raises Unavailable.
    """
    found: list[str] = []
    while (info := await _info(bus, stream, {"subjects_filter": matching, "offset": len(found)})) is not None:
        page = info.state.subjects if info.state is not None else {}
        found += page
        if not page or len(found) >= info.total:
            break
    return found


async def first_sequence(bus: Bus, stream: str) -> int:
    """The sequence of the oldest message of a stream; of the next one where it holds none. Raises Unavailable."""
    info = await _info(bus, stream, {})
    return 1 if info is None or info.state is None else max(1, info.state.first_seq)


async def _info(bus: Bus, stream: str, ask: dict[str, str | int]) -> _Info | None:
    """What JetStream says of a stream; None when there is none."""
    reply = await bus.ask(f"$JS.API.STREAM.INFO.{stream}", msgspec.json.encode(ask), within=SECONDS)
    info = msgspec.json.decode(reply, type=_Info)
    if info.error is not None and info.error.err_code != NO_STREAM:
        raise refusal(info.error, stream)
    return None if info.error is not None else info


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
