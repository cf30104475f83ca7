"""One wildcard subscription a process for the events and deltas of all jobs; a bounded inbox for each follower.

No consumer per client, and nothing that waits for a slow one: an inbox that is full is emptied and says `Lagged`, which
means "read the log from where you are". A reconnect says the same, because what was republished meanwhile was not
heard. What a follower gets may have holes and repeats; `previous` shows them (see `jobs.follow`).
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Final

from msgspec import Struct
from nats.aio.msg import Msg

from perdure.bus.connection import Bus
from perdure.bus.stream import direct_batch
from perdure.bus.subject import EVERY_LIVE, LIVE, delta_subject
from perdure.ids import JobRef, StreamSeq

MOST_FRAMES: Final = 1_000
MOST_BYTES: Final = 1024 * 1024  # beyond the first frame, which may be larger than this on its own
READS_AT_ONCE: Final = 8  # of LIVE


class LiveEvent(Struct, frozen=True):
    """An event as it was just stored: its stream sequence, that of the event before it in the same log (0: none),
    its body.
    """

    seq: StreamSeq
    previous: StreamSeq
    body: bytes


class LiveDelta(Struct, frozen=True):
    """A live delta."""

    body: bytes


class Lagged(Struct, frozen=True):
    """Something was not heard: read the log from where you are."""


Frame = LiveEvent | LiveDelta | Lagged
LAGGED: Final = Lagged()


class Inbox:
    """What one follower has not taken yet, in order."""

    def __init__(self) -> None:
        self._frames: deque[Frame] | None = None  # none as long as nothing comes: there are many idle ones
        self._bytes = 0
        self._arrived: asyncio.Future[None] | None = None

    async def next(self, timeout: float | None) -> Frame | None:  # noqa: ASYNC109 - None is an answer here, not an error
        """The next frame; None when none came within `timeout` seconds (None: wait for ever)."""
        if self._frames is None:
            self._arrived = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(timeout):
                    await self._arrived
            except TimeoutError:
                return None
            finally:
                self._arrived = None
        return self._take()

    def more_deltas(self) -> list[bytes]:
        """The deltas that come next, while more than half of the room is taken: they are to be joined."""
        taken: list[bytes] = []
        if self._frames is None:
            return taken
        if len(self._frames) > MOST_FRAMES // 2 or self._bytes > MOST_BYTES // 2:
            while self._frames and isinstance(frame := self._frames[0], LiveDelta):
                taken.append(frame.body)
                self._take()
        return taken

    def put(self, frame: Frame) -> None:
        """Add a frame; when there is no room for it everything is replaced by one `Lagged`."""
        size = _size(frame)
        if self._frames is None:
            self._frames = deque()
        if self._frames and (len(self._frames) >= MOST_FRAMES or self._bytes + size > MOST_BYTES):
            frame, size = LAGGED, 0
        if isinstance(frame, Lagged):
            self._frames.clear()
            self._bytes = 0
        self._frames.append(frame)
        self._bytes += size
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    def _take(self) -> Frame | None:
        if self._frames is None:
            return None
        frame = self._frames.popleft()
        self._bytes -= _size(frame)
        if not self._frames:
            self._frames = None
        return frame


class Fanout:
    """The process's subscriptions and the followers behind them. Made by `Fanout.open`."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._reads = asyncio.Semaphore(READS_AT_ONCE)
        self._followers: dict[tuple[str, str], set[Inbox]] = {}

    @classmethod
    def open(cls, bus: Bus) -> AbstractAsyncContextManager["Fanout"]:
        """A Fanout that hears, for as long as the context lasts. Raises Unavailable."""
        return _opened(cls(bus))

    @property
    def followers(self) -> int:
        """How many inboxes there are."""
        return sum(len(inboxes) for inboxes in self._followers.values())

    @contextmanager
    def follow(self, ref: JobRef) -> Iterator[Inbox]:
        """An inbox that gets what happens to a job from now on. Register first, then read the log."""
        inbox, key = Inbox(), (str(ref.tenant), str(ref.job))
        self._followers.setdefault(key, set()).add(inbox)
        try:
            yield inbox
        finally:
            inboxes = self._followers[key]
            inboxes.discard(inbox)
            if not inboxes:
                del self._followers[key]

    async def kept(self, ref: JobRef) -> list[bytes]:
        """The deltas of a job that LIVE still has, in order. Raises Unavailable."""
        async with self._reads:
            return [read.body for read in await direct_batch(self._bus, LIVE, delta_subject(ref), 0)]

    def _heard(self, message: Msg) -> None:
        _, tenant, job, kind = message.subject.split(".")
        inboxes = self._followers.get((tenant, job))
        if not inboxes or (frame := _frame(kind, message)) is None:
            return
        for inbox in inboxes:
            inbox.put(frame)

    def _lagged(self) -> None:
        for inboxes in self._followers.values():
            for inbox in inboxes:
                inbox.put(LAGGED)


@asynccontextmanager
async def _opened(fanout: Fanout) -> AsyncGenerator[Fanout]:
    bus = fanout._bus
    forget = bus.on_reconnect(fanout._lagged)
    try:
        live = await bus.listen(EVERY_LIVE, fanout._heard)
        try:
            await bus.flush()  # the broker knows it: whoever registers from now on misses nothing
            yield fanout
        finally:
            await bus.unsubscribe(live)
    finally:
        forget()


def _frame(kind: str, message: Msg) -> Frame | None:
    if kind == "delta":
        return LiveDelta(message.data)
    headers = message.headers or {}
    try:
        seq, previous = int(headers["Nats-Sequence"]), int(headers["Nats-Last-Sequence"])
    except (KeyError, ValueError):  # not from a log: somebody published on the public subject
        return None
    return LiveEvent(StreamSeq(seq), StreamSeq(previous), message.data) if kind == "event" else None


def _size(frame: Frame) -> int:
    return 0 if isinstance(frame, Lagged) else len(frame.body)
