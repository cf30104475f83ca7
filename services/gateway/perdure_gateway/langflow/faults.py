"""Every error in one of the API's three shapes. What is told is what the native surface tells, in other words."""

import msgspec
import structlog
from aiohttp import web

from perdure.core.langflow.refusal import RETRY, Refusal, coded, fault, listed, sentence
from perdure.errors import (
    Forbidden,
    Invalid,
    NotFound,
    OutcomeUnknown,
    StreamFull,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from perdure_gateway.auth import PRESENTED
from perdure_gateway.keys import SQL
from perdure_gateway.langflow.credentials import WRONG, WRONG_TOKEN
from perdure_gateway.problems import KINDS, Problem, problem_of

log = structlog.get_logger(__name__)


def answer(error: Exception, request: web.Request, http_request_id: str) -> web.Response:
    """The answer that says `error`; one that nobody foresaw is logged and told as ours."""
    refusal = refusal_of(error, request)
    if refusal is None:
        log.exception("request failed", http_request_id=http_request_id)
        text = "The fault is ours; it is in the log under the X-Request-Id of this answer."
        refusal = coded(500, "Internal server error", "INTERNAL_SERVER_ERROR", text)
    body = msgspec.json.encode({"detail": refusal.detail})
    return web.Response(body=body, status=refusal.status, headers=refusal.headers, content_type="application/json")


def refusal_of(error: Exception, request: web.Request) -> Refusal | None:
    """How the API says `error`; None for one that nobody foresaw."""
    match error:
        case Refusal():
            return error
        case Unauthenticated():
            return sentence(403, WRONG) if PRESENTED in request else sentence(401, WRONG_TOKEN)
        case Forbidden():
            return coded(403, "Forbidden", "FLOW_EXECUTE_FORBIDDEN", "The key's scopes do not allow this.")
        case NotFound():
            return sentence(404, "Not found")
        case Invalid():
            return listed(*(_fault(f.pointer or f.parameter or f.header or "", f.detail) for f in error.faults))
        case TooLarge():
            return listed(_fault("", "a value or an event beyond its bound"))
        case StreamFull():
            return _busy("The logs are nearly full: running jobs come first.")
        case OutcomeUnknown():
            facts = {} if error.job_id is None else {"job_id": error.job_id}
            text = "It may have been stored; asking again in the same way is safe with an idempotency key."
            return coded(503, "Service busy", "SERVICE_BUSY", text, RETRY, **facts)
        case Unavailable() if request.app[SQL].away:
            return coded(503, "Database error", "DATABASE_ERROR", "The database does not answer.", RETRY)
        case Unavailable():
            text = "A part that this needs is away; try again later."
            return coded(503, "Queue service unavailable", "QUEUE_SERVICE_UNAVAILABLE", text, RETRY)
        case _:
            problem = problem_of(error)
            return None if problem is None else _problem(problem)


def _problem(problem: Problem) -> Refusal:
    status = KINDS[problem.code].status
    if problem.code in ("rate-limited", "too-many-streams"):
        return coded(429, "Too many requests", "QUOTA_EXCEEDED", problem.detail, problem.headers)
    if status == 503:
        return coded(503, "Service busy", "SERVICE_BUSY", problem.detail, {**RETRY, **problem.headers})
    if status == 413:
        return Refusal(422, [fault("too_large", ["body"], "The body is too large")], problem.headers)
    return Refusal(422, [fault("value_error", ["body"], problem.detail)], problem.headers)


def _busy(text: str) -> Refusal:
    return coded(503, "Service busy", "SERVICE_BUSY", text, RETRY)


def _fault(pointer: str, detail: str) -> dict[str, object]:
    place = ["body", *(part for part in pointer.split("/") if part)]
    return fault("value_error", place, f"Value error, {detail}")
