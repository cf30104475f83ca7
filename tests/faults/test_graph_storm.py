"""200 jobs of a graph with a branch, two model calls, a request and retries; runners and the broker die at random.

Who dies next is drawn; when, is given by the work: each time another share of the requests has been answered. The
seed is printed, `PERDURE_TEST_SEED` takes it again.
"""

import asyncio
import json
import os
import random
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

from msgspec import Struct

from perdure.cli.examples import example
from perdure.client import Client, Frame, decode
from perdure.clock import SystemClock
from perdure.core import event as ev
from perdure.core import verify
from perdure.core.event import TERMINAL, AnyEvent
from perdure.local.launch import UpProcess, launched
from perdure.testing import whole
from perdure.testing.chatmodel import ChatModel

JOBS = 200
CLIENTS = 5  # each follows 40 jobs: a client holds at most 100 connections
SHARES = 5  # how often somebody dies
VICTIMS = ("runner-1", "runner-2", "runner-3", "nats")
BOUND_SECONDS = 300.0
FLOW = "support_triage"


class Ticket(Struct):
    """A job as its follower saw it."""

    text: str
    job: str = ""
    frames: list[Frame] = []

    @property
    def log(self) -> list[AnyEvent]:
        return [said for said in map(decode, self.frames) if isinstance(said, AnyEvent)]


async def follow(client: Client, ticket: Ticket, answered: "asyncio.Queue[str]") -> None:
    """Submit a ticket, follow it to its end, approve what it asks."""
    ticket.job = (await client.submit(FLOW, ticket.text, idempotency_key=ticket.text)).id
    async with aclosing(client.events(ticket.job, deltas=False).frames()) as frames:
        async for frame in frames:
            if frame.seq is None:
                continue
            ticket.frames.append(frame)
            said = decode(frame)
            if isinstance(said, ev.InputRequested):
                await client.answer(await client.request(said.data.request.id), "approve")
                answered.put_nowait(ticket.job)


async def storm(
    up: UpProcess, answered: "asyncio.Queue[str]", draw: random.Random, eventually: Callable[..., Awaitable[None]]
) -> list[str]:
    """Kill somebody each time that another share of the requests has been answered; the names of the dead."""
    dead = []
    for _ in range(SHARES):
        for _ in range(JOBS // (SHARES + 1)):
            await answered.get()
        name = draw.choice(VICTIMS)
        pid = up.kill(name)
        dead.append(name)
        await eventually(
            lambda name=name, pid=pid: up.processes().get(name, pid) != pid,
            within_seconds=60,
        )
    return dead


async def doctor(up: UpProcess) -> list[object]:
    """What `perdure doctor` finds."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
    command = [sys.executable, "-m", "perdure.cli.app", "doctor", "--json", "--data", str(up.data)]
    process = await asyncio.create_subprocess_exec(*command, env=environ, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    findings: list[object] = json.loads(out)["findings"]
    return findings


async def test_two_hundred_jobs_of_a_graph_survive_the_death_of_runners_and_broker(
    tmp_path: Path, eventually: Callable[..., Awaitable[None]]
) -> None:
    seed = int(os.environ.get("PERDURE_TEST_SEED", random.SystemRandom().randrange(2**32)))
    print(f"seed {seed}")  # noqa: T201  # shown with the failure
    draw = random.Random(seed)
    tickets = [Ticket(f"Ticket {n:03} of {JOBS}: I want a refund") for n in range(JOBS)]
    answered: asyncio.Queue[str] = asyncio.Queue()
    async with (
        asyncio.timeout(BOUND_SECONDS),
        ChatModel(SystemClock(), delay_seconds=0.005).serve() as model,
        launched(tmp_path / "data", "--runners", "3", environ=whole.environment(model), log=tmp_path / "up.log") as up,
        AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(whole.client_of(up)) for _ in range(CLIENTS)]
        client = clients[0]
        model.fail(*(draw.choice(["500", "429", "cut", "503"]) for _ in range(JOBS // 4)))
        await client.push_flow(FLOW, example(FLOW))
        async with asyncio.TaskGroup() as tasks:
            for place, ticket in enumerate(tickets):
                tasks.create_task(follow(clients[place % CLIENTS], ticket, answered))
            dead = await storm(up, answered, draw, eventually)
        assert len(dead) == SHARES
        retried = 0
        for ticket in tickets:
            log = ticket.log
            assert verify.log(log) == [], ticket.job
            assert [event.status for event in log if event.status in TERMINAL] == ["completed"]
            assert isinstance(log[-1], ev.JobCompleted)
            assert list(log[-1].data.outputs) == ["reply"]
            assert ticket.text in str(log[-1].data.outputs["reply"])
            steps = [event.data.step for event in log if isinstance(event, ev.StepCompleted)]
            assert sorted(steps) == ["classify", "draft", "reply", "route", "task", "ticket"]
            assert sum(isinstance(event, ev.InputRequested) for event in log) == 1
            retried += sum(isinstance(event, ev.StepFailed) for event in log)
            assert await whole.events(client, ticket.job) == ticket.frames
        assert retried >= 1

        async def projected() -> object:
            rows = (await client.jobs(limit=200)).data
            return len(rows) == JOBS and {row.status for row in rows} == {"completed"}

        await eventually(projected, within_seconds=30)
        assert await doctor(up) == []
        assert await up.stop() == 0
