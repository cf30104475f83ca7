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
from perdure.db.secrets import rotate_secret
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


@app.command
async def rotate(
    tenant: Name,
    /,
    *,
    now: Annotated[
        bool, Parameter(negative="", help="Void at once all that was signed before: links and cursors of lists.")
    ] = False,
    database: Database = None,
    data: Data = Path(DATA_FOLDER),
    json: Json = False,
) -> int:
    """Give a tenant a new secret, by which links are signed. Links that are out stay good until they expire."""
    async with transaction(data, database) as conn:
        made = await rotate_secret(conn, Tenant(tenant), SystemClock().broker_now(), at_once=now)
    said = {"tenant": tenant, "signs_at": made.signs_at}
    what = "what was signed before is void within a minute"
    if made.before_until is not None:
        said["before_until"] = made.before_until
        what = f"what was signed before is good until {made.before_until}"
    Printer(json).result(said, lambda: f"{tenant}  signs with a new secret from {made.signs_at}; {what}")
    return Exit.DONE
