"""A person's answer while processes die: it is kept once, wakes its job once, and the job ends with it.

One `perdure up` for each story. All points of a story are armed from the start, and spent: a point is live once its
marker is taken away, and whoever passes it next dies (or freezes) there, and nobody after.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from pathlib import Path
from typing import Any, Final

from tests.faults.conftest import Cluster
from tests.faults.people import VOTERS

from perdure.client import Client, decode
from perdure.client.records import Answered, HumanRequest
from perdure.clock import SystemClock
from perdure.core import event as ev
from perdure.core.event import TERMINAL, AnyEvent, Status
from perdure.core.instant import Instant, later
from perdure.errors import Expired
from perdure.testing import whole
from perdure.testing.clock import FixedChance

Eventually = Callable[..., Awaitable[None]]
Start = Callable[..., AbstractAsyncContextManager[Cluster]]

APP: Final = ("--app", "tests.faults.people")
SHORT: Final = {"lease_seconds": "1.5", "slots": "16"}  # the dead are followed soon
LONG: Final = {"lease_seconds": "60", "slots": "16"}  # nobody takes over who froze for a moment
# Claims first: a doorbell that a later point leaves behind comes again, and would be the one that is claimed.
WAKING: Final = (
    "claim.after_fetch", "claim.after_read", "claim.after_append", "step.after_append",
    "terminal.before_append", "terminal.after_append", "terminal.after_ack",
)  # fmt: skip
ASKING: Final = ("suspend.before_append", "suspend.after_append", "suspend.after_arm")
ANSWERING: Final = ("answer.after_auth", "answer.before_append", "answer.after_append", "answer.after_ring")
RECORDED: Final = frozenset({"answer.after_append", "answer.after_ring"})  # a second try is told so
# Points at which an attempt dies that has something left to do: another one takes over.
TAKEN_OVER: Final = frozenset(
    {"claim.after_append", "step.after_append", "terminal.before_append", "suspend.before_append"}
)
VICTIMS: Final = ("runner-1", "nats")  # between votes; the gateway dies of its own
DATES: Final = 16
LEADS: Final = (0.2, 0.05, 0.01, 0.0)  # seconds before its end at which a request is answered


class Points:
    """Failpoints of a cluster that a test makes live one by one."""

    def __init__(self, folder: Path, points: Iterable[str], action: str = "exit") -> None:
        self._folder = folder
        folder.mkdir()
        for point in points:
            (folder / point).touch()
        self.setting = ";".join(f"{point}={action}:@{folder / point}" for point in points)

    def arm(self, point: str) -> None:
        """The next process that passes `point` ends or freezes there."""
        (self._folder / point).unlink()

    def fired(self, point: str) -> bool:
        """Whether one has, since it was armed."""
        return (self._folder / point).exists()


def person(running: Cluster, key: str | None = None) -> Client:
    """A client that tries again soon where nobody answers: what it says is to meet who has just been started again."""
    secret = key or running.up.client.key
    assert secret is not None
    return Client(running.up.client.url, secret, retry_seconds=whole.RETRY_SECONDS, chance=FixedChance([0.1]))


async def asked(running: Cluster, job: str, names: Iterable[str]) -> dict[str, HumanRequest]:
    """The requests of those names, once the job has made all of them."""
    missing, found = set(names), dict[str, HumanRequest]()
    async with aclosing(running.client.events(job, types=["input.requested"], deltas=False).frames()) as frames:
        async for frame in frames:
            event = decode(frame)
            if isinstance(event, ev.InputRequested):
                request = event.data.request
                found[request.name] = await running.client.request(request.id)
                missing.discard(request.name)
            if not missing:
                return found
    raise AssertionError(f"the job ended before it asked {missing}")


async def ended_right(running: Cluster, job: str, answers: dict[str, str], steps: Iterable[str]) -> list[AnyEvent]:
    """Follow the job to its end; its log, with each answer and each step once, and no step again that is recorded."""
    log = await running.log(job)
    assert [event.status for event in log if event.status in TERMINAL] == [Status.COMPLETED]
    given = [event.data.payload for event in log if isinstance(event, ev.InputAnswered)]
    assert sorted(said["word"] for said in given) == sorted(answers.values())
    done = [event for event in log if isinstance(event, ev.StepCompleted)]
    assert sorted(event.data.step for event in done) == sorted(steps)
    assert not any(isinstance(event, ev.StepFailed) for event in log)
    for event in done:
        assert all(attempt <= event.attempt for attempt in running.attempts(job, event.data.step))
    return log


def result(log: list[AnyEvent]) -> Any:  # Any: what a workflow returned
    assert isinstance(log[-1], ev.JobCompleted)
    return log[-1].data.outputs["result"]


def reasons(log: list[AnyEvent]) -> list[str]:
    """Why each attempt began."""
    return [event.data.reason for event in log if isinstance(event, ev.AttemptStarted)]


async def nothing_wrong(running: Cluster, jobs: int, eventually: Eventually) -> None:
    """The projection has seen every end, and `perdure doctor` finds nothing."""

    async def projected() -> bool:
        found = await running.statuses()
        return found == {Status.COMPLETED: jobs} and not (await running.client.inbox()).data

    await eventually(projected)
    command = [sys.executable, "-P", "-m", "perdure.cli.app", "doctor", "--data", str(running.up.data), "--json"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
    done = await asyncio.to_thread(subprocess.run, command, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["looked"]["jobs"] == jobs


async def test_an_answer_is_kept_whoever_dies_around_it(
    cluster: Start, eventually: Eventually, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The gateway with the answer in hand, then the runner that is to go on with it, then the one that asked."""
    walk = (*ANSWERING, *WAKING, *ASKING)
    points = Points(tmp_path / "points", walk)
    async with (
        asyncio.timeout(150),
        cluster(*APP, "--runners", "2", **SHORT, failpoints=points.setting) as running,
        person(running) as running.client,
    ):
        for point in walk:

            def fired(point: str = point) -> bool:
                return points.fired(point)

            if point in ASKING:
                points.arm(point)
            job = await running.submit("gate", f"text of {point}")
            [request] = (await asked(running, job, ["review"])).values()
            if point in ASKING:  # the answer comes when whoever asked is dead, and the job asleep or not
                await eventually(fired)
            else:
                await whole.events(running.client, job, until="suspended")
                points.arm(point)
            said = await running.client.answer(request, "approve", payload={"word": point})
            assert said.replayed == (point in RECORDED), point
            log = await ended_right(running, job, {"review": point}, ["draft", "publish"])
            await eventually(fired)
            assert result(log) == {"action": "approve", "word": point, "text": f"text of {point}"}
            assert point not in TAKEN_OVER or "lease_lost" in reasons(log), point
            assert (await running.client.answer(request, "approve", payload={"word": point})).replayed
        await nothing_wrong(running, len(walk), eventually)
    record_property("failpoint_cases", len(walk))


