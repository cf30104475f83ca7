"""Ids and tokens: their types, how they are minted, what they may look like.

The namespace and the arrays that derived ids are made from are frozen by a golden test: a change would give a replayed
idempotency key a second job.
"""

import re
import uuid
from typing import Final, NamedTuple, NewType

import msgspec
import uuid_utils

from perdure.errors import Malformed

JobId = NewType("JobId", str)
EventId = NewType("EventId", str)
RequestId = NewType("RequestId", str)  # "<job id>_<seq of its first input.requested>"
FlowId = NewType("FlowId", str)
Tenant = NewType("Tenant", str)
Principal = NewType("Principal", str)  # "user:ann", "service:ci"
RunnerId = NewType("RunnerId", str)
Queue = NewType("Queue", str)
Digest = NewType("Digest", str)  # SHA-256, 64 lower-case hex digits
StreamSeq = NewType("StreamSeq", int)  # JetStream's number of a message in its stream; not a job's `seq`

NAMESPACE: Final = uuid.UUID("5b0f8a52-6a1c-5d6e-9d0b-7c6f0c8c2a11")
TOKEN: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}", re.ASCII)
UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)
FLOW_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)
DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
REQUEST_ID: Final = re.compile(rf"({UUID.pattern})_([1-9][0-9]{{0,9}})", re.ASCII)


class JobRef(NamedTuple):
    """A job and the tenant whose it is: what a subject is built from."""

    tenant: Tenant
    job: JobId


def _uuid7() -> str:
    return str(uuid_utils.uuid7())


def new_job_id() -> JobId:
    """A random job id (UUIDv7, so that ids of one time lie together)."""
    return JobId(_uuid7())


def new_event_id() -> EventId:
    """The id of one append; it stays the same however often the append is tried."""
    return EventId(_uuid7())


def new_flow_id() -> FlowId:
    """A random flow id."""
    return FlowId(_uuid7())


def new_runner_id() -> RunnerId:
    """An id for one process start of a runner: a restarted runner is another one."""
    return RunnerId(_uuid7())


def new_ring() -> str:
    """What tells two doorbells apart that got the same stream sequence (after a power cut)."""
    return _uuid7()


def derived(*parts: str) -> str:
    """UUIDv5 over the compact JSON array of `parts`; the first part names the family, so no two families meet."""
    return str(uuid.uuid5(NAMESPACE, msgspec.json.encode(parts).decode()))


def job_id_of_key(tenant: Tenant, owner: Principal, key: str) -> JobId:
    """The id of the one job that an idempotency key of an owner can make."""
    return JobId(derived("job", tenant, owner, key))


def child_job_id(parent: JobId, path: str, name: str, occurrence: int) -> JobId:
    """The id of the one job that a call of `parent` can start: a second pass starts nothing new."""
    return JobId(derived("child", parent, path, name, str(occurrence)))


def run_job_id(tenant: Tenant, owner: Principal, flow: str, thread: str, run: str) -> JobId:
    """The id of the one job that a run of an AG-UI thread can be, for its owner and the flow of that id."""
    return JobId(derived("agui", tenant, owner, flow, thread, run))


def effect_key(root: str, path: str, name: str, occurrence: int) -> str:
    """`ctx.idempotency_key`: stable over attempts, so that the outside world can tell a repeated effect."""
    return str(uuid.uuid5(uuid.UUID(root), msgspec.json.encode([path, name, str(occurrence)]).decode()))


def request_id(job: JobId, seq: int) -> RequestId:
    """The id of the request that the event `seq` of `job` asks for the first time."""
    return RequestId(f"{job}_{seq}")


def parse_request_id(text: str) -> tuple[JobId, int]:
    """The job and the asking `seq` in a request id. Raises Malformed."""
    match = REQUEST_ID.fullmatch(text)
    if match is None:
        raise Malformed("not a request id")
    return JobId(match[1]), int(match[2])


def is_token(text: str) -> bool:
    """Whether `text` may be a subject token (tenant, queue, runner)."""
    return TOKEN.fullmatch(text) is not None


def is_uuid(text: str) -> bool:
    """Whether `text` is a canonical lower-case UUID."""
    return UUID.fullmatch(text) is not None
