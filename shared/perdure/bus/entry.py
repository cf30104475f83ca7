"""Messages of the logs' streams as what they are to us: an event of a job, or something in its log that is none."""

from typing import Literal

from msgspec import Struct

from perdure import log as logs
from perdure.bus import subject as names
from perdure.bus.stream import Read
from perdure.core import codec
from perdure.core.event import AnyEvent
from perdure.core.instant import Instant, instant
from perdure.errors import Malformed, UnsupportedVersion
from perdure.ids import JobRef, StreamSeq

log = logs.get(__name__)


class Stored(Struct, frozen=True):
    """One event in its log: whose, its stream sequence, as it lies there, and decoded."""

    ref: JobRef
    at: StreamSeq
    body: bytes
    event: AnyEvent


class Unread(Struct, frozen=True):
    """A message in a job's log that is no event to us: `broken`, or `unsupported` (a newer version may read it)."""

    ref: JobRef
    at: StreamSeq
    stored_at: Instant
    why: Literal["broken", "unsupported"]


def stored(ref: JobRef, read: Read) -> Stored:
    """A message of the job's log as its event. Raises Malformed, UnsupportedVersion."""
    return Stored(ref, read.seq, read.body, codec.decode(read.body))


def entry(read: Read) -> Stored | Unread | None:
    """A message of any job's log; None for what lies in none (a canary)."""
    try:
        ref = names.parse_event_subject(read.subject)
    except Malformed:
        if read.subject.split(".")[2] != names.CANARY:
            log.error("not the log of a job", subject=read.subject, stream_seq=read.seq)
        return None
    if ref.tenant == names.CANARY:
        return None
    try:
        return stored(ref, read)
    except UnsupportedVersion:
        return Unread(ref, read.seq, instant(read.at), "unsupported")
    except Malformed:
        return Unread(ref, read.seq, instant(read.at), "broken")
