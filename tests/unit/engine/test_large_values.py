"""Values too large for an event: code never notices that they lie in blobs, wherever a pass before died."""

from typing import Any, Literal

import pytest

from perdure import Context, Workflow
from perdure.core import codec, verify
from perdure.core import event as ev
from perdure.errors import Interrupted, StepFailed
from perdure.probe import SimulatedCrash
from perdure.testing.memory import MemoryJob

LARGE = 140_000  # characters: beyond what may lie in an event
PARTS = 100_000  # three of them are too large together


async def body(ctx: Context, given: str) -> dict[str, int]:
    drafts = await ctx.gather(*(ctx.step("draft", str.__mul__, letter, LARGE) for letter in "ab"))
    answer = await ctx.ask("review", title="?", proposal=drafts[0] + given[:1])
    heard = await ctx.signal("more")
    for number in range(3):
        await ctx.output(f"part{number}", str(number) * PARTS)
    await ctx.progress(text="done", data=drafts[1])
    return {"never": len(answer.proposal), "returned": len(heard)}


FLOW = Workflow("large", body)


async def through(job: MemoryJob, flow: Workflow = FLOW) -> MemoryJob:
    """Answer and tell what the job waits for until it ends."""
    while not job.state.terminal:
        await job.run(flow)
        if job.state.asked:
            job.answer("review", "approve", payload={"why": "y" * LARGE})
        elif not job.state.terminal:
            job.signal("more", "s" * LARGE)
    return job


async def test_code_gets_every_value_whole_and_the_log_holds_references() -> None:
    job = await through(MemoryJob("i" * LARGE))
    assert verify.log(job.log) == []
    assert job.outputs == {f"part{n}": str(n) * PARTS for n in range(3)}
    assert all(len(codec.encode(event)) <= codec.MAX_EVENT_BYTES for event in job.log)
    assert {digest for event in job.log for digest in event.refs} == set(job.blobs)
    assert [len(event.refs) for event in job.log if isinstance(event, ev.JobCompleted)] == [2]


@pytest.mark.parametrize("crash", ["before", "after", "interrupt"])
async def test_a_pass_that_died_anywhere_is_followed_by_one_that_sees_the_same(
    crash: Literal["before", "after", "interrupt"],
) -> None:
    whole = await through(MemoryJob("i" * LARGE))
    for seq in range(2, len(whole.log)):
        job = whole.copy(seq)
        if job.state.status is not ev.Status.RUNNING:
            continue
        with pytest.raises((SimulatedCrash, Interrupted)):
            await job.live(FLOW, crash=crash, at_seq=seq + 2)
        await through(job)
        assert verify.log(job.log) == []
        assert job.outputs == whole.outputs


async def test_a_blob_that_was_put_before_a_crash_harms_nobody() -> None:
    job = MemoryJob("i")
    with pytest.raises(SimulatedCrash):
        await job.live(FLOW, crash="before", at_seq=3)
    assert job.blobs
    assert not any(isinstance(event, ev.StepCompleted) for event in job.log)
    assert (await through(job)).outputs == {f"part{n}": str(n) * PARTS for n in range(3)}


async def test_a_value_beyond_what_a_blob_holds_fails_its_step_at_once_and_for_good() -> None:
    tries: list[int] = []

    def huge() -> str:
        tries.append(1)
        return "x" * (codec.MAX_VALUE_BYTES - 1)

    async def flow(ctx: Context) -> Any:
        with pytest.raises(StepFailed, match="at most"):
            await ctx.step("huge", huge)
        return "went on"

    job = MemoryJob()
    await job.run(Workflow("huge", flow))
    (failed,) = job.events(ev.StepFailed)
    assert (failed.error.code, failed.final, len(tries)) == ("too_large", True, 1)
    assert job.outputs == {"result": "went on"}
