"""Values too large for an event, on a real broker: put before the append, read whole, missed by nobody else."""

import asyncio
from typing import Any

import pytest
from tests.integration.runner.bench import BOB, Bench, Eventually

from perdure.bus.connection import Bus
from perdure.bus.subject import BLOB, blob_subject
from perdure.core import bounds, codec, verify
from perdure.core import event as ev
from perdure.core.event import Status
from perdure.engine.context import Context
from perdure.engine.workflow import Workflow
from perdure.errors import TooLarge
from perdure.ids import Digest, JobRef, new_job_id
from perdure.probe import SimulatedCrash, arm

LARGE = "x" * 140_000


def flow(fn: Any) -> Workflow:
    return Workflow(name="flow", fn=fn)


async def outputs_of(bench: Bench) -> dict[str, Any]:
    """The job's outputs, those in blobs read back."""
    log = await bench.log()
    assert verify.log(log.events) == []
    assert log.state.status is Status.COMPLETED
    values = dict(log.state.outputs)
    for name, ref in log.state.outputs_ref.items():
        values[name] = codec.decode_value(await bench.eventlog.blobs.get(bench.tenant, ref.sha256))
    return values


async def destroy(bus: Bus, bench: Bench, digest: Digest, body: bytes | None) -> None:
    """Take a blob away, or put other bytes in its place."""
    subject = blob_subject(bench.tenant, digest, 0)
    await bus.nc.jetstream().purge_stream(BLOB, subject=subject)
    if body is not None:
        await bus.nc.jetstream().publish(subject, body, headers={"Perdure-Chunks": "1"})


async def test_a_job_whose_three_outputs_are_too_large_together_runs_and_resumes(
    bench: Bench, eventually: Eventually
) -> None:
    async def body(ctx: Context, given: str) -> None:
        text = await ctx.step("draft", lambda: given + LARGE)
        answer = await ctx.ask("review", title="?", proposal=text)
        for number in range(3):
            await ctx.output(f"o{number}", str(number) * 100_000)
        await ctx.output("answered", [len(answer.proposal), len(answer.payload)])

    await bench.submit()
    async with bench.runner(flow(body)):
        await bench.ring()
        await eventually(bench.empty)
    (request,) = (await bench.log()).state.asked.values()
    assert request.proposal is None
    assert request.proposal_ref is not None
    async with bench.runner(flow(body)):  # another one, which reads everything back
        await bench.append(
            ev.AnsweredData(
                request_id=request.id, revision=1, action="approve", payload=LARGE, by=BOB, via=ev.Via(channel="api"),
                proposal_ref=request.proposal_ref, proposal_digest=request.proposal_digest,
            )
        )  # fmt: skip
        await bench.ring()
        await eventually(bench.empty)
    whole = {f"o{number}": str(number) * 100_000 for number in range(3)}
    assert await outputs_of(bench) == whole | {"answered": [140_002, 140_000]}
    log = await bench.log()
    assert all(len(stored.body) <= codec.MAX_EVENT_BYTES for stored in log.entries)


async def test_a_large_answer_reaches_a_job_that_is_running(bench: Bench, eventually: Eventually) -> None:
    asked, told = asyncio.Event(), asyncio.Event()

    async def body(ctx: Context, given: str) -> int:
        async def ask() -> int:
            heard = await ctx.signal("go")
            told.set()
            return len(heard)

        async def work() -> None:
            asked.set()
            await told.wait()

        return int((await ctx.gather(ask(), ctx.step("work", work)))[0])

    await bench.submit()
    async with bench.runner(flow(body)):
        await bench.ring()
        await asked.wait()
        await bench.append(ev.SignalData(signal_id="s", name="go", payload=LARGE, by=BOB))
        await eventually(bench.empty)
    assert await outputs_of(bench) == {"result": 140_000}


