"""Problems (RFC 9457) as errors: the same classes that the gateway raised, so both sides speak of one tree."""

from typing import Any, Final

import msgspec
from msgspec import Struct

from perdure.errors import (
    Conflict,
    Expired,
    Fault,
    Forbidden,
    Invalid,
    NotFound,
    OutcomeUnknown,
    PerdureError,
    Unauthenticated,
    Unavailable,
)

_ENVELOPE: Final = frozenset({"type", "title", "status", "detail", "instance", "code", "http_request_id", "errors"})


class Problem(Struct, frozen=True):
    """The members that every problem has."""

    code: str = "unknown"
    title: str = ""
    detail: str = ""
    http_request_id: str | None = None
    errors: tuple[Fault, ...] = ()


class ApiError(PerdureError):
    """An answer that nobody foresaw: a 5xx, or something that is not Perdure. `status` is the HTTP status."""

    def __init__(self, status: int, problem: Problem) -> None:
        what = problem.detail or problem.title or "no problem document"
        super().__init__(f"HTTP {status} {problem.code}: {what} (request {problem.http_request_id or 'unknown'})")
        self.status, self.problem = status, problem


def error_of(status: int, body: bytes) -> PerdureError:
    """The error that a response of `status` with `body` stands for."""
    try:
        problem = msgspec.json.decode(body, type=Problem)
        facts = {k: v for k, v in msgspec.json.decode(body, type=dict[str, Any]).items() if k not in _ENVELOPE}
    except msgspec.MsgspecError:  # a proxy, or not Perdure at all
        problem, facts = Problem(), {}
    text = problem.detail or problem.title or f"HTTP {status}"
    match status:
        case 400 | 408 | 413 | 415 | 422:
            return Invalid(problem.errors or (Fault(problem.code, text, pointer=""),), code=problem.code)
        case 401:
            return Unauthenticated(text)
        case 403:
            return Forbidden(text, problem.code)
        case 404:
            return NotFound(text)
        case 409 | 412 | 428:
            return Conflict(problem.code, text, facts)
        case 410:
            return Expired(problem.code, text, facts)
        case 503 if problem.code == "outcome-unknown":
            return OutcomeUnknown(text)
        case 429 | 502 | 503 | 504:
            return Unavailable(text)
        case _:
            return ApiError(status, problem)
