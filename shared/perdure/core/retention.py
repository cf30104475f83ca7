"""What may become of a log after its end: kept whole, archived and cut down to its last event, gone."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from perdure.core.event import TERMINAL, AnyEvent
from perdure.core.instant import Instant, later
from perdure.core.machine import fold
from perdure.errors import BrokenLog
from perdure.ids import JobId

DAY_SECONDS: Final = 86_400.0
_VERSION: Final = 14  # where a UUID tells its version
_RANDOM: Final = "7"


class Kept(StrEnum):
    """How much of a log is there."""

    WHOLE = "whole"  # from its first to its terminal event
    TOMBSTONE = "tombstone"  # its terminal event alone
    GONE = "gone"
    OTHER = "other"  # open, further than its row, or broken: to be left alone


def kept(events: Sequence[AnyEvent], seq: int) -> Kept:
    """How much of the log of a job, whose row ends at the event `seq`, `events` are."""
    if not events:
        return Kept.GONE
    last = events[-1]
    if last.status not in TERMINAL or last.seq != seq:
        return Kept.OTHER
    try:
        state = fold(events)
    except BrokenLog:
        return Kept.OTHER
    return Kept.WHOLE if state.submitted is not None else Kept.TOMBSTONE


def keeps_tombstone(job: JobId) -> bool:
    """Whether the id of `job` could be asked for again (of a key, a parent's call, a schedule): then the terminal event
    of its log has to stay while the archive knows the job. A random id never comes again.
    """
    return job[_VERSION] != _RANDOM


def before(now: Instant, days: float) -> Instant:
    """The instant `days` before `now`: what ended until then is old."""
    return later(now, -days * DAY_SECONDS)
