"""Until when a reader follows a job, beside its end."""

from typing import Final

from perdure.core.event import TYPE_OF, AnyEvent, JobSuspended, Status, type_of

UNTIL: Final = frozenset({"terminal", "suspended", "head", *TYPE_OF.values()})


def reached(until: str, event: AnyEvent) -> bool:
    """Whether `event` is what the reader follows until: one of its type, or that the job sleeps."""
    if until == "suspended":
        return isinstance(event, JobSuspended) and event.status is Status.SUSPENDED
    return until == type_of(event)
