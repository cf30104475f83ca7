"""Every error of Perdure, in one small tree.

PerdureError ─┬─ NotFound · Forbidden · Unauthenticated · Invalid(faults) · Conflict(code, facts) · Expired
              ├─ TailMoved · OutcomeUnknown · Unavailable       adapters: re-read, or retry with a delay
              ├─ Malformed · TooLarge · BrokenLog               never retried
              ├─ UnsupportedVersion · CodeChanged               wait for another runner
              ├─ Retryable · Terminal ← NotApproved             for authors of steps
              └─ ConcurrencyError                               an author's mistake, with its cure
Suspended · Cancelled · Interrupted                             BaseException: an `except Exception` lets them by
Closed                                                          a CancelledError: its race is lost, or its group failed
"""

import asyncio
from collections.abc import Mapping, Sequence

from msgspec import Struct


class Fault(Struct, frozen=True, omit_defaults=True):
    """One thing that is wrong with an input.

    `pointer` is an RFC 6901 JSON Pointer into the body ("" is the body itself). Exactly one of `pointer`, `parameter`
    (a query parameter) and `header` is given. The refused value is never part of it.
    """

    code: str
    detail: str
    pointer: str | None = None
    parameter: str | None = None
    header: str | None = None


class PerdureError(Exception):
    """The root: everything that Perdure raises on purpose and that an `except Exception` may catch."""


class NotFound(PerdureError):
    """There is no such thing, or it is not the caller's to see: the two are never told apart."""


class Unauthenticated(PerdureError):
    """No credential, or one that is not known."""


class Forbidden(PerdureError):
    """The caller may see the thing but not do this with it. `code` is the problem's code."""

    def __init__(self, message: str, code: str = "forbidden") -> None:
        super().__init__(message)
        self.code = code


class Invalid(PerdureError):
    """An input that does not fit; nothing was written. `code` is the problem's code, `faults` say what and where."""

    def __init__(self, faults: Sequence[Fault], code: str = "invalid-body") -> None:
        super().__init__("; ".join(f"{f.pointer or f.parameter or f.header or '/'}: {f.detail}" for f in faults))
        self.faults = tuple(faults)
        self.code = code


class Conflict(PerdureError):
    """The thing is not in the state that the call needs. `code` is the problem's code, `facts` its extra members."""

    def __init__(self, code: str, message: str, facts: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.facts = dict(facts or {})


class Expired(PerdureError):
    """It came too late, for good. `code` is the problem's code (`request-expired`, …), `facts` its extra members."""

    def __init__(self, code: str, message: str, facts: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.facts = dict(facts or {})


class TailMoved(PerdureError):
    """An append was refused because somebody else appended first: read what follows, fold, decide again."""


class OutcomeUnknown(PerdureError):
    """No answer to an append: it may be stored, now or later. Never to be taken for "no".

    `job_id` is the job that it was about, where whoever asks again needs it.
    """

    def __init__(self, message: str, job_id: str | None = None) -> None:
        super().__init__(message)
        self.job_id = job_id


class Unavailable(PerdureError):
    """The broker or the database cannot be reached, or refuses for the moment. Try again later."""


class StreamFull(Unavailable):
    """A stream has reached its `max_bytes`: new jobs are refused, nothing is forgotten."""


class Malformed(PerdureError):
    """Bytes or a name that cannot be what they should be; trying again changes nothing."""


class TooLarge(Malformed):
    """A value or an event beyond its bound."""


class BrokenLog(PerdureError):
    """An event that cannot follow the ones before it: a gap, an impossible successor, a fenced writer."""


class UnsupportedVersion(PerdureError):
    """An event of a format that this version does not know; a newer runner may."""


class CodeChanged(PerdureError):
    """The workflow does not meet its recorded calls again: the job waits for a runner with the matching code.

    `path` is the branch; `expected` and `found` are `kind name#occurrence`, or "end" where the code stopped short.
    """

    def __init__(self, path: str, expected: str, found: str) -> None:
        super().__init__(
            f"branch {path or '/'}: the log recorded {expected}, the code now calls {found}; "
            "run the job with the code it was started with, or add new calls only after the recorded ones"
        )
        self.path, self.expected, self.found = path, expected, found


class Retryable(PerdureError):
    """For authors: this step failed and may be tried again (the default for every exception of a step).

    `code` is shown in `step.failed`; the message is the author's and may be seen by whoever may follow the job.
    `after_seconds`: not before that time is over, as far as the step's policy lets anything wait (`most_seconds`).
    """

    def __init__(self, message: str, code: str = "step_failed", after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.after_seconds = after_seconds


class Terminal(PerdureError):
    """For authors: this step failed and trying again will not help."""

    def __init__(self, message: str, code: str = "step_failed") -> None:
        super().__init__(message)
        self.code = code


class StepFailed(PerdureError):
    """Raised in the workflow by a context call whose step failed for good, with what was recorded.

    `retryable` says whether the step used up its tries (True) or was not worth another one (False).
    """

    def __init__(self, step: str, code: str, message: str, retryable: bool = False) -> None:
        super().__init__(f"step {step}: {message}")
        self.step, self.code, self.message, self.retryable = step, code, message, retryable


class ChildFailed(StepFailed):
    """Raised by `ctx.child` when the child ended without completing: failed, cancelled, timed out (`status`)."""

    def __init__(self, name: str, code: str, message: str, *, job_id: str, status: str) -> None:
        super().__init__(name, code, message)
        self.args = (f"child {name} ended as {status}: {message}",)
        self.job_id, self.status = job_id, status


class RequestExpired(PerdureError):
    """Raised by `ctx.ask` when it expired and the request says `fail`.

    `cause` is `deadline` or `no_quorum` (those who vote can no longer agree), `votes` are those that were given.
    """

    def __init__(
        self, message: str, *, request_id: str | None = None, cause: str = "deadline", votes: Sequence[object] = ()
    ) -> None:
        super().__init__(message)
        self.request_id, self.cause, self.votes = request_id, cause, tuple(votes)


class RequestWithdrawn(PerdureError):
    """Raised by `ctx.ask` when somebody (`by`, a principal) withdrew the request, with the `reason` that was given."""

    def __init__(self, message: str, *, request_id: str | None = None, by: str | None = None, reason: str = "") -> None:
        super().__init__(message)
        self.request_id, self.by, self.reason = request_id, by, reason


class NotApproved(Terminal):
    """What a step is about to act on is not what was approved, or nobody approved it. Trying again does not help."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "not_approved")


class ConcurrencyError(PerdureError):
    """A context call from where none is allowed; the message names the cure."""


class Suspended(BaseException):
    """Ends a branch because the job sleeps; nothing that the branch does afterwards is recorded."""


class Cancelled(BaseException):
    """The job is being cancelled; cleanup steps work until the grace ends."""


class Interrupted(BaseException):
    """The attempt is over for this runner (fenced, lease lost, drain): stop, write nothing."""


class Closed(asyncio.CancelledError):
    """This branch is closed: its group has failed or its race is decided."""
