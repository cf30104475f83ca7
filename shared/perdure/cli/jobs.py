"""Commands on jobs that are there: look at them, end them, delete them."""

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cyclopts import App, Parameter

from perdure.cli.follow import Wish, follow
from perdure.cli.lists import for_each, print_pages
from perdure.cli.render import job_text, state_text
from perdure.cli.session import Common, Exit
from perdure.cli.values import read_value
from perdure.client import Job, Page
from perdure.local.folder import read_nats

app = App(name="jobs", help="Jobs: look at them, end them, delete them. Several ids are taken, - reads them.")
COMMON = Common()

JobId = Annotated[str, Parameter(help="The job's id.")]
JobIds = Annotated[
    str, Parameter(help="Ids of jobs; - reads them from standard input, a line each.", allow_leading_hyphen=True)
]


@app.command(name="list")
async def list_(
    *,
    status: Annotated[str | None, Parameter(help="Only these, with commas.")] = None,
    flow: Annotated[str | None, Parameter(help="Only jobs of these flows.")] = None,
    tag: Annotated[str | None, Parameter(help="Only jobs with this tag: name:value.")] = None,
    session: Annotated[str | None, Parameter(help="Only jobs of this session.")] = None,
    owner: Annotated[str | None, Parameter(help="Only jobs that this principal submitted.")] = None,
    parent: Annotated[str | None, Parameter(help="Only jobs that this job started.")] = None,
    waiting: Annotated[Literal["person"] | None, Parameter(help="Only jobs that wait for a person.")] = None,
    created_after: Annotated[str | None, Parameter(help="RFC 3339.")] = None,
    created_before: Annotated[str | None, Parameter(help="RFC 3339.")] = None,
    updated_after: Annotated[str | None, Parameter(help="RFC 3339.")] = None,
    order: Annotated[Literal["created", "updated"] | None, Parameter(help="The newest first by this.")] = None,
    limit: Annotated[int, Parameter(help="At most so many.")] = 50,
    common: Common = COMMON,
) -> int:
    """List jobs, the newest first."""
    async with common.client() as client:

        async def fetch(limit: int, cursor: str | None) -> Page[Job]:
            return await client.jobs(
                status=status, flow=flow, tag=tag, session=session, owner=owner, parent=parent, waiting=waiting,
                created_after=created_after, created_before=created_before, updated_after=updated_after, order=order,
                limit=limit, cursor=cursor,
            )  # fmt: skip

        return await print_pages(common.printer(), limit, fetch, _line)


def _line(job: Job) -> str:
    return f"{job.id}  {job.status:<10} {job.flow.name}  {job.created_at or ''}"


@app.command
async def get(*jobs: JobIds, common: Common = COMMON) -> int:
    """Print jobs as they are now."""
    printer = common.printer()
    async with common.client() as client:

        async def one(job: str) -> None:
            found = await client.job(job)
            printer.result(found, lambda: job_text(found))

        return await for_each(jobs, one)


@app.command
async def logs(
    job: JobId,
    /,
    *,
    follow_: Annotated[bool, Parameter(name=["--follow", "-f"], negative="", help="Go on to its end.")] = False,
    common: Common = COMMON,
) -> int:
    """Print a job's events so far, a line each."""
    async with common.client() as client:
        wish = Wish(until=None if follow_ else "head", deltas=follow_)
        code = await follow(client, common.printer(), job, wish)
    return code if follow_ else Exit.DONE


@app.command
async def state(
    *jobs: JobIds,
    at: Annotated[int | None, Parameter(help="As it was after this event.")] = None,
    common: Common = COMMON,
) -> int:
    """Print what a job's log amounts to: steps, messages, outputs, requests."""
    printer = common.printer()
    async with common.client() as client:

        async def one(job: str) -> None:
            found = await client.state(job, at=at)
            printer.result(found, lambda: state_text(found))

        return await for_each(jobs, one)


