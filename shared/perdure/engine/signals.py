"""Signals: a list by name from the job's start, which every path reads with an index of its own.

A branch starts with its parent's index; when its group ends the parent's becomes the highest of its branches'. So
branches side by side hear the same signal, and a loop around `race` reads none twice. Consumption is a function of the
log: it writes nothing. A time-out is a `timer.fired` under the call's key; whichever comes first in the log counts.
"""

from typing import TYPE_CHECKING

from perdure.core import event as ev
from perdure.core.event import AnyEvent
from perdure.core.instant import Instant
from perdure.core.journal import Entry
from perdure.engine.branches import Branch
from perdure.engine.calls import Call
from perdure.engine.values import UNSHAPED, shaped

if TYPE_CHECKING:
    from perdure.engine.bench import Bench


class SignalCall(Call):
    """`ctx.signal` for a signal that has not come yet."""

    def __init__(self, bench: "Bench", branch: Branch, entry: Entry, due_at: Instant | None) -> None:
        super().__init__(bench, branch, entry)
        self._key = entry.key
        self._due_at = due_at

    @property
    def name(self) -> str:
        """The signal's name."""
        return self._key.name

    def ready(self, now: Instant) -> bool:
        return self._due_at is not None and self._due_at <= now

    @property
    def due(self) -> Instant | None:
        return self._due_at

    async def perform(self) -> None:
        path, name, occurrence = self._key
        if self._due_at is not None:
            data = ev.TimerData(name=name, occurrence=occurrence, due_at=self._due_at, path=path)
            await self.bench.append(lambda job: None if (path, name, occurrence) in job.fired else data, self)

    def hear(self, event: AnyEvent) -> None:
        match event:
            case ev.SignalReceived(data=signal):
                self.abandon()  # a time-out that is on its way is delivered to nobody
                self.branch.heard[self.name] += 1
                self.resolve(shaped(signal.payload, UNSHAPED))
            case _:
                self.fail(TimeoutError(f"no signal {self.name} until {self._due_at}"))

    def waiting(self) -> ev.Waiting | None:
        path, name, occurrence = self._key
        return ev.Waiting(kind="signal", path=path, name=name, occurrence=occurrence, until=self._due_at)


async def received(bench: "Bench", event: ev.SignalReceived) -> None:
    """Put the signal into its list, and tell the branches that wait for it: one at a time, by path."""
    name = event.data.name
    bench.signals.setdefault(name, []).append(event.data.payload)
    waiting = [call for call in bench.branches.parked() if isinstance(call, SignalCall) and call.name == name]
    for call in sorted(waiting, key=lambda call: call.branch.path):
        if call.branch.call is call:  # the one before may have closed it
            call.hear(event)
            await bench.branches.still()
