"""One attempt's port on a job in a list: appends that can be lost, raced or the last thing that a process does."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from perdure.clock import Chance
from perdure.core import codec
from perdure.core.event import AnyData, AnyEvent
from perdure.core.instant import Instant, seconds_between
from perdure.core.key import Key
from perdure.core.machine import JobState
from perdure.engine.port import Decide
from perdure.errors import Interrupted
from perdure.ids import Digest, EventId, JobId, JobRef
from perdure.probe import SimulatedCrash

if TYPE_CHECKING:
    from perdure.testing.memory import MemoryJob

IDLE_TURNS: Final = 30  # turns of the loop without an event: nothing else can happen
SHORT_SECONDS: Final = 2.0  # waits up to this the engine spends in the process: the clock is moved over them

Crash = Literal["before", "after", "interrupt"]


class MemoryPort:
    """One attempt's port on a MemoryJob."""

    def __init__(self, job: "MemoryJob", attempt_id: EventId, crash: Crash | None, at_seq: int | None) -> None:
        self._job = job
        self._turn = asyncio.Lock()
        self._crash = crash
        self._at_seq = at_seq
        self.attempt_id = attempt_id
        self.before_append: Callable[[AnyData], None] = lambda data: None
        """Called with what is about to be appended; may append as somebody else, which makes it a lost race."""
        self.interrupted = False

    @property
    def ref(self) -> JobRef:
        return self._job.ref

    @property
    def log(self) -> Sequence[AnyEvent]:
        return self._job.whole

    @property
    def job(self) -> JobState:
        return self._job.state

    @property
    def chance(self) -> Chance:
        return self._job.chance

    def now(self) -> Instant:
        return self._job.clock.broker_now()

    async def append(self, decide: Decide, refs: Iterable[Digest] = ()) -> AnyEvent | None:
        async with self._turn:
            while True:
                self._believe()
                job = self.job
                data = decide(job)
                if data is None:
                    return None
                self.before_append(data)
                await asyncio.sleep(0)  # it is on its way: others run meanwhile
                if job.seq == self.job.seq:
                    break  # nobody was faster
            event = self._job.stamped(data, refs)
            if self._at_seq == event.seq and self._crash == "interrupt":
                self.interrupted = True
                self._believe()
            if self._at_seq == event.seq and self._crash == "before":
                raise SimulatedCrash(f"before {event.seq}")
            codec.encode(event)
            stored = self._job.store(event)
            if self._at_seq == event.seq and self._crash == "after":
                raise SimulatedCrash(f"after {event.seq}")
            return stored

    async def moved(self, seq: int, until: Instant | None = None) -> None:
        idle = 0
        while True:
            self._believe()
            if self.log[-1].seq > seq or (until is not None and self.now() >= until):
                return
            if until is not None and seconds_between(self.now(), until) <= SHORT_SECONDS:
                if idle >= IDLE_TURNS:
                    self._job.clock.move_to(until)
                idle += 1
                await asyncio.sleep(0)
                continue
            moved = asyncio.get_running_loop().create_future()

            def tell(moved: asyncio.Future[None] = moved) -> None:
                if not moved.done():
                    moved.set_result(None)

            self._job.on_news(tell)
            self._job.clock.on_move(tell)
            await moved

    async def submit_child(
        self,
        key: Key,
        flow: str,
        given: Any,
        *,
        detached: bool = False,
        queue: str | None = None,
        priority: Literal["low", "normal", "high"] | None = None,
        deadline_seconds: float | None = None,
        max_failures: int | None = None,
        tags: dict[str, str] | None = None,
    ) -> JobId:
        self._believe()
        self._job.submitting(key, "before")
        await asyncio.sleep(0)
        options: dict[str, Any] = {"queue": queue, "priority": priority, "deadline_seconds": deadline_seconds}
        options |= {"max_failures": max_failures, "tags": tags}
        child = self._job.submit_child(key, flow, given, detached, {k: v for k, v in options.items() if v is not None})
        self._job.submitting(key, "after")
        self._believe()
        return child

    def delta(self, kind: str, data: dict[str, Any]) -> None:
        self._job.deltas.append((kind, data))

    def interrupt(self) -> None:
        """End the attempt for this runner."""
        self.interrupted = True
        self._job.clock.advance(0)  # wakes whoever waits

    def _believe(self) -> None:
        if self.interrupted or self.job.attempt_id != self.attempt_id:
            raise Interrupted(f"job {self.ref.job}: this attempt is over")
