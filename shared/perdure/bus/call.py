"""`call.<verb>`: what runners ask gateways, one request and one reply, answered by any gateway of the queue group.

A reply subject is input: a gateway may write into every log, so it answers to the inboxes of runners and to nothing
else. Errors travel by their class and code, never by text that a program would have to read. Both messages are bounded
before they reach a connection.

    request   call.<verb>          the verb's record (`bus.callbodies`)
    reply     _SVC.runner.…        {v, answer} or {v, problem{kind, code?, detail, faults?, facts?}}
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, NoReturn, TypeVar

import msgspec
from msgspec import Struct
from nats.aio.msg import Msg

from perdure import log as logs
from perdure.bus.connection import Bus
from perdure.bus.subject import EVERY_CALL, call_subject
from perdure.errors import (
    Conflict,
    Expired,
    Fault,
    Forbidden,
    Invalid,
    Malformed,
    NotFound,
    OutcomeUnknown,
    PerdureError,
    TooLarge,
    Unavailable,
    UnsupportedVersion,
)

FORMAT: Final = 1
QUEUE_GROUP: Final = "gateways"
RUNNER_INBOXES: Final = "_SVC.runner."
ASK_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 10.0  # of a gateway, for one call; the longest that a use case may take to know its outcome
MOST_AT_ONCE: Final = 256  # calls that one gateway works on; beyond them it says Unavailable, and the runner waits

log = logs.get(__name__)

T = TypeVar("T", bound=Struct)
Handler = Callable[[bytes], Awaitable[Struct]]
"""Answers one call, from its body. Raises PerdureError: that is what the runner will see raised."""


class Problem(Struct, frozen=True, omit_defaults=True):
    """An error as it travels: the word of its class, its code where the class has one, what is wrong with which."""

    kind: str
    detail: str
    code: str = ""
    faults: tuple[Fault, ...] = ()
    facts: dict[str, Any] = {}  # Any: the extra members of a code, plain JSON
    job_id: str | None = None


class _Reply(Struct, frozen=True, omit_defaults=True):
    v: int
    answer: msgspec.Raw = msgspec.Raw(b"null")
    problem: Problem | None = None


_reply: Final = msgspec.json.Decoder(_Reply)


class Calls:
    """What a runner asks. Its connection's inboxes are the runner's."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def ask(self, verb: str, request: Struct, reply_type: type[T], within: float = ASK_SECONDS) -> T:
        """The answer of some gateway to `request`.

        Raises what the gateway raised, as its class (NotFound, Invalid, Conflict, …); Malformed (no UTF-8 can say it)
        and TooLarge before anything is sent; Unavailable when no gateway is there or none answered `within` seconds: it
        may have done it all the same, so every verb bears being asked again. UnsupportedVersion: that gateway does not
        know the verb, or we not its reply.
        """
        subject = call_subject(verb)
        try:
            body = msgspec.json.encode(request)
        except UnicodeEncodeError as exc:
            raise Malformed("a text holds half of a surrogate pair") from exc
        try:
            message = await self._bus.request(subject, body, within=within)
        except OutcomeUnknown as exc:
            raise Unavailable(f"no gateway answers {subject}") from exc
        try:
            reply = _reply.decode(message.data)
            if reply.problem is not None:
                raise_problem(reply.problem)
            return msgspec.json.decode(reply.answer, type=reply_type)
        except msgspec.MsgspecError as exc:
            raise UnsupportedVersion(f"the reply on {subject} is of another version") from exc


