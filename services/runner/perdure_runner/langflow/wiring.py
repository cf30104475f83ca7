"""What a runner of Langflow flows is put together from: its settings, its processes, what gateways tell it."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from perdure.bus.call import Calls
from perdure.bus.callbodies import MESSAGES, Messages, MessagesOf
from perdure.bus.eventlog import EventLog
from perdure.clock import Clock
from perdure.config import RunnerSettings
from perdure.ids import JobRef
from perdure.jobs.overrides import opened
from perdure.seal import MasterKeys
from perdure_runner.langflow.flow import LangflowFlow
from perdure_runner.langflow.pool import Confines, Pool, visible
from perdure_runner.langflow.run import LangflowRun
from perdure_runner.port import LogPort

Start = Callable[[LangflowFlow, LogPort], LangflowRun]


@asynccontextmanager
async def runs(settings: RunnerSettings, eventlog: EventLog, calls: Calls, clock: Clock) -> AsyncIterator[Start]:
    """Makes the runs of Langflow flows; their processes end with the context."""
    confines = Confines(
        ahead=settings.langflow_ahead,
        memory_mb=settings.langflow_memory_mb,
        cpu_seconds=int(settings.langflow_seconds),
        environ=visible(os.environ, settings.langflow_environ),
    )
    open_sealed = partial(opened, master_keys(settings), eventlog.blobs.get)
    recall = partial(_recall, calls)
    async with Pool.running(confines, clock) as pool:
        yield lambda flow, port: LangflowRun(
            flow, port, pool, eventlog.blobs, open_sealed, settings.langflow_seconds, recall
        )


def master_keys(settings: RunnerSettings) -> MasterKeys:
    """The keys that open what is sealed with jobs."""
    return MasterKeys(None if settings.master_key is None else settings.master_key.get_secret_value())


async def _recall(calls: Calls, ref: JobRef) -> list[dict[str, Any]]:  # Any: JSON
    """What other jobs of the session have said."""
    reply = await calls.ask(MESSAGES, MessagesOf(tenant=ref.tenant, job=ref.job), Messages)
    return list(reply.messages)
