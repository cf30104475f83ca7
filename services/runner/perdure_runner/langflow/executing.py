"""Wires what a runner needs to execute flows of Langflow: the processes, what they see, the keys of what is sealed."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from perdure.bus.eventlog import EventLog
from perdure.clock import SystemClock
from perdure.config import RunnerSettings
from perdure.jobs.overrides import opened
from perdure.seal import MasterKeys
from perdure_runner.langflow.flow import LangflowFlow
from perdure_runner.langflow.pool import Confines, Pool, visible
from perdure_runner.langflow.run import LangflowRun
from perdure_runner.port import LogPort


@asynccontextmanager
async def executing(
    settings: RunnerSettings, eventlog: EventLog, clock: SystemClock
) -> AsyncIterator[Callable[[LangflowFlow, LogPort], LangflowRun]]:
    """What makes a run of a flow for a job's port, while the processes for them are kept ready."""
    confines = Confines(
        ahead=settings.langflow_ahead,
        memory_mb=settings.langflow_memory_mb,
        cpu_seconds=int(settings.langflow_seconds),
        environ=visible(os.environ, settings.langflow_environ),
    )
    open_sealed = partial(opened, master_keys(settings), eventlog.blobs.get)
    async with Pool.running(confines, clock) as pool:
        yield lambda flow, port: LangflowRun(flow, port, pool, eventlog.blobs, open_sealed, settings.langflow_seconds)


def master_keys(settings: RunnerSettings) -> MasterKeys:
    """The keys of what is sealed with jobs; none where the operator has given none."""
    return MasterKeys(None if settings.master_key is None else settings.master_key.get_secret_value())
