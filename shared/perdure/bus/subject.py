"""Every name on the bus, built and parsed. A token that is not exactly what it should be never reaches a subject.

The broker would store `ev.0.*.>` as a literal name and match it as a filter: an id that is not checked reads, and
purges, every tenant's jobs. So nobody else formats a subject, and filters come from here as well.
"""

import re
from typing import Final, Literal, get_args

from perdure.errors import Malformed
from perdure.ids import DIGEST, UUID, Digest, JobId, JobRef, Queue, Tenant, is_token, is_uuid

Priority = Literal["low", "normal", "high"]
PRIORITIES: Final[tuple[Priority, ...]] = get_args(Priority)

WORK: Final = "WORK"
LIVE: Final = "LIVE"
BLOB: Final = "BLOB"
AUDIT: Final = "AUDIT"
MOST_SHARDS: Final = 16  # one hexadecimal digit
CANARY: Final = Tenant("canary")  # the supervisor's own; nobody's job
CANARY_WORK: Final = "work.canary.normal.canary"
CANARY_BLOB: Final = "blob.canary.canary.0"

EVERY_EVENT: Final = "job.*.*.event"
EVERY_LIVE: Final = "job.*.*.*"  # events and deltas in one subscription, so in the order in which the broker sent them
EVERY_CALL: Final = "call.*"
EVERY_REVOKE: Final = "revoke.*"
EVERY_REPLAY: Final = "replay.*.*"
MOST_REPLY_CHARS: Final = 256

_EVENT: Final = re.compile(rf"ev\.[0-9]{{1,2}}\.([a-z0-9][a-z0-9_-]{{0,31}})\.({UUID.pattern})", re.ASCII)
_BLOB: Final = re.compile(rf"blob\.([a-z0-9][a-z0-9_-]{{0,31}})\.({DIGEST.pattern})\.([0-9]{{1,9}})", re.ASCII)
_REPLAY: Final = re.compile(r"replay\.([a-z0-9][a-z0-9_-]{0,31})\.([^.]+)", re.ASCII)
_REPLY: Final = re.compile(r"(_INBOX\.([^\s.*>]+)|_R_)(\.[^\s.*>]+)+")
_WORK: Final = re.compile(rf"work\.([a-z0-9][a-z0-9_-]{{0,31}})\.({'|'.join(PRIORITIES)})\.({UUID.pattern})", re.ASCII)


def shard_of(job: JobId, shards: int) -> int:
    """The shard whose stream holds the log of `job`: its last hexadecimal digit modulo the shard count.

    Raises Malformed.
    """
    if shards not in (1, 2, 4, 8, 16):
        raise Malformed("the shard count is a power of two up to 16")
    return int(_job(job)[-1], 16) % shards


def event_stream(shard: int) -> str:
    """The stream of a shard. Raises Malformed."""
    if not 0 <= shard < MOST_SHARDS:
        raise Malformed("no such shard")
    return f"EV_{shard}"


def event_subject(shards: int, ref: JobRef) -> str:
    """Where the log of a job lies, and the filter that matches it alone. Raises Malformed."""
    return f"ev.{shard_of(ref.job, shards)}.{_token(ref.tenant)}.{_job(ref.job)}"


def canary_event(shard: int) -> str:
    """Where the supervisor tries whether a shard can be written. Raises Malformed."""
    event_stream(shard)
    return f"ev.{shard}.{CANARY}.canary"


def parse_event_subject(subject: str) -> JobRef:
    """The job whose log `subject` is. Raises Malformed for everything else, the supervisor's canaries too."""
    match = _EVENT.fullmatch(subject)
    if match is None:
        raise Malformed("not the subject of a log")
    return JobRef(Tenant(match[1]), JobId(match[2]))


def shard_filter(shard: int) -> str:
    """Every log of a shard. Raises Malformed."""
    event_stream(shard)
    return f"ev.{shard}.>"


def public_event_subject(ref: JobRef) -> str:
    """Where everybody hears what is appended to a job's log, live. Raises Malformed."""
    return f"job.{_token(ref.tenant)}.{_job(ref.job)}.event"


