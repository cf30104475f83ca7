"""Which jobs the runs of an AG-UI thread are: newest first, from SQL, and what this gateway has started itself.

SQL is up to a second behind, so what was started here is kept in memory, and the runs of a thread begin one after the
other. Two that begin on two gateways within that second may both become jobs: nothing of either is lost.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, NamedTuple
from weakref import WeakValueDictionary

from perdure.db.jobs import JobFilter, list_jobs
from perdure.errors import Unavailable
from perdure.ids import JobId, JobRef, Principal, Tenant
from perdure_gateway.sql import Sql

MOST_KEPT: Final = 4096
RECENT: Final = 4  # jobs of a thread that a run is looked for in


class ThreadRef(NamedTuple):
    """A thread: of an owner, on the flow of that id, by the client's name for it."""

    tenant: Tenant
    owner: Principal
    flow: str
    thread: str


class Threads:
    """The newest jobs of threads."""

    def __init__(self, sql: Sql) -> None:
        self._sql = sql
        self._newest: OrderedDict[ThreadRef, JobId] = OrderedDict()
        self._turns: WeakValueDictionary[ThreadRef, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, thread: ThreadRef) -> AsyncIterator[None]:
        """Only one run of a thread at a time looks for its job, or starts one."""
        lock = self._turns.setdefault(thread, asyncio.Lock())
        async with lock:
            yield

    def note(self, thread: ThreadRef, job: JobId) -> None:
        """A run of the thread was started here."""
        self._newest[thread] = job
        self._newest.move_to_end(thread)
        while len(self._newest) > MOST_KEPT:
            self._newest.popitem(last=False)

    async def recent(self, thread: ThreadRef) -> list[JobRef]:
        """The jobs of a thread, newest first, RECENT at most; while SQL is away the one that was started here."""
        found = [self._newest[thread]] if thread in self._newest else []
        narrow = JobFilter(flows=[thread.flow], sessions=[thread.thread], owners=[thread.owner])
        try:
            async with self._sql.reading() as conn:
                page = await list_jobs(conn, thread.tenant, narrow, limit=RECENT)
            found += [row.job_id for row in page.rows if row.job_id not in found]
        except Unavailable:
            pass  # submits go on without SQL, and so do runs: that another one of the thread goes on is not seen then
        return [JobRef(thread.tenant, job) for job in found]
