"""The form of a request on a terminal: action, payload by its schema, edits of the proposal, comment.

Everything here blocks on the person: call it in a thread.
"""

import copy
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from rich.prompt import Confirm, Prompt

from perdure.cli.session import Printer, safe
from perdure.client import HumanRequest
from perdure.core import event as ev
from perdure.errors import Fault, Invalid


class Reply(Struct, frozen=True):
    """What the person said. UNSET: nothing."""

    action: str
    payload: Any = msgspec.UNSET  # Any: user value
    proposal: Any = msgspec.UNSET  # Any: user value
    comment: str | None = None


class Field(Struct, frozen=True):
    """One member of the payload. `choices`: the values that are allowed, as a person types them."""

    name: str
    title: str
    kind: str
    required: bool
    choices: tuple[str, ...] = ()
    default: str | None = None


def fields(request: HumanRequest, action: ev.Action) -> list[Field]:
    """The form for an action: the members of a flat schema; none where there is no such schema."""
    schema = request.response_schema or {}
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return []
    required = schema.get("required", ()) if action.requires is None else action.requires
    found = []
    for name, shape in properties.items():
        shape = shape if isinstance(shape, Mapping) else {}
        choices = shape.get("enum") or [one.get("const") for one in shape.get("oneOf", ())]
        default = (request.defaults or {}).get(name)
        found.append(
            Field(
                name,
                str(shape.get("title", name)),
                str(shape.get("type", "string")),
                name in required,
                tuple(_typed(choice) for choice in choices),
                None if default is None else _typed(default),
            )
        )
    return found


def value_of(field: Field, text: str) -> Any:  # Any: user value
    """What `text` means in `field`; UNSET where nothing was typed and nothing is needed. Raises Invalid."""
    if not text and not field.required and field.kind != "string":
        return msgspec.UNSET
    if field.kind == "string":
        return msgspec.UNSET if not text and not field.required else text
    try:
        return msgspec.json.decode({"yes": "true", "no": "false"}.get(text, text))
    except msgspec.DecodeError:
        raise Invalid(
            [Fault("wrong-type", f"must be {field.kind}, as JSON", pointer=f"/payload/{field.name}")]
        ) from None


def fill(printer: Printer, request: HumanRequest) -> Reply:
    """Ask for everything that an answer needs. Raises Invalid."""
    choices = [action.id for action in request.actions]
    name = _ask(printer, "answer", choices[0], choices)
    action = next(each for each in request.actions if each.id == name)
    payload: dict[str, Any] = {}
    for field in fields(request, action):
        text = _ask(printer, field.title, field.default or "", field.choices)
        if (value := value_of(field, text)) is not msgspec.UNSET:
            payload[field.name] = value
    proposal = msgspec.UNSET if action.style == "danger" else _edited(printer, request)
    comment = _ask(printer, "comment", "") if "comment" in (action.requires or ()) else ""
    return Reply(name, payload or msgspec.UNSET, proposal, comment or None)


def confirm(printer: Printer, request: HumanRequest, reply: Reply) -> None:
    """Show what was changed in the proposal and ask whether to go on; nothing where nothing was changed and the action
    is no dangerous one. Raises Invalid where the person says no.
    """
    danger = any(action.id == reply.action and action.style == "danger" for action in request.actions)
    if reply.proposal is msgspec.UNSET and not danger:
        return
    if reply.proposal is not msgspec.UNSET:
        printer.text("\n".join(changes(request.proposal, reply.proposal)))
    if not Confirm.ask(safe(f"{reply.action}: {request.title}: go on?"), default=True, console=printer.out):
        raise Invalid([Fault("declined", "nothing was sent")])


def changes(before: object, after: object) -> list[str]:
    """The difference between two values, a line each."""
    old, new = (_pretty(value).splitlines() for value in (before, after))
    return list(difflib.unified_diff(old, new, "proposal", "yours", lineterm=""))


def _edited(printer: Printer, request: HumanRequest) -> Any:  # Any: user value
    """The proposal with the parts edited that may be; UNSET where nothing was."""
    pointers = request.editable or ()
    what = "the text" if isinstance(request.proposal, str) else "the proposal"
    if not pointers or not Confirm.ask(f"edit {what} first?", default=False, console=printer.out):
        return msgspec.UNSET
    edited = request.proposal
    for pointer in pointers:
        before = at(edited, pointer)
        text = _ask(printer, pointer or "text", _typed(before))
        edited = replaced(edited, pointer, text if isinstance(before, str) else _decoded(pointer, text))
    return msgspec.UNSET if edited == request.proposal else edited


def at(value: Any, pointer: str) -> Any:  # Any: user values
    """What an RFC 6901 pointer names in `value`; None where there is nothing."""
    for token in _tokens(pointer):
        match value:
            case dict() if token in value:
                value = value[token]
            case list() if token.isdigit() and int(token) < len(value):
                value = value[int(token)]
            case _:
                return None
    return value


def replaced(value: Any, pointer: str, new: Any) -> Any:  # Any: user values
    """`value` with `new` where the pointer says; `value` itself stays as it is. Raises Invalid."""
    tokens = _tokens(pointer)
    if not tokens:
        return new
    whole = copy.deepcopy(value)
    holder = at(whole, pointer[: pointer.rindex("/")])
    match holder:
        case dict():
            holder[tokens[-1]] = new
        case list() if tokens[-1].isdigit() and int(tokens[-1]) < len(holder):
            holder[int(tokens[-1])] = new
        case _:
            raise Invalid([Fault("not-there", "the proposal has no such part", pointer=f"/proposal{pointer}")])
    return whole


def _tokens(pointer: str) -> list[str]:
    return [token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:]]


def _decoded(pointer: str, text: str) -> Any:  # Any: user value
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        raise Invalid([Fault("invalid-json", "must be JSON", pointer=f"/proposal{pointer}")]) from None


def _ask(printer: Printer, what: str, default: str, choices: Sequence[str] = ()) -> str:
    return Prompt.ask(safe(what), choices=list(choices) or None, default=default, console=printer.out)


def _typed(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _pretty(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
