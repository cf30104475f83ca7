"""The native event stream (`docs/reference/http.md`): the log's own envelope, with the job's id spliced in.

The bytes of an event are the same live and replayed. Which deltas a reader is shown, and when it has to forget them, is
decided in `reading`.
"""

import msgspec

from perdure.core.event import FORMAT, AnyEvent, type_of
from perdure.core.stream.adapter import Manners
from perdure.core.stream.delta import RESET, Said
from perdure.core.stream.frame import Frame
from perdure.core.stream.offset import Offset
from perdure.core.stream.reading import Reset
from perdure.ids import JobId


def envelope(job: JobId, body: bytes) -> bytes:
    """A stored event (on the broker the subject names the job) with `job_id` as its first member: what HTTP shows."""
    return b'{"job_id":"' + job.encode() + b'",' + body[1:]


class Native:
    """The StreamAdapter of the native stream for one job and one reader. `deltas`: whether it wants any."""

    ended = False  # only with the job, which stays open across its suspensions
    manners = Manners()

    def __init__(self, job: JobId, *, deltas: bool = True) -> None:
        self._job = job
        self.deltas = deltas

    def on_event(self, body: bytes, event: AnyEvent) -> tuple[Frame, ...]:
        """One frame, whose id is the event's `seq`."""
        return (Frame(str(event.seq), type_of(event), envelope(self._job, body)),)

    def on_delta(self, said: Said, at: Offset | None) -> tuple[Frame, ...]:
        """One frame, whose id is the offset behind it."""
        body = said.body if said.delta.job_id else envelope(self._job, said.body)
        return (Frame(None if at is None else str(at), said.delta.type, body),)

    def on_reset(self, reset: Reset) -> tuple[Frame, ...]:
        """`delta.reset`, with the offset of the last event: a reader that is cut behind it is told everything again."""
        said = {"v": FORMAT, "job_id": self._job, "type": RESET, "attempt": reset.attempt, "reason": reset.reason}
        return (Frame(str(reset.at), RESET, msgspec.json.encode(said)),)

    def on_caught_up(self) -> tuple[Frame, ...]:
        """Nothing: the log speaks for itself."""
        return ()

    def close(self, reason: str) -> tuple[Frame, ...]:
        """`stream.close{reason}`."""
        return (Frame(None, "stream.close", msgspec.json.encode({"reason": reason})),)
