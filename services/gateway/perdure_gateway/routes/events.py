"""A job's events: live from any offset as server-sent events, a page of them, or the whole log as a download."""

from typing import Final

import msgspec
from aiohttp import web

from perdure.bus.entry import Stored
from perdure.bus.fanout import Lagged, LiveEvent
from perdure.core.event import TERMINAL, type_of
from perdure.core.machine import fold
from perdure.core.stream import withheld
from perdure.core.stream.adapter import Attach
from perdure.core.stream.filter import Types
from perdure.core.stream.frame import Frame
from perdure.core.stream.native import envelope
from perdure.core.stream.offset import START, Offset, parse
from perdure.core.stream.registry import adapter
from perdure.errors import Expired, Malformed, NotFound
from perdure.ids import JobId, JobRef
from perdure.jobs.backlog import page_to
from perdure.jobs.until import UNTIL
from perdure_gateway import answers, bodies, streaming, views
from perdure_gateway.auth import CALLER, Caller
from perdure_gateway.keys import DESK, FANOUT, LIMITS, SERVICE
from perdure_gateway.policy import op
from perdure_gateway.problems import Problem
from perdure_gateway.sse import HEADERS

MAX_PAGE_EVENTS: Final = 500
MAX_PAGE_BYTES: Final = 1024 * 1024
MAX_WAIT_SECONDS: Final = 30
OFFSETS: Final = ("after", "starting_after")
FILTERS: Final[tuple[str, ...]] = ("types", "values", "deltas")
KINDS: Final = ("text/event-stream", "application/jsonl", "application/json")


@op("read", query=(*OFFSETS, *FILTERS, "until", "gap", "limit", "ticket"), ticket=True, answers=(200, 204), media=KINDS)
async def events(request: web.Request) -> web.StreamResponse:
    """`GET /api/jobs/{job}/events`. Everything that can be refused is refused before the headers."""
    wanted = _representation(request)
    ref = request[CALLER].job(request.match_info["job"])
    if wanted == "text/event-stream":
        return await _stream(request, ref)
    if wanted == "application/jsonl":
        return await _download(request, ref)
    return await _page(request, ref)


async def _stream(request: web.Request, ref: JobRef) -> web.StreamResponse:
    query = bodies.query(request, *OFFSETS, *FILTERS, "until", "gap", "ticket")
    after, until = _offset(request, query), query.get("until", "terminal")
    if until not in UNTIL:
        raise bodies.bad_parameter("until", "terminal, suspended, head or an event type")
    if query.get("gap", "snapshot") != "snapshot":
        raise bodies.bad_parameter("gap", "snapshot")
    options = {name: query[name] for name in FILTERS if name in query}
    shown = adapter("native", Attach(job=ref.job, values=request[CALLER].may("values"), options=options))
    try:
        return await streaming.stream(request, ref, after, shown, until=until)
    except Expired as exc:
        if exc.code != "offset-expired":
            raise
        return await _behind_a_gap(request, ref, exc, snapshot="gap" in query)


async def _page(request: web.Request, ref: JobRef) -> web.Response:
    query = bodies.query(request, *OFFSETS, "limit", "types", "values")
    after, limit = _offset(request, query), answers.limit(query, MAX_PAGE_EVENTS)
    types, values = _types(query), _values(request[CALLER], query)
    wait = answers.wait_seconds(request, MAX_WAIT_SECONDS)
    tail, found = await _read(request, ref, after, limit)
    if wait is not None and not found and tail.event.status not in TERMINAL:
        after = Offset(tail.event.seq) if after is None else after
        await _until_news(request, ref, after.seq, wait)
        tail, found = await _read(request, ref, after, limit)
    head, begin = tail.event.seq, tail.event.seq if after is None else after.seq
    reached = found[-1].event.seq if found else begin
    last = found[-1].event if found and found[-1].event.seq > head else tail.event
    shown = [s for s in found if types is None or type_of(s.event) in types]
    body = {
        "events": [msgspec.Raw(_shown(ref.job, stored, values=values)) for stored in shown],
        "next": str(reached),
        "head": last.seq,
        "status": last.status,
        "done": last.status in TERMINAL and reached >= last.seq,
    }
    return answers.respond(body, headers=answers.waited(wait))


async def _read(request: web.Request, ref: JobRef, after: Offset | None, limit: int) -> tuple[Stored, list[Stored]]:
    """The log's end, and the events of a page behind `after`. Raises NotFound, Expired, Unavailable."""
    eventlog = request.app[DESK].eventlog
    tail = await eventlog.tail(ref)
    if tail is None:
        raise NotFound("no such job")
    head = tail.event.seq
    begin = head if after is None else after.seq
    if begin > head:
        raise Expired("offset-ahead", "the job has no event of that number yet", {"latest": str(head)})
    return tail, await page_to(eventlog, ref, begin, head, limit, MAX_PAGE_BYTES)


