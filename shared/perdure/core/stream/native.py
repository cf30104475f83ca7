"""The native event stream (`docs/reference/http.md`): the log's own envelope, with the job's id spliced in.

The bytes of an event are the same live and replayed. A delta carries no id: it may be lost, and the event that takes
its place comes. Deltas of an older attempt, or of a step that an event has settled, are dropped.
"""

from typing import Final

import msgspec
from msgspec import Struct

from perdure.core import event as ev
from perdure.core.event import AnyEvent, type_of
from perdure.core.stream.frame import Frame
from perdure.ids import JobId

_Call = tuple[str, str, int]
DELTAS: Final = frozenset({"delta.step", "delta.text", "delta.reasoning", "delta.tool", "delta.log", "delta.progress"})


class Delta(Struct, frozen=True):
    """As much of a delta as says where it belongs. `after` is the last event its runner had appended."""

    type: str
    attempt: int
    job_id: str | None = None
    after: int = 0
    path: str = ""
    step: str = ""
    occurrence: int = 1


_deltas: Final = msgspec.json.Decoder(Delta)


def read_delta(body: bytes) -> Delta | None:
    """The head of a delta, None for what is none (anybody's message on the subject, a type of a later version)."""
    try:
        delta = _deltas.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return delta if delta.type in DELTAS else None


def envelope(job: JobId, body: bytes) -> bytes:
    """A stored event (on the broker the subject names the job) with `job_id` as its first member: what HTTP shows."""
    return b'{"job_id":"' + job.encode() + b'",' + body[1:]


class Native:
    """The StreamAdapter of the native stream for one job and one reader."""

    def __init__(self, job: JobId) -> None:
        self._job = job
        self._attempt = 0
        self._settled: set[_Call] = set()

    def on_event(self, body: bytes, event: AnyEvent) -> tuple[Frame, ...]:
        """One frame, whose id is the event's `seq`."""
        match event:
            case ev.AttemptStarted() | ev.JobSuspended():
                self._settled.clear()
            case ev.StepCompleted(data=data) | ev.StepFailed(data=data) | ev.StepSkipped(data=data):
                self._settled.add((data.path, data.step, data.occurrence))
            case _:
                pass
        self._attempt = event.attempt
        return (Frame(str(event.seq), type_of(event), envelope(self._job, body)),)

    def on_delta(self, body: bytes) -> tuple[Frame, ...]:
        """One frame without an id, or none."""
        delta = read_delta(body)
        if (
            delta is None
            or delta.attempt < self._attempt
            or (delta.path, delta.step, delta.occurrence) in self._settled
        ):
            return ()
        if delta.job_id not in (None, self._job):
            return ()
        return (Frame(None, delta.type, body if delta.job_id else envelope(self._job, body)),)

    def close(self, reason: str) -> tuple[Frame, ...]:
        """`stream.close{reason}`."""
        return (Frame(None, "stream.close", msgspec.json.encode({"reason": reason})),)
