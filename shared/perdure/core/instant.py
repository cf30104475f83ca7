"""Instants as the log writes them: RFC 3339, UTC, exactly milliseconds, `Z`. Equal length, so they sort as text."""

from datetime import UTC, datetime, timedelta
from typing import Final, NewType

from perdure.errors import Malformed

Instant = NewType("Instant", str)

END: Final = Instant("9999-12-31T23:59:59.999Z")


def instant(at: datetime) -> Instant:
    """`at` (aware) as an Instant, cut to the millisecond."""
    utc = at if at.tzinfo is UTC else at.astimezone(UTC)
    return Instant(utc.isoformat(timespec="milliseconds")[:-6] + "Z")  # in place of "+00:00"


def moment(at: Instant) -> datetime:
    """The aware datetime of an Instant. Raises Malformed."""
    try:
        return datetime.fromisoformat(at)
    except ValueError as exc:
        raise Malformed("not an instant") from exc


def later(at: Instant, seconds: float) -> Instant:
    """The instant `seconds` after `at`; what lies beyond the calendar is its END. Raises ValueError for no number."""
    try:
        return instant(moment(at) + timedelta(seconds=seconds))
    except OverflowError:
        return END


def seconds_between(start: Instant, end: Instant) -> float:
    """Seconds from `start` to `end`, negative when `end` is earlier."""
    return (moment(end) - moment(start)).total_seconds()
