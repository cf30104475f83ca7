"""Output resolution: what the terminal outputs of a job amount to for somebody who wants one answer."""

from typing import Any

from msgspec import Struct

from perdure.core import event as ev
from perdure.core.machine import JobState


class One(Struct, frozen=True):
    """Exactly one output. `text` is it as text, None when it is not text (nor holds one)."""

    name: str
    value: Any  # a user's value
    text: str | None


class Several(Struct, frozen=True):
    """More than one output: nobody can say which is the answer. `texts` are those that are text, by name."""

    values: dict[str, Any]  # users' values
    texts: dict[str, str]


class Nothing(Struct, frozen=True):
    """The job completed without an output."""


class Failed(Struct, frozen=True):
    """The job ended without completing; `error` says why (of a cancel: by whom, or for what reason)."""

    error: ev.Failure


class Unfinished(Struct, frozen=True):
    """The job has not ended; `values` are the outputs so far."""

    values: dict[str, Any]  # users' values


Resolution = One | Several | Nothing | Failed | Unfinished


def resolve(job: JobState) -> Resolution:
    """What the job's outputs amount to."""
    match job.end:
        case None:
            return Unfinished(job.outputs)
        case ev.FailedData(error=error):
            return Failed(error)
        case ev.CancelledData(reason=why):
            return Failed(ev.Failure(code="cancelled", message=why or "the job was cancelled", retryable=False))
        case ev.TimedOutData(deadline_at=at):
            return Failed(ev.Failure(code="deadline", message=f"the job's deadline passed at {at}", retryable=False))
        case ev.CompletedData(outputs=outputs):
            return _completed(outputs)


def _completed(outputs: dict[str, Any]) -> Resolution:
    if not outputs:
        return Nothing()
    if len(outputs) == 1:
        ((name, value),) = outputs.items()
        return One(name, value, text_of(value))
    texts = {name: text for name, value in outputs.items() if (text := text_of(value)) is not None}
    return Several(outputs, texts)


def text_of(value: Any) -> str | None:  # a user's value
    """A value as text: a string, or an object whose `text` is one (a message); None for everything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and isinstance(value.get("text"), str):
        return str(value["text"])
    return None
