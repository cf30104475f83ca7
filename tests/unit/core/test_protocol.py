"""The protocol of the log, played by everyone at once on a log in memory that refuses stale appends and loses answers.

Three runners (that freeze, die and go on as zombies), two people, a canceller and a sweeper take turns in every order
that Hypothesis thinks of. After each turn the judge looks at the log; then the faults stop and the job has to end.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal, assert_never

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from perdure.core import event as ev
from perdure.core import verify
from perdure.core.alarm import due, next_due_at
from perdure.core.claim import Asleep, Decided, Ended, Held, Start, claim, crashed_out, runnable
from perdure.core.event import AnyData, AnyEvent
from perdure.core.fence import Verdict, judge
from perdure.core.instant import Instant, later
from perdure.core.machine import EMPTY, JobState, fold, stamp
from perdure.ids import EventId, Principal, RequestId, RunnerId, request_id
from perdure.testing.factory import BEGIN, FINGERPRINT, JOB, OWNER, RUNNER, Story

Fate = Literal["answered", "answer lost", "lost", "late"]
FATES: Final = st.sampled_from(("answered",) * 6 + ("answer lost", "lost", "late"))
Decide = Callable[[Sequence[AnyEvent], JobState], AnyData | None]
RUNNERS: Final = 3
WHICH: Final = st.integers(0, RUNNERS - 1)
SEEN: Final = Counter[str]()  # what the runs have met: a run that met no zombie has not tested the fence


class Broker:
    """A compare-and-set log. It may store an append and lose the answer, lose the append, or store it later."""

    def __init__(self) -> None:
        self.log: list[AnyEvent] = []
        self.flying: list[tuple[int, AnyEvent]] = []

    def send(self, event: AnyEvent, after: int, fate: Fate) -> bool | None:
        """Whether `event` was stored behind `after`; None when no answer came."""
        if fate == "lost":
            return None
        if fate == "late":
            self.flying.append((after, event))
            return None
        stored = self._store(event, after)
        return None if fate == "answer lost" else stored

    def land(self) -> None:
        """The oldest append on its way arrives."""
        after, event = self.flying.pop(0)
        SEEN["late append refused" if not self._store(event, after) else "late append stored"] += 1

    def _store(self, event: AnyEvent, after: int) -> bool:
        if len(self.log) != after:
            return False
        self.log.append(event)
        return True


class Said(StrEnum):
    """What became of one turn of a writer."""

    STORED = "stored"
    DECLINED = "declined"
    FENCED = "fenced"
    OPEN = "open"  # no answer, or a refusal: the next turn looks first


@dataclass
class Writer:
    """One appender: looks, then decides. `pending` is an append whose outcome it does not know."""

    attempt: EventId | None = None
    known: list[AnyEvent] = field(default_factory=list)
    pending: tuple[int, AnyEvent] | None = None
    minted: int = 0

    def turn(self, broker: Broker, decide: Decide, now: Instant, fate: Fate, mint: Callable[[], EventId]) -> Said:
        """One append, or one look at what became of the last."""
        event_id = None
        if self.pending is not None:
            after, sent = self.pending
            found = broker.log[after:]
            verdict = judge(sent.id, self.attempt, found)
            SEEN[f"look: {verdict}"] += 1
            if verdict is Verdict.FENCED:
                return Said.FENCED
            if verdict is not Verdict.NONE:
                self.known = self.known[:after] + found
            if verdict is Verdict.MINE:
                self.pending = None
                return Said.STORED
            if verdict is Verdict.NEWS:
                event_id, self.pending = sent.id, None
        if self.pending is None:
            job = fold(self.known)
            data = decide(self.known, job)
            if data is None:
                return Said.DECLINED
            self.pending = job.seq, stamp(job, event_id or mint(), now, data)
        after, event = self.pending
        if not broker.send(event, after, fate):
            return Said.OPEN
        self.known, self.pending = [*self.known, event], None
        return Said.STORED


@dataclass
class Runner:
    """A process that claims and executes. Frozen, it goes on later as if nothing had happened."""

    bell: ev.Bell | None = None
    attempt: EventId | None = None
    writer: Writer = field(default_factory=Writer)


def workflow(now: Instant) -> Decide:
    """What the flow does next, by its log: a step that fails once, two requests, a nap, a step, the end."""

    def decide(log: Sequence[AnyEvent], job: JobState) -> AnyData | None:
        if job.terminal:
            return None  # somebody ended it: the grace of a cancel or the deadline was over
        if job.cancel is not None:
            return ev.CancelledData(fingerprint=FINGERPRINT, by=job.cancel.by)
        steps = {e.data.step for e in log if isinstance(e, ev.StepCompleted)}
        failed = [e.data for e in log if isinstance(e, ev.StepFailed)]
        if "draft" not in steps:
            if failed and failed[-1].retry_at is not None and failed[-1].retry_at > now:
                return ev.SuspendedData(waiting=(ev.Waiting(kind="backoff", until=failed[-1].retry_at),))
            return _failed(1, now) if not failed else _step("draft", now)
        names = [e.data.request.name for e in log if isinstance(e, ev.InputRequested)]
        for name in ("one", "two"):
            if name not in names:
                return _asked(job, name, now)
        if any(isinstance(s.data, ev.ExpiredData) for s in job.settled.values()):
            error = ev.Failure(code="request_expired", message="nobody answered")
            return ev.FailedData(error=error, failures=len(failed), fingerprint=FINGERPRINT)
        if job.asked:
            waits = tuple(ev.Waiting(kind="input", request_id=r, until=q.expires_at) for r, q in job.asked.items())
            return ev.SuspendedData(waiting=waits)
        if ("", "nap", 1) not in job.fired:
            until = later(max(s.at for s in job.settled.values()), 20.0)
            nap = ev.Waiting(kind="timer", name="nap", occurrence=1, until=until)
            return ev.SuspendedData(waiting=(nap,), wake_at=until)
        if "send" not in steps:
            return _step("send", now)
        return ev.CompletedData(outputs={"post": "sent"}, fingerprint=FINGERPRINT)

    return decide


def _step(name: str, now: Instant) -> AnyData:
    return ev.StepCompletedData(step=name, occurrence=1, result=name, started_at=now, duration_seconds=0.0)


def _failed(failures: int, now: Instant) -> AnyData:
    error = ev.Failure(code="step_failed", message="no")
    return ev.StepFailedData(
        step="draft",
        occurrence=1,
        error=error,
        failures=failures,
        started_at=now,
        duration_seconds=0.0,
        retry_at=later(now, 5.0),
    )


def _asked(job: JobState, name: str, now: Instant) -> AnyData:
    request = ev.Request(
        id=request_id(JOB, job.seq + 1),
        job_id=JOB,
        name=name,
        occurrence=1,
        revision=1,
        kind="approval",
        title=name,
        asked_at=now,
        asked_for=OWNER,
        actions=(ev.Action(id="approve"),),
        expires_at=later(now, 60.0) if name == "one" else None,
    )
    return ev.RequestedData(request=request)


class Life(RuleBasedStateMachine):
    """One job and everybody who has something to say about it."""

    def __init__(self) -> None:
        super().__init__()
        self.broker = Broker()
        self.now = BEGIN
        self.minted = 0
        self.bells: dict[ev.Bell, int | None] = {}  # a doorbell in WORK -> the runner whose lease it is
        self.rung = 0
        self.runners = [Runner() for _ in range(RUNNERS)]
        self.people = [Writer(), Writer()]
        self.answers: list[RequestId | None] = [None, None]
        self.accepted: list[EventId] = []
        self.canceller: Writer | None = None
        self.sweeper = Writer()
        self.answering = True  # whether somebody answers when nothing goes wrong

    def mint(self) -> EventId:
        self.minted += 1
        return EventId(f"event-{self.minted}")

    def ring(self) -> None:
        self.rung += 1
        self.bells[ev.Bell(seq=self.rung, ring=f"ring-{self.rung}")] = None

    @initialize(turns=st.integers(0, 16), answering=st.booleans())
    def submit(self, turns: int, answering: bool) -> None:
        """A job, and how far it had come when things began to go wrong."""
        self.answering = answering
        self.broker.log = [Story().submitted()]
        self.ring()
        for _ in range(turns):
            self.go_on()

    def go_on(self) -> None:
        """A turn of everybody in which nothing goes wrong."""
        self.sweeper_looks("answered")
        for number in range(RUNNERS):
            self.work(number, ["answered"])
        job = fold(self.broker.log)
        if job.asked and self.answering:
            self.people = [Writer(known=list(self.broker.log)), Writer()]
            self.answers = [None, None]
            self.somebody_answers(0, True, ["answered"])
        elif not runnable(job, self.now) and (at := next_due_at(job)) is not None:
            self.now = max(self.now, at)

    # ---------------------------------------------------------------------------------------- runners

    @rule(number=WHICH, fates=st.lists(FATES, min_size=1, max_size=9))
    def work(self, number: int, fates: list[Fate]) -> None:
        """A runner takes its next turns: a doorbell, the claim, the events of its attempt."""
        for fate in fates:
            runner = self.runners[number]
            if runner.bell is None:
                self._take(number)
            elif runner.attempt is None:
                self._claim(number, runner, runner.bell, fate)
            else:
                self._execute(runner, fate)

    def _take(self, number: int) -> None:
        free = [bell for bell, holder in self.bells.items() if holder is None]
        if free:
            self.bells[free[0]] = number
            self.runners[number] = Runner(bell=free[0])

    def _claim(self, number: int, runner: Runner, bell: ev.Bell, fate: Fate) -> None:
        writer = runner.writer
        if writer.pending is None:
            data: AnyData
            writer.known = list(self.broker.log)
            match claim(fold(writer.known), self.now, bell):
                case Ended() | Asleep():
                    self._ack(runner)
                    return
                case Held(bell=held) if held in self.bells:
                    self._ack(runner)
                    return
                case Held(start=start) | (Start() as start):
                    SEEN[f"claim: {start.reason}"] += 1
                    data = crashed_out(fold(writer.known)) or ev.AttemptData(
                        runner=RunnerId(f"{RUNNER}-{number}"),
                        doorbell=bell,
                        reason=start.reason,
                        because_seq=start.because_seq,
                        cause=start.cause,
                    )
                case Decided(data=decided):
                    data = decided
                case never:
                    assert_never(never)
            job = fold(writer.known)
            event = stamp(job, self.mint(), self.now, data)
            writer.pending = job.seq, event
        after, event = writer.pending
        mine = event.id if isinstance(event, ev.AttemptStarted) else None
        found = self.broker.log[after:]
        verdict = judge(event.id, mine, found)
        if verdict is Verdict.NONE and self.broker.send(event, after, fate):
            verdict = Verdict.MINE
        elif verdict is Verdict.NONE:
            return
        if verdict is Verdict.MINE and mine is not None:
            runner.attempt = mine
            runner.writer = Writer(attempt=mine, known=list(self.broker.log))
        else:
            writer.pending = None  # the claim starts again

    def _execute(self, runner: Runner, fate: Fate) -> None:
        said = runner.writer.turn(self.broker, workflow(self.now), self.now, fate, self.mint)
        if said is Said.FENCED:
            SEEN["zombie append refused"] += 1
            runner.bell = runner.attempt = None  # a fenced runner does not ack
        elif said is Said.DECLINED:
            SEEN["ended by another"] += 1
            self._ack(runner)
        elif said is Said.STORED and fold(runner.writer.known).status is not ev.Status.RUNNING:
            self._ack(runner)

    def _ack(self, runner: Runner) -> None:
        if runner.bell is not None:
            self.bells.pop(runner.bell, None)  # also when the lease is over: a late ack is accepted
        runner.bell = runner.attempt = None

    @rule(number=WHICH)
    def lease_runs_out(self, number: int) -> None:
        """The runner's doorbell goes to somebody else; the runner does not know."""
        bell = self.runners[number].bell
        if bell is not None and self.bells.get(bell) == number:
            self.bells[bell] = None

    @precondition(lambda self: any(r.attempt is not None for r in self.runners))
    @rule(turns=st.integers(2, 6), to=st.integers(1, RUNNERS - 1))
    def a_frozen_runner_is_taken_over(self, turns: int, to: int) -> None:
        """Another runner gets its doorbell and works; then it thaws, and knows nothing of it."""
        number = next(n for n, runner in enumerate(self.runners) if runner.attempt is not None)
        other = (number + to) % RUNNERS
        if self.runners[other].bell is None:
            self.lease_runs_out(number)
            self.work(other, ["answered"] * turns)
            zombies = sum(runner.attempt is not None for runner in self.runners)
            SEEN["two zombies beside a runner"] += zombies == RUNNERS

    @rule(number=WHICH)
    def die(self, number: int) -> None:
        """kill -9."""
        self.lease_runs_out(number)
        self.runners[number] = Runner()

    # ---------------------------------------------------------------------------------------- the others

    @rule(number=st.integers(0, 1))
    def somebody_reads_the_inbox(self, number: int) -> None:
        """What is on the screen stays there, however old it gets."""
        if self.people[number].pending is None:
            self.people[number] = Writer(known=list(self.broker.log))

    @precondition(lambda self: any(fold(p.known).asked for p in self.people))
    @rule(number=st.integers(0, 1), newest=st.booleans(), fates=st.lists(FATES, min_size=1, max_size=3))
    def somebody_answers(self, number: int, newest: bool, fates: list[Fate]) -> None:
        """A person answers a request that the screen shows."""
        person = self.people[number]
        asked = sorted(fold(person.known).asked)
        if self.answers[number] is None and asked:
            self.answers[number] = asked[-1 if newest else 0]
        answer = self.answers[number]

        def decide(_log: Sequence[AnyEvent], job: JobState) -> AnyData | None:
            if answer is None or answer not in job.asked:
                return None
            by, via = Principal(f"user:{number}"), ev.Via(channel="api")
            return ev.AnsweredData(request_id=answer, revision=1, action="approve", payload=None, by=by, via=via)

        for fate in fates:
            said = person.turn(self.broker, decide, self.now, fate, self.mint)
            SEEN[f"answer: {said}"] += answer is not None
            if said is Said.STORED:
                mine = [e for e in person.known if isinstance(e, ev.InputAnswered) and e.data.by == f"user:{number}"]
                self.accepted.append(mine[-1].id)
            if said is not Said.OPEN:
                self.answers[number] = None
                return

    @precondition(lambda self: len(self.broker.log) > 6)
    @rule(fate=FATES)
    def somebody_cancels(self, fate: Fate) -> None:
        """A cancel: asked of a running job, at once for another."""
        if self.canceller is None:
            self.canceller = Writer(known=list(self.broker.log))

        def decide(_log: Sequence[AnyEvent], job: JobState) -> AnyData | None:
            if job.terminal or job.cancel is not None:
                return None
            if job.status is ev.Status.RUNNING:
                return ev.CancelData(by=OWNER, grace_seconds=30.0)
            return ev.CancelledData(fingerprint=FINGERPRINT, by=OWNER)

        self.canceller.turn(self.broker, decide, self.now, fate, self.mint)

    @rule(fate=FATES)
    def sweeper_looks(self, fate: Fate) -> None:
        """Append what time has decided, and ring for a job that has no doorbell and needs one."""
        if self.sweeper.pending is None:
            self.sweeper.known = list(self.broker.log)
        self.sweeper.turn(self.broker, lambda _log, job: due(job, self.now), self.now, fate, self.mint)
        if runnable(fold(self.broker.log), self.now) and not self.bells:
            SEEN["sweeper rang"] += 1
            self.ring()

    @rule()
    def a_doorbell_is_doubled(self) -> None:
        if len(self.bells) < 2:
            self.ring()

    @rule()
    def every_doorbell_is_lost(self) -> None:
        self.bells.clear()

    @precondition(lambda self: self.broker.flying)
    @rule()
    def a_late_append_arrives(self) -> None:
        self.broker.land()

    @rule(seconds=st.sampled_from((1.0, 6.0, 25.0, 61.0)))
    def time_passes(self, seconds: float) -> None:
        self.now = later(self.now, seconds)

    # ---------------------------------------------------------------------------------------- the judge

    @invariant()
    def the_log_is_good(self) -> None:
        assert verify.log(self.broker.log) == []

    @invariant()
    def every_accepted_answer_is_in_the_log(self) -> None:
        stored = [e.id for e in self.broker.log]
        assert len(stored) == len(set(stored))
        assert set(self.accepted) <= set(stored)

    def teardown(self) -> None:
        """The faults are over: with new runners the job ends, whether or not anybody answers."""
        self.broker.flying.clear()
        self.runners = [Runner() for _ in range(RUNNERS)]
        self.bells = dict.fromkeys(self.bells)
        for _ in range(200):
            job = fold(self.broker.log)
            if not job.exists or job.terminal:
                break
            self.go_on()
        job = fold(self.broker.log)
        assert not job.exists or job.terminal, [type(e).__name__ for e in self.broker.log]
        SEEN[f"end: {job.status}"] += 1
        self.the_log_is_good()
        self.every_accepted_answer_is_in_the_log()


