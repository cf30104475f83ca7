"""Each error of ours is one problem, with the status that its code always has."""

import msgspec
import pytest
from aiohttp import web

from perdure import errors
from perdure.errors import Fault
from perdure_gateway.problems import KINDS, Problem, problem_of, respond
from perdure_gateway.strict import InvalidJson


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (errors.NotFound("x"), "not-found", 404),
        (errors.Unauthenticated("x"), "unauthenticated", 401),
        (errors.Forbidden("x"), "forbidden", 403),
        (errors.Forbidden("x", "not-assignee"), "not-assignee", 403),
        (errors.Invalid([Fault("c", "d", pointer="/a")]), "invalid-body", 422),
        (errors.Invalid([Fault("c", "d", pointer="/a")], "invalid-flow"), "invalid-flow", 422),
        (errors.Conflict("already-answered", "x", {"answered_by": "user:ann"}), "already-answered", 409),
        (errors.Expired("request-expired", "x"), "request-expired", 410),
        (errors.TooLarge("x"), "too-large", 413),
        (errors.OutcomeUnknown("x", "the job"), "outcome-unknown", 503),
        (errors.Unavailable("x"), "unavailable", 503),
        (errors.StreamFull("x"), "unavailable", 503),
        (InvalidJson("x", 7), "invalid-json", 400),
        (web.HTTPNotFound(), "not-found", 404),
        (web.HTTPMethodNotAllowed("PUT", {"GET"}), "method-not-allowed", 405),
        (web.HTTPRequestEntityTooLarge(1, 2), "too-large", 413),
        (web.HTTPExpectationFailed(), "invalid-request", 400),
        (Problem("draining", "x"), "draining", 503),
    ],
)
def test_an_error_has_one_code_and_one_status(error: Exception, code: str, status: int) -> None:
    problem = problem_of(error)
    assert problem is not None
    answer = respond(problem, "the-request")
    assert isinstance(answer.body, bytes)
    body = msgspec.json.decode(answer.body)
    assert (body["code"], body["status"], answer.status) == (code, status, status)
    assert body["type"] == f"/problems/{code}"
    assert (body["http_request_id"], body["instance"]) == ("the-request", "urn:perdure:http-request:the-request")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert ("Retry-After" in answer.headers) is (code in ("outcome-unknown", "unavailable"))


def test_facts_and_faults_are_members() -> None:
    problem = problem_of(errors.Conflict("already-answered", "x", {"answered_by": "user:ann"}))
    assert problem is not None
    assert b'"answered_by":"user:ann"' in bytes(respond(problem, "r").body)  # type: ignore[arg-type]  # bytes
    unknown = problem_of(errors.OutcomeUnknown("x", "j"))
    assert unknown is not None
    assert unknown.facts == {"job_id": "j"}
    invalid = problem_of(errors.Invalid([Fault("c", "d", header="Idempotency-Key")]))
    assert invalid is not None
    assert b'"errors":[{"code":"c","detail":"d","header":"Idempotency-Key"}]' in bytes(respond(invalid, "r").body)  # type: ignore[arg-type]


def test_what_nobody_foresaw_is_no_problem_of_the_caller() -> None:
    assert problem_of(RuntimeError("x")) is None
    assert problem_of(errors.BrokenLog("x")) is None


def test_every_code_has_a_title_and_an_error_status() -> None:
    for code, kind in KINDS.items():
        assert 400 <= kind.status < 600, code
        assert kind.title
        assert code == code.lower()
