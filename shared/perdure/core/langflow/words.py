"""Langflow's words for ours: statuses, instants, codes of failures."""

from typing import Final

from perdure.core import event as ev
from perdure.core.event import Status
from perdure.core.instant import Instant

QUEUED: Final = "queued"
_CODES: Final = {
    "deadline": "EXECUTION_TIMEOUT",
    "request_expired": "INPUT_EXPIRED",
    "request-expired": "INPUT_EXPIRED",
}


def status_shown(status: Status | None) -> str:
    """A job's status: running and retrying are one."""
    if status in (Status.RUNNING, Status.RETRYING):
        return "in_progress"
    return (status or Status.QUEUED).value


def instant_shown(at: Instant | None) -> str | None:
    """An instant with an offset and microseconds, as Pydantic writes Python's."""
    return None if at is None else f"{at.removesuffix('Z')}000+00:00"


def code_of(failure: ev.Failure) -> str:
    """The code of a failure. Those that Langflow knows are in upper case already."""
    if failure.code.isupper():
        return failure.code
    return _CODES.get(failure.code, "EXECUTION_ERROR")
