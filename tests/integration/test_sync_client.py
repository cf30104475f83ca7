"""The blocking client, and following, against a small HTTP server: what runs in threads, and what ends them."""

import asyncio
import contextlib
import json
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from tests.integration.test_client import JOB, JOB_BODY, event, numbered, scripted, serving, stream

from perdure.client import Delta, HumanRequest, JobEnded, Reply, Snapshot, SyncClient, WaitTimeout
from perdure.core import codec
from perdure.core import event as ev
from perdure.core.event import TYPE_OF
from perdure.errors import NotFound
from perdure.ids import JobId, RequestId
from perdure.testing.factory import Story


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("perdure-client")]


@asynccontextmanager
async def blocking(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[SyncClient]:
    async with serving(handler) as client:
        sync = SyncClient(client.url, "pdr_k", retry_seconds=0.5)
        try:
            yield sync
        finally:
            await asyncio.to_thread(sync.close)
    assert threads() == []


async def test_a_blocking_follow_yields_each_event_and_word_once_over_a_cut() -> None:
    handler, asked = scripted(
        (event(1), numbered(1, 1, "a"), numbered(1, 2, "b")),
        (numbered(1, 2, "b"), numbered(1, 3, "c"), event(2, "completed")),
    )
    offsets: list[str] = []

    def told(client: SyncClient) -> list[str]:
        said = []
        with client.follow(JOB) as follow:
            for record in follow:
                said.append(record.text or "" if isinstance(record, Delta) else type(record).__name__)
                offsets.append(follow.offset)
        return said

    async with blocking(handler) as client:
        assert await asyncio.to_thread(told, client) == ["StepSkipped", "a", "b", "c", "StepSkipped"]
    assert asked == ["0", "1.2"]
    assert offsets == ["1", "1.1", "1.2", "1.3", "2"]


async def test_several_threads_use_one_client_and_its_errors_are_those_of_the_other() -> None:
    everybody = asyncio.Barrier(4)

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("nothing"):
            return web.json_response({"code": "not-found"}, status=404)
        await everybody.wait()  # answered when all of them have asked
        return web.json_response(JOB_BODY)

    async with blocking(handler) as client:
        jobs = await asyncio.gather(*(asyncio.to_thread(client.job, JOB) for _ in range(4)))
        assert {job.id for job in jobs} == {JOB}
        assert threads() == ["perdure-client"]
        with pytest.raises(NotFound):
            await asyncio.to_thread(client.job, "nothing")


async def test_a_close_ends_what_other_threads_wait_for_and_stays() -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = await stream(request, event(1))
        asked.set()
        try:
            while True:
                await response.write(b": hb\n\n")
                await asyncio.sleep(0.01)
        except ConnectionError:
            left.set()
            raise

    async with blocking(handler) as client:
        waiting = asyncio.create_task(asyncio.to_thread(lambda: list(client.follow(JOB))))
        await asked.wait()
        await asyncio.to_thread(client.close)
        with pytest.raises(RuntimeError, match="closed"):
            await waiting
        with pytest.raises(RuntimeError, match="closed"):
            await asyncio.to_thread(client.job, JOB)
        await asyncio.wait_for(left.wait(), 20)
        client.close()


async def test_a_follow_that_is_left_early_closes_its_connection() -> None:
    left = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = await stream(request, event(1))
        try:
            while True:
                await response.write(b": hb\n\n")
                await asyncio.sleep(0.01)
        except ConnectionError:
            left.set()
            raise

    def first(client: SyncClient) -> None:
        with client.follow(JOB) as follow:
            assert isinstance(next(follow), ev.StepSkipped)
        assert next(follow, None) is None

    async with blocking(handler) as client:
        await asyncio.to_thread(first, client)
        await asyncio.wait_for(left.wait(), 20)


INTERRUPTED = """
import signal
import sys
from perdure import SyncClient

signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background inherits that it is ignored
with SyncClient(sys.argv[1], "pdr_k") as client:
    follow = client.follow(sys.argv[2])
    try:
        for record in follow:
            print(record.seq, flush=True)
    except KeyboardInterrupt:
        print("interrupted", follow.offset, flush=True)
"""


async def test_ctrl_c_ends_a_follow_and_the_program_goes_on() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = await stream(request, event(1))
        while True:
            await response.write(b": hb\n\n")
            await asyncio.sleep(0.05)

    async with serving(handler) as client:
        program = await asyncio.create_subprocess_exec(
            sys.executable, "-c", INTERRUPTED, client.url, JOB, stdout=asyncio.subprocess.PIPE
        )
        assert program.stdout is not None
        try:
            async with asyncio.timeout(60):
                assert await program.stdout.readline() == b"1\n"
                program.send_signal(signal.SIGINT)
                assert await program.stdout.read() == b"interrupted 1\n"
                assert await program.wait() == 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                program.kill()


class Person:
    """A job that has asked `names` one after the other and then sleeps until the last is answered."""

    def __init__(self, *names: str) -> None:
        self.story = Story(JobId(JOB))
        self.story.submitted()
        self.story.started()
        self.names = {self.story.asked(name): name for name in names}
        self.status = dict.fromkeys(names, "pending")
        self.answers: list[Any] = []
        self.answered = asyncio.Event()
        self.queries: list[str] = []
        if names:
            self.story.suspended(*(ev.Waiting(kind="input", request_id=request) for request in self.names))

    async def serve(self, request: web.Request) -> web.StreamResponse:
        *_, before, what = request.path.split("/")
        if what == "events":
            self.queries.append(request.query_string)
            told = await stream(request, *map(frame, self.story.events))
            await self.answered.wait()
            return await self._end(told)
        if what == "answer":
            self.answers.append(await request.json())
            self.status[self.names[RequestId(before)]] = "answered"
            self.answered.set()
            return web.json_response(self._shown(before))
        if what in self.names:
            return web.json_response(self._shown(what))
        done = {"status": "completed", "outputs": {"a": 1}} if self.answered.is_set() else {}
        return web.json_response(JOB_BODY | done)

    async def _end(self, told: web.StreamResponse) -> web.StreamResponse:
        if self.names:
            await told.write(frame(self.story.answered(list(self.names)[-1])))
            await told.write(frame(self.story.started("resumed", bell=2)))
        await told.write(frame(self.story.completed(a=1)))
        return told

    def _shown(self, request: str) -> dict[str, Any]:
        name = self.names[RequestId(request)]
        shown = {"id": request, "job_id": JOB, "name": name, "title": "t", "status": self.status[name]}
        return shown | {"proposal": 1, "proposal_digest": f"sha256:{name}"}


def frame(record: ev.AnyEvent) -> bytes:
    return f"id: {record.seq}\nevent: {TYPE_OF[type(record)]}\ndata: ".encode() + codec.encode(record) + b"\n\n"


async def test_the_next_request_is_the_earliest_that_is_open_and_its_answer_says_what_was_read() -> None:
    person = Person("one", "two", "three")
    person.status["one"] = "answered"

    def answer(client: SyncClient) -> list[str]:
        found = client.next_request(JOB, timeout=20)
        other = client.next_request(JOB, "three", timeout=20)
        client.answer(found, "approve", payload={"a": 1})
        return [found.name, other.name]

    async with blocking(person.serve) as client:
        assert await asyncio.to_thread(answer, client) == ["two", "three"]
    assert person.answers == [{"action": "approve", "proposal_digest": "sha256:two", "payload": {"a": 1}}]
    assert set(person.queries) == {"types=input.requested,job.*&gap=snapshot"}


async def test_a_job_that_ends_or_stays_silent_asks_nothing() -> None:
    person = Person()

    def ask(client: SyncClient, timeout: float) -> HumanRequest:
        return client.next_request(JOB, "two", timeout=timeout)

    async with blocking(person.serve) as client:
        with pytest.raises(WaitTimeout, match="has asked no 'two'"):
            await asyncio.to_thread(ask, client, 0.05)
        person.answered.set()
        with pytest.raises(JobEnded, match="has completed"):
            await asyncio.to_thread(ask, client, 20)


async def test_an_ordinary_function_that_answers_may_call_the_client_itself() -> None:
    person = Person("ask")

    def run(client: SyncClient) -> dict[str, Any]:
        def reply(request: HumanRequest) -> Reply:
            assert client.job(request.job_id).id == JOB
            return Reply(action="approve")

        return client.run("n", on_request=reply, timeout=20)

    async with blocking(person.serve) as client:
        assert await asyncio.to_thread(run, client) == {"a": 1}
    assert [answer["action"] for answer in person.answers] == ["approve"]


@pytest.mark.parametrize("kind", ["ordinary", "asynchronous"])
async def test_a_function_that_answers_may_close_the_client_which_ends_its_own_call(
    kind: str, eventually: Callable[..., Awaitable[None]]
) -> None:
    person = Person("ask")
    said: list[str] = []

    def run(client: SyncClient) -> None:
        def reply(request: HumanRequest) -> Reply:
            client.close()
            return Reply(action="approve")

        async def later(request: HumanRequest) -> Reply:
            return reply(request)

        try:
            client.run("n", on_request=reply if kind == "ordinary" else later, timeout=20)
        except RuntimeError as exc:
            said.append(str(exc))
        client.close()  # waits for the end that was begun inside

    async with serving(person.serve) as client:
        caller = threading.Thread(target=run, args=(SyncClient(client.url, "pdr_k"),), daemon=True)
        caller.start()
        await eventually(lambda: not caller.is_alive())
        assert len(person.answers) <= (kind == "asynchronous")  # it goes on to its next await
        person.answered.set()  # else the server waits for its follower
    assert said == ["it is closed"]
    assert threads() == []


async def test_an_asynchronous_function_answers_too_and_may_be_any_callable() -> None:
    class Asks:
        async def __call__(self, request: HumanRequest) -> Reply:
            return Reply(action="approve")

    async def reply(request: HumanRequest) -> Reply:
        return Reply(action="approve")

    for on_request in (reply, Asks()):
        async with serving(Person("ask").serve) as client:
            assert await client.run("n", on_request=on_request, timeout=20) == {"a": 1}


async def test_following_tells_what_became_of_events_that_are_gone() -> None:
    gap = b'event: stream.gap\ndata: {"from":"1","to":"8"}\n\n'
    body = json.dumps({"offset": "9", "job": {"status": "completed"}, "steps": []})
    snapshot = f"id: 9\nevent: stream.snapshot\ndata: {body}\n\n".encode()
    handler, _ = scripted((gap, snapshot))
    async with serving(handler) as client, client.follow(JOB, on_gap="snapshot") as told:
        assert [record async for record in told] == [Snapshot("9", json.loads(body))]
        assert told.offset == "9"
