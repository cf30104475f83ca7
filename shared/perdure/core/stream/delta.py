"""Deltas: what they say, which event takes the place of which, and how several become one.

A delta is numbered within its attempt (`n`, dense from 1) and names the last event that its runner knew (`after`). An
event *settles* a delta, that is, takes its place: an event of its call, a `message` of its channel, and for all of them
`attempt.started`, `job.suspended` and the end. What an event settles was said before it, so its `after` is lower.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct

from perdure.core import event as ev
from perdure.core.event import TERMINAL, AnyEvent

KINDS: Final = frozenset({"delta.step", "delta.text", "delta.reasoning", "delta.tool", "delta.log", "delta.progress"})
RESET: Final = "delta.reset"
MOST_LINES: Final = 100  # log lines that a late reader is told
MOST_SETTLED: Final = 512  # calls whose settling a reader remembers; see Settled

Call = tuple[str, str, int]


class Delta(Struct, frozen=True):
    """As much of a delta as says where it belongs."""

    type: str
    attempt: int
    n: int
    after: int = 0
    job_id: str | None = None
    path: str = ""
    step: str = ""
    occurrence: int = 1
    channel: str = ""
    pos: int = 0
    text: str = ""
    call_id: str = ""

    @property
    def call(self) -> Call:
        """The call that says it."""
        return (self.path, self.step, self.occurrence)

    @property
    def flows(self) -> bool:
        """Whether it is a piece of a text, which grows; the others are whole."""
        return self.type in ("delta.text", "delta.reasoning")


class Said(NamedTuple):
    """A delta and its bytes."""

    delta: Delta
    body: bytes


_deltas: Final = msgspec.json.Decoder(Delta)


def read_delta(body: bytes, job: str | None = None) -> Said | None:
    """A delta; None for what is none, or another job's (anybody may write on the subject; a later version too)."""
    try:
        delta = _deltas.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if delta.type not in KINDS or delta.n < 1 or delta.attempt < 0 or (job and delta.job_id not in (None, job)):
        return None
    return Said(delta, body)


class Settled:
    """Which deltas events have settled, as far as a reader has seen the log.

    Calls are remembered up to MOST_SETTLED. A delta that is older than everything forgotten counts as settled: live, it
    comes in order, so it is a straggler. Who looks at LIVE, where a delta may be as old as it likes, notes the events
    anew, with `most` as large as the log.
    """

    def __init__(self, attempt: int = 0, most: int = MOST_SETTLED) -> None:
        self.attempt = attempt
        self._most = most
        self._floor = 0
        self._calls: OrderedDict[Call | str, int] = OrderedDict()  # a call, or the channel of a message

    def note(self, event: AnyEvent) -> bool:
        """Take in an event; whether it settles everything that was said before it."""
        self.attempt = event.attempt
        match event:
            case ev.AttemptStarted() | ev.JobSuspended():
                return self._all(event.seq)
            case ev.StepCompleted(data=data) | ev.StepFailed(data=data) | ev.StepSkipped(data=data):
                self._one((data.path, data.step, data.occurrence), event.seq)
            case ev.Message(data=data):
                self._one(data.message_id, event.seq)
            case _ if event.status in TERMINAL:
                return self._all(event.seq)
            case _:
                pass
        return False

    def covers(self, delta: Delta) -> bool:
        """Whether `delta` has been settled, or is of an attempt that is over."""
        if delta.attempt < self.attempt or delta.after < self._floor:
            return True
        settled = max(self._calls.get(delta.call, 0), self._calls.get(delta.channel, 0) if delta.channel else 0)
        return delta.after < settled

    def _all(self, seq: int) -> bool:
        self._floor = seq
        self._calls.clear()
        return True

    def _one(self, what: Call | str, seq: int) -> None:
        self._calls[what] = seq
        self._calls.move_to_end(what)
        while len(self._calls) > self._most:
            _, self._floor = self._calls.popitem(last=False)


def join(deltas: Iterable[Said], *, whole: bool) -> list[Said]:
    """Deltas, by number, as few as say the same: one for each text, the newest of what is replaced, the last log lines.

    `whole`: the reader has nothing (it was told to forget), so a text whose beginning is not there says `truncated`;
    else they go on from what the reader has.
    """
    slots: dict[tuple[Any, ...], list[Said]] = {}  # Any: what tells the kinds apart
    for said in deltas:
        delta = said.delta
        slot: tuple[Any, ...] = (delta.type, delta.path, delta.step, delta.occurrence)
        if delta.flows:
            pieces = slots.setdefault((*slot, delta.channel), [])
            if pieces and delta.pos != pieces[-1].delta.pos + len(pieces[-1].delta.text):
                pieces.clear()  # begun anew, or a piece is missing: what follows it is all that can be said
            pieces.append(said)
        elif delta.type == "delta.log":
            slots[(*slot, delta.n)] = [said]
        else:
            slots[(*slot, delta.call_id)] = [said]
    lines = [key for key in slots if key[0] == "delta.log"]
    for key in lines[:-MOST_LINES]:
        del slots[key]
    return sorted((_one(pieces, whole) for pieces in slots.values()), key=lambda said: said.delta.n)


def _one(pieces: list[Said], whole: bool) -> Said:
    last, first = pieces[-1], pieces[0].delta
    cut = whole and first.flows and first.pos > 0
    if len(pieces) == 1 and not cut:
        return last
    members: dict[str, Any] = msgspec.json.decode(last.body)  # Any: members of a later version too
    members |= {"pos": first.pos, "text": "".join(said.delta.text for said in pieces)}
    if cut:
        members["truncated"] = True
    body = msgspec.json.encode(members)
    return Said(_deltas.decode(body), body)
