"""Idempotency: which job a key makes. A key whose job ended badly may be used again, then it makes another one."""

from enum import Enum, auto

from perdure.core.event import Status
from perdure.core.machine import JobState
from perdure.ids import Digest, JobId, Principal, Tenant, derived


class Use(Enum):
    """What the n-th job of a key means for a call with that key."""

    SUBMIT = auto()  # there is none: make it
    REPLAY = auto()  # it is that call's
    REUSED = auto()  # another body made it
    NEXT = auto()  # it ended badly: ask for the next


def job_id(tenant: Tenant, owner: Principal, key: str, n: int) -> JobId:
    """The id of the n-th job (from 0) that an owner's key makes."""
    return JobId(derived("langflow", tenant, owner, key, str(n)))


def use(job: JobState, fingerprint: Digest) -> Use:
    """What `job`, the n-th of a key, means for a call with the body `fingerprint`."""
    if not job.exists:
        return Use.SUBMIT
    if job.status in (Status.FAILED, Status.CANCELLED, Status.TIMED_OUT):
        return Use.NEXT
    return Use.REPLAY if job.fingerprint == fingerprint else Use.REUSED