async def test_a_writer_that_dies_between_blob_and_event_leaves_nothing_that_anybody_sees(bench: Bench) -> None:
    await bench.submit()
    log = await bench.log()
    said = ev.SignalData(signal_id="s", name="go", payload=LARGE, by=BOB)
    arm("blob.after_put=raise")
    try:
        with pytest.raises(SimulatedCrash):
            await log.append(lambda job: said)
    finally:
        arm("")
    again = await bench.log()
    assert again.state.seq == 1
    stored = await again.append(lambda job: said)
    assert stored is not None
    (digest,) = stored.event.refs
    assert codec.decode_value(await bench.eventlog.blobs.get(bench.tenant, digest)) == LARGE
    assert (await (await bench.log()).resolve())[-1].data == said


@pytest.mark.parametrize(("body", "code"), [(None, "blob_missing"), (b'"other"', "blob_damaged")])
async def test_a_job_whose_blob_is_gone_fails_clearly_and_nobody_else_suffers(
    bench: Bench, bus: Bus, eventually: Eventually, body: bytes | None, code: str
) -> None:
    async def work(ctx: Context, given: str) -> int:
        text = await ctx.step("draft", lambda: LARGE + str(bench.ref.job))
        await ctx.ask("review", title="?")
        return len(text)

    await bench.submit()
    async with bench.runner(flow(work)):
        await bench.ring()
        await eventually(bench.empty)
        broken = bench.ref
        log = await bench.log()
        (request,) = log.state.asked
        (digest,) = {d for event in log.events for d in event.refs}
        await destroy(bus, bench, digest, body)
        await bench.append(
            ev.AnsweredData(
                request_id=request, revision=1, action="approve", payload=1, by=BOB, via=ev.Via(channel="api")
            )
        )
        await bench.ring()
        await eventually(bench.empty)
        failed = (await bench.log()).state.end
        assert isinstance(failed, ev.FailedData)
        assert failed.error.code == code
        assert digest in failed.error.message

        bench.ref = JobRef(bench.tenant, new_job_id())
        await bench.submit()
        await bench.ring()
        await eventually(bench.empty)
        assert (await bench.log()).state.status is Status.SUSPENDED
        assert broken != bench.ref


async def test_a_log_says_when_it_gets_full_and_ends_at_its_bound(
    bench: Bench, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "MAX_EVENTS", 20)

    async def body(ctx: Context, given: str) -> None:
        for number in range(40):
            await ctx.step("round", lambda number=number: number)

    await bench.submit()
    async with bench.runner(flow(body)):
        await bench.ring()
        await eventually(bench.empty)
    log = await bench.log()
    assert verify.log(log.events) == []
    assert [e.seq for e in log.events if isinstance(e, ev.Progress)] == [17]
    assert isinstance(log.state.end, ev.FailedData)
    assert (log.state.seq, log.state.end.error.code) == (20, "too_large")


async def test_a_pass_over_a_log_with_a_warning_goes_on(
    bench: Bench, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "MAX_EVENTS", 20)

    async def body(ctx: Context, given: str) -> str:
        for number in range(14):
            await ctx.step("round", lambda number=number: number)
        return str((await ctx.ask("review", title="?")).action)

    await bench.submit()
    async with bench.runner(flow(body)):
        await bench.ring()
        await eventually(bench.empty)
        log = await bench.log()
        assert bounds.warned(log.events)
        monkeypatch.setattr(bounds, "MAX_EVENTS", 50_000)
        (request,) = log.state.asked
        await bench.append(
            ev.AnsweredData(
                request_id=request, revision=1, action="approve", payload=1, by=BOB, via=ev.Via(channel="api")
            )
        )
        await bench.ring()
        await eventually(bench.empty)
    assert await outputs_of(bench) == {"result": "approve"}


async def test_an_event_that_fits_in_no_way_is_refused_before_anything_is_sent(bench: Bench) -> None:
    await bench.submit()
    log = await bench.log()
    with pytest.raises(TooLarge):
        await log.append(lambda job: ev.SignalData(signal_id="s" * 200_000, name="go", payload=1, by=BOB))
    assert (await bench.log()).state.seq == 1
