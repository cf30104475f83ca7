"""Children: started once whatever dies, waited for in log order, failed, timed out, left alone by who closed."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from perdure import ChildFailed, Closed, Context, RetryPolicy, StepFailed, Workflow
from perdure.core import event as ev
from perdure.core.event import Status
from perdure.core.instant import later
from perdure.core.key import Key
from perdure.errors import Fault, Forbidden, Interrupted, Invalid, NotFound, OutcomeUnknown, TooLarge, Unavailable
from perdure.ids import child_job_id
from perdure.probe import SimulatedCrash
from perdure.testing.memory import MemoryJob


def flow(body: Any) -> Workflow:
    return Workflow("flow", body)


def waits(job: MemoryJob) -> list[tuple[str, str | None]]:
    assert job.state.suspension is not None, job.log[-1]
    return [(w.kind, w.name) for w in job.state.suspension.data.waiting]


# -------------------------------------------------------------------------------------------------- the wait


async def test_a_child_is_submitted_and_its_end_is_what_the_call_returns() -> None:
    async def body(ctx: Context) -> Any:
        value = await ctx.child("report", "make_report@2", {"of": "May"}, queue="slow", tags={"a": "b"})
        return [value, ctx.now().isoformat()]

    job = MemoryJob()
    await job.run(flow(body))
    child = child_job_id(job.ref.job, "", "report", 1)
    assert list(job.children) == [child]
    assert job.children[child].flow == "make_report@2"
    assert job.children[child].given == {"of": "May"}
    assert job.children[child].options == {"queue": "slow", "tags": {"a": "b"}}
    assert job.state.suspension is not None
    (wait,) = job.state.suspension.data.waiting
    assert (wait.kind, wait.path, wait.name, wait.occurrence, wait.job_id, wait.until) == (
        "child", "", "report", 1, child, None,
    )  # fmt: skip
    told = job.end_child("report", {"post": "text", "pages": 3})
    await job.run(flow(body))
    (value, now) = job.outputs["result"]
    assert value == {"post": "text", "pages": 3}
    assert now[:23] == told.at[:23]
    assert not job.events(ev.StepCompleted)


class Report(Struct):
    pages: int


@pytest.mark.parametrize(
    ("outputs", "returns", "value"),
    [
        ({"result": 5}, None, 5),  # what a Python workflow returned
        ({"result": {"pages": 5}}, Report, Report(5)),
        ({"pages": 5}, Report, Report(5)),
        ({"result": 1, "more": 2}, None, {"result": 1, "more": 2}),
        ({}, None, None),
        (None, None, None),
    ],
)
async def test_what_a_child_gave_out(outputs: dict[str, Any] | None, returns: Any, value: Any) -> None:
    got: list[Any] = []

    async def body(ctx: Context) -> None:
        got.append(await ctx.child("c", "f", returns=returns))

    job = MemoryJob()
    await job.run(flow(body))
    job.end_child("c", outputs)
    await job.run(flow(body))
    assert got == [value]


async def test_outputs_of_another_shape_are_an_error_of_the_call() -> None:
    async def body(ctx: Context) -> None:
        await ctx.child("c", "f", returns=Report)

    job = MemoryJob()
    await job.run(flow(body))
    job.end_child("c", {"result": "text"})
    await job.run(flow(body))
    assert "child c: the value does not fit Report" in job.events(ev.JobFailed)[0].error.message


@pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELLED, Status.TIMED_OUT])
async def test_a_child_that_does_not_complete_raises_with_its_status_and_error(status: Status) -> None:
    seen: list[ChildFailed] = []

    async def body(ctx: Context) -> Any:
        try:
            await ctx.child("c", "f")
        except ChildFailed as exc:
            seen.append(exc)
            raise

    job = MemoryJob()
    await job.run(flow(body))
    error = ev.Failure(code="no_money", message="the account is empty", retryable=False)
    job.end_child("c", status=status, error=error if status is Status.FAILED else None)
    await job.run(flow(body))
    failed = job.events(ev.JobFailed)[0].error
    assert failed.step == "c"
    assert (seen[0].status, seen[0].job_id) == (status, child_job_id(job.ref.job, "", "c", 1))
    assert failed.code == ("no_money" if status is Status.FAILED else status)
    if status is Status.FAILED:
        assert str(seen[0]) == "child c ended as failed: the account is empty"


async def test_an_end_that_comes_while_the_parent_still_runs_is_heard_without_a_suspension() -> None:
    job = MemoryJob()

    def ends_at_once(key: Key, when: str) -> None:
        if when == "after":
            job.end_child(key.name, {"result": 1})

    async def body(ctx: Context) -> Any:
        return await ctx.child("c", "f")

    job.submitting = ends_at_once
    await job.run(flow(body))
    assert job.outputs == {"result": 1}
    assert not job.events(ev.JobSuspended)


# -------------------------------------------------------------------------------------------------- detached


async def test_a_detached_child_is_not_waited_for() -> None:
    async def body(ctx: Context) -> Any:
        first = await ctx.child("c", "f", 1, detached=True)
        return [first, await ctx.child("c", "f", 2, detached=True)]

    job = MemoryJob()
    await job.run(flow(body))
    assert job.outputs == {"result": [child_job_id(job.ref.job, "", "c", n) for n in (1, 2)]}
    assert [c.detached for c in job.children.values()] == [True, True]
    assert not job.events(ev.JobSuspended)


async def test_a_recorded_detached_child_is_not_submitted_again() -> None:
    async def body(ctx: Context) -> None:
        await ctx.child("c", "f", detached=True)
        await ctx.sleep(3600)

    job = MemoryJob()
    await job.live(flow(body))
    calls: list[Key] = []
    job.submitting = lambda key, when: calls.append(key)
    await job.run(flow(body))
    assert job.state.terminal
    assert calls == []


# -------------------------------------------------------------------------------------------------- starting it


@pytest.mark.parametrize("error", [Unavailable("no gateway"), OutcomeUnknown("no answer")])
async def test_a_gateway_that_is_away_is_tried_again_like_a_step(error: Exception) -> None:
    job = MemoryJob()
    left = [error, error]

    def away(key: Key, when: str) -> None:
        if when == "before" and left:
            raise left.pop()

    async def body(ctx: Context) -> Any:
        return await ctx.child("c", "f", retry=RetryPolicy(first_seconds=30))

    job.submitting = away
    await job.live(flow(body))
    assert waits(job) == [("backoff", "c")]
    await job.run(flow(body))
    assert waits(job) == [("child", "c")]
    assert [(d.failures, d.final, d.error.code) for d in job.events(ev.StepFailed)] == [
        (1, False, "unavailable"), (2, False, "unavailable"),
    ]  # fmt: skip
    job.end_child("c", {"result": 7})
    await job.run(flow(body))
    assert job.outputs == {"result": 7}


async def test_retry_now_ends_the_back_off_of_a_child() -> None:
    job = MemoryJob()
    left: list[Exception] = [Unavailable("no gateway")]

    def away(key: Key, when: str) -> None:
        if left:
            raise left.pop()

    async def body(ctx: Context) -> Any:
        return await ctx.child("c", "f", retry=RetryPolicy(first_seconds=3000, most_seconds=3000))

    job.submitting = away
    await job.live(flow(body))
    job.signal("$retry_now")
    await job.live(flow(body))
    assert waits(job) == [("child", "c")]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFound("no flow f"), "flow_not_found"),
        (Invalid([Fault("type", "is no text", "/input")], "invalid-input"), "invalid_input"),
        (Forbidden("not yours"), "forbidden"),
        (TooLarge("input"), "too_large"),
    ],
)
async def test_a_child_that_can_never_be_started_fails_the_call_once(error: Exception, code: str) -> None:
    job = MemoryJob()
    tries: list[str] = []

    def refuse(key: Key, when: str) -> None:
        tries.append(when)
        raise error

    async def body(ctx: Context) -> Any:
        try:
            await ctx.child("c", "f")
        except StepFailed as exc:
            await ctx.sleep(3600)
            return exc.code

    job.submitting = refuse
    await job.run(flow(body))
    assert job.outputs == {"result": code}
    assert tries == ["before"]
    assert [d.final for d in job.events(ev.StepFailed)] == [True]


async def test_an_input_that_is_no_json_is_an_error_before_anything_is_submitted() -> None:
    async def body(ctx: Context) -> Any:
        await ctx.child("c", "f", object())

    job = MemoryJob()
    await job.run(flow(body))
    assert job.events(ev.JobFailed)[0].error.message.startswith("Malformed")
    assert not job.children


# -------------------------------------------------------------------------------------------------- time-outs


async def patient(ctx: Context) -> Any:
    try:
        return await ctx.child("c", "f", timeout=60)
    except TimeoutError as exc:
        await ctx.sleep(3600)
        return str(exc)


async def test_a_child_that_takes_too_long_times_out_and_its_later_end_is_nobodys() -> None:
    job = MemoryJob()
    await job.run(flow(patient))
    assert job.state.suspension is not None
    (wait,) = job.state.suspension.data.waiting
    assert wait.until == later(job.log[0].at, 60)
    job.clock.move_to(wait.until)
    await job.live(flow(patient))
    assert [d.name for d in job.events(ev.TimerFired)] == ["c"]
    assert waits(job) == [("timer", "sleep")]
    job.end_child("c", {"result": "late"})
    await job.run(flow(patient))
    assert job.outputs["result"].startswith("child c had not ended by ")


async def test_an_end_before_the_time_out_counts() -> None:
    job = MemoryJob()
    await job.run(flow(patient))
    job.end_child("c", {"result": "in time"})
    job.append(ev.TimerData(name="c", occurrence=1, due_at=later(job.log[0].at, 60)))  # somebody saw the clock first
    await job.run(flow(patient))
    assert job.outputs == {"result": "in time"}


async def test_a_short_time_out_is_waited_for_in_the_process() -> None:
    async def body(ctx: Context) -> Any:
        try:
            await ctx.child("c", "f", timeout=0.5)
        except TimeoutError:
            return "late"

    job = MemoryJob()
    await job.live(flow(body))
    assert job.outputs == {"result": "late"}


# -------------------------------------------------------------------------------------------------- branches


async def test_a_closed_branch_leaves_its_child_alone_and_hears_nothing_of_it() -> None:
    heard: list[str] = []

    async def loser(ctx: Context) -> None:
        try:
            await ctx.child("c", "f")
        except Closed:
            heard.append("closed")
            raise

    async def body(ctx: Context) -> Any:
        place, _ = await ctx.race(loser(ctx), ctx.signal("go"))
        await ctx.sleep(3600)
        return place

    job = MemoryJob()
    await job.run(flow(body))
    job.signal("go")
    await job.live(flow(body))
    job.end_child("c", {"result": 1}, path="/1.1")
    await job.run(flow(body))
    assert job.outputs == {"result": 1}
    assert set(heard) == {"closed"}
    assert len(job.children) == 1


async def test_children_of_two_branches_with_one_name_are_two() -> None:
    async def one(ctx: Context, n: int) -> Any:
        return await ctx.child("c", "f", n)

    async def body(ctx: Context) -> Any:
        return await ctx.gather(one(ctx, 1), one(ctx, 2))

    job = MemoryJob()
    await job.run(flow(body))
    job.end_child("c", {"result": "b"}, path="/1.2")
    await job.run(flow(body))
    job.end_child("c", {"result": "a"}, path="/1.1")
    await job.run(flow(body))
    assert job.outputs == {"result": ["a", "b"]}
    assert sorted(c.given for c in job.children.values()) == [1, 2]


# -------------------------------------------------------------------------------------------------- changed code


async def test_another_call_in_the_place_of_a_recorded_child_is_changed_code() -> None:
    async def first(ctx: Context) -> None:
        await ctx.child("c", "f")
        await ctx.sleep(3600)

    def instead(call: Any) -> Workflow:
        async def body(ctx: Context) -> None:
            await call(ctx)
            await ctx.sleep(3600)

        return flow(body)

    job = MemoryJob()
    await job.run(flow(first))
    job.end_child("c", {})
    await job.live(flow(first))
    changed = [
        lambda ctx: ctx.step("c", lambda: 1),
        lambda ctx: ctx.sleep(1, name="c"),
        lambda ctx: ctx.child("c", "f", detached=True),
    ]
    for call in changed:
        other = job.copy(len(job.log))
        await other.live(instead(call))
        (wait,) = other.events(ev.JobSuspended)[-1].waiting
        assert (wait.kind, wait.expected) == ("code", "child c#1")


# -------------------------------------------------------------------------------------------------- crashes


async def parent(ctx: Context) -> Any:
    first = await ctx.child("work", "f", 1)
    side = await ctx.gather(ctx.child("work", "f", first), ctx.child("side", "g", detached=True))
    try:
        await ctx.child("bad", "f")
    except ChildFailed as exc:
        side.append(exc.code)
    try:
        await ctx.child("slow", "f", timeout=30)
    except TimeoutError:
        side.append("slow")
    return [first, side]


def tell(job: MemoryJob) -> None:
    """Whatever the sleeping parent waits for comes."""
    assert job.state.suspension is not None
    for wait in job.state.suspension.data.waiting:
        assert wait.kind == "child"
        assert wait.name is not None
        if wait.name == "bad":
            error = ev.Failure(code="no", message="no", retryable=False)
            job.end_child("bad", status=Status.FAILED, error=error)
        elif wait.name == "work":
            job.end_child("work", {"result": f"{wait.path} done"}, path=wait.path)
        else:
            assert wait.until is not None
            job.clock.move_to(wait.until)


async def to_the_end(job: MemoryJob, **death: Any) -> None:
    for _ in range(60):
        try:
            await (job.live(flow(parent), **death) if death else job.run(flow(parent)))
        except (SimulatedCrash, Interrupted):
            death = {}
            continue
        if job.state.terminal:
            return
        if job.state.suspension is not None and not job.state.suspension.causes:
            tell(job)
    raise AssertionError(job.log[-1])


def outcome(job: MemoryJob) -> tuple[Any, dict[Any, Any]]:
    return job.outputs, {i: (c.key, c.flow, c.given) for i, c in job.children.items()}


async def undisturbed() -> MemoryJob:
    job = MemoryJob()
    await to_the_end(job)
    assert job.outputs["result"][0] == " done"
    assert job.outputs["result"][1][2:] == ["no", "slow"]
    assert len(job.children) == 5
    return job


@pytest.mark.parametrize("crash", ["before", "after", "interrupt"])
async def test_a_crash_at_every_event_changes_nothing(crash: str) -> None:
    whole = await undisturbed()
    for at_seq in range(3, len(whole.log) + 1):
        job = MemoryJob()
        await to_the_end(job, crash=crash, at_seq=at_seq)
        assert outcome(job) == outcome(whole), at_seq


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_crash_around_every_submit_changes_nothing(when: str) -> None:
    whole = await undisturbed()
    for nth in range(1, 12):
        job = MemoryJob()
        seen = 0

        def die(key: Key, at: str, nth: int = nth) -> None:
            nonlocal seen
            seen += at == when
            if seen == nth and at == when:
                raise SimulatedCrash(f"{at} submit {nth}")

        job.submitting = die
        await to_the_end(job)
        assert outcome(job) == outcome(whole), nth


@settings(max_examples=60, deadline=None)
@given(ends=st.permutations(["/1.1", "/1.2", "/1.3"]), early=st.booleans(), at_seq=st.integers(3, 16))
async def test_ends_in_every_order_give_what_they_gave(ends: list[str], early: bool, at_seq: int) -> None:
    heard: list[list[str]] = []

    async def body(ctx: Context) -> Any:
        order: list[str] = []
        heard.append(order)

        async def one(n: int) -> Any:
            value = await ctx.child("c", "f", n)
            order.append(value)
            return await ctx.step("note", lambda: f"{value} as {len(order)}")

        return await ctx.gather(*map(one, range(3)))

    job = MemoryJob()
    if early:

        def ends_at_once(key: Key, when: str) -> None:
            if when == "after" and key.path == ends[0]:
                job.end_child("c", {"result": key.path}, path=key.path)

        job.submitting = ends_at_once
    death: dict[str, Any] = {"crash": "after", "at_seq": at_seq}
    told = {ends[0]} if early else set()
    while not job.state.terminal:
        try:
            await (job.live(flow(body), **death) if death else job.run(flow(body)))
        except SimulatedCrash:
            death, job.submitting = {}, lambda key, when: None
            continue
        known = {d.path for d in job.events(ev.ChildEnded)}
        if job.state.suspension is not None and not job.state.suspension.causes and not job.state.terminal:
            path = next(p for p in ends if p not in known)
            job.end_child("c", {"result": path}, path=path)
            told.add(path)
    last = heard[-1]
    assert last == [d.path for d in job.events(ev.ChildEnded)]
    assert all(order == last[: len(order)] for order in heard)
    assert len(job.children) == 3
