"""What every port gives the engine: one suite for the one on a list and for the runner's own on a real broker."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import SimpleNamespace
from typing import Any, Final, Protocol, cast

import msgspec
import pytest
from msgspec import UNSET

from perdure.bus import callbodies as said
from perdure.bus.belief import Lease
from perdure.bus.call import Calls, answering
from perdure.bus.connection import Bus
from perdure.bus.delta import Deltas
from perdure.bus.eventlog import EventLog
from perdure.clock import SystemChance, SystemClock
from perdure.core import event as ev
from perdure.core import verify
from perdure.core.event import AnyData, AnyEvent
from perdure.core.instant import later
from perdure.core.key import Key
from perdure.core.machine import JobState, fold
from perdure.engine.port import Port
from perdure.errors import Fault, Forbidden, Interrupted, Invalid, NotFound, TooLarge, Unavailable
from perdure.ids import Digest, JobId, JobRef, Principal, Queue, Tenant, child_job_id, new_job_id
from perdure.jobs.joblog import JobLog
from perdure.testing.factory import FINGERPRINT, FLOW, OWNER, RUNNER
from perdure.testing.memory import MemoryJob
from perdure_runner.port import LogPort

BOB: Final = Principal("user:bob")
LARGE: Final = "x" * 300_000
Eventually = Callable[..., Awaitable[None]]
Submitting = Callable[[Key, str, Any], None]


class Life(Protocol):
    """A job with an attempt that has begun, and everybody else who may write to it."""

    port: Port
    submitting: Submitting
    """Called in the gateway with the key, the flow and the input of a child; may raise what a gateway would."""

    async def other(self, data: AnyData) -> None:
        """Append as somebody else; the port is not told."""

    async def tell(self) -> None:
        """Let the port see what others have done."""

    async def stored(self) -> list[AnyEvent]:
        """The log as it lies there."""

    def doubt(self) -> None:
        """The lease runs out."""


class InMemory:
    def __init__(self) -> None:
        self.job = MemoryJob("hi")
        self._port = self.job.port()
        self.port: Port = self._port
        self.submitting: Submitting = lambda key, flow, given: None
        self.job.submitting = self._submitting

    def _submitting(self, key: Key, when: str) -> None:
        if when == "before":
            self.submitting(key, "f", {"of": "May"})  # what the tests give

    async def other(self, data: AnyData) -> None:
        self.job.append(data)

    async def tell(self) -> None:
        pass

    async def stored(self) -> list[AnyEvent]:
        return list(self.job.log)

    def doubt(self) -> None:
        self._port.interrupt()


class OnBroker:
    def __init__(self, eventlog: EventLog, log: JobLog, port: LogPort, lease: Any) -> None:
        self.port: Port = port
        self.submitting: Submitting = lambda key, flow, given: None
        self._port, self._eventlog, self._lease, self.ref = port, eventlog, lease, log.ref

    async def other(self, data: AnyData) -> None:
        theirs = await JobLog.load(self._eventlog, self.ref, SystemClock())
        assert await theirs.append(lambda job: data) is not None

    async def tell(self) -> None:
        await self._port.look()

    async def stored(self) -> list[AnyEvent]:
        return [stored.event for stored in await self._eventlog.read(self.ref)]

    def doubt(self) -> None:
        self._lease.believed_until = 0.0

    async def answer(self, body: bytes) -> said.Submitted:
        asked = msgspec.json.decode(body, type=said.Submit)
        parent = asked.parent
        key = Key(parent.path, parent.step, parent.occurrence)
        assert (parent.tenant, parent.job) == self.ref
        self.submitting(key, asked.flow, msgspec.json.decode(asked.input))
        return said.Submitted(job_id=child_job_id(parent.job, *key))


@asynccontextmanager
async def on_broker(bus: Bus, runner: Bus, eventlog: EventLog, tenant: Tenant) -> AsyncIterator[OnBroker]:
    clock = SystemClock()
    log = JobLog(eventlog, JobRef(tenant, new_job_id()), clock)
    submitted = ev.SubmittedData(
        flow=FLOW, input="hi", owner=OWNER, queue=Queue("default"), priority="normal", fingerprint=FINGERPRINT,
        deadline_at=later(clock.broker_now(), 3600),
    )  # fmt: skip
    await log.append(lambda job: submitted)
    begun = ev.AttemptData(runner=RUNNER, doorbell=ev.Bell(seq=1, ring="r"), reason="first")
    started = await log.append(lambda job: begun)
    assert started is not None
    lease = SimpleNamespace(believed_until=clock.monotonic() + 3600.0)
    port = LogPort(log, started.event.id, cast(Lease, lease), Deltas(runner), clock, SystemChance(), Calls(runner))
    await port.open()
    life = OnBroker(eventlog, log, port, lease)
    async with answering(bus, {said.SUBMIT: life.answer}):
        await bus.flush()  # the subscription is known
        yield life
    port.close()


@pytest.fixture(params=["memory", "broker"])
async def life(
    request: pytest.FixtureRequest,
    bus: Bus,
    eventlog: EventLog,
    tenant: Tenant,
    connect_as: Callable[[str], AbstractAsyncContextManager[Bus]],
) -> AsyncIterator[Life]:
    """The test runs once for each port."""
    if request.param == "memory":
        yield InMemory()
        return
    async with connect_as("runner") as runner, on_broker(bus, runner, eventlog, tenant) as one:
        yield one


def step(port: Port, name: str, result: Any = None) -> ev.StepCompletedData:
    return ev.StepCompletedData(step=name, occurrence=1, result=result, started_at=port.now(), duration_seconds=0.0)


def signal(name: str) -> ev.SignalData:
    return ev.SignalData(signal_id=f"id-{name}", name=name, payload=None, by=BOB)


def started() -> ev.AttemptData:
    return ev.AttemptData(runner=RUNNER, doorbell=ev.Bell(seq=2, ring="s"), reason="lease_lost")


def names(events: Any) -> list[str]:
    return [e.data.step if isinstance(e, ev.StepCompleted) else e.data.name for e in events[2:]]


# -------------------------------------------------------------------------------------------------- reading


async def test_the_log_holds_the_submission_and_the_attempt_that_the_port_is_for(life: Life) -> None:
    first, second = life.port.log
    assert isinstance(first, ev.JobSubmitted)
    assert first.data.input == "hi"
    assert isinstance(second, ev.AttemptStarted)
    assert life.port.attempt_id == second.id == life.port.job.attempt_id
    assert life.port.job == fold(life.port.log)
    assert 0.0 <= life.port.chance.random() < 1.0
    assert life.port.now() >= second.at[:19]


# -------------------------------------------------------------------------------------------------- appending


async def test_an_appended_event_is_in_the_log_when_append_returns(life: Life) -> None:
    value = {"text": "ä", "list": [1, 2.5, None, True], "nested": {"a": {}}}
    event = await life.port.append(lambda job: step(life.port, "one", value))
    assert isinstance(event, ev.StepCompleted)
    assert event.seq == 3
    assert event.data.result == value
    assert life.port.log[-1] == event
    assert life.port.job.seq == 3
    assert (await life.stored())[-1] == event


async def test_a_decision_against_appends_nothing(life: Life) -> None:
    assert await life.port.append(lambda job: None) is None
    assert len(await life.stored()) == 2


async def test_appends_that_come_at_once_are_stored_in_the_order_in_which_they_came(life: Life) -> None:
    seen: list[int] = []

    def nth(n: int) -> Callable[[JobState], AnyData]:
        def decide(job: JobState) -> AnyData:
            seen.append(job.seq)
            return step(life.port, f"s{n}")

        return decide

    events = await asyncio.gather(*(life.port.append(nth(n)) for n in range(20)))
    assert [e.seq for e in events if e is not None] == list(range(3, 23))
    assert seen == list(range(2, 22))
    assert names(await life.stored()) == [f"s{n}" for n in range(20)]


async def test_what_others_appended_comes_first_and_the_decision_is_taken_behind_it(life: Life) -> None:
    await life.other(signal("theirs"))
    asked: list[int] = []

    def decide(job: JobState) -> AnyData:
        asked.append(job.seq)
        return step(life.port, "mine")

    event = await life.port.append(decide)
    assert event is not None
    assert event.seq == 4
    assert asked[-1] == 3
    assert names(life.port.log) == names(await life.stored()) == ["theirs", "mine"]
    assert verify.log(await life.stored()) == []


async def test_a_decision_that_news_overtakes_is_dropped_and_the_news_is_in_the_log(life: Life) -> None:
    await life.other(signal("theirs"))
    assert await life.port.append(lambda job: step(life.port, "mine") if job.seq == 2 else None) is None
    assert names(life.port.log) == ["theirs"]
    assert names(await life.stored()) == ["theirs"]


async def test_an_event_that_cannot_be_stored_is_refused_and_hinders_nothing(life: Life) -> None:
    much = ev.ProgressData(name="p", occurrence=1, text=LARGE)
    with pytest.raises(TooLarge):
        await life.port.append(lambda job: much)
    assert len(life.port.log) == len(await life.stored()) == 2
    assert await life.port.append(lambda job: step(life.port, "next")) is not None


async def test_a_large_value_is_read_whole_from_the_log_and_lies_elsewhere(life: Life) -> None:
    event = await life.port.append(lambda job: step(life.port, "large", LARGE))
    assert event is not None
    read = life.port.log[-1]
    assert isinstance(read, ev.StepCompleted)
    assert read.data.result == LARGE
    lies = (await life.stored())[-1]
    assert isinstance(lies, ev.StepCompleted)
    assert lies.data.result is UNSET
    assert lies.data.result_ref is not None
    assert lies.data.result_ref.sha256 in lies.refs


async def test_blobs_that_an_event_needs_are_named_in_it(life: Life) -> None:
    needed = Digest("ab" * 32)
    event = await life.port.append(lambda job: step(life.port, "s"), refs=[needed])
    assert event is not None
    assert needed in event.refs


# -------------------------------------------------------------------------------------------------- waiting


async def test_moved_returns_at_once_when_there_is_more_to_deliver(life: Life) -> None:
    await life.port.moved(1)
    await life.port.moved(2, life.port.now())


async def test_moved_ends_with_an_event_of_ones_own_and_of_others(life: Life) -> None:
    own = asyncio.create_task(life.port.moved(2))
    await asyncio.sleep(0)
    assert not own.done()
    await life.port.append(lambda job: step(life.port, "mine"))
    await own
    others = asyncio.create_task(life.port.moved(3))
    await asyncio.sleep(0)
    assert not others.done()
    await life.other(signal("theirs"))
    await life.tell()
    await others
    assert names(life.port.log) == ["mine", "theirs"]


async def test_moved_ends_when_its_instant_comes(life: Life) -> None:
    await life.port.moved(2, later(life.port.now(), -5))
    until = later(life.port.now(), 0.05)
    await life.port.moved(2, until)
    assert life.port.now() >= until


async def test_a_wait_that_is_given_up_leaves_nothing_behind(life: Life) -> None:
    for _ in range(3):
        waiting = asyncio.create_task(life.port.moved(2))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert await life.port.append(lambda job: step(life.port, "next")) is not None


# -------------------------------------------------------------------------------------------------- the end of it


async def test_a_fenced_attempt_writes_nothing_and_waits_for_nothing(life: Life) -> None:
    waiting = asyncio.create_task(life.port.moved(3))
    await asyncio.sleep(0)
    await life.other(started())
    with pytest.raises(Interrupted):
        await life.port.append(lambda job: step(life.port, "late"))
    await life.tell()
    with pytest.raises(Interrupted):
        await waiting
    with pytest.raises(Interrupted):
        await life.port.moved(99)
    with pytest.raises(Interrupted):
        await life.port.append(lambda job: step(life.port, "later"))
    with pytest.raises(Interrupted):
        await life.port.submit_child(Key("", "c", 1), "f", None)
    assert len(await life.stored()) == 3


async def test_an_attempt_whose_lease_is_in_doubt_writes_nothing(life: Life) -> None:
    life.doubt()
    with pytest.raises(Interrupted):
        await life.port.append(lambda job: step(life.port, "late"))
    with pytest.raises(Interrupted):
        await life.port.moved(2, later(life.port.now(), 60))
    with pytest.raises(Interrupted):
        await life.port.submit_child(Key("", "c", 1), "f", None)
    assert len(await life.stored()) == 2


async def test_deltas_are_never_refused_and_never_waited_for(life: Life) -> None:
    life.port.delta("delta.text", {"step": "s", "occurrence": 1, "channel": "m-1", "pos": 0, "text": "To"})
    life.port.delta("delta.log", {"level": "info", "text": "x", "fields": {"any": [1, None]}})
    life.doubt()
    life.port.delta("delta.step", {"step": "s", "occurrence": 1, "kind": "started"})


# -------------------------------------------------------------------------------------------------- children


async def test_a_call_submits_one_child_however_often_it_asks(life: Life) -> None:
    heard: list[tuple[Key, str, Any]] = []
    life.submitting = lambda key, flow, given: heard.append((key, flow, given))
    keys = [Key("", "c", 1), Key("/1.2", "c", 1), Key("", "c", 2)]
    ids: list[list[JobId]] = []
    for _ in range(2):
        ids.append([await life.port.submit_child(key, "f", {"of": "May"}, priority="high") for key in keys])
    assert ids[0] == ids[1] == [child_job_id(life.port.ref.job, *key) for key in keys]
    assert heard == [(key, "f", {"of": "May"}) for key in keys * 2]
    assert len(await life.stored()) == 2


@pytest.mark.parametrize(
    "error",
    [
        NotFound("no flow f"),
        Forbidden("not yours"),
        Invalid([Fault("type", "is no text", "/input")], "invalid-input"),
        Unavailable("not now"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_the_gateway_says_of_a_child_is_raised_as_it_was(life: Life, error: Exception) -> None:
    def refuse(key: Key, flow: str, given: Any) -> None:
        raise error

    life.submitting = refuse
    with pytest.raises(type(error)) as raised:
        await life.port.submit_child(Key("", "c", 1), "f", {"of": "May"})
    if isinstance(error, Invalid):
        assert isinstance(raised.value, Invalid)
        assert raised.value.faults == error.faults
