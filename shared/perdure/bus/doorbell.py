"""Doorbells: "look at this job". They carry no fact; the log decides what one calls for.

A doorbell is a message of WORK on the subject of its job. It is known by its stream sequence *and* its `ring`: after a
power cut or a kill one replica may hand out a sequence again, and delivers what lies there only when the lease of the
doorbell that was lost has run out. It may also put back what was acked, and deliver it to nobody: what lies at or below
the floor of its queue is no doorbell (`queues.floor`). Any doorbell may be lost, late or doubled, and whoever rings
rings after the append that makes the job runnable. An alarm is a doorbell that the broker rings later (ADR-51,
`at.<job>.<name>`). It bears its name, for reminders leave nothing in the log by which one could tell that they are due.
"""

import asyncio
from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from perdure.bus import subject as names
from perdure.bus.connection import Bus
from perdure.bus.entry import Stored
from perdure.bus.queues import floor
from perdure.bus.stream import Ask, leader_get, store
from perdure.bus.subject import WORK, Priority
from perdure.core import event as ev
from perdure.core.alarm import Alarm
from perdure.errors import Malformed, OutcomeUnknown, Unavailable, UnsupportedVersion
from perdure.ids import JobId, JobRef, Queue, StreamSeq, Tenant, is_token, is_uuid, new_ring

FORMAT: Final = 1
FLOOR_SECONDS: Final = 1.0
INLINE_BYTES: Final = (
    32 * 1024
)  # a `job.submitted` up to this size travels in the first doorbell, so that the claim reads less


class Doorbell(Struct, frozen=True):
    """What a doorbell says: whose job, its own id, for a new small job its first event as it lies in the log, and for
    an alarm its name.
    """

    v: int
    tenant: Tenant
    job: JobId
    ring: str
    event: bytes | None = None
    event_seq: StreamSeq | None = None
    alarm: str | None = None

    @property
    def ref(self) -> JobRef:
        return JobRef(self.tenant, self.job)


class _Wire(Struct, frozen=True, omit_defaults=True):
    """A doorbell as it is sent. The event is JSON inside JSON, so that people can read it."""

    v: int
    tenant: str
    job: str
    ring: str
    event: msgspec.Raw | UnsetType = UNSET  # with `| None` msgspec would take null alone
    event_seq: int | None = None
    alarm: str | None = None


_wire: Final = msgspec.json.Decoder(_Wire)
_encode: Final = msgspec.json.Encoder().encode


def encode(bell: Doorbell) -> bytes:
    """The body of a doorbell's message."""
    event = msgspec.Raw(bell.event) if bell.event is not None else UNSET
    return _encode(_Wire(bell.v, bell.tenant, bell.job, bell.ring, event, bell.event_seq, bell.alarm))


def decode(body: bytes) -> Doorbell:
    """The doorbell in a message's body. Raises UnsupportedVersion for a newer format, Malformed for anything else."""
    try:
        wire = _wire.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise Malformed("not a doorbell") from exc
    if wire.v != FORMAT:
        raise UnsupportedVersion(f"doorbell of format {wire.v}")
    if not (is_token(wire.tenant) and is_uuid(wire.job) and is_uuid(wire.ring)):
        raise Malformed("not a doorbell")
    event = bytes(wire.event) if wire.event is not UNSET else None
    seq = StreamSeq(wire.event_seq) if wire.event_seq is not None else None
    return Doorbell(wire.v, Tenant(wire.tenant), JobId(wire.job), wire.ring, event, seq, wire.alarm)


class Doorbells:
    """Rings, looks for, and arms doorbells."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._floors: dict[tuple[Queue, Priority], tuple[float, StreamSeq]] = {}

    async def ring(self, ref: JobRef, queue: Queue, priority: Priority, *, submitted: Stored | None = None) -> None:
        """Put a new doorbell of `ref` into its queue; `submitted` is the first event of a new job.

        Raises Unavailable when it was not, or perhaps not, taken: no error for a client, the sweeper rings again.
        """
        bell = _new(ref)
        if submitted is not None and len(submitted.body) <= INLINE_BYTES:
            bell = Doorbell(bell.v, bell.tenant, bell.job, bell.ring, submitted.body, submitted.at)
        await self._store(names.work_subject(queue, priority, ref.job), encode(bell))

    async def exists(self, ref: JobRef, queue: Queue, priority: Priority) -> bool:
        """Whether any doorbell of the job is in WORK: waiting, held, or to be redelivered. Raises Unavailable."""
        done = await self._floor(queue, priority)
        read = await leader_get(self._bus, WORK, Ask(last_by_subj=names.work_subject(queue, priority, ref.job)))
        return read is not None and read.seq > done

    async def holds(self, queue: Queue, priority: Priority, ref: JobRef, bell: ev.Bell) -> bool:
        """Whether exactly this doorbell is still in WORK, and comes again. Raises Unavailable."""
        done = await self._floor(queue, priority)
        read = await leader_get(self._bus, WORK, Ask(seq=bell.seq))
        if read is None or read.seq <= done or read.subject != names.work_subject(queue, priority, ref.job):
            return False
        try:
            return decode(read.body).ring == bell.ring
        except (Malformed, UnsupportedVersion):
            return False

    async def _floor(self, queue: Queue, priority: Priority) -> StreamSeq:
        """See `queues.floor`. It is asked for before the doorbell is looked for: one that is acked in between is there
        or not, as ever. An older word is as good: a doorbell that it calls dead was dead then.
        """
        now = self._bus.clock.monotonic()
        at, known = self._floors.get((queue, priority), (-FLOOR_SECONDS, StreamSeq(0)))
        if now - at < FLOOR_SECONDS:
            return known
        known = await floor(self._bus, queue, priority)
        self._floors[queue, priority] = (now, known)
        return known

    async def arm(self, ref: JobRef, queue: Queue, priority: Priority, alarms: Iterable[Alarm]) -> None:
        """Have the broker ring at each alarm's instant; an alarm of the same name and job is replaced. Past ones ring
        now.

        Raises Unavailable when any of them was not, or perhaps not, taken; arming again is the same as arming once.
        """
        target = names.work_subject(queue, priority, ref.job)
        waiting = []
        for alarm in alarms:
            headers = {"Nats-Schedule": f"@at {alarm.at}", "Nats-Schedule-Target": target}
            body = encode(_new(ref, alarm.name))
            waiting.append(self._store(names.alarm_subject(ref.job, alarm.name), body, headers))
        await asyncio.gather(*waiting)

    async def _store(self, subject: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        try:
            await store(self._bus, subject, body, headers)
        except OutcomeUnknown as exc:
            raise Unavailable(f"{subject}: no answer") from exc


def _new(ref: JobRef, alarm: str | None = None) -> Doorbell:
    return Doorbell(FORMAT, ref.tenant, ref.job, new_ring(), alarm=alarm)
