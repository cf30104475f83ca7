"""The failpoint walk: a process dies at every named point, once, while jobs pass all of them; each job ends right.

One `perdure up` for each group of points, with the jobs side by side; who dies is started again by the supervisor.
"""

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from pathlib import Path
from typing import Final

import aiohttp
import pytest
from tests.faults.conftest import ROOT, Cluster

from perdure.client import decode
from perdure.core import event as ev
from perdure.core.event import TERMINAL, Status
from perdure.probe import POINTS
from perdure.testing import whole

Eventually = Callable[..., Awaitable[None]]
Start = Callable[..., AbstractAsyncContextManager[Cluster]]

JOURNEYS: Final = 5
ROUNDS: Final = 5  # of restarts, at most
# No more than nine deaths of one process in a minute: at the tenth its supervisor gives up.
GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "claims and steps": (
        "claim.after_fetch", "claim.after_read", "claim.after_append",
        "step.before_run", "step.after_run", "step.after_append", "blob.after_put",
        "suspend.before_append", "suspend.after_append", "suspend.after_arm", "alarm.after_arm",
        "delta.before_publish", "heartbeat.before_request",
        "follow.after_replay", "follow.before_live", "call.after_submit",
    ),
    "ends": (
        "terminal.before_append", "terminal.after_append", "terminal.after_ack",
        "drain.after_suspend", "drain.before_nak", "time.after_append", "close.before_withdraw",
        "cancel.after_append", "cancel.after_grace",
        "child.after_end", "child.after_parent_append", "look.after_read",
    ),
    "callers and sweepers": (
        "submit.before_append", "submit.after_append", "submit.after_ring",
        "answer.after_auth", "answer.before_append", "answer.after_append", "answer.after_ring",
        "sweep.after_scan", "sweep.after_ring",
        "project.after_read", "project.before_commit", "project.after_commit", "project.after_announce",
    ),
}  # fmt: skip
# Walked where their own work is tested: a start of `up`, what comes days after a job's end, what people rarely do.
ELSEWHERE: Final = frozenset(
    {
        "migrate.between_steps",
        "retention.after_scan",
        "retention.after_archive",
        "retention.before_purge",
        "human.after_append",
        "remind.after_tell",
    }
)


def passed() -> set[str]:
    """Every point that code passes, by the sources: literal ones, and the two tables of the runner's port."""
    found: set[str] = set()
    for file in [*(ROOT / "shared").rglob("*.py"), *(ROOT / "services").rglob("*.py")]:
        text = file.read_text()
        found |= set(re.findall(r'\bprobe\.hit\("([^"]+)"\)', text))
        if "probe.hit(_" in text:
            found |= set(re.findall(r'"((?:suspend|step|terminal)\.[a-z_]+)"', text))
    return found


def test_the_table_of_points_is_complete_both_ways_and_the_walk_goes_to_each() -> None:
    assert passed() == POINTS
    walked = [point for group in GROUPS.values() for point in group]
    assert len(walked) == len(set(walked))
    assert set(walked) | ELSEWHERE == POINTS


async def follow(running: Cluster, job: str, started: asyncio.Queue[str]) -> None:
    """Follow a job to its end through every disconnect; answer what is meant to be answered."""
    async with aclosing(running.client.events(job).frames()) as frames:
        async for frame in frames:
            if frame.seq is None:
                continue
            said = decode(frame)
            if isinstance(said, ev.AttemptStarted):
                started.put_nowait(job)
            if isinstance(said, ev.InputRequested) and said.data.request.name == "review":
                request = await running.client.request(said.data.request.id)
                if request.status == "pending":
                    await running.client.answer(request, "approve")


async def blind_submit(running: Cluster) -> None:
    """Submit once, without a key, and never ask again: what a client does that dies."""
    found = running.up.client
    headers = {"Authorization": f"Bearer {found.key}"}
    async with aiohttp.ClientSession(headers=headers) as http:
        with contextlib.suppress(aiohttp.ClientError):
            await http.post(f"{found.url}/api/jobs", json={"flow": "twig", "input": "blind"})


