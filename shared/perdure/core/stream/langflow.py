"""The stream protocol `langflow`: a job's log as the events of Langflow 1.13, in its frames and with its spacing.

    data: {"event": …, "data": …}      id: the event's seq; of several frames of one event only the last has it, the
    id: 17                             others, and deltas, repeat the one before: who is cut there is told all again

A job is folded from its first event, wherever the reader is, so the bytes are the same live and replayed. The stream
ends with the job and where it sleeps, until somebody's answer is in the log; `follow` stays across that.
"""

import json
from collections.abc import Iterator
from typing import Final

import msgspec

from perdure.core.alarm import asleep
from perdure.core.event import TERMINAL, AnyEvent, Status
from perdure.core.langflow.shape import FlowShape
from perdure.core.langflow.telling import Telling, Told
from perdure.core.stream.adapter import Attach, Manners
from perdure.core.stream.delta import Said
from perdure.core.stream.frame import Frame
from perdure.core.stream.offset import Offset
from perdure.core.stream.reading import Reset

PROTOCOL: Final = "langflow"


class LangflowFrame(Frame, frozen=True):
    """`data` first, then `id`; no `event:`."""

    def encode(self) -> bytes:
        """The frame as it goes out."""
        return b"data: " + self.data + f"\nid: {self.id}\n\n".encode()


class LangflowStream:
    """The StreamAdapter of the protocol for one reader. `shape`: of the job's flow, where it is known. The option
    `follow` stays across suspensions, `narrowed` hides the graph whatever the job says.
    """

    deltas = True

    def __init__(self, reader: Attach, shape: FlowShape | None = None) -> None:
        self._after = reader.after.seq
        headers = {"Cache-Control": "no-cache", "X-Job-Id": reader.job}
        self.manners = Manners(heartbeat=b": keepalive\n\n", retry=False, moves=False, headers=headers)
        self._follow = reader.options.get("follow") == "true"
        self._telling = Telling(reader.job, shape, narrowed=reader.options.get("narrowed") == "true")
        self._id = 0

    @property
    def ended(self) -> bool:
        """Whether the job has ended, or sleeps and nothing has come that wakes it."""
        job = self._telling.job
        if job.status in TERMINAL:
            return True
        if self._follow or job.status is not Status.SUSPENDED or job.updated_at is None:
            return False
        return asleep(job, job.updated_at)

    def on_event(self, body: bytes, event: AnyEvent) -> Iterator[Frame]:
        """The frames of an event that lies behind the reader's offset. `event` has its values, whatever `body` has."""
        return self._numbered(event, [self._frame(each) for each in self._telling.event(event)])

    def _numbered(self, event: AnyEvent, frames: list[LangflowFrame]) -> Iterator[Frame]:
        """The frames of an event, of which the last bears its number; none where the reader had them."""
        if frames:
            frames[-1] = msgspec.structs.replace(frames[-1], id=str(event.seq))
            self._id = event.seq
        return iter(frames if event.seq > self._after else ())

    def on_delta(self, said: Said, at: Offset | None) -> Iterator[Frame]:
        """Tokens, log lines, the starts of tools and of what a loop runs: they repeat the last id. Of the flow's own
        components 1.13 does not tell that they start.
        """
        told = self._telling.delta(said)
        return iter([self._frame(each) for each in told if not self._telling.planned(each)])

    def on_reset(self, reset: Reset) -> Iterator[Frame]:
        """Nothing: the pieces so far come once more, under the ids of their messages."""
        self._telling.reset()
        return iter(())

    def on_caught_up(self) -> Iterator[Frame]:
        """Nothing is said first."""
        self._telling.live = True
        return iter(())

    def close(self, reason: str) -> Iterator[Frame]:
        """Nothing: the protocol has no such words, and its readers come back with their last id."""
        return iter(())

    def _frame(self, told: Told) -> LangflowFrame:
        name, data = told
        return LangflowFrame(str(self._id), name, json.dumps({"event": name, "data": data}).encode())


def opened(reader: Attach) -> LangflowStream:
    """The adapter for `reader`, of a job whose flow is not known."""
    return LangflowStream(reader)