@asynccontextmanager
async def answering(bus: Bus, handlers: Mapping[str, Handler]) -> AsyncGenerator[None]:
    """Answer calls, by verb, for as long as the context lasts; what is being answered at its end is answered first.

    Raises Unavailable when the connection is closed for ever.
    """
    working: set[asyncio.Task[None]] = set()

    async def heard(message: Msg) -> None:
        if not message.reply.startswith(RUNNER_INBOXES):
            log.warning("call ignored: not a runner's inbox", subject=message.subject)
            return
        handler = handlers.get(message.subject.removeprefix("call."), _unknown)
        if len(working) >= MOST_AT_ONCE:
            handler = _busy
        task = asyncio.create_task(_answer(bus, message, handler))
        working.add(task)
        task.add_done_callback(working.discard)

    subscription = await bus.subscribe(EVERY_CALL, heard, queue=QUEUE_GROUP)
    try:
        yield
    finally:
        await bus.unsubscribe(subscription)
        if working:
            await asyncio.wait(working, timeout=ANSWER_SECONDS)
        for task in list(working):
            task.cancel()


async def _answer(bus: Bus, message: Msg, handler: Handler) -> None:
    reply: _Reply
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            answer = await handler(message.data)
        reply = _Reply(v=FORMAT, answer=msgspec.Raw(msgspec.json.encode(answer)))
    except PerdureError as exc:
        reply = _Reply(v=FORMAT, problem=problem_of(exc))
    except TimeoutError:
        reply = _Reply(v=FORMAT, problem=Problem("unavailable", "the gateway took too long"))
    except Exception:  # the top of a call: what nobody foresaw is logged; to the runner this gateway is unwell
        log.exception("call failed", subject=message.subject)
        reply = _Reply(v=FORMAT, problem=Problem("unavailable", "the gateway failed; its log says why"))
    try:
        try:
            await bus.publish(message.reply, msgspec.json.encode(reply))
        except TooLarge as exc:
            await bus.publish(message.reply, msgspec.json.encode(_Reply(v=FORMAT, problem=problem_of(exc))))
    except Unavailable:
        log.warning("call not answered: not connected", subject=message.subject)  # the runner asks again


async def _unknown(_: bytes) -> NoReturn:
    raise UnsupportedVersion("this gateway does not know that call")


async def _busy(_: bytes) -> NoReturn:
    raise Unavailable("this gateway answers as many calls as it can")


# What travels, and as which word. The first class that fits counts: subclasses stand before their bases.
_KINDS: Final[Mapping[type[PerdureError], str]] = {
    NotFound: "not-found",
    Forbidden: "forbidden",
    Invalid: "invalid",
    Conflict: "conflict",
    Expired: "expired",
    TooLarge: "too-large",
    Malformed: "malformed",
    UnsupportedVersion: "unsupported-version",
    OutcomeUnknown: "outcome-unknown",
    Unavailable: "unavailable",
}


def problem_of(error: PerdureError) -> Problem:
    """`error` as it travels; one that has no word of its own is a fault of the gateway: `unavailable`."""
    kind = next((word for cls, word in _KINDS.items() if isinstance(error, cls)), "unavailable")
    match error:
        case Invalid():
            return Problem(kind, str(error), code=error.code, faults=error.faults)
        case Conflict() | Expired():
            return Problem(kind, str(error), code=error.code, facts=error.facts)
        case Forbidden():
            return Problem(kind, str(error), code=error.code)
        case OutcomeUnknown():
            return Problem(kind, str(error), job_id=error.job_id)
        case _:
            return Problem(kind, str(error))


def raise_problem(problem: Problem) -> NoReturn:
    """Raise the error that `problem_of` was given. An unknown word, of a newer gateway, is Unavailable."""
    match problem.kind:
        case "invalid":
            raise Invalid(problem.faults, problem.code)
        case "conflict":
            raise Conflict(problem.code, problem.detail, problem.facts)
        case "expired":
            raise Expired(problem.code, problem.detail, problem.facts)
        case "forbidden":
            raise Forbidden(problem.detail, problem.code)
        case "outcome-unknown":
            raise OutcomeUnknown(problem.detail, problem.job_id)
        case kind:
            simple = {word: cls for cls, word in _KINDS.items()}
            raise simple.get(kind, Unavailable)(problem.detail)
