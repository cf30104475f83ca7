"""Asking again: an answer that is right in form and wrong in fact makes a new request, prefilled with what was said."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from perdure.core import event as ev
from perdure.core.graph.faults import pointer
from perdure.engine.asking import Answer, Asking
from perdure.engine.values import UNSHAPED, shaped
from perdure.errors import Malformed, PerdureError

MAX_ERRORS: Final = 20
MAX_DETAIL: Final = 1000  # characters


class AskAgain(PerdureError):
    """Raised by the `check` of `ctx.ask`: the answer cannot be used, so ask anew, saying why.

    `errors` are places in the answer (`/payload/amount`, `/proposal/iban`) with what is wrong there.
    """

    def __init__(self, message: str, errors: Mapping[str, str] | Sequence[ev.Wrong] = ()) -> None:
        super().__init__(message)
        self.message = message
        if isinstance(errors, Mapping):
            errors = [ev.Wrong(pointer=at, detail=detail) for at, detail in errors.items()]
        self.errors = tuple(errors)


class Again(Struct, frozen=True, kw_only=True):
    """What a new request takes over from the one before."""

    reasks: ev.Request
    errors: tuple[ev.Wrong, ...]
    defaults: dict[str, Any] | None
    proposal: Any  # any JSON: as it was approved
    proposed: Any  # any JSON: as the code proposed it when it asked first


def again(asked: ev.Request, what: Asking, answer: Answer[Any], why: AskAgain, before: Again | None) -> Again:
    """The request that follows `asked`, whose `answer` was refused by the code; `before` is what `asked` itself was."""
    errors = (ev.Wrong(pointer="", detail=why.message), *why.errors)[:MAX_ERRORS]
    defaults = asked.defaults
    if isinstance(answer.payload, dict) and what.response_schema is not None:
        defaults = {**(defaults or {}), **answer.payload}
    return Again(
        reasks=asked,
        errors=tuple(ev.Wrong(pointer=e.pointer, detail=e.detail[:MAX_DETAIL]) for e in errors),
        defaults=defaults,
        proposal=answer.proposal,
        proposed=asked.proposal if before is None else before.proposed,
    )


def typed(answer: Answer[Any], asked: ev.Request, what: Asking) -> Any:
    """The payload of `answer` in the shape that was asked for.

    Raises AskAgain when it is none: a type may know more than its schema can say.
    """
    if what.shape is UNSHAPED or answer.action is None:
        return answer.payload
    action = next((a for a in asked.actions if a.id == answer.action), None)
    lenient = answer.timed_out or (action is not None and action.requires is not None)
    try:
        validate = getattr(what.shape, "model_validate", None)
        return shaped(answer.payload, what.shape) if validate is None else validate(answer.payload)
    except Malformed as exc:
        if lenient:
            return answer.payload
        raise AskAgain("the answer does not fit", [ev.Wrong(pointer="/payload", detail=str(exc))]) from exc
    except ValueError as exc:  # pydantic's, or what a validator of the user's raised
        if lenient:
            return answer.payload
        raise AskAgain("the answer does not fit", _places(exc)) from exc


def _places(error: ValueError) -> list[ev.Wrong]:
    """What a pydantic ValidationError says, with pointers; the refused values are left out."""
    errors = getattr(error, "errors", None)
    if not callable(errors):
        return [ev.Wrong(pointer="/payload", detail=str(error))]
    told = errors(include_url=False, include_context=False, include_input=False)
    return [ev.Wrong(pointer="/payload" + pointer(*one["loc"]), detail=one["msg"]) for one in told]
