"""Real servers for tests: a nats-server with the streams declared, and connections to it."""

import asyncio
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path

from perdure.bus.connection import Bus, OnClosed
from perdure.bus.topology import Topology, declare
from perdure.clock import SystemClock
from perdure.local.server import NatsServer, Rights


@contextmanager
def nats_server_at(
    folder: Path, topology: Topology | None, extra_users: Mapping[str, Rights] | None = None
) -> Iterator[NatsServer]:
    """A running nats-server that keeps everything under `folder`; `topology` is declared on it unless it is None.

    Not to be entered while a loop runs in this thread.
    """
    with NatsServer(folder, extra_users=extra_users) as server:
        if topology is not None:
            asyncio.run(_declare(server, topology))
        yield server


def connect(
    server: NatsServer, user: str = "admin", *, clock: SystemClock | None = None, on_closed: OnClosed | None = None
) -> AbstractAsyncContextManager[Bus]:
    """A connection to `server` with the rights of one of its users."""
    who = server.credentials[user]
    return Bus.connect(
        [server.url],
        user=who.user,
        password=who.password,
        name=f"test {user}",
        clock=clock or SystemClock(),
        inbox_prefix=who.inbox_prefix,
        on_closed=on_closed,
        measure=user not in ("replay", "supervisor"),  # who may not ask for the time
    )


@contextmanager
def frozen(server: NatsServer) -> Iterator[None]:
    """The server takes bytes and answers nothing (SIGSTOP), until the context ends (SIGCONT)."""
    pid = server.pid
    if pid is None:
        raise ValueError("a server that does not run cannot be frozen")
    server.signal(signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED)  # the signal is on its way for a moment, in which it still answers
    try:
        yield
    finally:
        server.signal(signal.SIGCONT)


async def _declare(server: NatsServer, topology: Topology) -> None:
    async with connect(server) as bus:
        await declare(bus, topology)