async def test_an_answer_finds_its_job_about_to_sleep_or_just_asleep(
    cluster: Start, eventually: Eventually, tmp_path: Path
) -> None:
    """Whoever asked is frozen about its `job.suspended` and goes on behind the answer. Before, the answer is folded in
    and the job does not sleep; after, whichever runner got the doorbell (it may be the frozen one) resumes the job.
    """
    points = Points(tmp_path / "points", ASKING, action="stop")
    async with (
        asyncio.timeout(90),
        cluster(*APP, "--runners", "2", **LONG, failpoints=points.setting) as running,
    ):
        for point in ASKING:
            points.arm(point)
            job = await running.submit("gate", point)
            [request] = (await asked(running, job, ["review"])).values()
            await eventually(lambda: frozen(running))
            [pid] = frozen(running)
            await running.client.answer(request, "approve", payload={"word": "early"})
            os.kill(pid, signal.SIGCONT)
            log = await ended_right(running, job, {"review": "early"}, ["draft", "publish"])
            before = point == "suspend.before_append"
            assert sum(isinstance(event, ev.JobSuspended) for event in log) == (0 if before else 1)
            assert reasons(log) == (["first"] if before else ["first", "resumed"])
            assert result(log) == {"action": "approve", "word": "early", "text": point}
        await nothing_wrong(running, len(ASKING), eventually)


