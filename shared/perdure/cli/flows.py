"""Commands on flows: push a definition, list what there is."""

from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from perdure.cli.session import Common, Exit
from perdure.cli.values import read_json
from perdure.client import Flow
from perdure.errors import Fault, Invalid

app = App(name="flows", help="Flows: what jobs execute.")
COMMON = Common()


@app.command
async def push(
    file: Annotated[Path, Parameter(help="A JSON file with the definition.")],
    /,
    *,
    name: Annotated[str | None, Parameter(help="Its name, else the definition's own.")] = None,
    common: Common = COMMON,
) -> int:
    """Publish a definition as the newest version of its flow, which is made where it is missing."""
    printer, definition = common.printer(), read_json(file)
    own = definition.get("name") if isinstance(definition, dict) else None
    name = name or (own if isinstance(own, str) else None)
    if name is None:
        raise Invalid([Fault("missing-name", "the definition has no name: give --name", pointer="/name")])
    async with common.client() as client:
        flow = await client.push_flow(name, definition)
    printer.result(flow, lambda: f"{flow.name} v{flow.version}  {flow.id}")
    return Exit.DONE


@app.command(name="list")
async def list_(*, limit: Annotated[int, Parameter(help="At most so many.")] = 50, common: Common = COMMON) -> int:
    """List flows."""
    printer, cursor, left = common.printer(), None, limit
    async with common.client() as client:
        while left > 0:
            page = await client.flows(limit=min(left, 200), cursor=cursor)
            for flow in page.data:
                printer.result(flow, partial(_line, flow))
            left -= len(page.data)
            cursor = page.next
            if cursor is None:
                break
    return Exit.DONE


def _line(flow: Flow) -> str:
    return f"{flow.name} v{flow.version}  {flow.kind}  {flow.id}"
