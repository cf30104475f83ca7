"""A tool call that a person decides on: how it is asked, and the decision as an agent's loop uses it."""

from collections.abc import Sequence
from typing import Any, Final, Generic, Literal, TypeVar

from msgspec import Struct

from perdure.core import event as ev
from perdure.core.graph.faults import Faults
from perdure.engine.asking import Answer
from perdure.engine.described import Schema, form_of
from perdure.engine.reask import AskAgain
from perdure.engine.values import UNSHAPED, Shape, shaped
from perdure.errors import Malformed

A = TypeVar("A")

EDITABLE: Final = ("/arguments",)
CALL_ID: Final = "tool_call"  # of external_ids: what the model calls the call
_ALL: Final = (
    ev.Action(id="approve", label="Approve", style="primary"),
    ev.Action(id="edit", label="Approve with changes"),
    ev.Action(id="reject", label="Reject", style="danger"),
    ev.Action(id="respond", label="Answer in its place", requires=("comment",)),
)
_REFUSED: Final = "The call was rejected by a person and not made."
_LATE: Final = "Nobody decided on the call in time; it was not made."


class ToolDecision(Struct, Generic[A], frozen=True, kw_only=True):
    """What became of a tool call.

    `approved`: make the call, with `arguments` (edited or not). Else do not, and give the model `message` in place of a
    result: the person's words, or that the call was rejected. A person's own answer (`respond`) is a result; the model
    need not know who gave it.
    """

    outcome: Literal["approve", "edit", "reject", "respond", "timeout"]
    approved: bool
    name: str
    arguments: A
    message: str
    answer: Answer[Any]


def actions(given: Sequence[ev.Action | str] | None, editable: Sequence[str]) -> tuple[ev.Action, ...]:
    """The actions of a tool call, all four or those given; `edit` only where something may be changed.

    Raises Invalid for one that is none of them: the loop would not know what it means.
    """
    known = {action.id: action for action in _ALL if editable or action.id != "edit"}
    if given is None:
        return tuple(known.values())
    faults = Faults()
    for index, action in enumerate(given):
        if (action if isinstance(action, str) else action.id) not in known:
            faults.add(f"/actions/{index}", "unknown-action", f"a tool call has {', '.join(known)}")
    if faults:
        faults.refuse("invalid-request")
    return tuple(known[action] if isinstance(action, str) else action for action in given)


def proposal_schema(name: str, arguments: Shape | Schema | None) -> Schema | None:
    """What an edited call must keep: its name, and the schema of its arguments (a JSON Schema, or a type)."""
    if arguments is None:
        return None
    rule: Schema = dict(arguments) if isinstance(arguments, dict) else form_of(arguments)
    defined = rule.pop("$defs", None)
    whole: Schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "arguments": rule},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }
    return whole if defined is None else {**whole, "$defs": defined}


def fits(answer: Answer[Any], arguments: Shape | Schema | None) -> None:
    """See that the approved arguments are such: a type may know more than its schema. Raises AskAgain."""
    try:
        _arguments(answer, arguments)
    except Malformed as exc:
        raise AskAgain("the arguments do not fit", {"/proposal/arguments": str(exc)}) from exc


def decision(answer: Answer[Any], arguments: Shape | Schema | None) -> ToolDecision[Any]:
    """What an answer to a tool call means to the loop that wants to make it."""
    outcome: Literal["approve", "edit", "reject", "respond", "timeout"]
    match answer.action:
        case "approve" | "edit":
            outcome, said = "edit" if answer.edited else "approve", ""
        case "respond":
            outcome, said = "respond", answer.comment or ""
        case "reject":
            outcome, said = "reject", f"{_REFUSED} {answer.comment}" if answer.comment else _REFUSED
        case _:
            outcome, said = "timeout", _LATE
    return ToolDecision(
        outcome=outcome,
        approved=outcome in ("approve", "edit"),
        name=answer.proposal["name"],
        arguments=_arguments(answer, arguments),
        message=said,
        answer=answer,
    )


def _arguments(answer: Answer[Any], arguments: Shape | Schema | None) -> Any:
    shape = UNSHAPED if arguments is None or isinstance(arguments, dict) else arguments
    return shaped(answer.proposal["arguments"], shape)
