"""What an exception of users' code becomes in the log: a code, a message, whether another try may help."""

import asyncio
import re
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
UNKNOWN: Final = "step_failed"  # in place of a code that is none
_CODE: Final = re.compile(r"[\x21-\x7e]{1,64}", re.ASCII)


def step_failure(error: BaseException, timeout_seconds: float | None) -> Failure:
    """The failure of a step. `timeout_seconds` is given when its own limit ended it. Terminal and misuse are final."""
    match error:
        case _ if timeout_seconds is not None:
            return failure("timeout", f"no result within {timeout_seconds:g} s", True)
        case Retryable(code=code):
            return failure(code, _text(error), True)
        case Terminal(code=code):
            return failure(code, _text(error), False)
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
            return failure(code, _text(error), False)
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
    text = _text(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # noqa: BLE001  # users' code; what it has to say about itself must end no attempt
        return "(its text cannot be told)"


def failure(code: object, message: str, retryable: bool, step: str | None = None) -> Failure:
    """A failure as it is recorded: its code a code, its message bounded, and of characters that can be stored."""
    code = code if isinstance(code, str) and _CODE.fullmatch(code) else UNKNOWN
    text = message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]} …"
    text = text.encode(errors="replace").decode()  # a lone surrogate would make an event that nobody can store
    return Failure(code=code, message=text, retryable=retryable, step=step)
