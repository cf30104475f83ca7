"""A job that kills its runner ends alone; rolling restarts harm nobody; a step that blocks the loop costs no lease."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import msgspec
from tests.faults.conftest import Cluster

from perdure.core import event as ev
from perdure.core.event import Status

Eventually = Callable[..., Awaitable[None]]
Start = Callable[..., AbstractAsyncContextManager[Cluster]]

NEIGHBOURS = 63


async def test_one_poison_job_among_63_ends_alone(cluster: Start, eventually: Eventually) -> None:
    """All of them lose two runners to it; then each runs in a process of its own and only the guilty one counts on."""
    async with asyncio.timeout(180), cluster(lease_seconds="2", slots=str(NEIGHBOURS + 1)) as running:
        jobs = await asyncio.gather(*(running.submit("sleeper", 1.5) for _ in range(NEIGHBOURS)))
        guilty = await running.submit("poison")

        async def ended() -> object:
            found = await running.statuses()
            return found == {Status.COMPLETED: NEIGHBOURS, Status.FAILED: 1} and found

        await eventually(ended, within_seconds=150)
        log = await running.log(guilty)
        assert isinstance(log[-1], ev.JobFailed)
        assert log[-1].data.error.code == "runner_crashed"
        assert sum(isinstance(event, ev.AttemptStarted) for event in log) == 5
        for job in jobs:
            assert isinstance((await running.log(job))[-1], ev.JobCompleted)
        assert "a suspect runs in a process of its own" in running.said()


async def test_ten_rolling_restarts_under_one_long_step_are_no_failure(cluster: Start, eventually: Eventually) -> None:
    """The step outlasts the grace each time, so it is cut short and handed on; nobody waits for a lease."""
    restarts = 10
    async with (
        asyncio.timeout(120),
        cluster("--runners", "2", lease_seconds="60", grace_seconds="0.3", log_level="debug") as running,
    ):
        job = await running.submit("sleeper", 8.0)
        for number in range(1, restarts + 1):

            def holder(number: int = number) -> int | None:
                """The process that has made the attempt of that number."""
                for line in running.said().splitlines():
                    if "attempt started" in line and job in line and f'"attempt": {number},' in line:
                        return int(msgspec.json.decode(line)["pid"])
                return None

            await eventually(holder, within_seconds=20)  # far below the lease: the doorbell was handed back
            pid = holder()
            assert pid is not None
            os.kill(pid, signal.SIGTERM)
        log = await running.log(job)
        assert isinstance(log[-1], ev.JobCompleted)
        reasons = [event.data.reason for event in log if isinstance(event, ev.AttemptStarted)]
        assert reasons == ["first"] + ["retry"] * restarts
        assert not any(isinstance(event, ev.StepFailed) for event in log)
        assert running.effects() == {(job, "rest"): 1}


async def test_a_step_that_blocks_its_loop_for_two_leases_costs_nobody_a_lease(
    cluster: Start, eventually: Eventually
) -> None:
    lease = 3.0
    async with asyncio.timeout(120), cluster(lease_seconds=str(lease), slots=str(NEIGHBOURS + 1)) as running:
        jobs = await asyncio.gather(*(running.submit("sleeper", 1.0) for _ in range(NEIGHBOURS)))
        blocking = await running.submit("blocker", 2 * lease)

        async def ended() -> object:
            found = await running.statuses()
            return found == {Status.COMPLETED: NEIGHBOURS + 1} and found

        await eventually(ended, within_seconds=90)
        for job in [*jobs, blocking]:
            log = await running.log(job)
            assert [e.data.reason for e in log if isinstance(e, ev.AttemptStarted)] == ["first"], job
        assert set(running.effects().values()) == {1}
        assert "lease lost" not in running.said()
        assert f"step / block#1 of job {blocking}" in running.said()  # who held up the others