async def restart_runners(
    running: Cluster, started: asyncio.Queue[str], drained: Callable[[], bool], eventually: Eventually
) -> None:
    """SIGTERM to every runner while jobs run, until a drain has passed what it is to pass; once at least."""
    for _ in range(ROUNDS):
        await started.get()
        before = {name: pid for name, pid in running.up.processes().items() if name.startswith("runner-")}
        for pid in before.values():
            with contextlib.suppress(ProcessLookupError):  # dead at a point of its own
                os.kill(pid, signal.SIGTERM)
        # A second signal would kill at once: each has drained, or died, before the next round.
        await eventually(lambda before=before: not any(map(whole.alive, before.values())), within_seconds=40)
        while not started.empty():  # what has started before does not say that anything runs now
            started.get_nowait()
        if drained():
            return


@pytest.mark.parametrize("group", GROUPS)
async def test_jobs_end_right_whoever_dies_at_the_points_of(
    group: str, cluster: Start, eventually: Eventually, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    points, markers = GROUPS[group], tmp_path / "died"
    markers.mkdir()
    armed = ";".join(f"{point}=exit:@{markers / point}" for point in points)
    settings = {"lease_seconds": "2", "grace_seconds": "5", "slots": "16", "failpoints": armed}
    async with asyncio.timeout(150), cluster("--runners", "3", **settings) as running:
        started: asyncio.Queue[str] = asyncio.Queue()
        drains = [markers / point for point in points if point.startswith("drain.")]
        async with asyncio.TaskGroup() as tasks:
            stubborn = await running.submit("stubborn")
            ended = tasks.create_task(follow(running, stubborn, started))
            restarts = tasks.create_task(
                restart_runners(running, started, lambda: all(drain.exists() for drain in drains), eventually)
            )
            tasks.create_task(blind_submit(running))

            async def journey(number: int) -> str:
                key = f"{group}-{number}"
                job = (await running.client.submit("journey", f"text {number}", idempotency_key=key)).id
                await follow(running, job, started)
                return job

            journeys = [tasks.create_task(journey(number)) for number in range(JOURNEYS)]
            await restarts

            async def working() -> bool:
                """Whether the stubborn job is in the middle of its step, in an attempt that no restart cuts short."""
                job = await running.client.job(stubborn)
                return job.status == Status.RUNNING and job.attempt in running.attempts(stubborn, "work")

            await eventually(working, within_seconds=60)
            await running.client.cancel(stubborn, grace_seconds=8.0)  # longer than a gateway needs to come back
            await ended
        jobs = [task.result() for task in journeys]

        async def quiet() -> object:
            rows = (await running.client.jobs(limit=200)).data
            return len(rows) >= 2 * JOURNEYS + 1 and all(row.status in TERMINAL for row in rows) and rows

        await eventually(quiet, within_seconds=60)
        left = [point for point in points if not (markers / point).exists()]
        rows = (await running.client.jobs(limit=200)).data
        for row in rows:
            log = await running.log(row.id)
            assert sum(event.status in TERMINAL for event in log) == 1
            assert row.seq == log[-1].seq
            for done in log:
                if isinstance(done, ev.StepCompleted):  # no recorded step runs again
                    assert all(n <= done.attempt for n in running.attempts(row.id, done.data.step)), row.id
        for number, job in enumerate(jobs):
            end = (await running.log(job))[-1]
            assert isinstance(end, ev.JobCompleted), end
            assert end.data.outputs["result"]["said"] == f"text {number}"
            assert end.data.outputs["result"]["length"] == 150_000
            assert end.data.outputs["result"]["action"] == "approve"
        assert (await running.log(stubborn))[-1].status is Status.CANCELLED
        assert left == []
    record_property("failpoint_cases", len(points))
