"""What one attempt tells followers live: numbered, each before the event that settles it, texts in mouthfuls.

The first words of a channel go out at once; what it says within JOIN_SECONDS after that goes out as one delta. The
start of a step is told with the next thing said, or after START_SECONDS; of a step that has ended by then its event
says it all. A number is given when a delta goes out, so numbers are dense and `after` is right: whoever is about to
change what the attempt knows of the log (an append, news) calls `flush` before.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Struct

from perdure.bus.delta import Deltas
from perdure.clock import Clock
from perdure.core.event import FORMAT
from perdure.ids import JobRef

JOIN_SECONDS: Final = 0.04
START_SECONDS: Final = 0.02
MOST_CHARS: Final = 8_192  # of one joined delta
FLOWS: Final = frozenset({"delta.text", "delta.reasoning"})
START: Final = "delta.step"

Channel = tuple[str, str, str, int, str]
Place = tuple[str, str, int]  # path, step, occurrence


class _Mouthful(Struct):
    data: dict[str, Any]  # Any: a delta's own members
    kind: str
    text: list[str]
    chars: int


class Speech:
    """The deltas of one attempt. `where` tells attempt and last known event; it is asked when a delta goes out."""

    def __init__(self, ref: JobRef, deltas: Deltas, clock: Clock, where: Callable[[], tuple[int, int]]) -> None:
        self._ref, self._deltas, self._clock, self._where = ref, deltas, clock, where
        self._number = 0
        self._held: dict[Channel, _Mouthful | None] = {}  # a channel that said something a moment ago, and what since
        self._starts: dict[Place, dict[str, Any]] = {}  # steps that have begun a moment ago
        self._begins: asyncio.TimerHandle | None = None
        self._timer: asyncio.Task[None] | None = None
        self._over = False

    def say(self, kind: str, data: dict[str, Any]) -> None:
        """Tell it, now or with what the channel says next. Never waits, never raises."""
        if self._over:
            return
        if kind == START:
            self._starts[data.get("path", ""), data["step"], data["occurrence"]] = data
            if self._begins is None:
                self._begins = asyncio.get_running_loop().call_later(START_SECONDS, self._due)
            return
        if self._starts:
            self._begin()
        if kind not in FLOWS:
            self.flush()
            self._send(kind, data)
            return
        channel = (kind, data.get("path", ""), data.get("step", ""), data.get("occurrence", 1), data.get("channel", ""))
        text = data["text"]
        if channel not in self._held:
            self._held[channel] = None
            self._send(kind, data)
            if self._timer is None:
                self._timer = asyncio.create_task(self._tick())
            return
        held = self._held[channel]
        if held is not None and data["pos"] != held.data["pos"] + held.chars:  # the step runs again
            self.flush()
            held = None
        if held is None:
            held = self._held[channel] = _Mouthful(data, kind, [], 0)
        held.text.append(text)
        held.chars += len(text)
        if held.chars >= MOST_CHARS:
            self.flush()

    def flush(self) -> None:
        """Send what is held, in the order in which the channels began."""
        for channel, held in self._held.items():
            if held is not None:
                self._held[channel] = None
                self._send(held.kind, {**held.data, "text": "".join(held.text)})

    def settle(self, place: Place) -> None:
        """An event is about to say how this step ended: its start is told no more."""
        self._starts.pop(place, None)

    def close(self) -> None:
        """Send what is held; nothing is said from now on."""
        self.flush()
        self._over = True
        self._starts.clear()
        if self._begins is not None:
            self._begins.cancel()
        if self._timer is not None:
            self._timer.cancel()

    def _due(self) -> None:
        self._begins = None
        self._begin()

    def _begin(self) -> None:
        starts, self._starts = self._starts, {}
        for data in starts.values():
            self._send(START, data)

    async def _tick(self) -> None:
        while self._held:
            await self._clock.sleep(JOIN_SECONDS)
            quiet = [channel for channel, held in self._held.items() if held is None]
            self.flush()
            for channel in quiet:
                del self._held[channel]
        self._timer = None

    def _send(self, kind: str, data: dict[str, Any]) -> None:
        self._number += 1
        attempt, after = self._where()
        head = {
            "v": FORMAT,
            "job_id": self._ref.job,
            "type": kind,
            "attempt": attempt,
            "n": self._number,
            "after": after,
        }
        self._deltas.publish(self._ref, msgspec.json.encode({**head, **data}))
