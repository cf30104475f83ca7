"""The judge of invariant I11: after quiet, the rows of every job are the fold of its log, told here a second time."""

from sqlalchemy import select

from perdure.bus.entry import Stored
from perdure.bus.eventlog import EventLog
from perdure.core import event as ev
from perdure.core.event import AnyEvent
from perdure.core.machine import fold
from perdure.db import jobs
from perdure.db.engine import Database
from perdure.db.schema import requests
from perdure.ids import JobRef, StreamSeq

Settled = tuple[str, int, str | None, str | None]
"""Of a request: status, revision, when it was settled, by whom."""


async def mismatches(database: Database, eventlog: EventLog, shards: int) -> list[str]:
    """Every job whose rows are not what its log says, as sentences; empty when all is well."""
    found: list[str] = []
    for ref, log in (await _logs(eventlog, shards)).items():
        state = fold(log)
        async with database.read() as conn:
            row = await jobs.get_row(conn, ref)
            columns = (requests.c.request_id, requests.c.status, requests.c.revision, requests.c.settled_at)
            query = select(*columns, requests.c.settled_by).where(requests.c.job_id == ref.job)
            asked = {r[0]: (r[1], r[2], r[3], r[4]) for r in (await conn.execute(query)).all()}
        if row is None:
            found.append(f"{ref.job}: no row for {state.seq} events")
            continue
        told: list[object] = [row.seq, row.status, row.attempt, row.failures, row.created_at, row.started_at]
        told += [row.updated_at, row.ended_at, len(row.requests), row.quarantined]
        wanted: list[object] = [state.seq, state.status, state.attempt, state.failures, log[0].at, state.started_at]
        wanted += [log[-1].at, state.ended_at, len(state.asked), None]
        if told != wanted:
            found.append(f"{ref.job}: the row says {told}, the log {wanted}")
        if row.outputs != (state.end.outputs if isinstance(state.end, ev.CompletedData) else None):
            found.append(f"{ref.job}: other outputs")
        if asked != (told_requests := requests_of(log)):
            found.append(f"{ref.job}: requests {asked}, the log {told_requests}")
    return found


def requests_of(log: list[AnyEvent]) -> dict[str, Settled]:
    """What a log says of its requests, by walking it."""
    found: dict[str, Settled] = {}
    for event in log:
        match event:
            case ev.InputRequested(data=data):
                found[data.request.id] = ("pending", data.request.revision, None, None)
            case ev.InputAnswered(data=data):
                found[data.request_id] = ("answered", found[data.request_id][1], event.at, data.by)
            case ev.InputExpired(data=data):
                found[data.request_id] = ("expired", found[data.request_id][1], event.at, None)
            case ev.InputWithdrawn(data=data):
                found[data.request_id] = ("withdrawn", found[data.request_id][1], event.at, data.by)
            case ev.JobCompleted() | ev.JobFailed() | ev.JobCancelled() | ev.JobTimedOut():
                for request, (status, revision, _, _) in found.items():
                    if status == "pending":
                        found[request] = ("withdrawn", revision, event.at, None)
            case _:
                pass
    return found


async def _logs(eventlog: EventLog, shards: int) -> dict[JobRef, list[AnyEvent]]:
    logs: dict[JobRef, list[AnyEvent]] = {}
    for shard in range(shards):
        after = StreamSeq(0)
        while batch := (await eventlog.shards.scan(shard, after)).entries:
            after = batch[-1].at
            for entry in batch:
                if isinstance(entry, Stored):
                    logs.setdefault(entry.ref, []).append(entry.event)
    return logs
