"""The format of the log: one envelope, one tagged union of all event types.

Names are the contract. A type may gain members with defaults; a member never changes its meaning, a name is never used
again. What each member says is in `docs/reference/events.md`. Members without a value are absent, except user values
(`input`, `result`, `payload`, `value`), where JSON's null is a value. A user value that is too large for its event lies
in a blob, and the member `<name>_ref` stands in its place (`core.blob`); in memory the member itself is UNSET then, or
None where its default is None.
"""

from enum import StrEnum
from typing import Any, Final, Literal

from msgspec import UNSET, Struct

from perdure.core.instant import Instant
from perdure.ids import Digest, EventId, JobId, Principal, Queue, RequestId, RunnerId

FORMAT: Final = 1


class Status(StrEnum):
    """Where a job is. The first four are open, the last four terminal."""

    QUEUED = "queued"
    RUNNING = "running"
    SUSPENDED = "suspended"
    RETRYING = "retrying"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


OPEN: Final = frozenset({Status.QUEUED, Status.RUNNING, Status.SUSPENDED, Status.RETRYING})
TERMINAL: Final = frozenset(Status) - OPEN

UserValue = Any  # what users' flows make and take: any JSON


class Part(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A record inside an event."""


# ------------------------------------------------------------------------------------------------ parts


class BlobRef(Part, frozen=True, kw_only=True):
    """Where a user value lies that is too large for its event: a blob of the job's tenant, by the hash of its bytes."""

    sha256: Digest
    size_bytes: int
    media_type: str


class FlowRef(Part, frozen=True, kw_only=True):
    """The flow a job executes, as it was when the job was submitted. `digest` names the definition's blob."""

    id: str
    name: str
    version: int
    kind: Literal["graph", "python", "langflow"]
    digest: Digest


class Source(Part, frozen=True, kw_only=True):
    """By which door a job came in. The last members are those of Langflow's workflows API: how its client waits, the
    protocol of its stream and whether that shows the graph, and which outputs it asked for.
    """

    surface: Literal["native", "child", "schedule", "langflow", "agui"] = "native"
    schedule_id: str | None = None
    thread_id: str | None = None
    run_id: str | None = None
    mode: Literal["sync", "stream", "background"] | None = None
    protocol: str | None = None
    graph_state: bool = False
    output_ids: tuple[str, ...] = ()


class Parent(Part, frozen=True, kw_only=True):
    """The job, and the call in it, that started this one."""

    job_id: JobId
    step: str
    occurrence: int
    path: str = ""
    detached: bool = False


class Bell(Part, frozen=True, kw_only=True):
    """The doorbell by which an attempt was started: its stream sequence in WORK and its own id."""

    seq: int
    ring: str


class Failure(Part, frozen=True, kw_only=True):
    """Why a step or a job failed. `message` holds ids and states, or the author's own words; `details` are names that
    go with it (`error_type`, `package`).
    """

    code: str
    message: str
    retryable: bool | None = None
    step: str | None = None
    details: dict[str, str] = {}


class Named(Part, frozen=True, kw_only=True):
    """The terminal output that a step's result is."""

    name: str
    kind: Literal["text", "data", "table", "message"]


class Usage(Part, frozen=True, kw_only=True):
    """What a model call cost, in tokens."""

    input_tokens: int = 0
    output_tokens: int = 0
    model: str | None = None


class Waiting(Part, frozen=True, kw_only=True):
    """One thing that a sleeping job waits for. `until` is the latest instant at which it ends by itself."""

    kind: Literal["input", "signal", "timer", "child", "backoff", "runner", "code"]
    path: str = ""
    name: str | None = None
    occurrence: int | None = None
    request_id: RequestId | None = None
    job_id: JobId | None = None
    until: Instant | None = None
    expected: str | None = None
    found: str | None = None


class Action(Part, frozen=True, kw_only=True):
    """One way to settle a request. `requires` replaces the schema's `required`; "comment" means the comment."""

    id: str
    label: str | None = None
    style: Literal["primary", "danger"] | None = None
    requires: tuple[str, ...] | None = None


class Assignees(Part, frozen=True, kw_only=True):
    """Who may answer. Nobody named means `anyone_with: execute`."""

    users: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    anyone_with: Literal["execute", "answer"] | None = None


class OnTimeout(Part, frozen=True, kw_only=True):
    """What happens when nobody answered in time."""

    do: Literal["answer", "branch", "fail"] = "fail"
    action: str | None = None
    payload: UserValue = None
    payload_ref: BlobRef | None = None


class Via(Part, frozen=True, kw_only=True):
    """By which channel somebody acted."""

    channel: Literal["api", "console", "cli", "link", "langflow", "agui", "timeout"]
    key_id: str | None = None
    link: str | None = None  # the label of the link that was used
    link_by: Principal | None = None  # who gave it out to somebody outside: the two are one voter
    run_id: str | None = None  # the AG-UI run that said it


class Quorum(Part, frozen=True, kw_only=True):
    """`n` distinct users of the pool `of` (None: all assignees) must say the same; a `veto` action settles alone."""

    n: int
    of: Assignees | None = None
    veto: tuple[str, ...] = ()


class Escalation(Part, frozen=True, kw_only=True):
    """`after_seconds` after it was asked the request is addressed to `add` too."""

    after_seconds: float
    add: Assignees


class Delegation(Part, frozen=True, kw_only=True):
    """`by` has handed the right to answer to the user `to` (`user:<name>`)."""

    by: Principal
    to: Principal
    at: Instant
    comment: str | None = None
    via: Via | None = None


class Wrong(Part, frozen=True, kw_only=True):
    """Why the answer to an earlier request would not do: of which part of it, and what is wrong."""

    pointer: str
    detail: str


class Request(Part, frozen=True, kw_only=True):
    """What a person is asked, whole. `id` is the job id, `_` and the `seq` of the first asking."""

    id: RequestId
    job_id: JobId
    name: str
    occurrence: int
    revision: int
    kind: Literal["approval", "choice", "input", "tool_call"]
    title: str
    asked_at: Instant
    asked_for: Principal
    actions: tuple[Action, ...]
    path: str = ""
    message: str | None = None
    proposal: UserValue = None
    proposal_digest: str | None = None  # absent: there is no proposal
    proposal_schema: dict[str, UserValue] | None = None
    editable: tuple[str, ...] | None = None
    response_schema: dict[str, UserValue] | None = None
    defaults: dict[str, UserValue] | None = None
    assignees: Assignees | None = None
    expires_at: Instant | None = None
    on_timeout: OnTimeout | None = None
    reasks: RequestId | None = None
    proposal_ref: BlobRef | None = None
    forbid_self: bool = False
    quorum: Quorum | None = None
    reminders: tuple[float, ...] = ()  # seconds after `asked_at`
    escalations: tuple[Escalation, ...] = ()
    escalated: int = 0  # how many of them have acted
    delegations: tuple[Delegation, ...] = ()
    ui: dict[str, UserValue] | None = None
    external_ids: dict[str, str] = {}
    errors: tuple[Wrong, ...] = ()  # of the answer that is asked for again (`reasks`)


class Outcome(Part, frozen=True, kw_only=True):
    """What an expired request turned into."""

    do: Literal["answer", "branch", "fail"]
    action: str | None = None
    payload: UserValue = None
    payload_ref: BlobRef | None = None


# ------------------------------------------------------------------------------------------------ data of the events


class SubmittedData(Part, frozen=True, kw_only=True):
    """`job.submitted`: everything that the job needs from outside, for ever. `sealed` are values that only a runner
    with the master key can read (`perdure.seal`).
    """

    flow: FlowRef
    input: UserValue = UNSET
    owner: Principal
    queue: Queue
    priority: Literal["low", "normal", "high"]
    deadline_at: Instant
    fingerprint: Digest
    source: Source = Source()
    tags: dict[str, str] = {}
    on_behalf_of: Principal | None = None
    session_id: str | None = None
    not_before: Instant | None = None
    max_failures: int | None = None
    parent: Parent | None = None
    effect_root: JobId | None = None
    traceparent: str | None = None
    input_ref: BlobRef | None = None
    sealed: UserValue = None
    sealed_ref: BlobRef | None = None
    thread: UserValue = None  # of an AG-UI run: `messages` and `state` as they were posted
    thread_ref: BlobRef | None = None


class AttemptData(Part, frozen=True, kw_only=True):
    """`attempt.started`. `because_seq` and `cause` name the recorded event that resumes the job, if there is one."""

    runner: RunnerId
    doorbell: Bell
    reason: Literal["first", "retry", "resumed", "lease_lost", "rung"]
    code_digest: str | None = None
    because_seq: int | None = None
    cause: Literal["answer", "expiry", "withdrawal", "signal", "timer", "child"] | None = None


class SuspendedData(Part, frozen=True, kw_only=True):
    """`job.suspended`: what is waited for. With `more`, every resolving event is a cause."""

    waiting: tuple[Waiting, ...]
    more: int = 0
    resume: Literal["any", "all"] = "any"
    wake_at: Instant | None = None


class StepData(Part, frozen=True, kw_only=True):
    """What all step events carry: the key."""

    step: str
    occurrence: int
    path: str = ""


class StepCompletedData(StepData, frozen=True, kw_only=True):
    """`step.completed`. With `output` this result is the terminal output of that name. `preview` is what Langflow's
    stream shows of a component that was built.
    """

    result: UserValue = UNSET
    started_at: Instant
    duration_seconds: float
    args_digest: str | None = None
    component: str | None = None
    output: Named | None = None
    usage: Usage | None = None
    result_ref: BlobRef | None = None
    preview: UserValue = None
    preview_ref: BlobRef | None = None


class StepFailedData(StepData, frozen=True, kw_only=True):
    """`step.failed`: either `retry_at` or `final`. `preview` as in `step.completed`."""

    error: Failure
    failures: int
    started_at: Instant
    duration_seconds: float
    args_digest: str | None = None
    component: str | None = None
    retry_at: Instant | None = None
    final: bool = False
    preview: UserValue = None
    preview_ref: BlobRef | None = None


class StepSkippedData(StepData, frozen=True, kw_only=True):
    """`step.skipped`: a graph node that no live edge reaches."""

    reason: str
    component: str | None = None


class OutputData(Part, frozen=True, kw_only=True):
    """`output`: a value that the workflow gives out under a name (`ctx.output`)."""

    name: str
    occurrence: int
    kind: Literal["text", "data", "table", "message"]
    value: UserValue = UNSET
    path: str = ""
    step: str | None = None
    value_ref: BlobRef | None = None


class MessageData(Part, frozen=True, kw_only=True):
    """`message`: a chat message, whole. `original` is Langflow's own record of it; `removed`: it was taken back."""

    message_id: str
    role: str
    text: str
    path: str = ""
    step: str | None = None
    original: UserValue = None
    original_ref: BlobRef | None = None
    removed: bool = False


class ProgressData(Part, frozen=True, kw_only=True):
    """`progress`: how far the workflow says that it is."""

    name: str
    occurrence: int
    path: str = ""
    done: float | None = None
    total: float | None = None
    text: str | None = None
    data: UserValue = None
    data_ref: BlobRef | None = None


class RequestedData(Part, frozen=True, kw_only=True):
    """`input.requested`: the whole record; a restatement has a higher `revision` under the same id."""

    request: Request


class Vote(Part, frozen=True, kw_only=True):
    """One voter's answer."""

    by: Principal
    action: str
    payload_digest: str  # over action, payload and proposal: votes add up where it is equal
    at: Instant | None = None
    via: Via | None = None
    comment: str | None = None


class Tally(Part, frozen=True, kw_only=True):
    """How many have said the same."""

    action: str
    digest: str
    votes: int


class VotedData(Part, frozen=True, kw_only=True):
    """`input.voted`: one answer below the quorum."""

    request_id: RequestId
    revision: int
    action: str
    payload: UserValue = UNSET
    payload_digest: str
    by: Principal
    via: Via
    comment: str | None = None
    payload_ref: BlobRef | None = None
    proposal: UserValue = None
    proposal_digest: str | None = None
    edited: bool = False
    proposal_ref: BlobRef | None = None
    tally: tuple[Tally, ...] = ()


class AnsweredData(Part, frozen=True, kw_only=True):
    """`input.answered`: the one answer that counts."""

    request_id: RequestId
    revision: int
    action: str
    payload: UserValue = UNSET
    by: Principal
    via: Via
    proposal: UserValue = None
    proposal_digest: str | None = None
    edited: bool = False
    comment: str | None = None
    votes: tuple[Vote, ...] = ()
    payload_ref: BlobRef | None = None
    proposal_ref: BlobRef | None = None


class ExpiredData(Part, frozen=True, kw_only=True):
    """`input.expired`."""

    request_id: RequestId
    revision: int
    cause: Literal["deadline", "no_quorum"]
    outcome: Outcome
    votes: tuple[Vote, ...] = ()
    by: Principal | None = None  # who cast the vote after which nobody could agree any more
    via: Via | None = None


class WithdrawnData(Part, frozen=True, kw_only=True):
    """`input.withdrawn`."""

    request_id: RequestId
    reason: str
    by: Principal | None = None
    via: Via | None = None


class SignalData(Part, frozen=True, kw_only=True):
    """`signal.received`."""

    signal_id: str
    name: str
    payload: UserValue = UNSET
    by: Principal
    payload_ref: BlobRef | None = None
    via: Via | None = None


class CancelData(Part, frozen=True, kw_only=True):
    """`cancel.requested`: the runner has `grace_seconds` to end, then anybody may append `job.cancelled`."""

    by: Principal
    grace_seconds: float
    reason: str | None = None


class TimerData(Part, frozen=True, kw_only=True):
    """`timer.fired`: a sleep, or the time-out of a wait, is over."""

    name: str
    occurrence: int
    due_at: Instant
    path: str = ""


class ChildData(Part, frozen=True, kw_only=True):
    """`child.ended`: all that a parent ever reads of its child."""

    step: str
    occurrence: int
    job_id: JobId
    status: Status
    path: str = ""
    outputs: dict[str, UserValue] | None = None
    error: Failure | None = None
    outputs_ref: dict[str, BlobRef] = {}


class CompletedData(Part, frozen=True, kw_only=True):
    """`job.completed`: outputs by name, each in `outputs` or in `outputs_ref`."""

    outputs: dict[str, UserValue]
    fingerprint: Digest
    usage: Usage | None = None
    outputs_ref: dict[str, BlobRef] = {}


class FailedData(Part, frozen=True, kw_only=True):
    """`job.failed`: `reason` is one of the job's reasons (`max_failures`, `runner_crashed`, …)."""

    error: Failure
    failures: int
    fingerprint: Digest


class CancelledData(Part, frozen=True, kw_only=True):
    """`job.cancelled`. `superseded_by`: the job that took its place."""

    fingerprint: Digest
    by: Principal | None = None
    reason: str | None = None
    superseded_by: JobId | None = None


class TimedOutData(Part, frozen=True, kw_only=True):
    """`job.timed_out`: the job's own deadline passed."""

    deadline_at: Instant
    fingerprint: Digest


# ------------------------------------------------------------------------------------------------ events


class Event(Struct, frozen=True, omit_defaults=True, kw_only=True, tag_field="type"):
    """The envelope. `seq` is dense per job from 1, `status` the job's after this event, `refs` the reachable blobs."""

    v: int
    id: EventId
    seq: int
    attempt: int
    at: Instant
    status: Status
    refs: tuple[Digest, ...] = ()


class JobSubmitted(Event, frozen=True, kw_only=True, tag="job.submitted"):
    data: SubmittedData


class AttemptStarted(Event, frozen=True, kw_only=True, tag="attempt.started"):
    data: AttemptData


class JobSuspended(Event, frozen=True, kw_only=True, tag="job.suspended"):
    data: SuspendedData


class StepCompleted(Event, frozen=True, kw_only=True, tag="step.completed"):
    data: StepCompletedData


class StepFailed(Event, frozen=True, kw_only=True, tag="step.failed"):
    data: StepFailedData


class StepSkipped(Event, frozen=True, kw_only=True, tag="step.skipped"):
    data: StepSkippedData


class Output(Event, frozen=True, kw_only=True, tag="output"):
    data: OutputData


class Message(Event, frozen=True, kw_only=True, tag="message"):
    data: MessageData


class Progress(Event, frozen=True, kw_only=True, tag="progress"):
    data: ProgressData


class InputRequested(Event, frozen=True, kw_only=True, tag="input.requested"):
    data: RequestedData


class InputVoted(Event, frozen=True, kw_only=True, tag="input.voted"):
    data: VotedData


class InputAnswered(Event, frozen=True, kw_only=True, tag="input.answered"):
    data: AnsweredData


class InputExpired(Event, frozen=True, kw_only=True, tag="input.expired"):
    data: ExpiredData


class InputWithdrawn(Event, frozen=True, kw_only=True, tag="input.withdrawn"):
    data: WithdrawnData


class SignalReceived(Event, frozen=True, kw_only=True, tag="signal.received"):
    data: SignalData


class CancelRequested(Event, frozen=True, kw_only=True, tag="cancel.requested"):
    data: CancelData


class TimerFired(Event, frozen=True, kw_only=True, tag="timer.fired"):
    data: TimerData


class ChildEnded(Event, frozen=True, kw_only=True, tag="child.ended"):
    data: ChildData


class JobCompleted(Event, frozen=True, kw_only=True, tag="job.completed"):
    data: CompletedData


class JobFailed(Event, frozen=True, kw_only=True, tag="job.failed"):
    data: FailedData


class JobCancelled(Event, frozen=True, kw_only=True, tag="job.cancelled"):
    data: CancelledData


class JobTimedOut(Event, frozen=True, kw_only=True, tag="job.timed_out"):
    data: TimedOutData


AnyEvent = (
    JobSubmitted
    | AttemptStarted
    | JobSuspended
    | StepCompleted
    | StepFailed
    | StepSkipped
    | Output
    | Message
    | Progress
    | InputRequested
    | InputVoted
    | InputAnswered
    | InputExpired
    | InputWithdrawn
    | SignalReceived
    | CancelRequested
    | TimerFired
    | ChildEnded
    | JobCompleted
    | JobFailed
    | JobCancelled
    | JobTimedOut
)
AnyData = (
    SubmittedData
    | AttemptData
    | SuspendedData
    | StepCompletedData
    | StepFailedData
    | StepSkippedData
    | OutputData
    | MessageData
    | ProgressData
    | RequestedData
    | VotedData
    | AnsweredData
    | ExpiredData
    | WithdrawnData
    | SignalData
    | CancelData
    | TimerData
    | ChildData
    | CompletedData
    | FailedData
    | CancelledData
    | TimedOutData
)
EVENT_OF: Final[dict[type[AnyData], type[AnyEvent]]] = {cls.__annotations__["data"]: cls for cls in AnyEvent.__args__}
TYPE_OF: Final[dict[type[AnyEvent], str]] = {cls: str(cls.__struct_config__.tag) for cls in AnyEvent.__args__}


def type_of(event: AnyEvent) -> str:
    """The contract's name of an event's type, such as `step.completed`."""
    return TYPE_OF[type(event)]
