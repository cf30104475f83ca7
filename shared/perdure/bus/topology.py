"""The streams and consumers: how each is configured, declared, compared, read back.

Declaring is idempotent: create what is missing, raise what may be raised, refuse everything else, delete nothing. The
shard count is fixed for ever when `EV_0` is made, which carries it in its metadata: a job's shard must never change.
"""

from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from perdure.bus import subject as names
from perdure.bus.connection import Bus
from perdure.bus.layout import SECOND, StreamConfig, Topology, streams
from perdure.bus.stream import NO_STREAM, Answer, refusal
from perdure.bus.subject import AUDIT, BLOB, LIVE, WORK, Priority
from perdure.errors import Conflict, Malformed, OutcomeUnknown, Unavailable
from perdure.ids import Queue

__all__ = ["Topology", "compare", "declare", "ensure_queue", "shard_count"]

NAME_IN_USE: Final = 10058
NO_CONSUMER: Final = 10014
CONSUMER_EXISTS: Final = frozenset({10013, 10105, 10148})
API_SECONDS: Final = 5.0


class _StreamInfo(Answer):
    config: StreamConfig | None = None


class _Consumer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    durable_name: str
    filter_subject: str
    ack_policy: str = "none"
    ack_wait: int = 0
    max_deliver: int = 0
    max_ack_pending: int = 0
    max_waiting: int = 0


class _CreateConsumer(Struct):
    stream_name: str
    config: _Consumer
    action: str


class _ConsumerInfo(Answer):
    config: _Consumer | None = None


async def declare(bus: Bus, topology: Topology) -> None:
    """Make the streams as `topology` says. For the sweeper and for migrations: others may not.

    Raises Conflict(code="streams-differ") when what exists has another shard count, is larger or otherwise not what is
    wanted, Unavailable when the broker does not answer.
    """
    for wanted in streams(topology):  # EV_0 first: it decides a race between two shard counts
        found = await _info(bus, wanted.name)
        if found is None:
            found = await _create(bus, wanted)
        if _settled(found) != wanted:
            await _raise_bounds(bus, _settled(found), wanted)


async def compare(bus: Bus) -> Topology:
    """What is declared, read back.

    Raises Unavailable when not everything is there, Conflict when a stream is not ours.
    """
    first = await _info(bus, names.event_stream(0))
    if first is None:
        raise Unavailable("the streams are not declared yet")
    try:
        shards, lease = int(first.metadata["perdure.shards"]), float(first.metadata["perdure.lease_seconds"])
    except (KeyError, ValueError) as exc:
        raise Conflict("streams-differ", "the stream EV_0 was not made by perdure") from exc
    found = {first.name: first}
    for name in [*(names.event_stream(s) for s in range(1, shards)), WORK, LIVE, BLOB, AUDIT]:
        config = await _info(bus, name)
        if config is None:
            raise Unavailable(f"the stream {name} is not declared yet")
        found[name] = config
    topology = Topology(
        shards=shards,
        replicas=first.num_replicas,
        lease_seconds=lease,
        event_bytes=first.max_bytes,
        work_bytes=found[WORK].max_bytes,
        blob_bytes=found[BLOB].max_bytes,
        audit_bytes=found[AUDIT].max_bytes,
    )
    for wanted in streams(topology):
        if (has := _settled(found[wanted.name])) != replace(wanted, max_bytes=has.max_bytes):
            raise Conflict("streams-differ", _difference(has, wanted))
    return topology


async def shard_count(bus: Bus) -> int | None:
    """The shard count that the stream EV_0 carries, also while other streams are missing; None when it is gone.

    Raises Unavailable, Conflict when it is not ours.
    """
    first = await _info(bus, names.event_stream(0))
    if first is None:
        return None
    try:
        return int(first.metadata["perdure.shards"])
    except (KeyError, ValueError) as exc:
        raise Conflict("streams-differ", "the stream EV_0 was not made by perdure") from exc