@app.command
async def cancel(
    *jobs: JobIds,
    reason: Annotated[str | None, Parameter(help="Why.")] = None,
    grace: Annotated[float | None, Parameter(help="Seconds that a running job may take to end by itself.")] = None,
    force: Annotated[bool, Parameter(negative="", help="End it now.")] = False,
    common: Common = COMMON,
) -> int:
    """Cancel jobs. One that has ended already stays as it is."""
    printer = common.printer()
    async with common.client() as client:

        async def one(job: str) -> None:
            found = await client.cancel(job, reason=reason, grace_seconds=grace, force=force)
            printer.result(found, lambda: job_text(found))

        return await for_each(jobs, one)


@app.command
async def retry(*jobs: JobIds, common: Common = COMMON) -> int:
    """End a back-off, or the wait for code that fits, now."""
    printer = common.printer()
    async with common.client() as client:

        async def one(job: str) -> None:
            found = await client.retry(job)
            printer.result(found, lambda: job_text(found))

        return await for_each(jobs, one)


@app.command
async def delete(*jobs: JobIds, common: Common = COMMON) -> int:
    """Delete jobs that have ended: nobody sees them again."""
    printer = common.printer()
    async with common.client() as client:

        async def one(job: str) -> None:
            await client.delete(job)
            printer.result({"id": job, "deleted": True}, lambda: f"{job}  deleted")

        return await for_each(jobs, one)


@app.command
async def signal(
    job: JobId,
    name: Annotated[str, Parameter(help="The signal's name.")],
    /,
    *,
    payload: Annotated[str | None, Parameter(help="JSON, else a text as it is; @FILE or - reads it.")] = None,
    idempotency_key: Annotated[str | None, Parameter(help="The same key sends it once.")] = None,
    common: Common = COMMON,
) -> int:
    """Send a job a signal."""
    printer, value = common.printer(), msgspec.UNSET if payload is None else read_value(payload)
    async with common.client() as client:
        seq = await client.signal(job, name, value, idempotency_key=idempotency_key)
    printer.result({"seq": seq}, lambda: f"{job}  event {seq}")
    return Exit.DONE


@app.command
async def export(
    *jobs: JobIds,
    out: Annotated[Path | None, Parameter(help="A folder for <job>.jsonl, else standard output.")] = None,
    common: Common = COMMON,
) -> int:
    """Print whole logs, an event a line (JSON)."""
    printer = common.printer()
    async with common.client() as client:

        async def one(job: str) -> None:
            log = await client.log(job)
            if out is None:
                printer.raw(log.removesuffix(b"\n"))
            else:
                (out / f"{job}.jsonl").write_bytes(log)
                printer.hint(str(out / f"{job}.jsonl"))

        return await for_each(jobs, one)


@app.command
async def subject(job: JobId, /, *, common: Common = COMMON) -> int:
    """Print where a job's events are on NATS, and what to type to see them with the `nats` command."""
    printer = common.printer()
    async with common.client() as client:
        tenant = (await client.whoami()).tenant
        await client.job(job)
    told = read_nats(common.data)
    said = {name: f"job.{tenant}.{job}.{name}" for name in ("event", "delta")}
    said |= {"inbox": f"inbox.{tenant}.request", "replay": f"replay.{tenant}.{job}", "inbox_prefix": f"_INBOX.{tenant}"}
    server = f"--server {told.url} --user {told.user} --password … " if told is not None else ""
    nats = f"nats {server}--inbox-prefix {said['inbox_prefix']}"
    lines = [
        *(said[name] for name in ("event", "delta", "inbox", "replay")),
        f"{nats} sub 'job.{tenant}.{job}.>'",
        f'{nats} request {said["replay"]} \'{{"after":"0"}}\'',
    ]
    if told is not None:
        lines.append(f"the password is in {common.data / 'nats.json'}")
    printer.result(said, partial("\n".join, lines))
    return Exit.DONE
