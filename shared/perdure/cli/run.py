"""Submit a job, and watch one."""

from typing import Annotated

from cyclopts import Parameter

from perdure.cli.follow import Wish, follow
from perdure.cli.render import job_text
from perdure.cli.session import Common, Exit
from perdure.cli.values import pairs, read_value, with_set
from perdure.core.stream.offset import parse
from perdure.errors import Fault, Invalid, Malformed

COMMON = Common()


async def run(
    flow: Annotated[str, Parameter(help="Name or id of the flow, @version allowed.")],
    /,
    *,
    input: Annotated[str | None, Parameter(help="JSON, else a text as it is; @FILE or - reads it.")] = None,
    set_: Annotated[
        list[str] | None, Parameter(name="--set", negative="", help="k=v of an input that is an object; repeatable.")
    ] = None,
    follow_: Annotated[
        bool, Parameter(name="--follow", negative="", help="Show it to its end; ask on the terminal when it asks.")
    ] = False,
    wait: Annotated[float | None, Parameter(help="Wait so many seconds for its end, showing nothing before.")] = None,
    answer: Annotated[
        list[str] | None,
        Parameter(negative="", help="name=action: how to answer a request of that name; with --wait or --follow."),
    ] = None,
    idempotency_key: Annotated[str | None, Parameter(help="The same key makes the same job.")] = None,
    tag: Annotated[list[str] | None, Parameter(negative="", help="k=v, may be repeated.")] = None,
    session: Annotated[str | None, Parameter(help="The session it belongs to.")] = None,
    queue: Annotated[str | None, Parameter(help="The queue, else the flow's.")] = None,
    priority: Annotated[str | None, Parameter(help="low, normal or high.")] = None,
    deadline: Annotated[float | None, Parameter(help="Seconds after which the job times out.")] = None,
    common: Common = COMMON,
) -> int:
    """Submit a job and print it; with --wait as it is at its end, with --follow everything on the way there."""
    printer, answers = common.printer(), pairs("--answer", answer)
    if answers and wait is None and not follow_:
        raise Invalid([Fault("alone", "needs --wait or --follow", parameter="--answer")])
    async with common.client() as client:
        job = await client.submit(
            flow,
            with_set(read_value(input), set_),
            idempotency_key=idempotency_key,
            session_id=session,
            tags=pairs("--tag", tag) or None,
            queue=queue,
            priority=priority,
            deadline_seconds=deadline,
        )
        if follow_:
            printer.hint(f"job {job.id}; Ctrl-C leaves it alone, `perdure watch {job.id}` goes on")
            return await follow(client, printer, job.id, Wish(ask=True, answers=answers, seconds=wait))
        code: int = Exit.DONE
        if wait is not None:
            wish = Wish(silent=True, deltas=False, answers=answers, seconds=wait)
            code = await follow(client, printer, job.id, wish)
            job = await client.job(job.id)
        printer.result(job, lambda: job_text(job))
        if code in (Exit.DONE, Exit.STOPPED_WAITING, Exit.NEEDS_PERSON) and job.ended_at is None:
            printer.hint(f"follow it: perdure watch {job.id}")
    return code


async def watch(
    job: Annotated[str, Parameter(help="The job's id.")],
    /,
    *,
    from_: Annotated[str, Parameter(name="--from", help="Show what comes after this offset; now: only news.")] = "0",
    types: Annotated[str | None, Parameter(help="Only these, with commas: job.*, message.")] = None,
    until: Annotated[str | None, Parameter(help="Stop at: terminal, suspended, head, or a type of event.")] = None,
    deltas: Annotated[bool, Parameter(help="Show tokens and log lines as they flow.")] = True,
    raw: Annotated[bool, Parameter(negative="", help="Show events and deltas as they come, a line of JSON each.")] = (
        False
    ),
    common: Common = COMMON,
) -> int:
    """Show a job's events from any offset on, to its end."""
    wish = Wish(after=offset(from_), until=until, types=types.split(",") if types else (), deltas=deltas, raw=raw)
    async with common.client() as client:
        return await follow(client, common.printer(), job, wish)


def offset(text: str) -> str:
    """An offset as the command line takes it. Raises Invalid."""
    if text != "now":
        try:
            parse(text)
        except Malformed as exc:
            raise Invalid([Fault("malformed", str(exc), parameter="--from")]) from exc
    return text