def frozen(running: Cluster) -> list[int]:
    """The runners that are stopped. Linux."""
    runners = [pid for name, pid in running.up.processes().items() if name.startswith("runner-")]
    return [pid for pid in runners if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"]


async def test_two_persons_answer_while_a_third_branch_works_and_its_runner_dies(
    cluster: Start, eventually: Eventually, tmp_path: Path
) -> None:
    """In either order: the first answer goes on at once, beside the work; the second one meets another runner."""
    names, door = ("left", "right"), tmp_path / "door"
    async with asyncio.timeout(60), cluster(*APP, **SHORT) as running:
        jobs = {order: await running.submit("gates", str(door)) for order in (names, names[::-1])}
        requests = {order: await asked(running, job, names) for order, job in jobs.items()}
        for order, job in jobs.items():
            said = {"word": f"{order[0]} of {job}"}
            await running.client.answer(requests[order][order[0]], "approve", payload=said)
        for order, job in jobs.items():  # what is recorded is not to be done again
            await recorded(running, job, "early")
            await recorded(running, job, f"after_{order[0]}")
        pid = running.up.kill("runner-1")
        for order, job in jobs.items():
            said = {"word": f"{order[1]} of {job}"}
            await running.client.answer(requests[order][order[1]], "approve", payload=said)
        await eventually(lambda: running.up.processes().get("runner-1", pid) != pid)
        for order, job in jobs.items():
            await recorded(running, job, f"after_{order[1]}")
        door.touch()
        steps = ["early", "hold", "late", "after_left", "after_right"]
        for job in jobs.values():
            words = {name: f"{name} of {job}" for name in names}
            log = await ended_right(running, job, words, steps)
            assert result(log) == words
            assert {step: running.effects()[job, step] for step in steps} == dict.fromkeys(steps, 1)
            # The third branch works all the time: nobody has said that the job sleeps.
            assert not any(isinstance(event, ev.JobSuspended) for event in log)
            assert reasons(log)[:2] == ["first", "lease_lost"]
        await nothing_wrong(running, len(jobs), eventually)


async def recorded(running: Cluster, job: str, step: str) -> None:
    """Follow the job until the step is in its log."""
    async with aclosing(running.client.events(job, types=["step.completed"], deltas=False).frames()) as frames:
        async for frame in frames:
            event = decode(frame)
            if isinstance(event, ev.StepCompleted) and event.data.step == step:
                return
    raise AssertionError(f"the job ended without {step}")


async def test_votes_count_once_each_whoever_dies_between_them(
    cluster: Start, eventually: Eventually, tmp_path: Path
) -> None:
    """The gateway dies of each vote that it has just written, and then the runner and the broker."""
    point = "answer.after_append"
    points = Points(tmp_path / "points", [point])
    ballots = dict(zip(VOTERS, ("approve", "reject", "approve"), strict=True))
    async with (
        asyncio.timeout(90),
        cluster(*APP, **SHORT, failpoints=points.setting) as running,
        person(running) as running.client,
        AsyncExitStack() as stack,
    ):
        voters = dict[str, Client]()
        for who in VOTERS:
            key = await running.client.create_key(who, user=who.removeprefix("user:"))
            voters[who] = await stack.enter_async_context(person(running, key.secret))
        job = await running.submit("board")
        [request] = (await asked(running, job, ["board"])).values()
        await whole.events(running.client, job, until="suspended")
        for who, action in ballots.items():
            points.arm(point)
            voted = await voters[who].answer(request, action)
            assert (voted.replayed, points.fired(point)) == (True, True)
            assert voted.request.status == ("answered" if who == VOTERS[-1] else "pending")
            if voted.request.status == "pending":
                killed = {name: running.up.kill(name) for name in VICTIMS}
                assert (await voters[who].answer(request, action)).replayed
                await eventually(lambda killed=killed: born(running, killed))
        log = await running.log(job)
        votes = [(event.data.by, event.data.action) for event in log if isinstance(event, ev.InputVoted)]
        assert votes == list(ballots.items())[:2]
        [decided] = [event.data for event in log if isinstance(event, ev.InputAnswered)]
        assert [(vote.by, vote.action) for vote in decided.votes] == list(ballots.items())
        assert result(log) == {"action": "approve", "votes": [list(ballot) for ballot in ballots.items()]}
        assert sum(isinstance(event, ev.StepCompleted) for event in log) == 1
        await nothing_wrong(running, 1, eventually)


def born(running: Cluster, killed: dict[str, int]) -> bool:
    """Whether each of those who were killed has been started again."""
    now = running.up.processes()
    return all(now.get(name, pid) != pid for name, pid in killed.items())


async def test_an_answer_at_its_deadline_around_a_restart_of_the_broker_has_one_outcome(
    cluster: Start, eventually: Eventually
) -> None:
    """Each answer is sent when its request is about to expire; the broker dies at one of them, amid the others."""
    clock = SystemClock()

    async def at_the_end(request: HumanRequest, number: int) -> Answered | Expired:
        """What the answer to `request` came to, sent at its last moment."""
        assert request.expires_at is not None
        at = later(Instant(request.expires_at), -LEADS[number % len(LEADS)])
        await eventually(lambda: clock.broker_now() >= at, within_seconds=30)
        if number == DATES // 2:
            running.up.kill("nats")
        try:
            return await running.client.answer(request, "approve", payload={"word": request.id})
        except Expired as exc:
            return exc

    async with asyncio.timeout(90), cluster(*APP, **SHORT) as running, person(running) as running.client:
        jobs = [await running.submit("dated", 2.0 + 0.15 * number) for number in range(DATES)]
        requests = [(await asked(running, job, ["dated"]))["dated"] for job in jobs]
        outcomes = await asyncio.gather(*(at_the_end(request, number) for number, request in enumerate(requests)))
        for job, request, outcome in zip(jobs, requests, outcomes, strict=True):
            log = await running.log(job)
            [settled] = [e for e in log if isinstance(e, ev.InputAnswered | ev.InputExpired | ev.InputWithdrawn)]
            # What whoever answered was told is what the log says, and what the workflow got.
            assert isinstance(outcome, Answered) == isinstance(settled, ev.InputAnswered), (settled, outcome)
            word = request.id if isinstance(settled, ev.InputAnswered) else None
            assert result(log) == {"timed_out": word is None, "word": word}
            assert sum(isinstance(event, ev.StepCompleted) for event in log) == 1
        await nothing_wrong(running, DATES, eventually)
