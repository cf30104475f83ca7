"""The client of one gateway: one method a route."""

from perdure.client.flows import FlowCalls
from perdure.client.operate import OperatorCalls
from perdure.client.outcome import OutcomeCalls


class Client(OutcomeCalls, FlowCalls, OperatorCalls):
    """The client of one gateway; an async context manager: `async with Client(url, key) as client`.

    Errors are those of `perdure.errors`: Invalid, Unauthenticated, Forbidden, NotFound, Conflict, Expired,
    OutcomeUnknown, Unavailable, and ApiError for what nobody foresaw. `timeout` seconds bound one try, `retry_seconds`
    all tries of a call; each call may be repeated safely, so each is tried again while nothing answers, but those that
    make a secret. `channel` is the label by which what somebody does with requests is recorded (`cli`; else `api`).
    """
