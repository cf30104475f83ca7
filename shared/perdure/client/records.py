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
    name: str | None = None
    kind: str | None = None
    title: str | None = None
    expires_at: str | None = None


class Parent(Struct, frozen=True, omit_defaults=True):
    """The job that started this one, and by which call."""

    job_id: str
    step: str
    occurrence: int
    path: str | None = None
    detached: bool = False


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
    parent: Parent | None = None
    progress: dict[str, Any] | None = None  # Any: user values inside
    outputs: dict[str, Any] | None = None  # Any: user values
    outputs_ref: dict[str, dict[str, Any]] = {}  # outputs too large to show: sha256, size_bytes, media_type
    usage: dict[str, Any] | None = None  # Any: numbers by name
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
    response_schema: dict[str, Any] | None = None  # Any: JSON Schema
    defaults: dict[str, Any] | None = None  # Any: user values
    actions: tuple[ev.Action, ...] = ()
    settled: dict[str, Any] | None = None  # Any: who, when and what; user values inside
    asked_for: str | None = None
    assignees: ev.Assignees | None = None  # none: whoever may execute the flow
    quorum: ev.Quorum | None = None
    delegations: tuple[ev.Delegation, ...] = ()
    errors: tuple[ev.Wrong, ...] = ()  # of an answer that would not do, where this asks again
    reasks: str | None = None
    votes: tuple[dict[str, Any], ...] = ()  # Any: by, action, at, comment
    tally: tuple[ev.Tally, ...] = ()
    comments: tuple[dict[str, Any], ...] = ()  # Any: by, at, text
    history: tuple[dict[str, Any], ...] = ()  # Any: seq, at, kind, by, …


class Answered(Struct, frozen=True, kw_only=True):
    """What came of an answer: the request afterwards; `replayed`: the same answer had been given before."""

    request: HumanRequest
    replayed: bool = False


class AnswerLink(Struct, frozen=True, kw_only=True, rename={"audience": "for"}):
    """A link that was just minted: the only time that its `url` (a path of the gateway) is seen."""

    id: str
    request_id: str
    audience: str
    expires_at: str
    url: str
    revision: int = 1
    actions: tuple[str, ...] = ()


class Member(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A member of a group: `user:x` or `service:x`."""

    principal: str
    added_at: str | None = None
    added_by: str | None = None


class Group(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A group of principals."""

    name: str
    members: tuple[Member, ...] = ()
    created_at: str | None = None


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


class Checked(Struct, frozen=True, kw_only=True):
    """What a definition would amount to, had it been published."""

    name: str
    kind: str
    digest: str
    outputs: tuple[str, ...] = ()
    input_schema: dict[str, Any] | None = None  # Any: JSON Schema


class Key(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An API key without what opens it. No scopes: not narrowed."""

    id: str
    principal: str
    name: str | None = None
    scopes: tuple[str, ...] = ()
    created_at: str | None = None
    expires_at: str | None = None
    last_used_at: str | None = None
    revoked_at: str | None = None


class NewKey(Key, frozen=True, omit_defaults=True, kw_only=True):
    """A key that was just made: the only time that its secret is seen."""

    secret: str


class Self(Struct, frozen=True, kw_only=True):
    """Who a key stands for."""

    principal: str
    tenant: str
    key_id: str
    scopes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


class Runner(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A runner as it last said. `status`: up, draining, lost."""

    id: str
    status: str
    version: str | None = None
    queues: tuple[str, ...] = ()
    priorities: tuple[str, ...] = ()
    slots: int = 0
    running: int = 0
    flows: tuple[str, ...] = ()
    first_seen_at: str | None = None
    seen_at: str | None = None
    drain_at: str | None = None
    drain_by: str | None = None


class QueueDepth(Struct, frozen=True, kw_only=True):
    """A queue at one priority: jobs that nobody has, that runners hold, that were given out again; the oldest."""

    queue: str
    priority: str
    waiting: int = 0
    held: int = 0
    redelivered: int = 0
    oldest_at: str | None = None


class Page(Struct, Generic[T], frozen=True):
    """One page of a list; `next` is the cursor of the next one, None on the last."""

    data: list[T]
    next: str | None = None
