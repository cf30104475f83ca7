"""The replay service: anybody who may follow a tenant's jobs asks `replay.<tenant>.<job>` for the events of one.

A reply subject is input: a user that may publish on logs would write its answers into whatever log the asker named. So
this speaks on a connection of its own, as a user that may publish to inboxes only, and answers only to inboxes of the
tenant in the subject, or across accounts; everything else is ignored. All gateways share the work (a queue group) and
each says what it is by the NATS service convention (ADR-32): `$SRV.PING`, `.INFO` and `.STATS` of `perdure-replay`.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
from msgspec import Struct
from nats.aio.msg import Msg

from perdure import __version__
from perdure import log as logs
from perdure.bus import subject as names
from perdure.bus.connection import Bus
from perdure.bus.natspy import listen
from perdure.errors import Malformed, PerdureError
from perdure.ids import JobId, Tenant, new_ring

NAME: Final = "perdure-replay"
QUEUE_GROUP: Final = "replay"
WORKS_AT_ONCE: Final = 8  # a page may take some megabytes while it is read
WAIT_AT_MOST: Final = 256
WAIT_AT_MOST_EACH: Final = 64  # of one tenant
ANSWER_SECONDS: Final = 10.0  # with the wait for its turn
END_SECONDS: Final = 2.0  # what is being answered at the end may take
ERROR: Final = "Nats-Service-Error"
CODE: Final = "Nats-Service-Error-Code"
SERVICES: Final = "$SRV.>"

log = logs.get(__name__)


class Answer(Struct, frozen=True):
    """The body of an answer; of a problem also its code and status."""

    body: bytes
    problem: str | None = None
    status: int = 200


Handler = Callable[[Tenant, JobId | None, bytes], Awaitable[Answer]]
"""Answers one question from its body. The job is None where the subject names what can be none. Raises nothing."""


class _Stats:
    def __init__(self) -> None:
        self.requests = self.errors = 0
        self.last_error = ""
        self.nanoseconds = 0


@asynccontextmanager
async def answering(bus: Bus, handler: Handler, busy: Answer, counted: Callable[[str], None]) -> AsyncGenerator[None]:
    """Answer for as long as the context lasts: no new question after its end has begun, those under way are answered.

    `busy` is said where too many wait. `counted` is told each result: `answered`, a problem's code, `ignored`.
    Raises Unavailable when the connection is closed for ever.
    """
    replays = _Replays(bus, handler, busy, counted)
    asked = await listen(bus.nc, names.EVERY_REPLAY, replays.heard, QUEUE_GROUP)
    looked = await bus.listen(SERVICES, replays.looked)
    try:
        yield
    finally:
        await bus.unsubscribe(looked)
        await bus.drain(asked)
        if replays.working:
            await asyncio.wait(replays.working, timeout=END_SECONDS)
        for task in list(replays.working):
            task.cancel()


class _Replays:
    def __init__(self, bus: Bus, handler: Handler, busy: Answer, counted: Callable[[str], None]) -> None:
        self._bus, self._handler, self._busy, self._counted = bus, handler, busy, counted
        self._id, self._started = new_ring(), bus.clock.broker_now()
        self._turns = asyncio.Semaphore(WORKS_AT_ONCE)
        self._waiting: Counter[Tenant] = Counter()
        self._stats = _Stats()
        self.working: set[asyncio.Task[None]] = set()

    def heard(self, message: Msg) -> None:
        """A question; called in the turn that reads it."""
        try:
            tenant, job = names.parse_replay_subject(message.subject)
        except Malformed:
            self._counted("ignored")
            return
        if not names.may_answer(message.reply, tenant):
            self._counted("ignored")
            return
        full = len(self.working) >= WAIT_AT_MOST or self._waiting[tenant] >= WAIT_AT_MOST_EACH
        if not full:
            self._waiting[tenant] += 1
            self._work(self._answer(message, tenant, job))
        elif len(self.working) < 2 * WAIT_AT_MOST:
            self._work(self._say(message, self._busy))
        else:  # too many even to be told so
            self._counted("ignored")

    def looked(self, message: Msg) -> None:
        """Somebody looks for services."""
        verb, _, whom = message.subject.removeprefix("$SRV.").partition(".")
        if whom not in ("", NAME, f"{NAME}.{self._id}") or not names.may_answer(message.reply, None):
            return
        said = self._description(verb)
        if said is not None and len(self.working) < 2 * WAIT_AT_MOST:
            self._work(self._publish(message.reply, Answer(msgspec.json.encode(said))))

    def _work(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.working.add(task)
        task.add_done_callback(self.working.discard)

    async def _answer(self, message: Msg, tenant: Tenant, job: JobId | None) -> None:
        began = self._bus.clock.monotonic()
        try:
            async with asyncio.timeout(ANSWER_SECONDS), self._turns:
                answer = await self._handler(tenant, job, message.data)
        except TimeoutError:
            answer = self._busy
        finally:
            self._waiting[tenant] -= 1
            if not self._waiting[tenant]:
                del self._waiting[tenant]
        self._stats.nanoseconds += int((self._bus.clock.monotonic() - began) * 1e9)
        await self._say(message, answer)

    async def _say(self, message: Msg, answer: Answer) -> None:
        self._stats.requests += 1
        if answer.problem is not None:
            self._stats.errors += 1
            self._stats.last_error = f"{answer.status}:{answer.problem}"
        self._counted(answer.problem or "answered")
        await self._publish(message.reply, answer)

    async def _publish(self, reply: str, answer: Answer) -> None:
        headers = {ERROR: answer.problem, CODE: str(answer.status)} if answer.problem is not None else None
        try:
            await self._bus.publish(reply, answer.body, headers=headers)
        except PerdureError as exc:  # not connected: whoever asked asks again
            log.debug("replay not answered", error=str(exc))

    def _description(self, verb: str) -> dict[str, Any] | None:  # Any: JSON
        head = {"name": NAME, "id": self._id, "version": __version__, "metadata": {}}
        endpoint = {"name": "replay", "subject": names.EVERY_REPLAY, "queue_group": QUEUE_GROUP}
        match verb:
            case "PING":
                return {"type": "io.nats.micro.v1.ping_response", **head}
            case "INFO":
                about = "the events of a job, from any offset"
                endpoints: list[dict[str, Any]] = [{**endpoint, "metadata": {}}]
                return {"type": "io.nats.micro.v1.info_response", **head, "description": about, "endpoints": endpoints}
            case "STATS":
                stats = self._stats
                counts = {
                    "num_requests": stats.requests,
                    "num_errors": stats.errors,
                    "last_error": stats.last_error,
                    "processing_time": stats.nanoseconds,
                    "average_processing_time": stats.nanoseconds // max(stats.requests, 1),
                }
                return {
                    "type": "io.nats.micro.v1.stats_response",
                    **head,
                    "started": self._started,
                    "endpoints": [endpoint | counts],
                }
            case _:
                return None
