"""`call.messages`: what other jobs of a session have said, for a Langflow flow that reads its chat memory.

Which session, and whose, stands in the log of the job that asks. A job without a session shares that of its flow, as in
Langflow 1.13. Jobs are found in the projection: one that was submitted within the last second may be missing.
"""

from typing import Final

import msgspec
import structlog

from perdure.bus.callbodies import Messages, MessagesOf
from perdure.core.event import SubmittedData
from perdure.core.langflow import memory
from perdure.core.langflow.memory import Message
from perdure.db.jobs import JobFilter, list_jobs
from perdure.errors import BrokenLog, Malformed, NotFound
from perdure.ids import JobRef, is_token, is_uuid
from perdure.jobs.desk import Desk
from perdure.jobs.read import load
from perdure_gateway.sql import Sql

log = structlog.get_logger(__name__)

MOST_JOBS: Final = 50
MOST_MESSAGES: Final = 200
MOST_BYTES: Final = 700 * 1024  # of a reply


class Sessions:
    """Tells the memory of sessions."""

    def __init__(self, desk: Desk, sql: Sql) -> None:
        self._desk = desk
        self._sql = sql

    async def messages(self, call: MessagesOf) -> Messages:
        """The newest messages of the session of `call.job`, its own left out, oldest first.

        Raises Malformed, NotFound (no such job), Unavailable.
        """
        if not is_token(call.tenant) or not is_uuid(call.job):
            raise Malformed("no job")
        asks = (await load(self._desk, JobRef(call.tenant, call.job))).state.submitted
        if asks is None:
            raise NotFound("no such job")
        found: list[Message] = []
        size = 0
        for ref in await self._others(JobRef(call.tenant, call.job), asks):
            try:
                said = memory.said(await (await load(self._desk, ref)).resolve())
            except (NotFound, Malformed, BrokenLog) as exc:  # deleted since, or broken: no fault of the job that asks
                log.warning("memory of a job left out", job_id=ref.job, error=str(exc))
                continue
            for message in reversed(said):
                size += len(msgspec.json.encode(message))
                if size > MOST_BYTES or len(found) >= MOST_MESSAGES:
                    return Messages(messages=tuple(reversed(found)))
                found.append(message)
        return Messages(messages=tuple(reversed(found)))

    async def _others(self, job: JobRef, asks: SubmittedData) -> list[JobRef]:
        """The other jobs of the session, newest first."""
        narrow = JobFilter(
            owners=[asks.owner],
            sessions=[asks.session_id] if asks.session_id is not None else [],
            flows=[] if asks.session_id is not None else [asks.flow.id],
        )
        async with self._sql.reading() as conn:
            rows = (await list_jobs(conn, job.tenant, narrow, limit=MOST_JOBS)).rows
        return [row.ref for row in rows if row.ref != job and row.session_id == asks.session_id]
