"""Commands for people who are asked: the inbox, and answering."""

import asyncio
from functools import partial
from typing import Annotated, Any

import msgspec
from cyclopts import App, Parameter
from rich.prompt import Confirm, Prompt

from perdure.cli.render import words
from perdure.cli.session import Common, Exit, Printer, safe
from perdure.cli.values import read_value
from perdure.client import Answered, Client, HumanRequest
from perdure.errors import Fault, Invalid

app = App(name="inbox", help="Requests that wait for a person.")
COMMON = Common()

RequestId = Annotated[str, Parameter(help="The request's id.")]


@app.command(name="list")
async def list_(
    *,
    status: Annotated[str | None, Parameter(help="pending (default), answered, expired, withdrawn.")] = None,
    limit: Annotated[int, Parameter(help="At most so many.")] = 50,
    common: Common = COMMON,
) -> int:
    """List requests."""
    printer, cursor, left = common.printer(), None, limit
    async with common.client() as client:
        while left > 0:
            page = await client.inbox(status=status, limit=min(left, 200), cursor=cursor)
            for request in page.data:
                printer.result(request, partial(_line, request))
            left -= len(page.data)
            cursor = page.next
            if cursor is None:
                break
    return Exit.DONE


def _line(request: HumanRequest) -> str:
    actions = ", ".join(action.id for action in request.actions)
    return f"{request.id}  {request.status:<9} {request.title}  [{actions}]"


@app.command
async def show(request: RequestId, /, *, common: Common = COMMON) -> int:
    """Print one request, whole."""
    printer = common.printer()
    async with common.client() as client:
        found = await client.request(request)
    printer.result(found, lambda: request_text(found))
    return Exit.DONE


async def answer(
    request: RequestId,
    action: Annotated[str | None, Parameter(help="The action; without it you are asked, on a terminal.")] = None,
    /,
    *,
    payload: Annotated[str | None, Parameter(help="JSON, else a text as it is; @FILE or - reads it.")] = None,
    proposal: Annotated[str | None, Parameter(help="The proposal as you want it, whole.")] = None,
    set_: Annotated[list[str] | None, Parameter(name="--set", help="k=v of the payload, may be repeated.")] = None,
    comment: Annotated[str | None, Parameter(help="A comment.")] = None,
    common: Common = COMMON,
) -> int:
    """Answer a request. The first answer counts; the same one again is no error."""
    printer = common.printer()
    async with common.client() as client:
        if action is None:
            if not printer.interactive:
                raise Invalid(
                    [Fault("missing-action", "name the action; without one you are asked on a terminal only")]
                )
            answered = await ask_on_terminal(client, printer, request)
        else:
            found = await client.request(request)
            answered = await client.answer(
                found,
                action,
                payload=_payload(payload, set_),
                proposal=msgspec.UNSET if proposal is None else read_value(proposal),
                comment=comment,
            )
    printer.result(answered.request, lambda: f"{answered.request.id}  {answered.request.status}")
    return Exit.DONE


async def ask_on_terminal(client: Client, printer: Printer, request_id: str) -> Answered:
    """Show a request and ask the person who sits there for action, edited proposal and comment."""
    request = await client.request(request_id)
    printer.text(request_text(request))
    choices = [action.id for action in request.actions]
    console = printer.out
    action = await asyncio.to_thread(Prompt.ask, safe("answer"), choices=choices, default=choices[0], console=console)
    chosen = next(a for a in request.actions if a.id == action)
    proposal: Any = msgspec.UNSET  # Any: user value
    may_edit = "" in (request.editable or ()) and isinstance(request.proposal, str) and chosen.style != "danger"
    if may_edit and await asyncio.to_thread(Confirm.ask, "edit the text first?", default=False, console=console):
        proposal = await asyncio.to_thread(Prompt.ask, "text", default=request.proposal, console=console)
    comment = None
    if chosen.requires and "comment" in chosen.requires:
        comment = await asyncio.to_thread(Prompt.ask, "comment", console=console)
    return await client.answer(request, action, proposal=proposal, comment=comment)


def request_text(request: HumanRequest) -> str:
    """A request for people."""
    lines = [f"{request.title}  ({request.status}, revision {request.revision})", f"  id       {request.id}"]
    if request.message:
        lines.append(f"  message  {request.message}")
    if request.proposal is not None:
        lines.append(f"  proposal {words(request.proposal, 4000)}")
    if request.expires_at:
        lines.append(f"  expires  {request.expires_at}")
    lines.append("  actions  " + ", ".join(action.id for action in request.actions))
    return "\n".join(lines)


def _payload(payload: str | None, pairs: list[str] | None) -> Any:  # Any: user value
    if payload is not None:
        return read_value(payload)
    if pairs:
        return {key: read_value(value) for key, _, value in (pair.partition("=") for pair in pairs)}
    return msgspec.UNSET
