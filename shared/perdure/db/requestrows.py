"""The rows of requests: what each event changes about them, and whom they ask, so that lists find them."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import delete, func, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from perdure.core import event as ev
from perdure.core.alarm import overdue_at, reminders_of
from perdure.core.event import AnyEvent
from perdure.core.instant import Instant
from perdure.core.machine import JobState
from perdure.core.vote import counted
from perdure.db.record import storable
from perdure.db.schema import insert, jobs, request_assignees, requests
from perdure.db.whom import whom
from perdure.ids import JobRef, Principal

LAST: Final = "9999-12-31T23:59:59.999Z"  # what a request without a deadline sorts by
SHARED: Final = ("status", "kind", "flow_id", "flow_name", "asked_at", "urgent_at", "overdue_at")  # by both tables
KEPT: Final = ("tenant", "request_id", "job_id", "remind_at")  # of a row that is there

Row = dict[str, object]
RequestStatus = Literal["pending", "answered", "expired", "withdrawn"]


class Change(Struct, frozen=True):
    """Where a request is after an event. A request that is open when its job ends is withdrawn by that end."""

    request: ev.Request
    status: RequestStatus
    settled_at: Instant | None = None
    settled_seq: int | None = None
    settled_by: Principal | None = None
    action: str | None = None
    tally: tuple[ev.Tally, ...] = ()  # of the votes that count


class Asking(Struct, frozen=True):
    """A job, as far as the rows of its requests say something about it, and what changed about them."""

    ref: JobRef
    flow: ev.FlowRef
    tags: dict[str, str]
    changes: Sequence[Change]


def changes(before: JobState, event: AnyEvent, after: JobState) -> list[Change]:
    """What `event`, which led from `before` to `after`, changes about requests."""
    match event:
        case ev.InputRequested(data=data):
            return [_pending(after, after.asked[data.request.id])]
        case ev.InputVoted(data=data):
            return [_pending(after, after.asked[data.request_id])]
        case ev.InputAnswered(data=data):
            change = Change(before.asked[data.request_id], "answered", event.at, event.seq, data.by, data.action)
            return [replace(change, tally=_tally(data.votes))]
        case ev.InputExpired(data=data):
            change = Change(before.asked[data.request_id], "expired", event.at, event.seq, data.by, data.outcome.action)
            return [replace(change, tally=_tally(data.votes))]
        case ev.InputWithdrawn(data=data):
            return [_withdrawn(before, before.asked[data.request_id], event, data.by)]
        case _ if after.terminal:
            return [_withdrawn(before, request, event, None) for request in before.asked.values()]
        case _:
            return []


async def write(conn: AsyncConnection, jobs_of: Iterable[Asking]) -> None:
    """Write the rows of the changed requests, the last change of each. Only in the transaction, and behind the guard,
    that wrote the jobs' own rows.
    """
    rows, asked = list[Row](), list[Row]()
    for job in jobs_of:
        of_one, whom_of_one = rows_of(job)
        rows += of_one
        asked += whom_of_one
    if not rows:
        return
    statement = insert(conn, requests)
    statement = statement.on_conflict_do_update(
        index_elements=[requests.c.tenant, requests.c.request_id],
        set_={name: statement.excluded[name] for name in rows[0] if name not in KEPT},
    )
    await conn.execute(statement, rows)
    await _address(conn, [(row["tenant"], row["request_id"]) for row in rows], asked)


def rows_of(job: Asking) -> tuple[list[Row], list[Row]]:
    """The rows of `requests` and `request_assignees` for the changed requests of a job, by the last change of each."""
    rows, asked = list[Row](), list[Row]()
    for change in {change.request.id: change for change in job.changes}.values():
        row = _values(job, change)
        rows.append(row)
        asked += _asked(row, change.request)
    return rows, asked


async def _address(conn: AsyncConnection, keys: Sequence[tuple[object, object]], asked: Sequence[Row]) -> None:
    """Have the requests `keys` ask whom `asked` says, and nobody else."""
    same = request_assignees.c
    for n in range(0, len(keys), 200):  # SQLite takes a bounded number of parameters
        await conn.execute(delete(request_assignees).where(tuple_(same.tenant, same.request_id).in_(keys[n : n + 200])))
    if asked:
        await conn.execute(insert(conn, request_assignees), asked)


async def unlisted(conn: AsyncConnection, *, limit: int) -> int:
    """Complete rows that a version before wrote, which knew neither tags nor assignees; how many of at most `limit`."""
    columns = [requests.c[name] for name in ("tenant", "request_id", "record", *SHARED)]
    tags = select(jobs.c.tags).where(jobs.c.tenant == requests.c.tenant, jobs.c.job_id == requests.c.job_id)
    query = select(*columns, tags.scalar_subquery().label("job_tags")).where(requests.c.tags.is_(None))
    found = (await conn.execute(query.limit(limit))).mappings().all()
    keys, asked = [], []
    for old in found:
        request = msgspec.json.decode(old["record"], type=ev.Request)
        row = {name: old[name] for name in ("tenant", "request_id", *SHARED)} | {"overdue_at": overdue_at(request)}
        keys.append((old["tenant"], old["request_id"]))
        asked += _asked(row, request)
        mine = (requests.c.tenant == old["tenant"], requests.c.request_id == old["request_id"])
        values = {"tags": old["job_tags"], "overdue_at": row["overdue_at"]}
        await conn.execute(update(requests).where(*mine).values(values))
    if keys:
        await _address(conn, keys, asked)
    return len(keys)


async def forget_pending(conn: AsyncConnection, shard: int, shards: int) -> None:
    """Delete the pending requests of a shard that is projected again from 0; those that are still asked come back."""
    digits = [f"{d:x}" for d in range(16) if d % shards == shard]
    shard_digit = func.substr(requests.c.job_id, 36, 1)  # the last of a job id, as in `bus.subject`
    await conn.execute(delete(requests).where(requests.c.status == "pending", shard_digit.in_(digits)))


def _pending(job: JobState, request: ev.Request) -> Change:
    votes = [vote for vote, _ in counted(job, request)] if request.quorum is not None else []
    return Change(request, "pending", tally=_tally(votes))


def _withdrawn(before: JobState, request: ev.Request, event: AnyEvent, by: Principal | None) -> Change:
    return replace(
        _pending(before, request), status="withdrawn", settled_at=event.at, settled_seq=event.seq, settled_by=by
    )


def _tally(votes: Iterable[ev.VotedData | ev.Vote]) -> tuple[ev.Tally, ...]:
    counts = Counter((vote.action, vote.payload_digest) for vote in votes)
    return tuple(ev.Tally(action=action, digest=digest, votes=n) for (action, digest), n in counts.items())


def _asked(row: Row, request: ev.Request) -> list[Row]:
    shared = {name: row[name] for name in ("tenant", "request_id", *SHARED)}
    return [shared | {"who": storable(who)} for who in whom(request)]


def _values(job: Asking, change: Change) -> Row:
    request = change.request
    return {
        "tenant": job.ref.tenant,
        "request_id": request.id,
        "job_id": job.ref.job,
        "status": change.status,
        "revision": request.revision,
        "kind": request.kind,
        "name": storable(request.name),
        "title": storable(request.title),
        "flow_id": job.flow.id,
        "flow_name": storable(job.flow.name),
        "record": msgspec.json.encode(request).decode(),
        "asked_at": request.asked_at,
        "expires_at": request.expires_at,
        "urgent_at": request.expires_at or LAST,
        "overdue_at": overdue_at(request),
        "settled_at": change.settled_at,
        "settled_seq": change.settled_seq,
        "settled_by": change.settled_by,
        "action": storable(change.action),
        "tags": msgspec.json.encode(job.tags).decode(),
        "votes": sum(count.votes for count in change.tally),
        "remind_at": next((reminder.at for reminder in reminders_of(request)), None),
        "tally": msgspec.json.encode(change.tally).decode() if change.tally else None,
    }
