"""A gateway that answers calls, and runners in the test's own loop, on the run's broker and a database of its own."""

import asyncio
import importlib
import os
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr
from tests.integration.gateway.conftest import Gateway, StartGateway, key, start_gateway

from perdure.bus.call import answering
from perdure.bus.topology import ensure_queue
from perdure.config import RunnerSettings
from perdure.ids import Queue, Tenant
from perdure.local.server import NatsServer
from perdure.service import Service
from perdure.testing.servers import connect
from perdure_gateway.calls import handlers
from perdure_gateway.keys import BUS
from perdure_runner.app import serve

__all__ = ["key", "start_gateway"]

Eventually = Callable[..., Awaitable[None]]
LEASE_SECONDS = 2.0


class Fleet:
    """Runners of one queue, and the modules that they run."""

    def __init__(self, folder: Path, server: NatsServer, tenant: Tenant, queue: Queue, eventually: Eventually) -> None:
        self.folder, self.server, self.tenant, self.queue, self.eventually = folder, server, tenant, queue, eventually

    def module(self, text: str, name: str | None = None) -> str:
        """Write a module of workflows; its name. The same name again is the module's next release."""
        name = name or f"their_{uuid.uuid4().hex}"
        (self.folder / f"{name}.py").write_text(text)
        sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return name

    def settings(self, *modules: str, tenants: tuple[str, ...] = ()) -> RunnerSettings:
        """What a runner of `modules` is started with."""
        who = self.server.credentials["runner"]
        return RunnerSettings(
            nats=(self.server.url,),
            nats_user=who.user,
            nats_password=SecretStr(who.password),
            queues=(self.queue,),
            priorities=("normal",),
            slots=8,
            app=modules,
            tenants=tenants or (self.tenant,),
            grace_seconds=5.0,
        )

    @asynccontextmanager
    async def starting(self, *modules: str, tenants: tuple[str, ...] = ()) -> AsyncIterator[Service]:
        """A runner that has been started; `ready` or not is the test's to see."""
        service = Service("runner")
        running = asyncio.create_task(_serve(self.settings(*modules, tenants=tenants), service))
        try:
            yield service
        finally:
            service.stop()
            await running

    @asynccontextmanager
    async def runner(self, *modules: str, tenants: tuple[str, ...] = ()) -> AsyncIterator[Service]:
        """A runner that is ready."""
        async with self.starting(*modules, tenants=tenants) as service:
            await self.eventually(lambda: service.ready)
            yield service

    @asynccontextmanager
    async def process(self, *modules: str, failpoints: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """A runner as a process of its own, which dies at `failpoints`."""
        environ = {**os.environ, **self.settings(*modules).environ(), "PERDURE_FAILPOINTS": failpoints}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "perdure_runner",
            env=environ | {"PERDURE_PARENT": str(os.getpid())},
            cwd=self.folder,
            stdout=asyncio.subprocess.DEVNULL,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _serve(settings: RunnerSettings, service: Service) -> None:
    await serve(settings, service)


@pytest.fixture
async def fleet(
    tmp_path: Path,
    nats_server: NatsServer,
    tenant: Tenant,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> Fleet:
    """No runner yet. The current folder is the test's own; the queue's lease is 2 s."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    queue = Queue(f"q{uuid.uuid4().hex[:16]}")
    async with connect(nats_server) as bus:
        await ensure_queue(bus, queue, "normal", LEASE_SECONDS)
    return Fleet(tmp_path, nats_server, tenant, queue, eventually)


@pytest.fixture
def opened(start_gateway: StartGateway) -> Callable[[], AbstractAsyncContextManager[Gateway]]:
    """`async with opened() as gateway`: a gateway that answers calls until the context ends."""

    @asynccontextmanager
    async def open_one() -> AsyncIterator[Gateway]:
        gateway = await start_gateway()
        async with answering(gateway.app[BUS], handlers(gateway.app)):
            await gateway.app[BUS].flush()
            yield gateway

    return open_one


@pytest.fixture
async def gateway(opened: Callable[[], AbstractAsyncContextManager[Gateway]]) -> AsyncIterator[Gateway]:
    """A gateway that answers calls."""
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(opened())
