"""What people are asked, as of now: the projection says by which jobs, and the logs behind it; the logs say what.

A client that has seen its job suspended asks at once for the row, so the second by which the projection may be behind
is read from the shards' streams. Where more than LATELY entries of a shard lie in it, the rest comes a moment later.
"""

import asyncio
from typing import Final

from aiohttp import web

from perdure.bus.entry import Stored
from perdure.core import event as ev
from perdure.core.event import UserValue
from perdure.core.langflow import requests
from perdure.core.langflow.requests import About
from perdure.core.machine import JobState
from perdure.core.standing import Standing, addressed
from perdure.db import positions
from perdure.db.inbox import InboxFilter, list_requests
from perdure.db.page import MAX_LIMIT, PageKey
from perdure.ids import JobId
from perdure.jobs.joblog import JobLog
from perdure_gateway.acting import acting
from perdure_gateway.auth import CALLER
from perdure_gateway.keys import DESK, SQL

LATELY: Final = 500
AT_ONCE: Final = 16  # logs that are read at the same time


async def rows(request: web.Request, flow: str | None, limit: int) -> list[dict[str, UserValue]]:
    """A row for each open request that the caller may answer, the oldest first. Raises Unavailable."""
    who = await acting(request)()
    jobs = await _listed(request, who, flow, limit)
    jobs.update(dict.fromkeys(await _lately(request)))
    turn = asyncio.Semaphore(AT_ONCE)

    async def read(job: JobId) -> list[tuple[str, str, dict[str, UserValue]]]:
        async with turn:
            log = await JobLog.load(request.app[DESK].eventlog, request[CALLER].job(job), request.app[DESK].clock)
        return [] if flow is not None and _flow(log.state) != flow else _asked(job, log.state, who)

    found = [row for each in await asyncio.gather(*map(read, jobs)) for row in each]
    return [row for _, _, row in sorted(found, key=lambda row: row[:2])[:limit]]


def _asked(job: JobId, state: JobState, who: Standing) -> list[tuple[str, str, dict[str, UserValue]]]:
    """The job's open requests for `who`, each with what it is sorted by."""
    session = None if state.submitted is None else state.submitted.session_id
    about = About(job, _flow(state) or "", session, state.submitted_at)
    return [(r.asked_at, r.id, requests.row(r, about)) for r in state.asked.values() if addressed(r, who)]


def _flow(state: JobState) -> str | None:
    return None if state.submitted is None else state.submitted.flow.id


async def _listed(request: web.Request, who: Standing, flow: str | None, limit: int) -> dict[JobId, None]:
    """The jobs that the projection knows to ask somebody like `who`, by their oldest request."""
    mine = [str(who.principal), *(f"group:{name}" for name in sorted(who.groups))]
    mine += [f"anyone:{right}" for right in ("execute", "answer") if right in who.rights]
    narrow = InboxFilter(flows=[flow] if flow is not None else [], assignees=mine)
    jobs: dict[JobId, None] = {}
    seen = 0
    after: PageKey | None = None
    async with request.app[SQL].reading() as conn:
        while seen < limit:
            page = await list_requests(
                conn, request[CALLER].tenant, narrow, order="oldest", limit=MAX_LIMIT, after=after
            )
            for row in page.rows:
                if addressed(row.record, who) and seen < limit:
                    seen += 1
                    jobs[row.job_id] = None
            after = page.next
            if after is None:
                break
    return jobs


async def _lately(request: web.Request) -> list[JobId]:
    """The tenant's jobs that asked somebody behind the projection's end."""
    async with request.app[SQL].reading() as conn:
        known = await positions.every(conn)
    shards, tenant = request.app[DESK].eventlog.shards, request[CALLER].tenant
    scanned = await asyncio.gather(*(shards.scan(each.shard, each.applied, LATELY) for each in known))
    return [
        entry.ref.job
        for each in scanned
        for entry in each.entries
        if isinstance(entry, Stored) and entry.ref.tenant == tenant and isinstance(entry.event, ev.InputRequested)
    ]
