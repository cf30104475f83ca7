"""Commands of operators on the audit: who did or tried what, straight from the broker."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import App, Parameter

from perdure.bus.audit import records
from perdure.bus.connection import Bus
from perdure.bus.seals import verified
from perdure.cli.operators import broker
from perdure.cli.session import Exit, Printer
from perdure.cli.values import instant_of
from perdure.clock import SystemClock
from perdure.config import DATA_FOLDER
from perdure.errors import Fault, Invalid
from perdure.ids import StreamSeq, Tenant, is_token

Whose = Annotated[str, Parameter(help="Whose records.")]
Nats = Annotated[str | None, Parameter(help="Addresses of the broker, with commas [PERDURE_NATS].")]
Data = Annotated[Path, Parameter(help="The data folder of `perdure up` on this machine.")]

app = App(name="audit", help="Who did or tried what, for operators: straight from the broker.")


@app.command
async def export(
    *,
    tenant: Whose = "main",
    since: Annotated[str | None, Parameter(help="Only records from then on (RFC 3339).")] = None,
    until: Annotated[str | None, Parameter(help="Only records before then (RFC 3339).")] = None,
    nats: Nats = None,
    data: Data = Path(DATA_FOLDER),
) -> int:
    """Print records, a line of JSON each, in the order in which the broker took them."""
    whose = _checked(tenant)
    first, last = instant_of("--since", since), instant_of("--until", until)
    printer = Printer(json=True)
    async with _connected(data, nats, SystemClock()) as bus:
        after = StreamSeq(0)
        while found := await records(bus, whose, after):
            after = found[-1][0]
            for _, record in found:
                if (first is None or record.at >= first) and (last is None or record.at < last):
                    printer.raw(msgspec.json.encode(record))
    return Exit.DONE


@app.command
async def verify(
    *,
    tenant: Whose = "main",
    seal: Annotated[
        str | None, Parameter(help="The digest of a seal, kept elsewhere: it must still be one of theirs.")
    ] = None,
    nats: Nats = None,
    data: Data = Path(DATA_FOLDER),
    json: Annotated[bool, Parameter(negative="", help="One JSON document.")] = False,
) -> int:
    """Hold the seals of a tenant against its records: whether any was changed, dropped or slipped in. Exit 1 if so."""
    whose, printer = _checked(tenant), Printer(json)
    clock = SystemClock()
    async with _connected(data, nats, clock) as bus:
        await bus.measure_offset()
        found = await verified(bus, whose, clock.broker_now(), seal)
    said = {"tenant": found.tenant, "intact": not found.findings, "findings": found.findings, "seals": found.seals}
    said |= {"records": found.records, "unsealed": found.unsealed, "first": found.first, "last": found.last}
    printer.result(said, lambda: "\n".join(found.findings) or "nothing was changed")
    printer.hint(f"{found.records} records under {found.seals} seals, {found.unsealed} not sealed yet")
    if found.last is not None:
        printer.hint(f"the last seal is {found.last.digest}, of {found.last.at}: keep it elsewhere, for --seal")
    return Exit.FAILED if found.findings else Exit.DONE


def _checked(tenant: str) -> Tenant:
    if not is_token(tenant):
        raise Invalid([Fault("malformed", "must be a tenant", parameter="--tenant")])
    return Tenant(tenant)


def _connected(data: Path, nats: str | None, clock: SystemClock) -> AbstractAsyncContextManager[Bus]:
    settings = broker(data, nats)
    return Bus.connect(
        settings.nats, user=settings.nats_user, password=settings.password, name="audit", clock=clock, measure=False
    )
