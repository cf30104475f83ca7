"""The streams of the shards as a whole: what lies in them in stream order, where they begin and end."""

import msgspec
from msgspec import Struct

from perdure.bus import subject as names
from perdure.bus.connection import REQUEST_SECONDS, Bus
from perdure.bus.entry import Stored, Unread, entry
from perdure.bus.stream import Answer, Ask, direct_batch, leader_get, refusal
from perdure.errors import Malformed
from perdure.ids import EventId, StreamSeq


class _State(Struct):
    last_seq: int
    first_seq: int
    bytes: int = 0
    subjects: dict[str, int] = {}


class _Config(Struct, frozen=True):
    max_bytes: int = -1


class _Info(Answer):
    created: str = ""
    state: _State | None = None
    config: _Config = _Config()


class _Told(Struct, frozen=True):
    created: str
    state: _State
    config: _Config


class ShardInfo(Struct, frozen=True):
    """A shard's stream: its creation time, its first and last stream sequence, and how full it is."""

    created_at: str
    first: StreamSeq
    last: StreamSeq
    fill_ratio: float = 0.0  # of its `max_bytes`; 0 where there is no such bound


class Scanned(Struct, frozen=True):
    """What a scan found, and the stream sequence up to which the replica that answered has nothing else."""

    entries: list[Stored | Unread]
    upto: StreamSeq


class Extent(Struct, frozen=True):
    """Where a shard's stream ends, and how many canaries lie in it."""

    last: StreamSeq
    canaries: int

    def grew_by_canaries(self, before: "Extent") -> bool:
        """Whether nothing was stored since `before` but canaries."""
        return self.last - before.last == self.canaries - before.canaries


class Shards:
    """The shards' streams, over one connection."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def scan(self, shard: int, after: StreamSeq, limit: int = 500) -> Scanned:
        """Up to `limit` entries of any job's log of a shard after the stream sequence `after`; none is the end. One
        that cannot be read is told as such, so that it stops nobody else.

        What lies in no job's log (a canary) is passed over. Raises Unavailable.
        """
        stream, subject = names.event_stream(shard), names.shard_filter(shard)
        while True:
            reads = await direct_batch(self._bus, stream, subject, after, limit)
            after = reads[-1].seq if reads else after
            found = [lies for read in reads if (lies := entry(read)) is not None]
            if found or len(reads) < limit:
                return Scanned(found, after)

    async def extent(self, shard: int) -> Extent:
        """Where a shard's stream ends, by the word of its leader, who reads no message for it. Raises Unavailable."""
        canary = names.canary_event(shard)
        state = (await self._told(shard, msgspec.json.encode({"subjects_filter": canary}))).state
        return Extent(StreamSeq(state.last_seq), state.subjects.get(canary, 0))

    async def same(self, shard: int, at: StreamSeq, event: EventId) -> bool | None:
        """Whether the event that lies at `at` is `event`, by the leader's word; None when nothing lies there (any
        more). Raises Unavailable.
        """
        read = await leader_get(self._bus, names.event_stream(shard), Ask(seq=at))
        if read is None:
            return None
        lies = entry(read)
        return isinstance(lies, Stored) and lies.event.id == event

    async def info(self, shard: int) -> ShardInfo:
        """When the stream of a shard was made and where it begins and ends. Raises Unavailable."""
        info = await self._told(shard)
        state, most = info.state, info.config.max_bytes
        fill = state.bytes / most if most > 0 else 0.0
        return ShardInfo(info.created, StreamSeq(state.first_seq), StreamSeq(state.last_seq), fill)

    async def _told(self, shard: int, question: bytes = b"") -> _Told:
        name = names.event_stream(shard)
        reply = await self._bus.ask(f"$JS.API.STREAM.INFO.{name}", question, within=REQUEST_SECONDS)
        info = msgspec.json.decode(reply, type=_Info)
        if info.error is not None:
            raise refusal(info.error, f"stream {name}")
        if info.state is None:
            raise Malformed(f"stream {name}: neither a state nor an error")
        return _Told(info.created, info.state, info.config)

    async def created_at(self, shard: int) -> str:
        """When the stream of a shard was made: another time means another stream. Raises Unavailable."""
        return (await self.info(shard)).created_at
