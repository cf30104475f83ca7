"""Commands that are processes: `up`, one service alone, and `migrate`."""

import asyncio
import importlib
import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from cyclopts import App, Parameter

from perdure import log as logs
from perdure.bus.connection import Bus
from perdure.bus.lease import set_lease
from perdure.bus.topology import Topology, compare, declare
from perdure.cli.session import Exit, Printer, report
from perdure.clock import SystemClock
from perdure.config import DATA_FOLDER, GatewaySettings, MigrateSettings, NatsSettings, RunnerSettings, SweeperSettings
from perdure.db import migrate, principals
from perdure.db.engine import open_database
from perdure.errors import Conflict, Malformed, PerdureError, Unavailable
from perdure.ids import JobId, is_uuid
from perdure.local.profile import ProfileName
from perdure.local.supervisor import TENANT, Ready, Supervisor, UpOptions
from perdure.service import Service, die_with_parent, run_service, start

S = TypeVar("S", bound=NatsSettings)

app = App(
    name="migrate", help="Bring the database (and with --streams the broker's streams) to what this version needs."
)

Nats = Annotated[str | None, Parameter(help="Addresses of the broker, with commas [PERDURE_NATS].")]
Database = Annotated[str | None, Parameter(help="SQLAlchemy URL of the database [PERDURE_DATABASE].")]
Health = Annotated[str | None, Parameter(help="host:port of the health listener, off by default [PERDURE_HEALTH].")]
Apps = Annotated[
    list[str] | None,
    Parameter(negative="", help="Modules with Python workflows, repeated or with commas [PERDURE_APP]."),
]
Grace = Annotated[float | None, Parameter(help="Seconds that the end may take [PERDURE_GRACE_SECONDS].")]


def up(
    *,
    data: Annotated[Path, Parameter(help="The data folder; one `up` at a time.")] = Path(DATA_FOLDER),
    host: Annotated[str, Parameter(help="Where the gateway listens.")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="Its port; 0 takes a free one.")] = 8480,
    runners: Annotated[int, Parameter(help="How many runner processes.")] = 1,
    app: Apps = None,
    nats: Annotated[str | None, Parameter(help="Use these brokers and start none.")] = None,
    database: Annotated[
        str | None, Parameter(help="Use this database, which `perdure migrate up` has prepared.")
    ] = None,
    profile: Annotated[ProfileName, Parameter(help="Durability: `durable` calls fsync for every event.")] = "durable",
    json: Annotated[bool, Parameter(negative="", help="Say that it is ready with one line of JSON.")] = False,
) -> int:
    """Run everything on this machine: broker, database, gateway, runners and sweeper under one supervisor.

    Prints one line when all of it is ready. SIGTERM or Ctrl-C ends it in order, a second one kills it. Everything lives
    in the data folder; what is stored there is found again by the next start.
    """
    die_with_parent()
    logs.configure("up", os.environ.get("PERDURE_LOG_LEVEL") or "info")
    options = UpOptions(data, host, port, max(1, runners), nats, database, profile, _modules(app))
    printer = Printer(json)

    def say(ready: Ready) -> None:
        if json:
            line = {"ready": True, "url": ready.url, "profile": ready.profile.name, "data": str(ready.data.resolve())}
            printer.result(line, str)
            return
        printer.text(f"perdure is ready: {ready.url}  profile {ready.profile.name}: {ready.profile.sentence}")
        if ready.key is not None:
            printer.text(f"first key, shown once and kept in {ready.data / 'client.json'}: {ready.key}")

    async def main(service: Service) -> None:
        try:
            await Supervisor(options, service, say, os.environ).run()
        except PerdureError as exc:
            service.exit_code = report(exc)

    return run_service(main, "up")


def gateway(
    *,
    nats: Nats = None,
    database: Database = None,
    host: Annotated[str | None, Parameter(help="Where it listens [PERDURE_HOST].")] = None,
    port: Annotated[int | None, Parameter(help="Its port [PERDURE_PORT].")] = None,
    health: Health = None,
    grace: Grace = None,
) -> int:
    """Run a gateway alone: the HTTP API. SIGTERM drains."""
    flags = {"nats": nats, "database": database, "host": host, "port": port, "health": health, "grace_seconds": grace}
    return start(GatewaySettings, _service("perdure_gateway", GatewaySettings), "gateway", **flags)


def runner(
    *,
    nats: Nats = None,
    queues: Annotated[str | None, Parameter(help="Queues, with commas [PERDURE_QUEUES].")] = None,
    priorities: Annotated[str | None, Parameter(help="Priorities, with commas [PERDURE_PRIORITIES].")] = None,
    slots: Annotated[int | None, Parameter(help="Jobs at the same time [PERDURE_SLOTS].")] = None,
    app: Apps = None,
    tenants: Annotated[
        str | None, Parameter(help="Who may see its Python workflows, with commas [PERDURE_TENANTS].")
    ] = None,
    langflow: Annotated[
        bool | None, Parameter(negative="", help="Execute Langflow flow files too [PERDURE_LANGFLOW].")
    ] = None,
    health: Health = None,
    grace: Grace = None,
    one: Annotated[
        str | None, Parameter(help="Be the process of this one job, whose runners died; another runner starts it.")
    ] = None,
) -> int:
    """Run a runner alone: it executes jobs. SIGTERM lets its steps end and hands the jobs on."""
    flags = {
        "nats": nats, "queues": queues, "priorities": priorities, "slots": slots, "app": _modules(app),
        "tenants": tenants, "langflow": langflow, "health": health, "grace_seconds": grace,
    }  # fmt: skip
    if one is not None:
        if not is_uuid(one):
            raise Malformed("--one takes the id of a job")
        serve_one = importlib.import_module("perdure_runner.app").serve_one
        return start(RunnerSettings, partial(serve_one, job=JobId(one)), "suspect", **flags)
    return start(RunnerSettings, _service("perdure_runner", RunnerSettings), "runner", **flags)


