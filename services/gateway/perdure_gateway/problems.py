"""Problems (RFC 9457): every error as one shape. `code` is the contract; a refused value is never echoed."""

import http
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from aiohttp import web

from perdure.errors import (
    Conflict,
    Expired,
    Fault,
    Forbidden,
    Invalid,
    NotFound,
    OutcomeUnknown,
    PerdureError,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from perdure_gateway.strict import InvalidJson

MEDIA_TYPE: Final = "application/problem+json"
RETRY_SECONDS: Final = 2


class Kind(NamedTuple):
    """The status and the title that a code always has."""

    status: int
    title: str


KINDS: Final[Mapping[str, Kind]] = {
    "invalid-json": Kind(400, "The body is not acceptable JSON"),
    "invalid-parameter": Kind(400, "A query parameter is not acceptable"),
    "invalid-header": Kind(400, "A header is not acceptable"),
    "invalid-cursor": Kind(400, "The cursor is not one of ours"),
    "invalid-offset": Kind(400, "The offset is malformed"),
    "invalid-request": Kind(400, "The request is not acceptable HTTP"),
    "unsupported-api": Kind(400, "That version of the API is not served here"),
    "unauthenticated": Kind(401, "A valid credential is required"),
    "forbidden": Kind(403, "The credential does not allow this"),
    "not-assignee": Kind(403, "The request is addressed to somebody else"),
    "self-answer-forbidden": Kind(403, "Nobody may answer a request of their own here"),
    "not-found": Kind(404, "There is no such thing"),
    "method-not-allowed": Kind(405, "The resource does not know this method"),
    "not-acceptable": Kind(406, "No representation that the client accepts"),
    "body-too-slow": Kind(408, "The body did not arrive in time"),
    "already-answered": Kind(409, "Somebody has answered already"),
    "already-voted": Kind(409, "You have voted already"),
    "proposal-changed": Kind(409, "The proposal has changed"),
    "request-withdrawn": Kind(409, "The request was withdrawn"),
    "comments-full": Kind(409, "The request takes no more comments"),
    "job-full": Kind(409, "The job's log is nearly full"),
    "job-terminal": Kind(409, "The job has ended"),
    "job-not-terminal": Kind(409, "The job has not ended"),
    "job-not-retrying": Kind(409, "The job waits for no retry"),
    "key-ended": Kind(409, "The key is no longer good"),
    "name-taken": Kind(409, "The name is taken"),
    "thread-busy": Kind(409, "Another run of this thread goes on"),
    "in-use": Kind(409, "It is in use"),
    "flow-read-only": Kind(409, "The flow is not changed here"),
    "offset-expired": Kind(410, "The events behind the offset are gone"),
    "offset-ahead": Kind(410, "The offset is beyond the end of the log"),
    "job-deleted": Kind(410, "The job was deleted"),
    "request-expired": Kind(410, "The request has expired"),
    "link-used": Kind(410, "The link has been used"),
    "link-void": Kind(410, "The link opens nothing any more"),
    "precondition-failed": Kind(412, "The resource has changed"),
    "too-large": Kind(413, "Too large"),
    "unsupported-media-type": Kind(415, "The body must be plain application/json"),
    "invalid-body": Kind(422, "The body does not fit"),
    "invalid-input": Kind(422, "The input does not fit the flow"),
    "invalid-answer": Kind(422, "The answer does not fit the request"),
    "invalid-flow": Kind(422, "The definition is not a flow that can run"),
    "invalid-schema": Kind(422, "A schema is not acceptable"),
    "idempotency-key-reused": Kind(422, "The idempotency key belongs to another body"),
    "precondition-required": Kind(428, "If-Match is required"),
    "rate-limited": Kind(429, "Too many requests"),
    "too-many-streams": Kind(429, "Too many open streams"),
    "internal": Kind(500, "Something went wrong here"),
    "unavailable": Kind(503, "Not available at the moment"),
    "draining": Kind(503, "This gateway is about to stop"),
    "outcome-unknown": Kind(503, "It is not known whether this was done"),
}


class Problem(PerdureError):
    """An answer that is a problem. `facts` are the extra members of its code."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        faults: Sequence[Fault] = (),
        facts: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code, self.detail, self.faults = code, detail, tuple(faults)
        self.facts, self.headers = dict(facts or {}), dict(headers or {})


def problem_of(error: Exception) -> Problem | None:
    """The problem that says `error`; None for one that nobody foresaw."""
    match error:
        case Problem():
            return error
        case InvalidJson():
            where = {} if error.position is None else {"position": error.position}
            return Problem("invalid-json", error.reason, facts=where)
        case NotFound():
            return Problem("not-found", "no such thing, or not yours to see")
        case Unauthenticated():
            challenge = {"WWW-Authenticate": 'Bearer realm="perdure"'}
            return Problem("unauthenticated", "send Authorization: Bearer with a valid key", headers=challenge)
        case Forbidden():
            return Problem(error.code, str(error))
        case Invalid():
            return Problem(error.code, "see errors", faults=error.faults)
        case Conflict() | Expired():
            return Problem(error.code, str(error), facts=error.facts)
        case TooLarge():
            return Problem("too-large", "a value or an event beyond its bound")
        case OutcomeUnknown():
            text = "it may have been stored; asking again in the same way is safe"
            facts = {} if error.job_id is None else {"job_id": error.job_id}
            return Problem("outcome-unknown", text, facts=facts, headers=_retry())
        case Unavailable():
            return Problem("unavailable", "a part that this needs is away; try again later", headers=_retry())
        case web.HTTPNotFound():
            return Problem("not-found", "no such thing, or not yours to see")
        case web.HTTPMethodNotAllowed():
            allow = {"Allow": ", ".join(sorted(error.allowed_methods))}
            return Problem("method-not-allowed", "see Allow", headers=allow)
        case web.HTTPRequestEntityTooLarge():
            return Problem("too-large", "the body is larger than 1 MiB")
        case web.HTTPException() if 400 <= error.status < 500:
            return Problem("invalid-request", http.HTTPStatus(error.status).phrase)
        case _:
            return None


def members(problem: Problem) -> dict[str, Any]:  # Any: facts are whatever their code says
    """What `problem` says, whoever is told."""
    kind = KINDS[problem.code]
    said: dict[str, Any] = {
        "type": f"/problems/{problem.code}",
        "title": kind.title,
        "status": kind.status,
        "detail": problem.detail,
        "code": problem.code,
    }
    if problem.faults:
        said["errors"] = problem.faults
    return said | problem.facts


def respond(problem: Problem, http_request_id: str, media_type: str = MEDIA_TYPE) -> web.Response:
    """`problem` as an answer. `instance` names this very request."""
    instance = {"instance": f"urn:perdure:http-request:{http_request_id}", "http_request_id": http_request_id}
    body = msgspec.json.encode(members(problem) | instance)
    response = web.Response(body=body, status=KINDS[problem.code].status, headers=problem.headers)
    response.content_type = media_type
    return response


def _retry() -> dict[str, str]:
    return {"Retry-After": str(RETRY_SECONDS)}


def no_idempotency_key(request: web.Request) -> None:
    """A secret is stored nowhere, so no answer that holds one can be repeated. Raises Problem."""
    if "Idempotency-Key" in request.headers:
        fault = Fault("not-here", "a secret is never stored, so it cannot be repeated", header="Idempotency-Key")
        raise Problem("invalid-header", "see errors", faults=[fault])