ROUNDS: Final = 6
# What a search must have met, or it has tested nothing.
TO_MEET: Final = frozenset(
    {
        "zombie append refused",
        "two zombies beside a runner",
        "late append refused",
        "late append stored",
        "look: none",
        "look: mine",
        "look: news",
        "look: fenced",
        "claim: first",
        "claim: lease_lost",
        "claim: resumed",
        "claim: retry",
        "answer: stored",
        "answer: declined",
        "sweeper rang",
        "end: completed",
        "end: cancelled",
        "end: failed",
    }
)


def test_whatever_fails_in_whatever_order_the_log_stays_good_and_the_job_ends() -> None:
    """The first search is the same each time, as long as the code is: Hypothesis draws on the constants that it finds
    there. Where that one has missed a meeting, others look for it; each holds the log to everything.
    """
    SEEN.clear()
    for number in range(ROUNDS):
        search(derandomize=number == 0)
        if {name for name, times in SEEN.items() if times} >= TO_MEET:
            return
    raise AssertionError(f"never met: {TO_MEET - set(SEEN)}; met: {dict(SEEN)}")


def search(*, derandomize: bool) -> None:
    """Play 600 lives of up to 60 turns."""
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=600,
            stateful_step_count=60,
            deadline=None,
            derandomize=derandomize,
            database=None,
            suppress_health_check=checks,
        ),
    )


def test_nothing_to_judge_is_fine() -> None:
    assert verify.log([]) == []
    assert fold([]) == EMPTY
