"""Replays over NATS: who answers them, how a question is read, and how an answer or a problem is said.

A reader of `job.<tenant>.<job>.event` sees what its users wrote, so a replay shows it as well.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import msgspec
from aiohttp import web
from msgspec import Struct

from perdure import log as logs
from perdure.bus import replay
from perdure.bus.connection import MAX_MESSAGE_BYTES, Bus
from perdure.bus.replay import Answer
from perdure.config import GatewaySettings
from perdure.core.schema import pointer
from perdure.core.stream.offset import START, Offset, parse
from perdure.errors import Expired, Fault, Invalid, Malformed, NotFound, TooLarge
from perdure.ids import JobId, JobRef, Tenant
from perdure.jobs.replay import page
from perdure.service import Service
from perdure_gateway import strict
from perdure_gateway.keys import DESK, FANOUT, METRICS
from perdure_gateway.problems import KINDS, Problem, members, problem_of

MOST_QUESTION_BYTES: Final = 1_024
MOST_BYTES: Final = MAX_MESSAGE_BYTES - 1_024  # of an answer, beside its headers
LIMIT: Final = 256
MOST_LIMIT: Final = 500

log = logs.get(__name__)


class Question(Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked: the events behind the offset `after`, at most `limit`."""

    after: str = str(START)
    limit: int = LIMIT


@asynccontextmanager
async def connected(settings: GatewaySettings, service: Service) -> AsyncIterator[Bus | None]:
    """The connection that replays are answered on; None where there is no user for it.

    Without a user of its own only where the broker has none at all: what may write logs never answers strangers.
    """
    user, secret = settings.nats_replay_user, settings.nats_replay_password
    if user is None and (settings.nats_user is not None or any("@" in server for server in settings.nats)):
        log.info("replays over NATS are not answered: no user for them", setting="PERDURE_NATS_REPLAY_USER")
        yield None
        return
    async with Bus.connect(
        settings.nats,
        user=user,
        password=secret.get_secret_value() if secret else None,
        name="gateway replay",
        clock=service.clock,
        on_closed=service.fatal,
        measure=False,
    ) as bus:
        yield bus


@asynccontextmanager
async def answering(app: web.Application, bus: Bus | None) -> AsyncIterator[None]:
    """Answer for as long as the context lasts. See bus.replay."""

    async def handler(tenant: Tenant, job: JobId | None, body: bytes) -> Answer:
        return await _answer(app, None if job is None else JobRef(tenant, job), body)

    async with AsyncExitStack() as stack:
        if bus is not None:
            busy = _problem(Problem("unavailable", "as many replays as it can; ask again"))
            counter = app[METRICS].replays
            counted = replay.answering(bus, handler, busy, lambda result: counter.labels(result).inc())
            await stack.enter_async_context(counted)
        yield


async def _answer(app: web.Application, ref: JobRef | None, body: bytes) -> Answer:
    try:
        asked, after = question(body)
        if ref is None:
            raise NotFound("no such job")
        found = await page(app[DESK].eventlog, app[FANOUT], ref, after, asked.limit, MOST_BYTES)
        return Answer(msgspec.json.encode(found))
    except Expired as exc:
        facts = exc.facts | ({"snapshot": f"/api/jobs/{ref.job}/state"} if ref and exc.code == "offset-expired" else {})
        return _problem(Problem(exc.code, str(exc), facts=facts))
    except Exception as exc:  # the top of a question: what nobody foresaw is logged
        problem = problem_of(exc)
        if problem is None:
            log.exception("replay failed")
            problem = Problem("internal", "the gateway failed; its log says why")
        return _problem(problem)


def question(body: bytes) -> tuple[Question, Offset]:
    """What a body asks; an empty one asks for everything. Raises Problem, Invalid, TooLarge, strict.InvalidJson."""
    if not body:
        return Question(), START
    if len(body) > MOST_QUESTION_BYTES:
        raise TooLarge(f"a question is at most {MOST_QUESTION_BYTES} bytes")
    said = strict.loads(body)
    if not isinstance(said, dict):
        raise Invalid([Fault("wrong-type", "must be an object", pointer="")])
    faults = [Fault("unknown", "there is no such member", pointer=pointer(name)) for name in said.keys() - FIELDS]
    limit = said.get("limit", LIMIT)
    if type(limit) is not int or not 1 <= limit <= MOST_LIMIT:
        faults.append(Fault("invalid", f"an integer from 1 to {MOST_LIMIT}", pointer="/limit"))
    if faults:
        raise Invalid(faults)
    try:
        after = parse(_text(said.get("after", str(START))))
    except Malformed:
        raise Problem("invalid-offset", 'an offset is a text: "0", or the `next` of an answer') from None
    return Question(str(after), limit), after


def _text(value: Any) -> str:  # Any: JSON
    if not isinstance(value, str):
        raise Malformed("not a text")
    return value


def _problem(problem: Problem) -> Answer:
    body = msgspec.json.encode({"problem": members(problem)})
    return Answer(body, problem.code, KINDS[problem.code].status)


FIELDS: Final = frozenset({"after", "limit"})
