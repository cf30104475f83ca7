"""Interrupts: how AG-UI and LangGraph name what a run waits for, and how their names stay true to what was shown.

An interrupt's id is the request's and eight digits of the digest of what it shows, so a proposal that changed is
another interrupt, and an answer to the old one meets nothing.
"""

from collections.abc import Iterable
from typing import Final

from perdure.core import event as ev
from perdure.core.request import proposal_digest
from perdure.errors import Conflict, NotFound

DIGITS: Final = 8


def interrupt_id(request: ev.Request) -> str:
    """`<request id>~<8 hex>`; where nothing is proposed the digits are those of title and message alone."""
    digest = request.proposal_digest or proposal_digest(request.title, request.message, None)
    return f"{request.id}~{digest.removeprefix('sha256:')[:DIGITS]}"


def interrupted(open_requests: Iterable[ev.Request], named: object) -> ev.Request:
    """The open request that the interrupt id `named` means.

    Raises NotFound when it is none of them, Conflict (`proposal-changed`) when that request shows something else now.
    """
    for request in open_requests:
        if named == (current := interrupt_id(request)):
            return request
        if isinstance(named, str) and named.partition("~")[0] == request.id:
            facts = {"revision": request.revision, "interrupt_id": current}
            raise Conflict("proposal-changed", "the request shows something else now: look again", facts)
    raise NotFound("no such interrupt")
