"""Where one reader of a job is: which deltas it may be shown when, and when it must forget them. Pure.

    caught up    `join`: the rest, if the reader goes on exactly where it was; else a reset and what is still open
    live         `say`: in the order of their numbers; one whose event was not sent yet waits; a hole has to be healed
    hole         `heal`: what LIVE still has, else a reset and what is still open

The offset moves with the last delta of a group only, and a reset has an offset of its own: a reader that is cut inside
a group is told all of it again. A reader that obeys resets and writes at `pos` is never wrong.
"""

from collections.abc import Iterable, Sequence
from typing import Final, Literal

from msgspec import Struct

from perdure.core.event import AnyEvent, AttemptStarted, Status
from perdure.core.stream.delta import Said, Settled, join
from perdure.core.stream.offset import Offset

MOST_WAITING: Final = 1000  # deltas that wait for their event; more are dropped, which is a hole
MOST_EVENTS: Final = 50_000  # of a log
MOST_SINGLE: Final = 32  # deltas at once that are shown one by one; more are joined


class Reset(Struct, frozen=True):
    """Forget every delta that no event has settled. `at` is the reader's offset behind it."""

    attempt: int
    reason: Literal["attempt", "joined", "gap"]
    at: Offset


class Shown(Struct, frozen=True):
    """A delta for the reader; `at` as in StreamAdapter.on_delta."""

    said: Said
    at: Offset | None


class Hole(Struct, frozen=True):
    """Deltas before this one were not heard: ask LIVE, then `heal`."""


HOLE: Final = Hole()
Show = Reset | Shown


