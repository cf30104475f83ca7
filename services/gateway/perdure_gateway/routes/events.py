"""A job's events: live from any offset as server-sent events, or a page of them."""

import re
from contextlib import aclosing
from typing import Final

import msgspec
from aiohttp import web

from perdure.bus.eventlog import Stored
from perdure.core.event import TERMINAL
from perdure.core.stream.frame import Frame
from perdure.core.stream.native import Native, envelope
from perdure.errors import Expired, NotFound
from perdure.ids import JobRef
from perdure.jobs.follow import UNTIL, attach, replay_to
from perdure_gateway import answers, bodies
from perdure_gateway.auth import CALLER
from perdure_gateway.keys import CHANCE, DESK, FANOUT, KEYS, LIMITS, SERVICE
from perdure_gateway.policy import allow
from perdure_gateway.problems import Problem
from perdure_gateway.sse import Stream

OFFSET: Final = re.compile(r"(0|[1-9][0-9]{0,17})(\.[0-9]{1,9})?", re.ASCII)
MAX_OFFSET_CHARS: Final = 24
MAX_PAGE_EVENTS: Final = 500
MAX_PAGE_BYTES: Final = 1024 * 1024


@allow("read")
async def events(request: web.Request) -> web.StreamResponse:
    """`GET /api/jobs/{job}/events`. Everything that can be refused is refused before the headers."""
    wanted = _representation(request)
    ref = request[CALLER].job(request.match_info["job"])
    if wanted == "text/event-stream":
        return await _stream(request, ref)
    return await _page(request, ref)


async def _stream(request: web.Request, ref: JobRef) -> web.StreamResponse:
    query = bodies.query(request, "after", "starting_after", "until", "deltas")
    after, until, deltas = _offset(request, query), query.get("until", "terminal"), query.get("deltas", "true")
    if until not in UNTIL:
        raise bodies.bad_parameter("until", "terminal, suspended, head or an event type")
    if deltas not in ("true", "false"):
        raise bodies.bad_parameter("deltas", "true or false")
    app, service = request.app, request.app[SERVICE]
    if service.stopping.is_set():
        raise Problem("draining", "another gateway will answer", headers={"Retry-After": "1"})
    adapter = Native(ref.job) if deltas == "true" else WithoutDeltas(ref.job)
    attached = attach(app[DESK].eventlog, app[FANOUT], service.clock, ref, after, adapter)
    with app[LIMITS].stream(request[CALLER].key_id):
        async with app[LIMITS].attaching():
            follower = await attached.__aenter__()
        try:
            if follower.exhausted:
                return web.Response(status=204)
            stream = Stream(request, service.clock, app[CHANCE], service.stopping, lambda: app[KEYS].caller(request))
            async with aclosing(follower.frames(until)) as frames:
                return await stream.send(frames, adapter)
        finally:
            await attached.__aexit__(None, None, None)


async def _page(request: web.Request, ref: JobRef) -> web.Response:
    query = bodies.query(request, "after", "starting_after", "limit")
    after, limit = _offset(request, query), answers.limit(query, MAX_PAGE_EVENTS)
    eventlog = request.app[DESK].eventlog
    tail = await eventlog.tail(ref)
    if tail is None:
        raise NotFound("no such job")
    head = tail.event.seq
    after = head if after is None else after
    if after > head:
        raise Expired("offset-ahead", "the job has no event of that number yet", {"latest": str(head)})
    found = _bounded(await replay_to(eventlog, ref, after, head), limit)
    reached = found[-1].event.seq if found else after
    last = found[-1].event if found and found[-1].event.seq > head else tail.event
    body = {
        "events": [msgspec.Raw(envelope(ref.job, stored.body)) for stored in found],
        "next": str(reached),
        "head": last.seq,
        "status": last.status,
        "done": last.status in TERMINAL and reached >= last.seq,
    }
    return answers.respond(body)


def _bounded(entries: list[Stored], limit: int) -> list[Stored]:
    """The first of `entries`, at least one, within a page's bounds."""
    size = 0
    found: list[Stored] = []
    for stored in entries[:limit]:
        size += len(stored.body)
        if found and size > MAX_PAGE_BYTES:
            break
        found.append(stored)
    return found


class WithoutDeltas(Native):
    """The native stream of a reader that wants events alone."""

    def on_delta(self, body: bytes) -> tuple[Frame, ...]:
        return ()


def _offset(request: web.Request, query: dict[str, str]) -> int | None:
    """Where the reader is: the header before the query, since an EventSource repeats its old query. None: `now`."""
    sent = request.headers.getall("Last-Event-ID", [])
    asked = {query[name] for name in ("after", "starting_after") if name in query}
    if len(sent) > 1 or len(asked) > 1:
        raise Problem("invalid-offset", "more than one offset")
    text = next(iter(sent or asked), "0")
    if text == "now" and not sent:
        return None
    match = OFFSET.fullmatch(text) if len(text) <= MAX_OFFSET_CHARS else None
    if match is None:
        raise Problem("invalid-offset", "an offset is 0, now, or what a frame's id said")
    return int(match[1])


def _representation(request: web.Request) -> str:
    accepted = {part.split(";")[0].strip().lower() for part in request.headers.get("Accept", "*/*").split(",")}
    if "text/event-stream" in accepted:
        return "text/event-stream"
    if accepted & {"application/json", "application/*", "*/*"}:
        return "application/json"
    raise Problem("not-acceptable", "text/event-stream or application/json")


ROUTES: Final = (
    web.get(
        "/api/jobs/{job:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}}/events", events, allow_head=False
    ),
)
