"""News about one job, for whoever runs it: "something was appended", and how far; what it is stands in the log."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final

from nats.aio.msg import Msg

from perdure.bus.connection import Bus
from perdure.bus.subject import public_event_subject
from perdure.errors import Unavailable
from perdure.ids import JobRef, StreamSeq

SETTLE_SECONDS: Final = 0.002
_SEQUENCE: Final = "Nats-Sequence"

Known = Callable[[], StreamSeq]


class News(asyncio.Event):
    """Set whenever the job's log may have grown, and at the start: clear it, `take`, then read the log.

    `known` says how far its reader knows the log. Own appends are announced like all others, a moment before their
    acknowledgement is seen: what is announced is judged SETTLE_SECONDS later, and wakes nobody who knows it by then.
    """

    def __init__(self, known: Known = lambda: StreamSeq(0)) -> None:
        super().__init__()
        self._known = known
        self._upto: StreamSeq | None = None
        self._judging: asyncio.TimerHandle | None = None
        self.set()

    def take(self) -> StreamSeq | None:
        """The last stored event that was announced since the last call; None when it is not known how far the log goes.

        Whoever knows that event already (its own, most of the time) has nothing to read.
        """
        upto, self._upto = self._upto, StreamSeq(0)
        return upto

    def doubt(self) -> None:
        """A message may have been lost: the log may go on anywhere."""
        self._upto = None
        self.set()

    def heard(self, upto: StreamSeq) -> None:
        """The event that is stored under `upto` was announced."""
        if self._upto is not None:
            self._upto = max(self._upto, upto)
        if self._judging is None:
            self._judging = asyncio.get_running_loop().call_later(SETTLE_SECONDS, self._judge)

    def _judge(self) -> None:
        self._judging = None
        if self._upto is None or self._upto > self._known():
            self.set()


@asynccontextmanager
async def news(bus: Bus, ref: JobRef, known: Known = lambda: StreamSeq(0)) -> AsyncGenerator[News]:
    """The News of one job, for a reader who has `known` of its log. A message can be lost without a sign: doubt it now
    and then (each heartbeat).
    """
    changed = News(known)

    def heard(message: Msg) -> None:
        sequence = (message.headers or {}).get(_SEQUENCE, "")
        if sequence.isdecimal():
            changed.heard(StreamSeq(int(sequence)))
        else:
            changed.doubt()

    forget = bus.on_reconnect(changed.doubt)
    try:
        subscription = await bus.listen(public_event_subject(ref), heard)
        try:
            with contextlib.suppress(Unavailable):  # not connected: the reconnect subscribes and sets the Event
                await bus.flush()
            yield changed
        finally:
            await bus.unsubscribe(subscription)
    finally:
        forget()
