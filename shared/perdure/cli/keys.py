"""Commands on API keys: one's own, and for operators, the first ones of a tenant."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from perdure.cli.lists import print_pages
from perdure.cli.operators import Database, transaction
from perdure.cli.session import Common, Exit
from perdure.client import Key, NewKey, Page
from perdure.clock import SystemClock
from perdure.db.keys import get_key
from perdure.db.principals import create_key, key_id
from perdure.errors import Fault, Invalid, NotFound
from perdure.ids import Principal, Tenant
from perdure.local.folder import read_nats

app = App(name="keys", help="API keys.")
COMMON = Common()

KeyId = Annotated[str, Parameter(help="The key's id: the eight characters in its middle.")]


@app.command(name="list")
async def list_(
    *,
    mine: Annotated[bool, Parameter(negative="", help="Only one's own.")] = False,
    limit: Annotated[int, Parameter(help="At most so many.")] = 50,
    common: Common = COMMON,
) -> int:
    """List keys, the youngest first."""
    async with common.client() as client:

        async def fetch(limit: int, cursor: str | None) -> Page[Key]:
            return await client.keys(mine=mine, limit=limit, cursor=cursor)

        return await print_pages(common.printer(), limit, fetch, _line)


@app.command
async def create(
    name: Annotated[str, Parameter(help="What it is called.")],
    /,
    *,
    user: Annotated[str | None, Parameter(help="Whose key it is, else one's own.")] = None,
    service: Annotated[str | None, Parameter(help="Which service's key it is, else one's own.")] = None,
    scope: Annotated[list[str] | None, Parameter(negative="", help="What it may do, repeated; else all.")] = None,
    expires: Annotated[str | None, Parameter(help="When it ends (RFC 3339), else never.")] = None,
    tenant: Annotated[
        str | None, Parameter(help="For operators: a key of this tenant, made in the database itself.")
    ] = None,
    database: Database = None,
    common: Common = COMMON,
) -> int:
    """Make a key; its secret is shown this once."""
    printer = common.printer()
    if tenant is None:
        async with common.client() as client:
            made = await client.create_key(name, scopes=scope or (), expires_at=expires, user=user, service=service)
    else:
        if (user is None) == (service is None) or scope or expires:
            raise Invalid([Fault("operator", "with --tenant give --user or --service, and nothing else")])
        principal = Principal(f"user:{user}" if user is not None else f"service:{service}")
        made = await _made_by_operator(common.data, database, Tenant(tenant), principal, name)
    _print_new(common, made)
    printer.hint("the key is shown once")
    return Exit.DONE


@app.command
async def rotate(key: KeyId, /, *, common: Common = COMMON) -> int:
    """Make a key like that one, which stays good for another day."""
    async with common.client() as client:
        made = await client.rotate_key(key)
    _print_new(common, made)
    return Exit.DONE


@app.command
async def rm(key: KeyId, /, *, common: Common = COMMON) -> int:
    """End a key now."""
    printer = common.printer()
    async with common.client() as client:
        await client.revoke_key(key)
    printer.result({"id": key, "revoked": True}, lambda: f"{key}  revoked")
    return Exit.DONE


@app.command
async def nats(*, tenant: Annotated[str, Parameter(help="Whose jobs.")] = "main", common: Common = COMMON) -> int:
    """Print how a NATS client follows a tenant's jobs: for the `perdure up` that runs in the data folder."""
    printer, found = common.printer(), read_nats(common.data)
    if found is None or found.inbox_prefix != f"_INBOX.{tenant}":
        raise NotFound(f"{common.data / 'nats.json'} has no credentials for tenant {tenant}")
    lines = (f"server        {found.url}", f"user          {found.user}", f"password      {found.password}")
    printer.result(found, lambda: "\n".join((*lines, f"inbox prefix  {found.inbox_prefix}")))
    return Exit.DONE


async def _made_by_operator(
    data: Path, database: str | None, tenant: Tenant, principal: Principal, name: str
) -> NewKey:
    async with transaction(data, database) as conn:
        secret = await create_key(conn, tenant, principal, now=SystemClock().broker_now(), name=name)
        stored = await get_key(conn, tenant, key_id(secret) or "")
    return NewKey(id=stored.id, principal=principal, name=name, created_at=stored.created_at, secret=secret)


def _print_new(common: Common, made: NewKey) -> None:
    common.printer().result(made, lambda: made.secret)


def _line(key: Key) -> str:
    state = "revoked" if key.revoked_at else f"until {key.expires_at}" if key.expires_at else "good"
    scopes = ",".join(key.scopes) or "all"
    return f"{key.id}  {key.principal:<20} {state:<10} {scopes}  {key.name or ''}"
