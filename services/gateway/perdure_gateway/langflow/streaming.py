"""A job's stream in the protocol in which it was submitted, and what becomes of a job whose client is lost.

Whoever is lost is noted (`$detached`). A reader that is there, at whichever gateway, sees that and says so
(`$attached`): a connection may be found dead long after its client came back.
"""

import asyncio
import re
from collections.abc import Awaitable, Iterable
from contextlib import suppress
from typing import Final

import structlog
from aiohttp import web

from perdure.core import event as ev
from perdure.core.cause import DETACHED
from perdure.core.event import AnyEvent
from perdure.core.langflow.refusal import job_not_found
from perdure.core.machine import JobState
from perdure.core.stream.adapter import Attach, StreamAdapter
from perdure.core.stream.delta import Said
from perdure.core.stream.frame import Frame
from perdure.core.stream.langflow import LangflowStream
from perdure.core.stream.langflow_agui import LangflowAgui
from perdure.core.stream.offset import START, Offset
from perdure.core.stream.reading import Reset
from perdure.errors import Expired, NotFound, OutcomeUnknown, Unavailable
from perdure.ids import JobRef, Principal
from perdure.jobs.presence import attach, detach
from perdure_gateway import streaming
from perdure_gateway.auth import CALLER
from perdure_gateway.keys import DESK, LANGFLOW
from perdure_gateway.langflow import seeing

_NUMBER: Final = re.compile(r"\s*([0-9]{1,18})(?:\.[0-9]*)?\s*", re.ASCII)

log = structlog.get_logger(__name__)


class _Noticing:
    """The StreamAdapter `inner`, which also notices that somebody is missed while it has a reader."""

    def __init__(self, inner: StreamAdapter) -> None:
        self._inner, self.deltas, self.manners = inner, inner.deltas, inner.manners
        self.missed = asyncio.Event()

    @property
    def ended(self) -> bool:
        return self._inner.ended

    def on_event(self, body: bytes, event: AnyEvent) -> Iterable[Frame]:
        if isinstance(event, ev.SignalReceived) and event.data.name == DETACHED:
            self.missed.set()
        return self._inner.on_event(body, event)

    def on_delta(self, said: Said, at: Offset | None) -> Iterable[Frame]:
        return self._inner.on_delta(said, at)

    def on_reset(self, reset: Reset) -> Iterable[Frame]:
        return self._inner.on_reset(reset)

    def on_caught_up(self) -> Iterable[Frame]:
        return self._inner.on_caught_up()

    def close(self, reason: str) -> Iterable[Frame]:
        return self._inner.close(reason)


async def stream(request: web.Request, ref: JobRef, *, follow: bool = False) -> web.StreamResponse:
    """The job's stream from the id that the caller names on. Raises Refusal (404), Problem, Unavailable."""
    found = await seeing.read(request, ref, "events")
    asked, caller = found.state.submitted, request[CALLER]
    shape = None if asked is None else await request.app[seeing.SHAPES].of(request, ref.tenant, asked.flow)
    after = Offset(min(offset(request), found.state.seq))
    options = {"follow": "true" if follow else "false", "narrowed": "false" if caller.may("read") else "true"}
    agui = asked is not None and asked.source.protocol == "agui"
    reader = Attach(job=ref.job, after=after, options=options)
    adapter = _Noticing(LangflowAgui(reader, shape) if agui else LangflowStream(reader, shape))
    # Else nobody is waited for: a job in the background goes on without readers, and whoever only watches one that
    # somebody else started neither ends it by leaving nor keeps it.
    lives = asked is not None and asked.source.mode == "stream"
    awaited = lives and asked is not None and caller.principal == asked.owner and caller.may("execute")

    async def left() -> None:
        if awaited:
            await _note(detach(request.app[DESK], ref, caller.principal, request.app[LANGFLOW].orphan_seconds), ref)

    staying = asyncio.ensure_future(_stay(request, ref, adapter, caller.principal) if awaited else _nothing())
    try:
        return await streaming.stream(request, ref, START, adapter, kind="langflow", empty=False, whole=True, left=left)
    except (NotFound, Expired):
        raise job_not_found(ref.job, "events") from None
    finally:
        staying.cancel()
        with suppress(asyncio.CancelledError):
            await staying


def offset(request: web.Request) -> int:
    """The id that the reader has: by the header before the query. What is no number is the beginning, as in 1.13."""
    text = request.headers.get("Last-Event-ID") or request.query.get("last_event_id") or ""
    match = _NUMBER.fullmatch(text)
    if match is not None:
        return int(match[1])
    return 10**18 if text.isascii() and text.strip().isdigit() else 0


async def _stay(request: web.Request, ref: JobRef, adapter: _Noticing, by: Principal) -> None:
    """Say that somebody is here whenever somebody is missed."""
    while True:
        await adapter.missed.wait()
        adapter.missed.clear()
        await _note(attach(request.app[DESK], ref, by), ref)


async def _nothing() -> None:
    pass


async def _note(writing: Awaitable[JobState], ref: JobRef) -> None:
    try:
        await writing
    except (Unavailable, OutcomeUnknown) as exc:
        log.warning("presence of a client not noted", job_id=ref.job, error=str(exc))