class Reading:
    """One reader, from its offset on. `fresh`: it has seen nothing before, so there is nothing to forget.

    `status` and `attempt` are those of the log's end when the reader came.
    """

    def __init__(self, start: Offset, status: Status, attempt: int, *, fresh: bool) -> None:
        self.offset = start
        self._start = start
        self._fresh = fresh
        self._status = status
        self._settled = Settled(attempt)
        self._told = 0  # the highest number of this attempt that was shown or needs no showing
        self._open = False  # whether the reader may hold deltas that only a reset makes it forget
        self._waiting: list[Said] = []

    @property
    def running(self) -> bool:
        """Whether the job runs, by what was shown: else no delta can be open."""
        return self._status is Status.RUNNING

    @property
    def waits(self) -> bool:
        """Whether deltas wait for an event that was not sent yet."""
        return bool(self._waiting)

    def event(self, event: AnyEvent) -> list[Show]:
        """Note an event that was just shown; what the reader is to be shown behind it."""
        self._settled.note(event)
        self._status, self.offset = event.status, Offset(event.seq)
        if not isinstance(event, AttemptStarted):
            return []
        self._told = 0
        if not self._open:
            return []
        self._open = False
        return [Reset(event.attempt, "attempt", self.offset)]

    def join(self, live: Iterable[Said], log: Iterable[AnyEvent]) -> list[Show]:
        """What the reader, who now has every event, is shown of the deltas `live`.

        `log`: the events that may have settled some of them: all that are later than the oldest one's `after`, up to
        the reader's.
        """
        mine, start = self._mine(live), self._start
        if not self.running:
            return [] if self._fresh or not self._settled.attempt else [self._reset("joined")]
        if start.n is not None and start.seq == self.offset.seq:
            last = mine[-1].delta.n if mine else start.n
            rest = [said for said in mine if said.delta.n > start.n]
            if last >= start.n and _dense(rest, start.n):
                self._told, self._open, self.offset = start.n, True, start
                return self._run(rest, log)
        if self._fresh and not mine:
            return []
        return self._again(mine, log, "joined", quiet=self._fresh)

    def say(self, heard: Sequence[Said], *, waited: bool = False) -> list[Show] | Hole:
        """Deltas that were just heard, in order; what the reader is shown of them now.

        `waited`: they are those of `caught_up`, which come before all that still wait.
        """
        run: list[Said] = []
        for said in heard:
            delta = said.delta
            if delta.after > self.offset.seq or (self._waiting and not waited):
                if len(self._waiting) < MOST_WAITING:
                    self._waiting.append(said)
            elif delta.attempt == self._settled.attempt and delta.n > (run[-1].delta.n if run else self._told):
                run.append(said)
        return self._run(run, None) if _dense(run, self._told) else HOLE

    def caught_up(self) -> list[Said]:
        """The deltas that waited and may be said now."""
        ready = []
        while self._waiting and self._waiting[0].delta.after <= self.offset.seq:
            ready.append(self._waiting.pop(0))
        return ready

    def give_up_waiting(self) -> None:
        """The log does not have the event that deltas wait for: they were of no runner of this job."""
        self._waiting.clear()

    def heal(self, live: Iterable[Said], log: Iterable[AnyEvent]) -> list[Show]:
        """Show what was missed: `live` is what LIVE has, with what was heard; `log` as for `join`."""
        mine = self._mine(live)
        rest = [said for said in mine if said.delta.n > self._told]
        if not rest:
            return []
        if _dense(rest, self._told):
            return self._run(rest, log)
        return self._again(mine, log, "gap", quiet=False)

    def oldest(self, live: Iterable[Said]) -> int | None:
        """The event behind which all events lie that may have settled one of `live`; None where there are none."""
        return min((said.delta.after for said in self._mine(live)), default=None)

    def _mine(self, live: Iterable[Said]) -> list[Said]:
        """Of this attempt and of events that were sent, by number, each once."""
        found = {
            said.delta.n: said
            for said in live
            if said.delta.attempt == self._settled.attempt and said.delta.after <= self.offset.seq
        }
        return [found[n] for n in sorted(found)]

    def _run(self, run: Sequence[Said], log: Iterable[AnyEvent] | None) -> list[Show]:
        """Deltas that follow exactly on what the reader has."""
        if not run:
            return []
        self._told = run[-1].delta.n
        left = self._unsettled(run, log)
        if len(left) > MOST_SINGLE:
            return self._group(join(left, whole=False))
        self._open = self._open or bool(left)
        shown: list[Show] = []
        for said in left:
            self.offset = Offset(self.offset.seq, said.delta.n)
            shown.append(Shown(said, self.offset))
        return shown

    def _again(
        self, mine: Sequence[Said], log: Iterable[AnyEvent], reason: Literal["joined", "gap"], *, quiet: bool
    ) -> list[Show]:
        """A reset, and everything that is open; with `quiet` only when something is."""
        self._told = mine[-1].delta.n if mine else 0
        left = join(self._unsettled(mine, log), whole=True)
        if quiet and not left:
            return []
        return [self._reset(reason), *self._group(left)]

    def _group(self, joined: Sequence[Said]) -> list[Show]:
        """Joined deltas: the offset moves behind the last one only."""
        if not joined:
            return []
        self._open = True
        self.offset = Offset(self.offset.seq, self._told)
        return [*(Shown(said, None) for said in joined[:-1]), Shown(joined[-1], self.offset)]

    def _reset(self, reason: Literal["joined", "gap"]) -> Reset:
        self._open = False
        self.offset = Offset(self.offset.seq)
        return Reset(self._settled.attempt, reason, self.offset)

    def _unsettled(self, run: Iterable[Said], log: Iterable[AnyEvent] | None) -> list[Said]:
        """Those that nothing has settled, by `log`, or by what was shown (deltas that come in order are young)."""
        known = self._settled
        if log is not None:
            known = Settled(self._settled.attempt, most=MOST_EVENTS)
            for event in log:
                known.note(event)
        return [said for said in run if not known.covers(said.delta)]


def _dense(run: Sequence[Said], told: int) -> bool:
    return all(said.delta.n == told + i for i, said in enumerate(run, start=1))
