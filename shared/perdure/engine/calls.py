"""Context calls: what a branch waits in, what each needs done, and which event ends it.

A call resolves only by an event that is delivered to it, in the first pass as in every later one. What it needs done
(run a function, append a request) happens in `perform`, which starts when the log is delivered to its end, never
before: else the loser of a race would run again in every pass.
"""

import asyncio
import itertools
from typing import TYPE_CHECKING, Any, Final

from perdure.core import event as ev
from perdure.core.event import AnyEvent
from perdure.core.instant import Instant
from perdure.core.journal import Entry
from perdure.engine.branches import Branch

if TYPE_CHECKING:
    from perdure.engine.bench import Bench

_order: Final = itertools.count()


class Call:
    """One wait of one branch. `entry` is what it leaves in the log, None for a wait that leaves nothing."""

    def __init__(self, bench: "Bench", branch: Branch, entry: Entry | None) -> None:
        self.bench = bench
        self.branch = branch
        self.entry = entry
        self.order = next(_order)
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.handler: asyncio.Task[None] | None = None  # runs `perform`
        self.abandoned = False

    def __str__(self) -> str:
        return str(self.entry)

    def holds_on(self) -> bool:
        """Whether the call must end by itself before its branch can be ended (a group whose branches still run)."""
        return False

    def ready(self, now: Instant) -> bool:
        """Whether there is something to `perform` now that the log is delivered to its end."""
        return False

    @property
    def due(self) -> Instant | None:
        """When time alone changes something for this call."""
        return None

    async def perform(self) -> None:
        """Do what the call needs and append what came of it."""

    def hear(self, event: AnyEvent) -> None:
        """An event with this call's key (or its request's id) is delivered. May raise CodeChanged."""
        self.resolve()

    def waiting(self) -> ev.Waiting | None:
        """How a sleeping job says that it waits for this; None for what is no wait of its own."""
        return None

    def abandon(self) -> None:
        """The branch no longer waits: an event not yet sent is dropped, one already sent is delivered to nobody."""
        self.abandoned = True
        if self.entry is not None:
            self.bench.abandoned[self.entry.key] = self

    def give_up(self) -> None:
        """What runs for this call must end now."""
        if self.handler is not None:
            self.handler.cancel()

    def resolve(self, value: object = None) -> None:
        """The branch goes on with `value`."""
        self.bench.branches.resume(self, value)

    def fail(self, error: BaseException) -> None:
        """The branch goes on with `error` raised."""
        self.bench.branches.resume(self, error=error)


class RecordCall(Call):
    """Something that is only said: an output, progress, a skipped node. Resolves by its own event."""

    def __init__(
        self, bench: "Bench", branch: Branch, entry: Entry, data: ev.OutputData | ev.ProgressData | ev.StepSkippedData
    ) -> None:
        super().__init__(bench, branch, entry)
        self._data = data

    def ready(self, now: Instant) -> bool:
        return True

    async def perform(self) -> None:
        await self.bench.append(lambda job: self._data, self)


class SleepCall(Call):
    """`ctx.sleep`: resolves by the `timer.fired` that whoever looks at the job after `due_at` appends."""

    def __init__(self, bench: "Bench", branch: Branch, entry: Entry, due_at: Instant) -> None:
        super().__init__(bench, branch, entry)
        self._key = entry.key
        self._due_at = due_at

    def ready(self, now: Instant) -> bool:
        return self._due_at <= now

    @property
    def due(self) -> Instant | None:
        return self._due_at

    async def perform(self) -> None:
        path, name, occurrence = self._key
        data = ev.TimerData(name=name, occurrence=occurrence, due_at=self._due_at, path=path)
        await self.bench.append(lambda job: None if (path, name, occurrence) in job.fired else data, self)

    def waiting(self) -> ev.Waiting | None:
        path, name, occurrence = self._key
        return ev.Waiting(kind="timer", path=path, name=name, occurrence=occurrence, until=self._due_at)