def delta_subject(ref: JobRef) -> str:
    """Where a job's live deltas go. Raises Malformed."""
    return f"job.{_token(ref.tenant)}.{_job(ref.job)}.delta"


def inbox_subject(tenant: Tenant) -> str:
    """Where everybody hears what becomes of a tenant's requests. Raises Malformed."""
    return f"inbox.{_token(tenant)}.request"


def audit_subject(tenant: Tenant) -> str:
    """Where what is done in a tenant is recorded. Raises Malformed."""
    return f"audit.{_token(tenant)}"


def seal_subject(tenant: Tenant) -> str:
    """Where the records of a tenant are sealed. Raises Malformed."""
    return f"{audit_subject(tenant)}.seal"


def revoke_subject(tenant: Tenant) -> str:
    """Where gateways tell each other what of a tenant's is no longer good. Raises Malformed."""
    return f"revoke.{_token(tenant)}"


def call_subject(verb: str) -> str:
    """Where runners ask gateways `verb`. Raises Malformed."""
    return f"call.{_token(verb)}"


def parse_replay_subject(subject: str) -> tuple[Tenant, JobId | None]:
    """Tenant and job of such a question; None for what can be no job. Raises Malformed where there is no tenant."""
    match = _REPLAY.fullmatch(subject)
    if match is None:
        raise Malformed("not the subject of a replay")
    return Tenant(match[1]), JobId(match[2]) if is_uuid(match[2]) else None


def may_answer(reply: str, tenant: Tenant | None) -> bool:
    """Whether `reply`, which somebody outside chose, is an inbox of `tenant` (None: of anybody), or leads across
    accounts. Everything else may be a log, a doorbell, or somebody else's ear.
    """
    match = _REPLY.fullmatch(reply) if len(reply) <= MOST_REPLY_CHARS else None
    return match is not None and (match[1] == "_R_" or tenant is None or match[2] == tenant)


def work_subject(queue: Queue, priority: Priority, job: JobId) -> str:
    """Where the doorbells of a job lie. Raises Malformed."""
    return f"work.{_token(queue)}.{_priority(priority)}.{_job(job)}"


def parse_work_subject(subject: str) -> tuple[Queue, Priority, JobId]:
    """Queue, priority and job of a doorbell's subject. Raises Malformed."""
    match = _WORK.fullmatch(subject)
    if match is None:
        raise Malformed("not the subject of a doorbell")
    return Queue(match[1]), _priority(match[2]), JobId(match[3])


def queue_filter(queue: Queue, priority: Priority) -> str:
    """Every doorbell of a queue and priority. Raises Malformed."""
    return f"work.{_token(queue)}.{_priority(priority)}.*"


def consumer(queue: Queue, priority: Priority) -> str:
    """The pull consumer of WORK for a queue and priority. Raises Malformed."""
    return f"{_token(queue)}_{_priority(priority)}"


def alarm_subject(job: JobId, name: str) -> str:
    """Where the broker keeps one alarm of a job until it rings. Raises Malformed."""
    return f"at.{_job(job)}.{_token(name)}"


def blob_subject(tenant: Tenant, digest: Digest, chunk: int) -> str:
    """Where one chunk of a blob lies. Raises Malformed."""
    if DIGEST.fullmatch(digest) is None or chunk < 0:
        raise Malformed("not a blob")
    return f"blob.{_token(tenant)}.{digest}.{chunk}"


def parse_blob_subject(subject: str) -> tuple[Tenant, Digest, int]:
    """Tenant, hash and chunk number of a blob's subject. Raises Malformed."""
    match = _BLOB.fullmatch(subject)
    if match is None:
        raise Malformed("not the subject of a blob")
    return Tenant(match[1]), Digest(match[2]), int(match[3])


def _token(text: str) -> str:
    if not is_token(text):
        raise Malformed("not a subject token: [a-z0-9][a-z0-9_-]{0,31}")
    return text


def _job(text: str) -> str:
    if not is_uuid(text):
        raise Malformed("not a job id: a lower-case UUID")
    return text


def _priority(text: str) -> Priority:
    for priority in PRIORITIES:
        if text == priority:
            return priority
    raise Malformed("not a priority: low, normal or high")