async def ensure_queue(bus: Bus, queue: Queue, priority: Priority, lease_seconds: float) -> float:
    """Make the consumer of a queue and priority if it is absent; its lease in seconds, which is the queue's and not
    ours.

    Raises Unavailable, Conflict(code="streams-differ") when the consumer is not one of ours.
    """
    name = names.consumer(queue, priority)
    wanted = _Consumer(
        name=name,
        durable_name=name,
        filter_subject=names.queue_filter(queue, priority),
        ack_policy="explicit",
        ack_wait=int(lease_seconds * SECOND),
        max_deliver=-1,
        max_ack_pending=50_000,
        max_waiting=8_192,
    )
    info = await _consumer_info(bus, name)
    if info.error is not None and info.error.err_code == NO_CONSUMER:
        # The filter is part of the subject: the server checks that both agree.
        body = msgspec.json.encode(_CreateConsumer(WORK, wanted, "create"))
        reply = await bus.ask(
            f"$JS.API.CONSUMER.CREATE.{WORK}.{name}.{wanted.filter_subject}", body, within=API_SECONDS
        )
        info = msgspec.json.decode(reply, type=_ConsumerInfo)
        if (
            info.error is not None and info.error.err_code in CONSUMER_EXISTS
        ):  # another runner was quicker, with its lease
            info = await _consumer_info(bus, name)
    if info.error is not None:
        raise refusal(info.error, f"consumer {name}")
    found = info.config
    if found is None:
        raise Malformed(f"consumer {name}: neither a configuration nor an error")
    if replace(found, ack_wait=wanted.ack_wait) != wanted:
        raise Conflict("streams-differ", f"the consumer {name} is configured otherwise")
    return found.ack_wait / SECOND


def _settled(config: StreamConfig) -> StreamConfig:
    """A configuration without what the server adds of its own."""
    ours = {k: v for k, v in config.metadata.items() if k.startswith("perdure.")}
    persist = "" if config.persist_mode == "default" else config.persist_mode
    compression = "" if config.compression == "none" else config.compression
    return replace(config, metadata=ours, persist_mode=persist, compression=compression)


async def _raise_bounds(bus: Bus, found: StreamConfig, wanted: StreamConfig) -> None:
    """Raise `max_bytes`, note another default lease; everything else is refused."""
    lease = {"perdure.lease_seconds": wanted.metadata["perdure.lease_seconds"]} if wanted.metadata else {}
    may_be = replace(found, max_bytes=wanted.max_bytes, metadata={**found.metadata, **lease})
    if may_be != wanted or wanted.max_bytes < found.max_bytes:
        raise Conflict("streams-differ", _difference(found, wanted))
    reply = await bus.ask(f"$JS.API.STREAM.UPDATE.{wanted.name}", msgspec.json.encode(wanted), within=API_SECONDS)
    answer = msgspec.json.decode(reply, type=_StreamInfo)
    if answer.error is not None:
        raise refusal(answer.error, f"stream {wanted.name}")


async def _create(bus: Bus, wanted: StreamConfig) -> StreamConfig:
    try:
        message = await bus.request(
            f"$JS.API.STREAM.CREATE.{wanted.name}", msgspec.json.encode(wanted), within=API_SECONDS
        )
    except OutcomeUnknown as exc:
        raise Unavailable(f"stream {wanted.name}: no answer") from exc
    answer = msgspec.json.decode(message.data, type=_StreamInfo)
    if answer.error is not None and answer.error.err_code == NAME_IN_USE:  # somebody else declares at the same time
        found = await _info(bus, wanted.name)
        if found is not None:
            return found
    if answer.error is not None:
        raise refusal(answer.error, f"stream {wanted.name}")
    return answer.config or wanted


async def _info(bus: Bus, name: str) -> StreamConfig | None:
    answer = msgspec.json.decode(
        await bus.ask(f"$JS.API.STREAM.INFO.{name}", b"", within=API_SECONDS), type=_StreamInfo
    )
    if answer.error is not None:
        if answer.error.err_code == NO_STREAM:
            return None
        raise refusal(answer.error, f"stream {name}")
    return answer.config


async def _consumer_info(bus: Bus, name: str) -> _ConsumerInfo:
    reply = await bus.ask(f"$JS.API.CONSUMER.INFO.{WORK}.{name}", b"", within=API_SECONDS)
    return msgspec.json.decode(reply, type=_ConsumerInfo)


def _difference(found: StreamConfig, wanted: StreamConfig) -> str:
    differ = [f for f in StreamConfig.__struct_fields__ if getattr(found, f) != getattr(wanted, f)]
    told = ", ".join(f"{f} is {getattr(found, f)!r}, wanted {getattr(wanted, f)!r}" for f in differ)
    return f"stream {found.name}: {told}"
