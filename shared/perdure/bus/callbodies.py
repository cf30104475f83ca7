"""What is said in a call: one request and one reply record a verb. A member may be added with a default, never change.

Tenants, owners and rights are not here: of a child they come from its parent's log.
"""

from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from perdure.core.event import Part
from perdure.ids import Digest, FlowId, JobId, Queue, RunnerId, Tenant

FORMAT: Final = 1
REGISTER: Final = "register"
SUBMIT: Final = "submit"
MESSAGES: Final = "messages"

Priority = Literal["low", "normal", "high"]
Schema = dict[str, Any]  # JSON Schema, 2020-12


class FlowOffer(Part, frozen=True, kw_only=True):
    """A Python flow that a runner can run. `digest`: SHA-256 of the source of `module`, which defines it."""

    name: str
    digest: Digest
    module: str
    description: str | None = None
    input_schema: Schema | None = None
    output_schema: Schema | None = None


class Register(Struct, frozen=True, kw_only=True):
    """`call.register`: at start and every minute. `leaving`: this runner ends now and will not be heard of again."""

    v: int = FORMAT
    runner: RunnerId
    version: str
    queues: tuple[Queue, ...]
    priorities: tuple[Priority, ...]
    slots: int
    running: int
    tenants: tuple[Tenant, ...]  # who may see and execute `flows`
    flows: tuple[FlowOffer, ...] = ()
    components: tuple[Schema, ...] = ()  # catalogue entries of users' graph components, plain data
    leaving: bool = False
    langflow: bool = False  # whether it executes flow files of Langflow


class Stored(Part, frozen=True, kw_only=True):
    """A flow as a tenant has it now; `problem` says why it was not stored (`name-taken`)."""

    id: FlowId | None = None
    version: int | None = None
    problem: str | None = None


class Registered(Struct, frozen=True, kw_only=True):
    """The reply. `drain`: take nothing new, hand on what runs, end. `flows`: by name and tenant."""

    v: int = FORMAT
    drain: bool = False
    flows: dict[str, dict[Tenant, Stored]] = {}


class ParentCall(Part, frozen=True, kw_only=True):
    """The call in a running job that starts a child."""

    tenant: Tenant
    job: JobId
    step: str
    occurrence: int
    path: str = ""
    detached: bool = False


class Submit(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`call.submit`. `flow` is a name or id, with `@n` for a version; what is left out is the parent's."""

    v: int = FORMAT
    parent: ParentCall
    flow: str
    input: msgspec.Raw
    queue: Queue | None = None
    priority: Priority | None = None
    deadline_seconds: float | None = None
    max_failures: int | None = None
    tags: dict[str, str] = {}


class Submitted(Struct, frozen=True, kw_only=True):
    """The reply: the child's id, the same one however often it is asked for."""

    v: int = FORMAT
    job_id: JobId


class MessagesOf(Struct, frozen=True, kw_only=True):
    """`call.messages`: the job that asks what other jobs of its session have said."""

    v: int = FORMAT
    tenant: Tenant
    job: JobId


class Messages(Struct, frozen=True, kw_only=True):
    """The reply: messages as Langflow records them, oldest first."""

    v: int = FORMAT
    messages: tuple[dict[str, Any], ...] = ()
