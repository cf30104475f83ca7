"""What a protocol of event streams is: a pure translator from one job's log, as it is told, to frames for one reader.

    attach ── what there is: on_event, on_delta, on_reset ── on_caught_up ── what comes: the same three ── end

The contract, which `perdure.jobs.follow` keeps on the one side and every adapter on the other:

- An adapter is made for one job and one reader, told everything in the order of the log, each event once, and asked for
  nothing else: no I/O, no clock, no chance. Told the same, it says the same bytes, live and replayed.
- It is told the log from behind the offset of the attach on. A protocol that has to fold the whole log (for a prelude,
  or because its ids count) is attached at the beginning and shows what lies behind `Attach.after` by itself.
- `on_caught_up` comes exactly once: behind everything that was there when the reader came, the open deltas too. A
  prelude is said there, by an adapter that was silent before.
- `Frame.id` is where the reader is once it has the frame, None where it must not move; an adapter whose protocol has
  other ids says them there. Of the frames that one event becomes only the last may move the reader behind the event.
- Any cut: a reader that lost the line behind any frame and attaches again as its protocol says ends in the state of one
  that never left. Every adapter has a property test of that, and a golden file.
- After on_caught_up, `ended` says whether the protocol's stream ends behind what was said last (a terminal event ends
  every stream). Before, it means nothing: an old suspension is not the end.
- `close` gives the last words of a stream that ends otherwise: `until`, `drain`, `rotate`, `auth`, `upstream`, `gone`,
  `unsupported`. The job goes on: nothing said there may sound like its end.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from msgspec import Struct

from perdure.core import event as ev
from perdure.core.event import AnyEvent, UserValue
from perdure.core.stream.delta import Said
from perdure.core.stream.frame import Frame
from perdure.core.stream.offset import START, Offset
from perdure.core.stream.reading import Reset
from perdure.ids import Digest, JobId, Principal


class Manners(Struct, frozen=True):
    """How a protocol's stream behaves between its frames. `heartbeat` goes out while nothing is said; `retry`: the
    reader is told when to come back; `moves`: a frame with nothing but an id moves its offset; `headers` replace those
    of the answer.
    """

    heartbeat: bytes = b": hb\n\n"
    retry: bool = True
    moves: bool = True
    headers: Mapping[str, str] = {}


class StreamAdapter(Protocol):
    """How one protocol shows a job to one reader. See the contract above."""

    @property
    def deltas(self) -> bool:
        """Whether its reader wants deltas at all."""

    @property
    def ended(self) -> bool:
        """Whether the stream is over behind what was said last; asked from on_caught_up on."""

    @property
    def manners(self) -> Manners:
        """How the stream behaves between its frames."""

    def on_event(self, body: bytes, event: AnyEvent) -> Iterable[Frame]:
        """The frames of a log event: `body` as it is stored, `event` the same decoded."""

    def on_delta(self, said: Said, at: Offset | None) -> Iterable[Frame]:
        """The frames of a delta. `at` is the reader's offset behind it, None where it must not move yet."""

    def on_reset(self, reset: Reset) -> Iterable[Frame]:
        """The frames that make a reader forget the deltas that no event has settled."""

    def on_caught_up(self) -> Iterable[Frame]:
        """What is said once everything is told that was there when the reader came."""

    def close(self, reason: str) -> Iterable[Frame]:
        """The last words of a stream that ends without the job's end."""


def everything(_asked: ev.Request) -> bool:
    """Of a reader who may answer every request."""
    return True


class Attach(Struct, frozen=True, kw_only=True):
    """One reader of one job: what an adapter is made of.

    `after` is where the reader is; `values`: whether users' values are shown; `options` are the protocol's own, as
    texts. Where a protocol has such things: `thread_id` and `run_id` are the reader's own names for what it follows,
    `principal` is who it is and `may_answer` which open requests it may answer, looked up when it came; `blobs` are
    values of `job.submitted` that lie outside of the log, `notices` what it is told once it has caught up.
    """

    job: JobId
    after: Offset = START
    values: bool = True
    options: Mapping[str, str] = {}
    thread_id: str = ""
    run_id: str = ""
    principal: Principal = Principal("")
    may_answer: Callable[[ev.Request], bool] = everything
    blobs: Mapping[Digest, bytes] = {}
    notices: tuple[UserValue, ...] = ()
