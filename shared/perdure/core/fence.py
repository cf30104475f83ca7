"""What a failed append means. Look (read every event after the expected one), then decide: the four cases.

    none    nothing follows                    the same append again, byte for byte
    mine    my event is among what follows     it was stored: go on from there
    fenced  an attempt.started not mine        stop, write nothing, ack nothing (even when my event is there too)
    news    somebody else's events only        fold them, decide again; if the event still stands it keeps its id

By the tail alone a stored event behind somebody's answer would be appended twice; by the first successor alone a
takeover two events later would be missed.
"""

from collections.abc import Iterable
from enum import StrEnum

from perdure.core.event import AnyEvent, AttemptStarted
from perdure.ids import EventId


class Verdict(StrEnum):
    """The four cases."""

    NONE = "none"
    MINE = "mine"
    FENCED = "fenced"
    NEWS = "news"


def judge(appended: EventId, attempt: EventId | None, after: Iterable[AnyEvent]) -> Verdict:
    """What the events after the expected one say about the append of `appended`.

    `attempt` is the event id of the writer's own `attempt.started`; None for writers that are no attempt (gateway,
    sweeper, a claim), which nothing fences. An attempt is known by that id: its number is for readers.
    """
    verdict = Verdict.NONE
    for event in after:
        if event.id == appended:
            verdict = Verdict.MINE
        elif attempt is not None and isinstance(event, AttemptStarted) and event.id != attempt:
            return Verdict.FENCED
        elif verdict is Verdict.NONE:  # MINE stays: it was stored, whatever else follows
            verdict = Verdict.NEWS
    return verdict
