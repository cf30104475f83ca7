"""Commands for people who are asked: the inbox, and answering."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Final

import msgspec
from cyclopts import App, Parameter
from msgspec.structs import replace

from perdure.cli.form import Reply, confirm, fill
from perdure.cli.lists import print_pages
from perdure.cli.render import words
from perdure.cli.session import Common, Exit, Printer
from perdure.cli.values import read_value, with_set
from perdure.client import Answered, Client, HumanRequest, Page
from perdure.clock import SystemClock
from perdure.errors import Fault, Invalid

LOOK_SECONDS: Final = 1.0  # the inbox is up to a second behind anyway

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
    tag: Annotated[str | None, Parameter(help="k:v of the job.")] = None,
    mine: Annotated[bool, Parameter(negative="", help="Only what I may answer.")] = False,
    assignee: Annotated[str | None, Parameter(help="me, any, user:NAME, group:NAME.")] = None,
    overdue: Annotated[bool, Parameter(negative="", help="Only those whose reminder or escalation is past.")] = False,
    watch: Annotated[bool, Parameter(negative="", help="Go on, and print each that is new.")] = False,
    limit: Annotated[int, Parameter(help="At most so many.")] = 50,
    common: Common = COMMON,
) -> int:
    """List requests."""
    status = "pending,answered,expired,withdrawn" if all_ else status
    whose, printer = "me" if mine else assignee, common.printer()
    async with common.client() as client:

        async def fetch(limit: int, cursor: str | None) -> Page[HumanRequest]:
            return await client.inbox(
                status=status, flow=flow, job=job, kind=kind, tag=tag, assignee=whose, overdue=overdue, limit=limit,
                cursor=cursor,
            )  # fmt: skip

        if not watch:
            return await print_pages(printer, limit, fetch, _line)
        return await _watch(printer, limit, fetch)


async def _watch(
    printer: Printer, limit: int, fetch: Callable[[int, str | None], Awaitable[Page[HumanRequest]]]
) -> int:
    """Print what is there, then whatever is new or was stated anew, until somebody interrupts."""
    clock, seen = SystemClock(), dict[str, int]()
    while True:
        found: dict[str, int] = {}
        for request in (await fetch(min(limit, 200), None)).data:
            found[request.id] = request.revision
            if seen.get(request.id) != request.revision:
                printer.result(request, partial(_line, request))
        seen = found
        await clock.sleep(LOOK_SECONDS)


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


@app.command
async def delegate(
    request: RequestId,
    /,
    *,
    to: Annotated[str, Parameter(help="Who answers instead: user:NAME, or just NAME.")],
    comment: Annotated[str | None, Parameter(help="A comment.")] = None,
    common: Common = COMMON,
) -> int:
    """Hand one's own right to answer to somebody else."""
    async with common.client() as client:
        done = await client.delegate(request, to if ":" in to else f"user:{to}", comment=comment)
    return _done(common, done)


@app.command
async def withdraw(
    request: RequestId,
    /,
    *,
    reason: Annotated[str | None, Parameter(help="Why.")] = None,
    common: Common = COMMON,
) -> int:
    """Ask nobody any more; the job hears it."""
    async with common.client() as client:
        done = await client.withdraw(request, reason=reason)
    return _done(common, done)


@app.command
async def comment(
    request: RequestId, text: Annotated[str, Parameter(help="What to say.")], /, *, common: Common = COMMON
) -> int:
    """Say something about a request, without answering it."""
    async with common.client() as client:
        await client.comment(request, text)
    common.printer().result({"id": request, "commented": True}, lambda: f"{request}  commented")
    return Exit.DONE


@app.command
async def link(
    request: RequestId,
    /,
    *,
    for_: Annotated[str | None, Parameter(name="--for", help="user:NAME, or what somebody outside is called.")] = None,
    action: Annotated[list[str] | None, Parameter(negative="", help="Only this action, repeated; else all.")] = None,
    expires: Annotated[str | None, Parameter(help="When it ends (RFC 3339), else in a week.")] = None,
    revoke: Annotated[str | None, Parameter(help="End the link of this id instead.")] = None,
    common: Common = COMMON,
) -> int:
    """Make a link by which somebody answers once; it is shown this once."""
    printer = common.printer()
    if (for_ is None) == (revoke is None):
        raise Invalid([Fault("missing", "either --for somebody, or --revoke a link", parameter="--for")])
    async with common.client() as client:
        if for_ is not None:
            audience = for_ if ":" in for_ else f"link:{for_}"
            made = await client.link(request, audience, actions=action or (), expires_at=expires)
            made = replace(made, url=client.url + made.url)
            printer.result(made, lambda: made.url)
            printer.hint(f"link {made.id}, good until {made.expires_at}; it is shown once")
        elif revoke is not None:
            await client.revoke_link(request, revoke)
            printer.result({"id": revoke, "revoked": True}, lambda: f"{revoke}  revoked")
    return Exit.DONE


def _done(common: Common, done: Answered) -> int:
    common.printer().result(done.request, lambda: f"{done.request.id}  {done.request.status}")
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
    printer.result(answered.request, lambda: _outcome(answered.request))
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


def _outcome(request: HumanRequest) -> str:
    votes = ", ".join(f"{each.votes} for {each.action}" for each in request.tally)
    return f"{request.id}  {request.status}" + (f"  ({votes})" if votes else "")


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
    if request.assignees is not None:
        pool = request.assignees
        anyone = [f"anyone who may {pool.anyone_with}"] if pool.anyone_with else []
        lines.append("  asks     " + ", ".join([*pool.users, *(f"group {name}" for name in pool.groups), *anyone]))
    if request.quorum is not None:
        votes = ", ".join(f"{each.votes} {each.action}" for each in request.tally)
        lines.append(f"  quorum   {request.quorum.n}, so far {votes or 'nobody'}")
    lines += [f"  wrong    {each.pointer} {each.detail}" for each in request.errors]
    lines += [f"  {each.get('at')}  {each.get('by')}: {words(each.get('text'), 4000)}" for each in request.comments]
    return "\n".join(lines)
