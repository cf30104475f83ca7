"""Showing a job's events: to its end, or until somebody is needed."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

from msgspec import Struct

from perdure.cli.people import ask_on_terminal
from perdure.cli.render import EventPrinter
from perdure.cli.session import Exit, Printer, exit_of_status
from perdure.client import Client, EventStream, Frame, decode
from perdure.core import event as ev
from perdure.core.event import TERMINAL, Status
from perdure.errors import Conflict, Expired


class Wish(Struct, frozen=True):
    """What to show of a job, and what to do when it asks.

    `answers`: actions by the name of the request. `ask`: ask the person on the terminal. `silent`: show nothing.
    `raw`: frames as they came. `until`: stop there, which is then no failure.
    """

    after: str = "0"
    until: str | None = None
    types: Sequence[str] = ()
    deltas: bool = True
    raw: bool = False
    silent: bool = False
    ask: bool = False
    answers: Mapping[str, str] = {}
    seconds: float | None = None


async def follow(client: Client, printer: Printer, job_id: str, wish: Wish) -> int:
    """Show a job's events; the exit code of where the job was when the stream ended."""
    stream = client.events(
        job_id, after=wish.after, until=wish.until, types=wish.types, deltas=wish.deltas, on_gap="snapshot"
    )
    shown = _Shown(client, printer, job_id, wish)
    try:
        async with asyncio.timeout(wish.seconds):
            code = await shown.run(stream)
    except TimeoutError:
        code = Exit.STOPPED_WAITING
    finally:
        shown.events.end()
        if shown.status not in TERMINAL and not wish.silent:
            printer.hint(f"go on with: perdure watch {job_id} --from {stream.offset}")
    if code is not None:
        return code
    if shown.status is None or wish.types:  # nothing was left to show, or not all of it was shown
        shown.status = (await client.job(job_id)).status
    return Exit.DONE if wish.until is not None and shown.status not in TERMINAL else exit_of_status(shown.status)


class _Shown:
    """A job as it was shown so far. `status`: after the last event."""

    def __init__(self, client: Client, printer: Printer, job_id: str, wish: Wish) -> None:
        self.events = EventPrinter(printer)
        self.status: Status | None = None
        self._client, self._printer, self._job_id, self._wish = client, printer, job_id, wish
        self._open: dict[str, ev.Request] = {}

    async def run(self, stream: EventStream) -> int | None:
        """Show everything; the exit code where the stream was left before its end."""
        async with aclosing(stream.frames()) as frames:
            async for frame in frames:
                said = self._show(frame)
                if frame.type == "stream.gap":
                    self._printer.hint("the events before this one are kept no longer")
                if isinstance(said, ev.AnyEvent):
                    self.status = said.status
                    if await self._needs_person(said):
                        self._printer.hint(f"it waits for a person: perdure inbox list --job {self._job_id}")
                        return Exit.NEEDS_PERSON
        return None

    def _show(self, frame: Frame) -> Any:  # Any: what `decode` says
        if self._wish.silent:
            return decode(frame)
        if self._wish.raw:
            self._printer.raw(frame.data)
            return decode(frame)
        return self.events.show(frame)

    async def _needs_person(self, said: ev.AnyEvent) -> bool:
        """Answer what can be answered; whether the job now sleeps for an answer that nobody here gives."""
        match said:
            case ev.InputRequested(data=data):
                self._open[data.request.id] = data.request
            case ev.InputAnswered(data=settled) | ev.InputExpired(data=settled) | ev.InputWithdrawn(data=settled):
                self._open.pop(settled.request_id, None)
            case ev.JobSuspended(data=sleep) if self._wish.ask or self._wish.answers or self._wish.silent:
                asked = [
                    self._open[w.request_id]
                    for w in sleep.waiting
                    if w.request_id is not None and w.request_id in self._open
                ]
                return not all([await self._answer(request) for request in asked])
            case _:
                pass
        return False

    async def _answer(self, request: ev.Request) -> bool:
        action = self._wish.answers.get(request.name)
        try:
            if action is not None:
                await self._client.answer(await self._client.request(request.id), action)
            elif self._wish.ask and self._printer.interactive:
                await ask_on_terminal(self._client, self._printer, request.id)
            else:
                return False
        except (Conflict, Expired) as exc:
            if exc.code not in ("already-answered", "request-withdrawn", "request-expired"):
                raise
            self._printer.hint(f"{request.id}: {exc}")  # somebody was quicker, or this is told again
        return True
