"""Commands of operators on tenants, straight to SQL."""

from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from perdure.cli.operators import Database, transaction
from perdure.cli.session import Exit, Printer
from perdure.clock import SystemClock
from perdure.config import DATA_FOLDER
from perdure.db.principals import ensure_tenant
from perdure.db.tenants import disable_tenant, enable_tenant, list_tenants
from perdure.errors import Fault, Invalid, Malformed
from perdure.ids import Tenant

app = App(name="tenants", help="Tenants, for operators: straight to the database, like `migrate`.")

Name = Annotated[str, Parameter(help="The tenant's name.")]
Json = Annotated[bool, Parameter(negative="", help="One line of JSON a tenant.")]
Data = Annotated[Path, Parameter(help="The data folder of `perdure up` on this machine.")]


@app.command
async def add(tenant: Name, /, *, database: Database = None, data: Data = Path(DATA_FOLDER), json: Json = False) -> int:
    """Make a tenant, or let a disabled one in again. `keys create --tenant` makes its first key."""
    async with transaction(data, database) as conn:
        try:
            await ensure_tenant(conn, Tenant(tenant), now=SystemClock().broker_now())
        except Malformed as exc:
            raise Invalid([Fault("malformed", str(exc), parameter="TENANT")]) from exc
        await enable_tenant(conn, Tenant(tenant))
    Printer(json).result({"tenant": tenant, "disabled": False}, lambda: tenant)
    return Exit.DONE


@app.command(name="list")
async def list_(*, database: Database = None, data: Data = Path(DATA_FOLDER), json: Json = False) -> int:
    """List tenants by name."""
    printer = Printer(json)
    async with transaction(data, database) as conn:
        found = await list_tenants(conn)
    for each in found:
        state = f"disabled {each.disabled_at}" if each.disabled_at else "good"
        printer.result(each, partial(str, f"{each.tenant:<24} {state}"))
    return Exit.DONE


@app.command
async def disable(
    tenant: Name, /, *, database: Database = None, data: Data = Path(DATA_FOLDER), json: Json = False
) -> int:
    """Let none of a tenant's keys open anything, from a minute on at the latest. Its jobs go on."""
    async with transaction(data, database) as conn:
        await disable_tenant(conn, Tenant(tenant), SystemClock().broker_now())
    Printer(json).result({"tenant": tenant, "disabled": True}, lambda: f"{tenant}  disabled")
    return Exit.DONE