def sweeper(*, nats: Nats = None, database: Database = None, health: Health = None, grace: Grace = None) -> int:
    """Run a sweeper alone: it keeps the database true to the logs and rings what was lost. SIGTERM drains."""
    flags = {"nats": nats, "database": database, "health": health, "grace_seconds": grace}
    return start(SweeperSettings, _service("perdure_sweeper", SweeperSettings), "sweeper", **flags)


def _modules(given: list[str] | None) -> str | None:
    """What --app said, as the setting has it."""
    return ",".join(given) if given else None


def _service(package: str, _kind: type[S]) -> Callable[[S, Service], Awaitable[None]]:
    """`serve` of a service, by name at run time: the library imports no service."""
    serve: Callable[[S, Service], Awaitable[None]] = importlib.import_module(f"{package}.app").serve
    return serve


# ------------------------------------------------------------------------------------------------ migrate

Streams = Annotated[bool, Parameter(negative="", help="Also the broker's streams; needs the sweeper's rights.")]


@app.command(name="up")
def migrate_up(
    *,
    database: Database = None,
    nats: Nats = None,
    streams: Streams = False,
    replicas: Annotated[int, Parameter(help="Copies of each stream, fixed when they are made.")] = 1,
    shards: Annotated[int, Parameter(help="Shards of the logs (a power of two up to 16), fixed for ever.")] = 8,
    lease: Annotated[
        float | None,
        Parameter(
            help="Seconds of a lease, of every queue, with runners stopped; else new ones' [PERDURE_LEASE_SECONDS]."
        ),
    ] = None,
    first_key: Annotated[bool, Parameter(help="Make the first API key where there is none.")] = True,
) -> int:
    """Upgrade the database; make the tenant `main` and its first key where there is none.

    The key is PERDURE_FIRST_KEY, else a new one, which is printed once.
    """
    settings, printer = _settings(database, nats, lease), Printer()
    migrate.upgrade(settings.database)
    printer.hint(f"database at revision {migrate.head()}")
    if first_key:
        made = asyncio.run(_first_key(settings))
        if made is not None and settings.first_key is None:
            printer.text(made)
            printer.hint("the first API key, shown once")
    if streams:
        topology = Topology(shards=shards, replicas=replicas, lease_seconds=settings.lease_seconds)
        asyncio.run(_with_bus(settings, partial(_declare, topology=topology, everywhere=lease is not None)))
        printer.hint("streams declared")
    return Exit.DONE


@app.command
def check(*, database: Database = None, nats: Nats = None, streams: Streams = False) -> int:
    """Exit 0 when everything is as this version needs it, 1 when `migrate up` is due."""
    settings, printer = _settings(database, nats), Printer()
    found, wanted = migrate.current(settings.database), migrate.head()
    due = found != wanted
    printer.text(f"database: {found or 'none'}, {'needs ' + wanted if due else 'as needed'}")
    if streams:
        try:
            asyncio.run(_with_bus(settings, compare))
            printer.text("streams: as needed")
        except (Unavailable, Conflict) as exc:
            due = True
            printer.text(f"streams: {exc}")
    return Exit.FAILED if due else Exit.DONE


@app.command
def current(*, database: Database = None) -> int:
    """Print the database's revision."""
    Printer().text(migrate.current(_settings(database, None).database) or "none")
    return Exit.DONE


def _settings(database: str | None, nats: str | None, lease: float | None = None) -> MigrateSettings:
    logs.configure("migrate", "warning")
    return MigrateSettings.load(database=database, nats=nats, lease_seconds=lease)


async def _first_key(settings: MigrateSettings) -> str | None:
    secret = settings.first_key.get_secret_value() if settings.first_key else None
    async with open_database(settings.database) as database, database.transaction() as conn:
        return await principals.ensure_first_key(conn, TENANT, secret, now=SystemClock().broker_now())


async def _declare(bus: Bus, *, topology: Topology, everywhere: bool) -> None:
    """The streams; with `everywhere` also the lease of the queues that are there. Raises Conflict, Unavailable."""
    await declare(bus, topology)
    if everywhere:
        await set_lease(bus, topology.lease_seconds)


async def _with_bus(settings: MigrateSettings, use: Callable[[Bus], Awaitable[Any]]) -> None:  # Any: not looked at
    async with Bus.connect(
        settings.nats,
        user=settings.nats_user,
        password=settings.password,
        name="migrate",
        clock=SystemClock(),
        measure=False,
    ) as bus:
        await use(bus)
