"""Commands for people who are asked: the inbox, and answering."""

import asyncio
from typing import Annotated

import msgspec
from cyclopts import App, Parameter

from perdure.cli.form import Reply, confirm, fill
from perdure.cli.lists import print_pages
from perdure.cli.render import words
from perdure.cli.session import Common, Exit, Printer
from perdure.cli.values import read_value, with_set
from perdure.client import Answered, Client, HumanRequest, Page
from perdure.errors import Fault, Invalid

app = App(name="inbox", help="Requests that wait for a person.")
COMMON = Common()

RequestId = Annotated[str, Parameter(help="The request's id.")]


@app.command(name="list")
async def list_(
    *,
    status: Annotated[str | None, Parameter(help="pending (default), answered, expired, withdrawn.")] = None,
    all_: Annotated[bool, Parameter(name="--all", negative="", help="Whatever their status.")] = False,
    flow: Annotated[str | None, Parameter(help="Only requests of these flows.")] = None,
    job: Annotated[str | None, Parameter(help="Only requests of these jobs.")] = None,
    kind: Annotated[str | None, Parameter(help="approval, choice, input, tool_call.")] = None,
    limit: Annotated[int, Parameter(help="At most so many.")] = 50,
    common: Common = COMMON,
) -> int:
    """List requests."""
    status = "pending,answered,expired,withdrawn" if all_ else status
    async with common.client() as client:

        async def fetch(limit: int, cursor: str | None) -> Page[HumanRequest]:
            return await client.inbox(status=status, flow=flow, job=job, kind=kind, limit=limit, cursor=cursor)

        return await print_pages(common.printer(), limit, fetch, _line)


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
    set_: Annotated[
        list[str] | None, Parameter(name="--set", negative="", help="k=v of the payload, may be repeated.")
    ] = None,
    comment: Annotated[str | None, Parameter(help="A comment.")] = None,
    yes: Annotated[bool, Parameter(negative="", help="Do not ask whether you are sure.")] = False,
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
            answered = await ask_on_terminal(client, printer, request, sure=yes)
        else:
            found = await client.request(request)
            reply = Reply(
                action,
                msgspec.UNSET if payload is None and not set_ else with_set(read_value(payload), set_),
                msgspec.UNSET if proposal is None else read_value(proposal),
                comment,
            )
            if printer.interactive and not yes:
                await asyncio.to_thread(confirm, printer, found, reply)
            answered = await _give(client, found, reply)
    printer.result(answered.request, lambda: f"{answered.request.id}  {answered.request.status}")
    return Exit.DONE


async def ask_on_terminal(client: Client, printer: Printer, request_id: str, *, sure: bool = False) -> Answered:
    """Show a request and ask the person who sits there: action, form, edited proposal, comment; then whether to go on.

    Raises Invalid where the person says no, and what `Client.answer` raises.
    """
    request = await client.request(request_id)
    printer.text(request_text(request))
    reply = await asyncio.to_thread(fill, printer, request)
    if not sure:
        await asyncio.to_thread(confirm, printer, request, reply)
    return await _give(client, request, reply)


async def _give(client: Client, request: HumanRequest, reply: Reply) -> Answered:
    return await client.answer(
        request, reply.action, payload=reply.payload, proposal=reply.proposal, comment=reply.comment
    )


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
