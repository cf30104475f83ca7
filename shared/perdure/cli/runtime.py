"""Commands that show who runs and what waits."""

from functools import partial
from typing import Annotated

from cyclopts import App, Parameter

from perdure.cli.lists import for_each
from perdure.cli.session import Common, Exit
from perdure.client import QueueDepth, Runner

app = App(name="runners", help="Runners: who executes jobs.")
COMMON = Common()


@app.command(name="list")
async def list_(*, common: Common = COMMON) -> int:
    """List the runners that serve the tenant, the youngest first."""
    printer = common.printer()
    async with common.client() as client:
        for found in await client.runners():
            printer.result(found, partial(_runner, found))
    return Exit.DONE


@app.command
async def drain(
    *runners: Annotated[
        str, Parameter(help="Ids of runners; - reads them from standard input.", allow_leading_hyphen=True)
    ],
    common: Common = COMMON,
) -> int:
    """Ask runners to take nothing new and to hand on what they hold; they hear it within a minute."""
    printer = common.printer()
    async with common.client() as client:

        async def one(runner: str) -> None:
            found = await client.drain_runner(runner)
            printer.result(found, lambda: _runner(found))

        return await for_each(runners, one)


async def queues(*, common: Common = COMMON) -> int:
    """Show what waits in the queues of the tenant's runners."""
    printer = common.printer()
    async with common.client() as client:
        for found in await client.queues():
            printer.result(found, partial(_queue, found))
    return Exit.DONE


def _runner(runner: Runner) -> str:
    held = f"{runner.running}/{runner.slots}"
    return f"{runner.id}  {runner.status:<8} {held:>8}  {','.join(runner.queues)}  seen {runner.seen_at or 'never'}"


def _queue(depth: QueueDepth) -> str:
    oldest = f"  oldest {depth.oldest_at}" if depth.oldest_at else ""
    counts = f"{depth.waiting} waiting, {depth.held} held, {depth.redelivered} given out again"
    return f"{depth.queue:<16} {depth.priority:<7} {counts}{oldest}"
