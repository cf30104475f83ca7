"""What every test may ask for: a real nats-server for the whole run, connections to it, a tenant of its own."""

import asyncio
import logging
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import structlog

from perdure.bus.connection import Bus
from perdure.bus.eventlog import EventLog
from perdure.bus.topology import Topology
from perdure.clock import SystemClock
from perdure.ids import Tenant
from perdure.local.server import NatsServer
from perdure.testing.servers import connect, nats_server_at

SHARDS = 8


async def _eventually(check: Callable[[], Awaitable[object] | object], within_seconds: float = 20.0) -> None:
    """Wait until `check` is true. It is asked again and again; when time is up the last answer is the failure."""
    last: object = None
    try:
        async with asyncio.timeout(within_seconds):
            while True:
                answer = check()
                last = await answer if isinstance(answer, Awaitable) else answer
                if last:
                    return
                await SystemClock().sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"did not come true within {within_seconds} s; the last answer was {last!r}") from None


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """Commands that a test runs in its own process set up the log on a stream that ends with the test."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def eventually() -> Callable[..., Awaitable[None]]:
    """`await eventually(lambda: condition, within_seconds=20)`; the condition may be a coroutine function."""
    return _eventually


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One nats-server for the run, as the product starts it, with the streams declared. Nobody kills or freezes it."""
    with nats_server_at(tmp_path_factory.mktemp("nats"), Topology(shards=SHARDS)) as server:
        yield server


@pytest.fixture
def own_nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """A nats-server of the test's own, with the streams declared: to be killed, frozen, filled, restarted."""
    with nats_server_at(tmp_path / "nats", Topology(shards=SHARDS)) as server:
        yield server


@pytest.fixture
async def bus(nats_server: NatsServer) -> AsyncIterator[Bus]:
    """A connection that may do everything."""
    async with connect(nats_server) as bus:
        yield bus


@pytest.fixture
def connect_as(nats_server: NatsServer) -> Callable[[str], AbstractAsyncContextManager[Bus]]:
    """`async with connect_as("runner") as bus`: a connection with the rights of that service."""
    return lambda user: connect(nats_server, user)


@pytest.fixture
def eventlog(bus: Bus) -> EventLog:
    """The logs, over `bus`."""
    return EventLog(bus, SHARDS)


@pytest.fixture
def tenant() -> Tenant:
    """A tenant that no other test uses."""
    return Tenant(f"t{uuid.uuid4().hex[:20]}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many cases the property tests ran, as Hypothesis tells its own report."""
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    told = [report.__dict__.get("_hypothesis_stats", "") for report in reports]
    ran = [int(number) for text in told for number in re.findall(r"- (\d+) passing", text)]
    if ran:
        terminalreporter.write_line(f"{sum(ran)} property cases ran, in {sum(map(bool, told))} tests")
