"""kill -9 of the runner itself, as a process: another one goes on behind the journal."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.langflow import flowfiles
from tests.langflow.bench import Bench, contents
from tests.langflow.test_lines_crash import begun, recorded_before

from perdure.bus.connection import Bus
from perdure.core import event as ev
from perdure.core.event import AnyEvent, Status
from perdure.ids import JobRef
from perdure.local.server import NatsServer
from perdure_runner.langflow.pool import Pool

pytestmark = pytest.mark.asyncio(loop_scope="session")

ANSWERS = {"gate1": "approve", "gate2": "ship"}


@asynccontextmanager
async def runner_process(bench: Bench) -> AsyncIterator[asyncio.subprocess.Process]:
    """A runner of Langflow flows as its operator starts it, on the bench's queue."""
    who = bench.server.credentials["runner"]
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")},
        "PERDURE_NATS": bench.server.url,
        "PERDURE_NATS_USER": who.user,
        "PERDURE_NATS_PASSWORD": who.password,
        "PERDURE_QUEUES": bench.queue,
        "PERDURE_PRIORITIES": "normal",
        "PERDURE_LANGFLOW": "true",
        "PERDURE_LANGFLOW_AHEAD": "1",
        "PERDURE_PARENT": str(os.getpid()),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "perdure_runner", env=environ, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def killed_at(bench: Bench, log: Path, when: Callable[[AnyEvent], bool]) -> tuple[JobRef, int]:
    """Submit `hitl_two_gates` beside a slow step, and kill its runner as soon as the log has the event. Its seq."""
    async with bench.runner():
        pass  # the queue is made, with the bench's short lease
    ref = await bench.submit(flow(log), "x")
    async with runner_process(bench) as runner:
        answering = asyncio.create_task(answers(bench, ref))
        seen = await bench.heard(ref, when)
        runner.send_signal(signal.SIGKILL)
        await runner.wait()
        answering.cancel()
        await asyncio.wait([answering])
    return ref, seen.seq


async def answers(bench: Bench, ref: JobRef) -> None:
    await bench.play(ref, ANSWERS)


def flow(log: Path) -> dict[str, Any]:
    return flowfiles.flows(log=str(log), seconds=0.3)["hitl_slow"]


def finishes(component: str) -> Callable[[AnyEvent], bool]:
    return lambda e: isinstance(e, ev.StepCompleted) and e.data.step == component


CUTS: dict[str, Callable[[AnyEvent], bool]] = {
    "in the first component": lambda e: isinstance(e, ev.AttemptStarted),
    "after a component": finishes("Sleeper-slow1"),
    "after the request": lambda e: isinstance(e, ev.InputRequested),
    "after the answer": lambda e: isinstance(e, ev.InputAnswered),
    "behind the gate": finishes("HumanInput-gate1"),
}


async def test_074_076_kill_9_of_the_runner(
    session_bus: Bus, nats_server: NatsServer, pool: Pool, tmp_path: Path
) -> None:
    async def case(name: str) -> None:
        bench, log = Bench(session_bus, nats_server, pool), tmp_path / name.replace(" ", "-")
        ref, seq = await killed_at(bench, log, CUTS[name])
        async with bench.runner():
            events = await bench.play(ref, ANSWERS)
        assert contents(events) == {"ok001": "slept:slept:x"}, name
        again = {component for component, times in begun(log).items() if times > 1}
        assert not again & recorded_before(events, seq), name
        assert sum(isinstance(e, ev.AttemptStarted) for e in events) >= 2, name
        assert sum(isinstance(e, ev.InputRequested) for e in events) == 1, name

    async with asyncio.TaskGroup() as cases:
        for name in CUTS:
            cases.create_task(case(name))


async def test_054_an_answer_holds_although_no_runner_is_there(bench: Bench, flows: dict[str, Any]) -> None:
    async with bench.runner():
        ref = await bench.submit(flows["hitl_minimal"], "x")
        await bench.reached(ref, Status.SUSPENDED)
    await bench.answer(ref, gate1="reject")
    async with bench.runner():
        assert contents(await bench.reached(ref)) == {"no001": "x"}


async def test_075_a_job_waits_for_a_runner(bench: Bench, flows: dict[str, Any]) -> None:
    ref = await bench.submit(flows["echo"], "x")
    async with bench.runner():
        assert contents(await bench.reached(ref)) == {"out01": "x"}


async def test_077_a_drain_lets_components_end_and_hands_the_job_on(
    bench: Bench, tmp_path: Path, eventually: Callable[..., Awaitable[None]]
) -> None:
    log = tmp_path / "log"
    ref = await bench.submit(flowfiles.flows(log=str(log), seconds=0.5)["two_slow_steps"], "x")
    async with bench.runner() as executor:
        await eventually(lambda: begun(log)["Sleeper-slow1"] == 1)
        executor.drain()
        events = await bench.reached(ref, Status.RETRYING)
    assert [e.data.step for e in events if isinstance(e, ev.StepCompleted)] == ["ChatInput-in001", "Sleeper-slow1"]
    async with bench.runner():
        events = await bench.reached(ref)
    assert contents(events) == {"out01": "slept:slept:x"}
    assert set(begun(log).values()) == {1}


async def test_097_a_runner_that_is_killed_takes_its_children_along(bench: Bench, tmp_path: Path) -> None:
    async with runner_process(bench) as runner:
        ref = await bench.submit(flowfiles.custom("while True: pass"), "x")
        await bench.heard(ref, finishes("ChatInput-in001"))
        mine = descendants(runner.pid)
        assert len(mine) >= 3  # what forks, the one that runs, one that waits
        runner.send_signal(signal.SIGKILL)
        await runner.wait()
        async with asyncio.timeout(10):
            while [pid for pid in mine if alive(pid)]:
                await bench.clock.sleep(0.02)


def descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    found = [int(child) for child in children.read_text().split()] if children.exists() else []
    return [*found, *(inner for child in found for inner in descendants(child))]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
