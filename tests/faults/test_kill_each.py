"""kill -9 of the runner, the gateway, the sweeper and the broker, one after the other, while 50 jobs run."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

from msgspec import Struct

from perdure.cli.examples import example
from perdure.client import Client, Frame, decode
from perdure.clock import SystemClock
from perdure.core import event as ev
from perdure.core import verify
from perdure.core.event import TERMINAL, AnyEvent
from perdure.local.launch import launched
from perdure.testing import whole
from perdure.testing.chatmodel import ChatModel

JOBS = 50
VICTIMS = ("runner-1", "gateway", "sweeper", "nats")
STEP = "draft"
BOUND_SECONDS = 150.0
SLOW_SECONDS = 2.0  # the model's pause after each token
FAST_SECONDS = 0.03


class Followed(Struct):
    """A job as its follower saw it, from its submission to its end, through every disconnect."""

    text: str
    job: str = ""
    frames: list[Frame] = []
    repaired: int = 0


async def follow(client: Client, followed: Followed) -> None:
    """Submit a job, follow it to its end, answer what it asks."""
    followed.job = await whole.submit(client, example("content_approval"), followed.text, key=followed.text)
    stream = client.events(followed.job)
    async with aclosing(stream.frames()) as frames:
        async for frame in frames:
            if frame.seq is None:
                continue
            followed.frames.append(frame)
            said = decode(frame)
            if isinstance(said, ev.InputRequested):
                await client.answer(await client.request(said.data.request.id), "approve")


def texts_asked(model: ChatModel) -> Counter[str]:
    """How often the model was called, by the text of the job."""
    return Counter(call["messages"][-1]["content"] for call in model.calls)


def in_the_middle(wave: list[Followed], model: ChatModel) -> int:
    """How many jobs of a wave have called the model and not yet recorded what it said."""
    asked = texts_asked(model)
    recorded = [any(f.type == "step.completed" and f'"{STEP}"'.encode() in f.data for f in j.frames) for j in wave]
    return sum(job.text in asked and not done for job, done in zip(wave, recorded, strict=True))


def events_of(frames: list[Frame]) -> list[AnyEvent]:
    found = [decode(frame) for frame in frames]
    assert all(isinstance(said, AnyEvent) for said in found)
    return [said for said in found if isinstance(said, AnyEvent)]


async def test_fifty_jobs_survive_the_death_of_every_process(
    tmp_path: Path, eventually: Callable[..., Awaitable[None]]
) -> None:
    jobs = [Followed(f"Text number {n:02} of {JOBS}") for n in range(JOBS)]
    waves = [jobs[n :: len(VICTIMS)] for n in range(len(VICTIMS))]
    async with (
        asyncio.timeout(BOUND_SECONDS),
        ChatModel(SystemClock()).serve() as model,
        launched(tmp_path / "data", environ=whole.environment(model), log=tmp_path / "up.log") as up,
        whole.client_of(up) as client,
    ):
        first = up.processes()
        async with asyncio.TaskGroup() as followers:
            for victim, wave in zip(VICTIMS, waves, strict=True):
                model.delay_seconds = SLOW_SECONDS  # nobody ends before all of the wave are in the middle of their step
                for followed in wave:
                    followers.create_task(follow(client, followed))
                await eventually(lambda wave=wave: in_the_middle(wave, model) == len(wave), within_seconds=40)
                pid = up.kill(victim)
                model.delay_seconds = FAST_SECONDS
                await eventually(lambda victim=victim, pid=pid: up.processes().get(victim, pid) != pid)
        calls = texts_asked(model)

        assert up.process.returncode is None
        again = up.processes()
        assert {name for name in first if again[name] != first[name]} == set(VICTIMS)
        taken_over = 0
        for followed in jobs:
            log = events_of(followed.frames)
            assert verify.log(log) == [], followed.job
            assert [e.status for e in log if e.status in TERMINAL] == ["completed"]
            assert isinstance(log[-1], ev.JobCompleted)
            assert followed.text in str(log[-1].data.outputs["post"])
            assert await whole.events(client, followed.job) == followed.frames
            recorded = [e for e in log if isinstance(e, ev.StepCompleted) and e.data.step == STEP]
            failed = [e for e in log if isinstance(e, ev.StepFailed) and e.data.step == STEP]
            assert len(recorded) == 1
            # An attempt calls the model at most once, and none does after the one that recorded what it said.
            assert 1 <= calls[followed.text] <= recorded[0].attempt + len(failed), followed.text
            taken_over += any(isinstance(e, ev.AttemptStarted) and e.data.reason == "lease_lost" for e in log)
        # Every step that the dead runner was in the middle of ran again, because nobody had recorded it.
        assert taken_over >= len(waves[0])
        assert all(calls[followed.text] >= 2 for followed in waves[0])

        async def projected() -> object:
            rows = (await client.jobs(limit=200)).data
            open_requests = (await client.inbox()).data
            return len(rows) == JOBS and {row.status for row in rows} == {"completed"} and not open_requests

        await eventually(projected)
        assert await up.stop() == 0
