"""What every request passes through: a name, the gate of origins and rates, who calls and whether they may; and after
its handler every error as a problem, and the headers that all answers have.
"""

import re
from typing import Final

import structlog
import uuid_utils
from aiohttp import web

from perdure.errors import Fault, Forbidden, Unauthenticated
from perdure_gateway import keys, policy, tickets
from perdure_gateway.auth import CALLER
from perdure_gateway.langflow import credentials, faults
from perdure_gateway.policy import Handler
from perdure_gateway.problems import Problem, problem_of, respond
from perdure_gateway.rates import RATE

API: Final = "1"
REQUEST_ID: Final = web.RequestKey("http_request_id", str)
_GIVEN_ID: Final = re.compile(r"[A-Za-z0-9._-]{8,64}", re.ASCII)

log = structlog.get_logger(__name__)


@web.middleware
async def entry(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Name the request, ask who calls and whether they may, run the handler, turn every error into a problem."""
    given = request.headers.get("X-Request-Id", "")
    request[REQUEST_ID] = given if _GIVEN_ID.fullmatch(given) else str(uuid_utils.uuid7())
    clock = request.app[keys.SERVICE].clock
    began_at = clock.monotonic()
    response = await _answered(request, handler)
    resource = request.match_info.route.resource
    route = "none" if resource is None else resource.canonical
    metrics = request.app[keys.METRICS]
    metrics.requests.labels(route, request.method if resource is not None else "any", response.status).inc()
    if isinstance(response, web.Response):
        metrics.request_seconds.labels(route).observe(clock.monotonic() - began_at)
    return response


async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return request.app[keys.CORS].preflight(request) or await _authorised(request, handler)
    except Exception as exc:  # the top of a request: what nobody foresaw is logged and told as `internal`
        declared = policy.policy_of(request.match_info.handler)
        if declared is not None and declared.surface == "langflow":
            return faults.answer(exc, request, request[REQUEST_ID])
        problem = problem_of(exc)
        if problem is None:
            log.exception("request failed", http_request_id=request[REQUEST_ID], method=request.method)
            problem = Problem("internal", "the fault is ours; it is in the log under http_request_id")
        declared = policy.policy_of(request.match_info.handler)
        return respond(problem, request[REQUEST_ID], declared.problems if declared is not None else policy.PROBLEM)


async def _authorised(request: web.Request, handler: Handler) -> web.StreamResponse:
    declared = policy.policy_of(request.match_info.handler)
    if declared is None:  # aiohttp's own, for a path or a method that is none of ours: it raises the 404 or 405
        return await handler(request)
    if request.headers.get("Perdure-Api", API) != API:
        fault = Fault("unsupported", f"this gateway serves {API}", header="Perdure-Api")
        raise Problem("unsupported-api", "see errors", faults=[fault])
    if not declared.public:
        rates = request.app[keys.RATES]
        rates.admit(request)
        try:
            if declared.surface == "langflow":
                credentials.present(request)
            by_ticket = declared.ticket and tickets.QUERY in request.query
            caller = await (tickets.redeem(request) if by_ticket else request.app[keys.KEYS].caller(request))
        except Unauthenticated:
            rates.refused(request)
            raise
        rates.count(request, caller.key_id)
        policy.permit(declared, caller)
        if declared.surface == "langflow" and not caller.may("values"):
            raise Forbidden("this surface shows users' values, which the key's scopes leave out")
        request[CALLER] = caller
    return await handler(request)


async def headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Perdure-Api"] = API
    response.headers["X-Request-Id"] = request[REQUEST_ID]
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers.pop("Server", None)  # names and versions are nobody's business
    rate = request.get(RATE)
    if rate is not None:
        response.headers["RateLimit-Policy"] = request.app[keys.RATES].policy
        response.headers["RateLimit"] = rate
    request.app[keys.CORS].mark(request, response)
