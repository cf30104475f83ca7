"""The client against a small HTTP server that misbehaves as told; against the real gateway it is used in tests/e2e."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from perdure.client import ApiError, Client, Delta, StreamGap, UnknownEvent, decode
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


def delta(text: str, attempt: int = 1) -> bytes:
    body = json.dumps({"type": "delta.text", "attempt": attempt, "step": "s", "text": text})
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


@pytest.mark.parametrize(
    ("reason", "said", "waited"),
    [("drain", 7_000, 7.0), ("rotate", 4_000, 4.0), ("drain", 3_600_000, 15.0), ("upstream", 7_000, 0.25)],
)
async def test_readers_that_are_sent_away_come_back_when_they_were_told_to(
    reason: str, said: int, waited: float
) -> None:
    begin, closed = b": perdure\nretry: 2000\n\n", f'event: stream.close\ndata: {{"reason":"{reason}"}}\n\n'.encode()
    handler, asked = scripted((begin, event(1), f"retry: {said}\n\n".encode(), closed), (begin, event(2, "completed")))
    async with serving(handler) as client:
        assert await seqs(client) == [1, 2]
        assert client._clock.monotonic() == waited
    assert asked == ["0", "1"]


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


def numbered(seq: int, n: int, text: str, attempt: int = 1) -> bytes:
    return f"id: {seq}.{n}\n".encode() + delta(text, attempt)


RESET = b'id: 1\nevent: delta.reset\ndata: {"v":1,"type":"delta.reset","attempt":1,"reason":"joined"}\n\n'


async def shown(client: Client, after: str = "0") -> list[str]:
    """Texts of deltas, types of everything else."""
    said = [(frame, decode(frame)) async for frame in client.events(JOB, after=after).frames()]
    return [word.text if isinstance(word, Delta) and word.text else frame.type for frame, word in said]


async def test_each_delta_comes_once_and_a_cut_stream_goes_on_behind_the_last() -> None:
    handler, asked = scripted(
        (event(1), numbered(1, 1, "a"), numbered(1, 2, "b"), numbered(1, 2, "b")),
        (numbered(1, 2, "b"), numbered(1, 3, "c"), event(2), numbered(2, 3, "c"), numbered(2, 4, "d")),
        (event(3, "completed"),),
    )
    async with serving(handler) as client:
        assert await shown(client) == ["step.skipped", "a", "b", "c", "step.skipped", "d", "step.skipped"]
    assert asked == ["0", "1.2", "2.4"]


async def test_after_a_reset_everything_is_told_again_also_when_the_telling_is_cut() -> None:
    handler, asked = scripted(
        (event(1), numbered(1, 1, "a"), numbered(1, 2, "b"), RESET, delta("one")),
        (RESET, delta("one"), numbered(1, 2, "two"), numbered(1, 3, "c"), event(2, "completed")),
    )
    async with serving(handler) as client:
        told = await shown(client)
    assert told == ["step.skipped", "a", "b", "delta.reset", "one", "delta.reset", "one", "two", "c", "step.skipped"]
    assert asked == ["0", "1"]


async def test_another_attempt_numbers_its_deltas_anew() -> None:
    handler, _ = scripted((numbered(1, 6, "a"), numbered(1, 1, "b", attempt=2), event(2, "completed")))
    async with serving(handler) as client:
        assert await shown(client, "1.5") == ["a", "b", "step.skipped"]


async def test_a_stream_of_some_types_knows_no_holes_and_follows_ids_without_events() -> None:
    queries: list[str] = []
    handler, asked = scripted((event(2), b"id: 7\n\n"), (event(9, "completed"),))

    async def noting(request: web.Request) -> web.StreamResponse:
        queries.append(request.query_string)
        return await handler(request)

    async with serving(noting) as client:
        frames = client.events(JOB, types=["step.*"], until="head", deltas=False).frames()
        assert [frame.seq async for frame in frames] == [2, 9]
    assert asked == ["0", "7"]
    assert set(queries) == {"until=head&types=step.*&deltas=false"}


async def test_events_that_are_gone_are_a_gap_or_what_the_job_came_to() -> None:
    gap = b'event: stream.gap\ndata: {"from":"1","to":"8"}\n\n'
    snapshot = b'id: 9\nevent: stream.snapshot\ndata: {"offset":"9","job":{"status":"completed"}}\n\n'

    async def handler(request: web.Request) -> web.StreamResponse:
        if "gap" in request.query:
            return await stream(request, gap, snapshot)
        return web.json_response({"code": "offset-expired", "detail": "d", "latest": "9"}, status=410)

    async with serving(handler) as client:
        with pytest.raises(StreamGap) as gone:
            await seqs(client)
        assert (gone.value.code, gone.value.facts) == ("offset-expired", {"latest": "9"})
        events = client.events(JOB, on_gap="snapshot")
        assert [frame.type async for frame in events.frames()] == ["stream.gap", "stream.snapshot"]
        assert events.offset == "9"


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


async def test_a_wait_is_asked_for_in_pieces_that_a_gateway_takes() -> None:
    preferred: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        preferred.append(request.headers["Prefer"])
        return web.json_response(JOB_BODY | ({"status": "suspended"} if len(preferred) == 3 else {}))

    async with serving(handler) as client:
        assert (await client.submit("n", wait=500)).status == "queued"
        assert (await client.wait(JOB, 90)).status == "suspended"
    assert preferred == ["wait=60", "wait=60", "wait=60"]


async def test_what_makes_a_secret_is_tried_once_and_a_delete_whose_answer_was_lost_is_done() -> None:
    calls: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        calls.append(request.method)
        status = 404 if calls.count("DELETE") == 2 else 503
        return web.json_response({"code": "unavailable"}, status=status)

    async with serving(handler) as client:
        with pytest.raises(Unavailable):
            await client.create_key("k")
        assert calls == ["POST"]
        await client.delete(JOB)
        assert calls == ["POST", "DELETE", "DELETE"]


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
