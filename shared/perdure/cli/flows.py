"""Commands on flows: push a definition, look at versions, go back to one."""

from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import App, Parameter

from perdure.cli.lists import print_pages
from perdure.cli.session import Common, Exit
from perdure.cli.values import read_json
from perdure.client import Flow, Page
from perdure.errors import Fault, Invalid

app = App(name="flows", help="Flows: what jobs execute.")
COMMON = Common()

FlowName = Annotated[str, Parameter(help="The flow's name or id.")]


@app.command
async def push(
    file: Annotated[Path, Parameter(help="A JSON file with the definition.")],
    /,
    *,
    name: Annotated[str | None, Parameter(help="Its name, else the definition's own.")] = None,
    dry_run: Annotated[bool, Parameter(negative="", help="Only check it.")] = False,
    common: Common = COMMON,
) -> int:
    """Publish a definition as the newest version of its flow, which is made where it is missing."""
    printer, definition = common.printer(), read_json(file)
    own = definition.get("name") if isinstance(definition, dict) else None
    name = name or (own if isinstance(own, str) else None)
    if name is None:
        raise Invalid([Fault("missing-name", "the definition has no name: give --name", pointer="/name")])
    async with common.client() as client:
        if dry_run:
            checked = await client.check_flow(name, definition)
            printer.result(checked, lambda: f"{checked.name}  {checked.kind}  fits, digest {checked.digest}")
            return Exit.DONE
        flow = await client.push_flow(name, definition)
    printer.result(flow, lambda: f"{flow.name} v{flow.version}  {flow.id}")
    return Exit.DONE


@app.command(name="list")
async def list_(*, limit: Annotated[int, Parameter(help="At most so many.")] = 50, common: Common = COMMON) -> int:
    """List flows."""
    async with common.client() as client:

        async def fetch(limit: int, cursor: str | None) -> Page[Flow]:
            return await client.flows(limit=limit, cursor=cursor)

        return await print_pages(common.printer(), limit, fetch, _line)


@app.command
async def pull(
    flow: FlowName,
    /,
    *,
    version: Annotated[int | None, Parameter(help="This version, else the newest.")] = None,
    out: Annotated[Path | None, Parameter(help="A file, else standard output.")] = None,
    common: Common = COMMON,
) -> int:
    """Print a flow's definition, as `push` takes it."""
    printer = common.printer()
    async with common.client() as client:
        found = await client.flow(flow, version)
    definition = msgspec.json.encode(found.definition)
    if out is not None:
        out.write_bytes(msgspec.json.format(definition, indent=2) + b"\n")
        printer.hint(f"{found.name} v{found.version} in {out}")
    else:
        printer.raw(definition if common.json else msgspec.json.format(definition, indent=2))
    return Exit.DONE


@app.command
async def versions(flow: FlowName, /, *, common: Common = COMMON) -> int:
    """List the versions of a flow, the newest first."""
    printer = common.printer()
    async with common.client() as client:
        for found in await client.flow_versions(flow):
            printer.result(found, partial(_version, found))
    return Exit.DONE


@app.command
async def restore(
    flow: FlowName,
    version: Annotated[int, Parameter(help="The version to go back to.")],
    /,
    *,
    common: Common = COMMON,
) -> int:
    """Make an old version's definition the newest version again."""
    printer = common.printer()
    async with common.client() as client:
        found = await client.restore_flow(flow, version)
    printer.result(found, lambda: f"{found.name} v{found.version}  {found.id}")
    return Exit.DONE


@app.command
async def delete(
    flow: FlowName,
    /,
    *,
    cancel_jobs: Annotated[bool, Parameter(negative="", help="Cancel its jobs that have not ended.")] = False,
    common: Common = COMMON,
) -> int:
    """Delete a flow with its versions; jobs that have ended stay."""
    printer = common.printer()
    async with common.client() as client:
        await client.delete_flow(flow, cancel_jobs=cancel_jobs)
    printer.result({"flow": flow, "deleted": True}, lambda: f"{flow}  deleted")
    return Exit.DONE


def _line(flow: Flow) -> str:
    return f"{flow.name} v{flow.version}  {flow.kind}  {flow.id}"


def _version(flow: Flow) -> str:
    return f"v{flow.version}  {flow.updated_at or ''}  {flow.digest}"
