"""The client against a small HTTP server that misbehaves as told; against the real gateway it is used in tests/e2e."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from perdure.client import ApiError, Client, Delta, UnknownEvent, decode
from perdure.core.event import StepSkipped
from perdure.errors import Conflict, Expired, Invalid, NotFound, OutcomeUnknown, Unauthenticated, Unavailable

JOB = "0198aaaa-0000-7000-8000-000000000001"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class QuickClock:
    """Real durations, no waiting."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> object:
        raise AssertionError("the client asks for no date")

    broker_now = now

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


class Half:
    def random(self) -> float:
        return 0.5


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[Client]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        clock = QuickClock()
        async with Client(f"http://127.0.0.1:{port}/", "pdr_k", clock=clock, chance=Half()) as client:  # type: ignore[arg-type]  # no dates
            yield client
    finally:
        await runner.cleanup()


def event(seq: int, status: str = "running") -> bytes:
    body = {
        "job_id": JOB, "type": "step.skipped", "v": 1, "id": f"e{seq}", "seq": seq, "attempt": 1,
        "at": "2026-01-01T00:00:00.000Z", "status": status, "data": {"step": "s", "occurrence": seq, "reason": "r"},
    }  # fmt: skip
    return f"id: {seq}\nevent: step.skipped\ndata: {json.dumps(body)}\n\n".encode()


def delta(text: str) -> bytes:
    body = json.dumps({"type": "delta.text", "attempt": 1, "step": "s", "text": text})
    return f"event: delta.text\ndata: {body}\n\n".encode()


