"""Commands of operators on the audit: who did or tried what, straight from the broker."""

from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import App, Parameter

from perdure.bus.audit import records
from perdure.bus.connection import Bus
from perdure.cli.operators import broker
from perdure.cli.session import Exit, Printer
from perdure.cli.values import instant_of
from perdure.clock import SystemClock
from perdure.config import DATA_FOLDER
from perdure.errors import Fault, Invalid
from perdure.ids import StreamSeq, Tenant, is_token

app = App(name="audit", help="Who did or tried what, for operators: straight from the broker.")


@app.command
async def export(
    *,
    tenant: Annotated[str, Parameter(help="Whose records.")] = "main",
    since: Annotated[str | None, Parameter(help="Only records from then on (RFC 3339).")] = None,
    until: Annotated[str | None, Parameter(help="Only records before then (RFC 3339).")] = None,
    nats: Annotated[str | None, Parameter(help="Addresses of the broker, with commas [PERDURE_NATS].")] = None,
    data: Annotated[Path, Parameter(help="The data folder of `perdure up` on this machine.")] = Path(DATA_FOLDER),
) -> int:
    """Print records, a line of JSON each, in the order in which the broker took them."""
    if not is_token(tenant):
        raise Invalid([Fault("malformed", "must be a tenant", parameter="--tenant")])
    first, last = instant_of("--since", since), instant_of("--until", until)
    settings, printer = broker(data, nats), Printer(json=True)
    connection = Bus.connect(
        settings.nats,
        user=settings.nats_user,
        password=settings.password,
        name="audit",
        clock=SystemClock(),
        measure=False,
    )
    async with connection as bus:
        after = StreamSeq(0)
        while found := await records(bus, Tenant(tenant), after):
            after = found[-1][0]
            for _, record in found:
                if (first is None or record.at >= first) and (last is None or record.at < last):
                    printer.raw(msgspec.json.encode(record))
    return Exit.DONE