async def _until_news(request: web.Request, ref: JobRef, after: int, seconds: float) -> None:
    """Wait for an event behind `after`, for `seconds` at most, and not while this gateway stops."""
    clock = request.app[DESK].clock
    until = clock.monotonic() + seconds
    with request.app[LIMITS].stream(request[CALLER].key_id), request.app[FANOUT].follow(ref) as inbox:
        tail = await request.app[DESK].eventlog.tail(ref)  # between the first look and the registration
        while tail is not None and tail.event.seq <= after and not request.app[SERVICE].stopping.is_set():
            left = until - clock.monotonic()
            if left <= 0 or isinstance(await inbox.next(min(left, 1.0)), LiveEvent | Lagged):
                return


async def _download(request: web.Request, ref: JobRef) -> web.StreamResponse:
    """`application/jsonl`: an event a line, from the first to the last that there is."""
    query = bodies.query(request, "types", "values")
    types, values = _types(query), _values(request[CALLER], query)
    entries = await request.app[DESK].eventlog.read(ref)
    if not entries:
        raise NotFound("no such job")
    if entries[0].event.seq != 1:
        raise _gone(ref, entries)
    response = web.StreamResponse(
        headers={
            "Content-Type": "application/jsonl",
            "Content-Disposition": f'attachment; filename="{ref.job}.jsonl"',
        }
    )
    await response.prepare(request)
    for stored in entries:
        if types is None or type_of(stored.event) in types:
            await response.write(_shown(ref.job, stored, values=values) + b"\n")
    await response.write_eof()
    return response


async def _behind_a_gap(request: web.Request, ref: JobRef, gone: Expired, *, snapshot: bool) -> web.StreamResponse:
    """What a reader gets whose events are kept nowhere: 410, or as a stream (an EventSource cannot read a 410) which
    events are missing and the job as it ended. Raises Expired.
    """
    entries = await request.app[DESK].eventlog.read(ref)
    if not snapshot or not entries:
        raise Expired(gone.code, str(gone), gone.facts | {"snapshot": f"/api/jobs/{ref.job}/state"})
    job = fold(stored.event for stored in entries)
    gap = {"from": "1", "to": str(entries[0].event.seq - 1)}
    said = {"offset": str(job.seq), "job": views.job_of_state(ref, job)}
    response = web.StreamResponse(headers=HEADERS)
    await response.prepare(request)
    for frame in (
        Frame(None, "stream.gap", msgspec.json.encode(gap)),
        Frame(str(job.seq), "stream.snapshot", msgspec.json.encode(said)),
    ):
        await response.write(frame.encode())
    await response.write_eof()
    return response


def _gone(ref: JobRef, entries: list[Stored]) -> Expired:
    facts = {
        "earliest": str(entries[0].event.seq),
        "latest": str(entries[-1].event.seq),
        "snapshot": f"/api/jobs/{ref.job}/state",
    }
    return Expired("offset-expired", "the events behind this offset are no longer kept", facts)


def _shown(job: JobId, stored: Stored, *, values: bool) -> bytes:
    return envelope(job, stored.body if values else withheld.event(stored.body))


def _types(query: dict[str, str]) -> Types | None:
    if "types" not in query:
        return None
    try:
        return Types(query["types"])
    except Malformed as exc:
        raise bodies.bad_parameter("types", str(exc)) from None


def _values(caller: Caller, query: dict[str, str]) -> bool:
    """Whether users' values are shown: as asked, and never to a key whose scopes leave them out."""
    return bodies.flag(query, "values", default=True) and caller.may("values")


def _offset(request: web.Request, query: dict[str, str]) -> Offset | None:
    """Where the reader is: the header before the query, since an EventSource repeats its old query. None: `now`."""
    sent = request.headers.getall("Last-Event-ID", [])
    asked = {query[name] for name in OFFSETS if name in query}
    if len(sent) > 1 or len(asked) > 1:
        raise Problem("invalid-offset", "more than one offset")
    text = next(iter(sent or asked), str(START))
    if text == "now" and not sent:
        return None
    try:
        return parse(text)
    except Malformed:
        raise Problem("invalid-offset", "an offset is 0, now, or what a frame's id said") from None


def _representation(request: web.Request) -> str:
    accepted = {part.split(";")[0].strip().lower() for part in request.headers.get("Accept", "*/*").split(",")}
    for kind in KINDS:
        if kind in accepted:
            return kind
    if accepted & {"application/*", "*/*"}:
        return "application/json"
    raise Problem("not-acceptable", ", ".join(KINDS))


ROUTES: Final = (
    web.get(
        "/api/jobs/{job:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}}/events", events, allow_head=False
    ),
)