async def stream(request: web.Request, *chunks: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for chunk in chunks:
        await response.write(chunk)
    return response


def scripted(*connections: tuple[bytes, ...] | int) -> tuple[Handler, list[str | None]]:
    """A handler whose n-th connection sends the n-th script (or just a status); the offsets that were asked for."""
    asked: list[str | None] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        script = connections[len(asked)]
        asked.append(request.headers.get("Last-Event-ID"))
        if isinstance(script, int):
            return web.json_response({"code": "c", "detail": "d"}, status=script)
        return await stream(request, *script)

    return handler, asked


async def seqs(client: Client, after: int = 0) -> list[int | None]:
    return [frame.seq async for frame in client.events(JOB, after=after).frames()]


async def test_a_stream_that_breaks_goes_on_at_its_offset_and_yields_each_event_once() -> None:
    handler, asked = scripted(
        (event(1), event(2)[:40]),
        503,
        (event(1), event(2), event(2), event(3)),
        (event(4, "completed"), event(5)),
    )
    async with serving(handler) as client:
        assert await seqs(client) == [1, 2, 3, 4]
    assert asked == ["0", "1", "1", "3"]


async def test_a_hole_is_never_passed_on_but_filled_by_another_connection() -> None:
    handler, asked = scripted((event(1), event(3)), (event(2), event(3, "failed")))
    async with serving(handler) as client:
        stream = client.events(JOB)
        assert [frame.seq async for frame in stream.frames()] == [1, 2, 3]
    assert asked == ["0", "1"]
    assert (stream.connections, stream.holes, stream.repeated) == (2, 1, 0)


async def test_deltas_are_live_words_and_move_no_offset() -> None:
    handler, asked = scripted((event(1), delta("a")), (delta("b"), b"id: 1\n\n", event(2, "completed")))
    async with serving(handler) as client:
        frames = [frame async for frame in client.events(JOB).frames()]
    words = [word.text for word in map(decode, frames) if isinstance(word, Delta)]
    assert words == ["a", "b"]
    assert asked == ["0", "1"]


async def test_the_stream_ends_where_the_job_has_ended_and_where_the_caller_wanted() -> None:
    close = b'event: stream.close\ndata: {"reason":"until"}\n\n'
    drain = b'event: stream.close\ndata: {"reason":"drain"}\n\n'
    handler, _ = scripted(204, (event(1), drain), (event(2), close))
    async with serving(handler) as client:
        assert await seqs(client, after=9) == []
        assert await seqs(client) == [1, 2]


async def test_what_another_version_says_is_not_lost() -> None:
    strange = (
        b'id: 1\nevent: job.dreamt\ndata: {"v":1,"seq":1,"type":"job.dreamt","status":"completed","data":{"a":1}}\n\n'
    )
    handler, _ = scripted((strange,), (event(1, "completed"),))
    async with serving(handler) as client:
        [frame] = [frame async for frame in client.events(JOB).frames()]
        assert decode(frame) == UnknownEvent(v=1, seq=1, type="job.dreamt", data={"a": 1}, status="completed")
        [frame] = [frame async for frame in client.events(JOB).frames()]
        assert isinstance(decode(frame), StepSkipped)


@pytest.mark.parametrize(("status", "error"), [(404, NotFound), (410, Expired), (401, Unauthenticated), (400, Invalid)])
async def test_a_refused_stream_is_an_error_and_not_tried_again(status: int, error: type[Exception]) -> None:
    handler, asked = scripted(status)
    async with serving(handler) as client:
        with pytest.raises(error):
            await seqs(client)
    assert len(asked) == 1


async def test_a_stream_that_stays_away_is_given_up_in_the_end() -> None:
    handler, asked = scripted(*[503] * 100)
    async with serving(handler) as client:
        with pytest.raises(Unavailable):
            await seqs(client)
    assert len(asked) > 5


JOB_BODY = {
    "id": JOB, "flow": {"id": "f", "name": "n", "version": 1, "kind": "graph"}, "status": "queued", "seq": 1, "new": 1,
}  # fmt: skip


async def test_a_submit_is_tried_again_with_the_same_key_until_it_is_known() -> None:
    keys: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        keys.append(request.headers["Idempotency-Key"])
        if len(keys) == 1:
            return web.json_response({"code": "outcome-unknown"}, status=503, headers={"Retry-After": "2"})
        if len(keys) == 2:
            assert request.transport is not None
            request.transport.close()
        return web.json_response(JOB_BODY, status=202)

    async with serving(handler) as client:
        job = await client.submit("n", "hello")
    assert job.id == JOB
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert keys[0]


async def test_what_stays_unknown_is_said_to_be_unknown() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.json_response({"code": "outcome-unknown", "job_id": JOB}, status=503)

    async with serving(handler) as client:
        with pytest.raises(OutcomeUnknown):
            await client.submit("n", "hello")


async def test_a_problem_is_the_error_that_the_gateway_raised() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response(
                {"code": "invalid-input", "errors": [{"code": "c", "detail": "no", "pointer": "/input/brief"}]},
                status=422,
            )
        return web.json_response({"code": "already-answered", "detail": "d", "answered_by": "user:ann"}, status=409)

    async with serving(handler) as client:
        with pytest.raises(Invalid) as invalid:
            await client.job(JOB)
        assert (invalid.value.code, invalid.value.faults[0].pointer) == ("invalid-input", "/input/brief")
        with pytest.raises(Conflict) as conflict:
            await client.cancel(JOB)
        assert (conflict.value.code, conflict.value.facts["answered_by"]) == ("already-answered", "user:ann")


async def test_what_a_user_types_cannot_become_another_route() -> None:
    paths: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        paths.append(request.raw_path)
        return web.json_response({"code": "not-found"}, status=404)

    async with serving(handler) as client:
        for name in ("../keys", "a?b=c", ".."):
            with pytest.raises(NotFound):
                await client.job(name)
    assert paths == ["/api/jobs/..%2Fkeys", "/api/jobs/a%3Fb=c"]


async def test_a_redirect_takes_the_key_nowhere() -> None:
    keys: list[str | None] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        keys.append(request.headers.get("Authorization"))
        return web.Response(status=307, headers={"Location": f"http://localhost:{request.url.port}/elsewhere"})

    async with serving(handler) as client:
        with pytest.raises(ApiError, match="HTTP 307"):
            await client.job(JOB)
        with pytest.raises(ApiError, match="HTTP 307"):
            await seqs(client)
    assert keys == ["Bearer pdr_k"] * 2
