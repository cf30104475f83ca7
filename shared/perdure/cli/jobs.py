"""Commands on jobs: run, watch, cancel, list, get."""

from contextlib import aclosing
from functools import partial
from typing import Annotated

from cyclopts import App, Parameter

from perdure.cli.people import ask_on_terminal
from perdure.cli.render import EventPrinter, job_text
from perdure.cli.session import Common, Exit, Printer, exit_of_status
from perdure.cli.values import read_value
from perdure.client import Client, Job
from perdure.core import event as ev
from perdure.core.event import TERMINAL, Status

app = App(name="jobs", help="Look at jobs.")
COMMON = Common()

JobId = Annotated[str, Parameter(help="The job's id.")]


async def run(
    flow: Annotated[str, Parameter(help="Name or id of the flow, @version allowed.")],
    /,
    *,
    input: Annotated[str | None, Parameter(help="JSON, else a text as it is; @FILE or - reads it.")] = None,
    follow: Annotated[
        bool, Parameter(negative="", help="Show it to its end; ask on the terminal when it asks.")
    ] = False,
    idempotency_key: Annotated[str | None, Parameter(help="The same key makes the same job.")] = None,
    tag: Annotated[list[str] | None, Parameter(help="k=v, may be repeated.")] = None,
    session: Annotated[str | None, Parameter(help="The session it belongs to.")] = None,
    queue: Annotated[str | None, Parameter(help="The queue, else the flow's.")] = None,
    priority: Annotated[str | None, Parameter(help="low, normal or high.")] = None,
    deadline: Annotated[float | None, Parameter(help="Seconds after which the job times out.")] = None,
    common: Common = COMMON,
) -> int:
    """Submit a job and print it."""
    printer = common.printer()
    async with common.client() as client:
        job = await client.submit(
            flow,
            read_value(input),
            idempotency_key=idempotency_key,
            session_id=session,
            tags=_tags(tag),
            queue=queue,
            priority=priority,
            deadline_seconds=deadline,
        )
        if not follow:
            printer.result(job, lambda: job_text(job))
            printer.hint(f"follow it: perdure watch {job.id}")
            return Exit.DONE
        printer.hint(f"job {job.id}; Ctrl-C leaves it alone, `perdure watch {job.id}` goes on")
        return await _follow(client, printer, job.id, 0, None, deltas=True, ask=True)


async def watch(
    job: JobId,
    /,
    *,
    from_: Annotated[int, Parameter(name="--from", help="Show what comes after this event.")] = 0,
    until: Annotated[str | None, Parameter(help="Stop at: terminal, suspended, head, or a type of event.")] = None,
    deltas: Annotated[bool, Parameter(help="Show tokens and log lines as they flow.")] = True,
    common: Common = COMMON,
) -> int:
    """Show a job's events from any offset on, to its end."""
    async with common.client() as client:
        return await _follow(client, common.printer(), job, from_, until, deltas=deltas, ask=False)


async def cancel(
    job: JobId,
    /,
    *,
    reason: Annotated[str | None, Parameter(help="Why.")] = None,
    grace: Annotated[float | None, Parameter(help="Seconds that a running job may take to end by itself.")] = None,
    force: Annotated[bool, Parameter(negative="", help="End it now.")] = False,
    common: Common = COMMON,
) -> int:
    """Cancel a job. One that has ended already stays as it is."""
    printer = common.printer()
    async with common.client() as client:
        found = await client.cancel(job, reason=reason, grace_seconds=grace, force=force)
    printer.result(found, lambda: job_text(found))
    return Exit.DONE


app.command(cancel)


@app.command(name="list")
async def list_(
    *,
    status: Annotated[str | None, Parameter(help="Only these, with commas.")] = None,
    flow: Annotated[str | None, Parameter(help="Only jobs of this flow.")] = None,
    limit: Annotated[int, Parameter(help="At most so many.")] = 50,
    common: Common = COMMON,
) -> int:
    """List jobs, the newest first."""
    printer, cursor, left = common.printer(), None, limit
    async with common.client() as client:
        while left > 0:
            page = await client.jobs(status=status, flow=flow, limit=min(left, 200), cursor=cursor)
            for job in page.data:
                printer.result(job, partial(_line, job))
            left -= len(page.data)
            cursor = page.next
            if cursor is None:
                break
    return Exit.DONE


def _line(job: Job) -> str:
    return f"{job.id}  {job.status:<10} {job.flow.name}  {job.created_at or ''}"


@app.command
async def get(job: JobId, /, *, common: Common = COMMON) -> int:
    """Print a job as it is now."""
    printer = common.printer()
    async with common.client() as client:
        found = await client.job(job)
    printer.result(found, lambda: job_text(found))
    return Exit.DONE


async def _follow(
    client: Client, printer: Printer, job_id: str, after: int, until: str | None, *, deltas: bool, ask: bool
) -> int:
    """Show events; the exit code of where the job was when the stream ended."""
    events, stream = EventPrinter(printer), client.events(job_id, after=after, until=until, deltas=deltas)
    status: Status | None = None
    try:
        async with aclosing(stream.frames()) as frames:
            async for frame in frames:
                said = events.show(frame)
                if isinstance(said, ev.AnyEvent):
                    status = said.status
                if ask and isinstance(said, ev.JobSuspended) and _waits_for_person(said):
                    if not printer.interactive:
                        printer.hint(f"it waits for a person: perdure inbox list; then perdure watch {job_id}")
                        return Exit.NEEDS_PERSON
                    for waiting in said.data.waiting:
                        if waiting.request_id is not None:
                            await ask_on_terminal(client, printer, waiting.request_id)
    finally:
        events.end()
        if status not in TERMINAL:
            printer.hint(f"go on with: perdure watch {job_id} --from {stream.offset}")
    if status is None:  # nothing was left to show
        status = (await client.job(job_id)).status
    return Exit.DONE if until is not None and status not in TERMINAL else exit_of_status(status)


def _waits_for_person(event: ev.JobSuspended) -> bool:
    return any(waiting.kind == "input" for waiting in event.data.waiting)


def _tags(pairs: list[str] | None) -> dict[str, str] | None:
    tags = dict(pair.partition("=")[::2] for pair in pairs or ())
    return tags or None
