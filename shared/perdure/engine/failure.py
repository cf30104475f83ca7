"""What an exception of users' code becomes in the log: a code, a message, whether another try may help."""

import asyncio
from typing import Final

from perdure.core.event import Failure
from perdure.errors import (
    ConcurrencyError,
    Malformed,
    RequestExpired,
    RequestWithdrawn,
    Retryable,
    StepFailed,
    Terminal,
    TooLarge,
)

MAX_MESSAGE: Final = 2000  # characters


def step_failure(error: BaseException, timeout_seconds: float | None) -> Failure:
    """The failure of a step. `timeout_seconds` is given when its own limit ended it. Terminal and misuse are final."""
    match error:
        case _ if timeout_seconds is not None:
            return failure("timeout", f"no result within {timeout_seconds:g} s", True)
        case Retryable(code=code):
            return failure(code, str(error), True)
        case Terminal(code=code):
            return failure(code, str(error), False)
        case Malformed():
            return failure("malformed", _told(error), False)
        case ConcurrencyError():
            return failure("concurrency_error", str(error), False)
        case _:
            return failure("step_failed", _told(error), True)


def value_failure(error: Malformed) -> Failure:
    """The failure of a step whose result cannot be recorded."""
    return failure("too_large" if isinstance(error, TooLarge) else "not_serialisable", str(error), False)


def job_failure(error: BaseException) -> Failure:
    """The failure of a job whose body ended with `error`."""
    match error:
        case StepFailed(step=step, code=code, message=message, retryable=retryable):
            return failure(code, message, retryable, step)
        case Retryable(code=code) | Terminal(code=code):
            return failure(code, str(error), False)
        case RequestExpired():
            return failure("request_expired", str(error), False)
        case RequestWithdrawn():
            return failure("request_withdrawn", str(error), False)
        case ConcurrencyError():
            return failure("concurrency_error", str(error), False)
        case TooLarge():
            return failure("too_large", str(error), False)
        case _:
            return failure("workflow_failed", _told(error), False)


def _told(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "CancelledError: the code was cancelled by something that is not Perdure"
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def failure(code: str, message: str, retryable: bool, step: str | None = None) -> Failure:
    """A failure as it is recorded: its message bounded, and of characters that can be stored."""
    text = message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]} …"
    text = text.encode(errors="replace").decode()  # a lone surrogate would make an event that nobody can store
    return Failure(code=code, message=text, retryable=retryable, step=step)
