"""What each stream is like: the configurations, as JetStream writes them."""

from typing import Final

from msgspec import Struct

from perdure.bus import subject as names
from perdure.bus.subject import AUDIT, BLOB, LIVE, WORK
from perdure.errors import Conflict

MIB: Final = 1024 * 1024
GIB: Final = 1024 * MIB
SECOND: Final = 1_000_000_000  # JetStream writes durations in nanoseconds
FORMAT: Final = "1"


class Topology(Struct, frozen=True, kw_only=True):
    """What is declared. Sizes may be raised later, never lowered; shards and replicas never change."""

    shards: int = 8
    replicas: int = 1
    lease_seconds: float = 10.0  # of a queue that is served for the first time
    event_bytes: int = 2 * GIB  # each shard
    work_bytes: int = GIB
    blob_bytes: int = 16 * GIB
    audit_bytes: int = 2 * GIB


class RePublish(Struct, frozen=True):
    src: str
    dest: str


class StreamConfig(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A stream's configuration as JetStream writes it; a member at its default here has the same default there."""

    name: str
    subjects: tuple[str, ...]
    retention: str
    storage: str
    discard: str
    num_replicas: int
    max_bytes: int
    max_age: int = 0
    max_msgs_per_subject: int = -1
    max_msg_size: int = -1
    max_consumers: int = -1
    duplicate_window: int = 0
    allow_direct: bool = False
    deny_delete: bool = False
    deny_purge: bool = False
    republish: RePublish | None = None
    allow_msg_schedules: bool = False
    allow_msg_ttl: bool = False
    persist_mode: str = ""
    compression: str = ""
    metadata: dict[str, str] = {}


def streams(topology: Topology) -> list[StreamConfig]:
    """Every stream of a topology, `EV_0` first. Raises Conflict for a shard count that cannot be."""
    replicas = topology.replicas
    if topology.shards not in (1, 2, 4, 8, 16):
        raise Conflict("streams-differ", "the shard count is a power of two up to 16")
    mark = {"perdure.format": FORMAT, "perdure.shards": str(topology.shards)}
    mark["perdure.lease_seconds"] = repr(topology.lease_seconds)
    events = [
        StreamConfig(
            name=names.event_stream(shard),
            subjects=(f"ev.{shard}.*.*",),
            retention="limits",
            storage="file",
            discard="new",  # a full log refuses, it never forgets
            num_replicas=replicas,
            max_bytes=topology.event_bytes,
            max_msg_size=256 * 1024,
            max_consumers=64,
            duplicate_window=120 * SECOND,
            allow_direct=True,
            deny_delete=True,
            republish=RePublish("ev.*.*.*", "job.{{wildcard(2)}}.{{wildcard(3)}}.event"),
            metadata=mark,
        )
        for shard in range(topology.shards)
    ]
    work = StreamConfig(
        name=WORK,
        subjects=("work.*.*.*", "at.*.*"),
        retention="workqueue",
        storage="file",
        discard="old",  # schedules are refused with `new`
        num_replicas=replicas,
        max_bytes=topology.work_bytes,
        max_msg_size=256 * 1024,
        duplicate_window=120 * SECOND,
        allow_msg_schedules=True,
        allow_msg_ttl=True,
        persist_mode="async" if replicas == 1 else "",  # what a crash takes, the sweeper rings again
    )
    live = StreamConfig(
        name=LIVE,
        subjects=("job.*.*.delta",),
        retention="limits",
        storage="memory",
        discard="old",
        num_replicas=1,
        max_bytes=128 * MIB,
        max_age=15 * 60 * SECOND,
        max_msgs_per_subject=20_000,
        max_msg_size=64 * 1024,
        duplicate_window=120 * SECOND,
        allow_direct=True,
    )
    blob = StreamConfig(
        name=BLOB,
        subjects=("blob.*.*.*",),
        retention="limits",
        storage="file",
        discard="new",
        num_replicas=replicas,
        max_bytes=topology.blob_bytes,
        max_msg_size=768 * 1024,
        duplicate_window=120 * SECOND,
        allow_direct=True,
    )
    audit = StreamConfig(
        name=AUDIT,
        subjects=("audit.*", "audit.*.seal"),
        retention="limits",
        storage="file",
        discard="old",
        num_replicas=replicas,
        max_bytes=topology.audit_bytes,
        max_age=400 * 86_400 * SECOND,
        max_msg_size=64 * 1024,
        duplicate_window=300 * SECOND,
        allow_direct=True,
        deny_delete=True,
        deny_purge=True,
    )
    return [*events, work, live, blob, audit]
