"""200 jobs are followed, word by word, at two gateways side by side, while whoever serves them is killed at random.

Who dies next is drawn; when, is given by the work: each time another share of the steps has been seen. The seed is
printed, `PERDURE_TEST_SEED` takes it again.
"""

import asyncio
import itertools
import os
import random
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path

import aiohttp
from msgspec import Struct
from tests.faults.conftest import Cluster
from tests.faults.flows import SPEECHES, speech

from perdure.client import Client, Delta, EventStream, Frame, decode
from perdure.client.problem import error_of
from perdure.clock import SystemChance, SystemClock
from perdure.config import Address
from perdure.core import event as ev
from perdure.core import verify
from perdure.core.event import AnyEvent
from perdure.local.child import address_of, reserve
from perdure.local.launch import UpProcess
from perdure.testing import whole

JOBS = 200
KEYS = 4  # a key may have 100 streams at a gateway, and each may get all of them
SERVERS = ("gateway", "gateway-2", "nats")
MORE = 2  # deaths of them beyond one of each
APART = 3  # others die between the two runners: a job that loses both in one step is a suspect, and waits for its turn
BOUND_SECONDS = 85.0

Eventually = Callable[..., Awaitable[None]]


class Beside:
    """Another gateway on the same broker and database as the one of a running `up`, to be killed and started again."""

    def __init__(self, up: UpProcess, at: Address, health: Address, eventually: Eventually) -> None:
        raw = Path(f"/proc/{up.processes()['gateway']}/environ").read_text()
        theirs = dict(pair.partition("=")[::2] for pair in raw.split("\0") if pair)
        mine = {"PERDURE_PORT": str(at.port), "PERDURE_HEALTH": str(health), "PERDURE_PARENT": str(os.getpid())}
        self._environ, self._eventually = theirs | mine, eventually
        self._log = up.log.with_name("gateway-2.log")
        self.url = f"http://{at}"
        self.process: asyncio.subprocess.Process

    async def start(self) -> None:
        """Start it and wait until it is ready."""
        command = [sys.executable, "-m", "perdure_gateway"]
        with open(self._log, "ab") as log:  # noqa: ASYNC230  # opened once, written by the child
            self.process = await asyncio.create_subprocess_exec(*command, env=self._environ, stderr=log)
        await self._eventually(self._ready, within_seconds=60)

    async def kill(self) -> None:
        """SIGKILL it, and start it again."""
        self.process.kill()
        await self.process.wait()
        await self.start()

    async def _ready(self) -> bool:
        try:
            async with aiohttp.ClientSession() as session, session.get(f"{self.url}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False


@asynccontextmanager
async def beside(up: UpProcess, eventually: Eventually) -> AsyncIterator[Beside]:
    """A second gateway, ready; ended in order."""
    with reserve(Address("127.0.0.1", 0)) as port, reserve(Address("127.0.0.1", 0)) as health:
        gateway = Beside(up, address_of(port), address_of(health), eventually)
        await gateway.start()
        try:
            yield gateway
        finally:
            gateway.process.send_signal(signal.SIGTERM)
            assert await gateway.process.wait() == 0


class Listener(Struct):
    """A job as its follower saw it. `words`: how many were heard."""

    text: str
    job: str = ""
    frames: list[Frame] = []
    words: int = 0
    connections: int = 0


def in_turn(urls: list[str], key: str, session: aiohttp.ClientSession, job: str) -> EventStream:
    """The events of a job by a reader that goes to another gateway each time that it connects again."""
    turns = itertools.cycle(urls)

    @asynccontextmanager
    async def connect(offset: str) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": offset, "Authorization": f"Bearer {key}"}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=45)
        async with session.get(f"{next(turns)}/api/jobs/{job}/events", headers=headers, timeout=timeout) as response:
            if response.status not in (200, 204):
                raise error_of(response.status, await response.read())
            yield response

    return EventStream(connect, SystemClock(), SystemChance())


async def listen(listener: Listener, stream: EventStream, steps: "asyncio.Queue[str]") -> None:
    """Follow a job to its end. Every word that is heard is the one that belongs in its place."""
    frames: AsyncGenerator[Frame, None]
    async with aclosing(stream.frames()) as frames:
        async for frame in frames:
            said = decode(frame)
            if isinstance(said, Delta):
                if said.type == "delta.text":
                    assert said.pos is not None
                    assert said.occurrence is not None
                    assert said.text
                    whole_speech = "".join(speech(listener.text, said.occurrence))
                    assert whole_speech[said.pos :].startswith(said.text), (listener.job, said)
                    listener.words += 1
            elif frame.seq is not None:
                listener.frames.append(frame)
                if isinstance(said, ev.StepCompleted):
                    steps.put_nowait(listener.job)
    listener.connections = stream.connections


async def storm(
    up: UpProcess, other: Beside, victims: list[str], steps: "asyncio.Queue[str]", eventually: Eventually
) -> None:
    """Kill the next one each time that another share of the steps was seen."""
    for name in victims:
        for _ in range(JOBS * SPEECHES // (len(victims) + 1)):
            await steps.get()
        if name == "gateway-2":
            await other.kill()
            continue
        pid = up.kill(name)
        await eventually(lambda name=name, pid=pid: up.processes().get(name, pid) != pid, within_seconds=60)


async def test_every_follower_of_two_hundred_jobs_has_the_log_whoever_dies(
    cluster: Callable[..., AbstractAsyncContextManager[Cluster]], eventually: Eventually
) -> None:
    seed = int(os.environ.get("PERDURE_TEST_SEED", random.SystemRandom().randrange(2**32)))
    print(f"seed {seed}")  # noqa: T201  # shown with the failure
    draw = random.Random(seed)
    victims = [*SERVERS, *draw.choices(SERVERS, k=MORE)]
    draw.shuffle(victims)
    first = draw.randrange(len(victims) - APART + 1)
    for place, runner in zip((first, first + APART + 1), draw.sample(["runner-1", "runner-2"], 2), strict=True):
        victims.insert(place, runner)
    listeners = [Listener(f"Speech {n:03}") for n in range(JOBS)]
    steps: asyncio.Queue[str] = asyncio.Queue()
    settings = {"lease_seconds": "2", "slots": "110"}
    async with (
        asyncio.timeout(BOUND_SECONDS),
        cluster("--runners", "2", **settings) as running,
        beside(running.up, eventually) as other,
        AsyncExitStack() as stack,
    ):
        urls = [running.up.client.url, other.url]
        keys = [await running.client.create_key(f"follower {n}") for n in range(KEYS)]
        secrets = [key.secret for key in keys]
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        clients = [
            await stack.enter_async_context(Client(urls[n % 2], secret, retry_seconds=whole.RETRY_SECONDS))
            for n, secret in enumerate(secrets)
        ]

        async def submit(place: int, listener: Listener) -> None:
            client = clients[place % KEYS]
            listener.job = (await client.submit("chatter", listener.text, idempotency_key=listener.text)).id

        await asyncio.gather(*(submit(place, listener) for place, listener in enumerate(listeners)))
        async with asyncio.TaskGroup() as tasks:
            for place, listener in enumerate(listeners):
                client, secret = clients[place % KEYS], secrets[place % KEYS]
                moves = in_turn(urls[:: draw.choice([1, -1])], secret, session, listener.job)
                stream = moves if place // KEYS % 2 else client.events(listener.job)
                tasks.create_task(listen(listener, stream, steps))
            await storm(running.up, other, victims, steps, eventually)
        taken_over = 0
        for listener in listeners:
            log = (await running.client.log(listener.job)).splitlines()
            assert [frame.data for frame in listener.frames] == log, listener.job
            events = [said for said in map(decode, listener.frames) if isinstance(said, AnyEvent)]
            assert [event.seq for event in events] == list(range(1, len(log) + 1)), listener.job
            assert verify.log(events) == [], listener.job
            spoken = "".join(word for n in range(SPEECHES) for word in speech(listener.text, n + 1))
            assert isinstance(events[-1], ev.JobCompleted)
            assert list(events[-1].data.outputs.values()) == [spoken]
            taken_over += events[-1].attempt > 1
        assert taken_over >= 1
        assert sum(listener.words for listener in listeners) >= JOBS * SPEECHES
        assert sum(listener.connections for listener in listeners) > JOBS
