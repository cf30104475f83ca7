"""What the API answers, as records. Members that this version does not know are ignored; absent ones have defaults."""

from typing import Any, Generic, TypeVar

from msgspec import Struct

from perdure.core import event as ev
from perdure.core.event import Status

T = TypeVar("T")


class FlowName(Struct, frozen=True):
    """The flow of a job, short; empty where only the job's end is kept."""

    id: str = ""
    name: str = ""
    version: int = 0
    kind: str = ""


class JobError(Struct, frozen=True):
    """Why a job failed."""

    code: str
    message: str
    step: str | None = None
    retryable: bool | None = None


class WaitingFor(Struct, frozen=True):
    """One thing that a sleeping job waits for."""

    kind: str
    name: str | None = None
    request_id: str | None = None
    until: str | None = None


class OpenRequest(Struct, frozen=True):
    """An open request as a job shows it."""

    id: str
    title: str | None = None


class Job(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A job as it is now. Instants are RFC 3339 texts; `outputs` are user values by output name."""

    id: str
    flow: FlowName
    status: Status
    seq: int
    reason: str | None = None
    attempt: int = 0
    failures: int = 0
    queue: str | None = None
    priority: str | None = None
    tags: dict[str, str] = {}
    session_id: str | None = None
    owner: str | None = None
    created_at: str | None = None
    started_at: str | None = None
    updated_at: str | None = None
    ended_at: str | None = None
    deadline_at: str | None = None
    wake_at: str | None = None
    waiting_for: tuple[WaitingFor, ...] = ()
    requests: tuple[OpenRequest, ...] = ()
    outputs: dict[str, Any] | None = None  # Any: user values
    error: JobError | None = None


class HumanRequest(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a person is asked, and what became of it (`status`: pending, answered, expired, withdrawn)."""

    id: str
    job_id: str
    name: str
    title: str
    status: str
    revision: int = 1
    kind: str = "approval"
    message: str | None = None
    asked_at: str | None = None
    expires_at: str | None = None
    flow: FlowName | None = None
    proposal: Any = None  # Any: user value
    proposal_digest: str | None = None
    editable: tuple[str, ...] | None = None
    actions: tuple[ev.Action, ...] = ()
    settled: dict[str, Any] | None = None  # Any: who, when and what; user values inside


class Answered(Struct, frozen=True, kw_only=True):
    """What came of an answer: the request afterwards; `replayed`: the same answer had been given before."""

    request: HumanRequest
    replayed: bool = False


class Flow(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A flow at one version."""

    id: str
    name: str
    version: int
    kind: str
    digest: str
    definition: Any = None  # Any: user value; absent in lists
    created_at: str | None = None
    updated_at: str | None = None


class Page(Struct, Generic[T], frozen=True):
    """One page of a list; `next` is the cursor of the next one, None on the last."""

    data: list[T]
    next: str | None = None
