"""One doorbell, delivered: what it says, and what one answers to the broker."""

import contextlib
from typing import Final

import msgspec
from nats.aio.msg import Msg

from perdure import log as logs
from perdure.bus.connection import Bus
from perdure.bus.doorbell import Doorbell, decode
from perdure.bus.entry import Stored
from perdure.bus.layout import SECOND
from perdure.bus.subject import Priority, parse_work_subject
from perdure.core import codec
from perdure.core import event as ev
from perdure.errors import Malformed, Unavailable, UnsupportedVersion
from perdure.ids import JobRef, Queue

NEWER_SECONDS: Final = 5.0  # until a doorbell of a newer format is offered again

log = logs.get(__name__)


class Delivery:
    """One doorbell, delivered: for `lease_seconds` from `received_at` (monotonic) the job is this process's to look
    at.
    """

    def __init__(
        self,
        bus: Bus,
        reply: str,
        doorbell: Doorbell,
        bell: ev.Bell,
        queue: Queue,
        priority: Priority,
        lease_seconds: float,
        times: int,
    ) -> None:
        self.doorbell, self.bell, self.queue, self.priority = doorbell, bell, queue, priority
        self.lease_seconds = lease_seconds
        self.times = times  # how often it was delivered, this time included
        self.received_at = bus.clock.monotonic()
        self.reply = reply  # opaque: where +ACK, -NAK and +WPI go
        self._bus = bus

    @property
    def ref(self) -> JobRef:
        return self.doorbell.ref

    @property
    def submitted(self) -> Stored | None:
        """The job's first event, if the doorbell brought it: all that a new job's log holds, unless somebody was
        quicker.
        """
        body, at = self.doorbell.event, self.doorbell.event_seq
        if body is None or at is None:
            return None
        try:
            event = codec.decode(body)
        except (Malformed, UnsupportedVersion):  # the log itself will say so
            return None
        return Stored(self.ref, at, body, event)

    async def ack(self) -> None:
        """Take the doorbell out of WORK.

        Proves nothing, may be lost, never raises: a redelivery finds what the log says.
        """
        await _tell(self._bus, self.reply, b"+ACK")

    async def nak(self, delay_seconds: float = 0.0) -> None:
        """Hand the doorbell back, to be delivered again after the delay. Never a wait: waits are alarms."""
        await _tell(self._bus, self.reply, _nak(delay_seconds))


async def read(bus: Bus, message: Msg, lease_seconds: float) -> Delivery | None:
    """The delivery in a message of WORK; None when it is no doorbell of its subject's job.

    Garbage is taken out of the queue, a doorbell of a newer format handed back for a newer runner.
    """
    meta = message.metadata
    try:
        doorbell = decode(message.data)
        queue, priority, job = parse_work_subject(message.subject)
        if job != doorbell.job:
            raise Malformed("a doorbell on another job's subject")
    except UnsupportedVersion:
        await _tell(bus, message.reply, _nak(NEWER_SECONDS))
        return None
    except Malformed as exc:
        log.error("not a doorbell", subject=message.subject, stream_seq=meta.sequence.stream, error=str(exc))
        await _tell(bus, message.reply, b"+TERM")
        return None
    bell = ev.Bell(seq=meta.sequence.stream, ring=doorbell.ring)
    return Delivery(bus, message.reply, doorbell, bell, queue, priority, lease_seconds, meta.num_delivered)


async def _tell(bus: Bus, reply: str, body: bytes) -> None:
    with contextlib.suppress(Unavailable):  # delivered again when its lease runs out
        await bus.publish(reply, body)


def _nak(delay_seconds: float) -> bytes:
    if delay_seconds <= 0:
        return b"-NAK"
    return b"-NAK " + msgspec.json.encode({"delay": int(delay_seconds * SECOND)})
