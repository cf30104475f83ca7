"""Tests of Langflow flows need the extra. Without it they are skipped, and the run says which and why."""

import importlib.util
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.langflow import flowfiles
from tests.langflow.bench import Bench

from perdure.bus.connection import Bus
from perdure.clock import SystemClock
from perdure.local.server import NatsServer
from perdure.testing.servers import connect
from perdure_runner.langflow.pool import Confines, Pool, visible

WHY = "the extra is not installed: make test-langflow"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs the extra."""
    if importlib.util.find_spec("lfx") is None:
        for item in items:
            if "tests/langflow/" in item.path.as_posix():
                item.add_marker(pytest.mark.skip(reason=WHY))


@pytest.fixture(scope="session")
def flows() -> dict[str, dict[str, Any]]:
    """Small flow files, made from the installed lfx."""
    return flowfiles.flows(seconds=0.2)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def pool() -> AsyncIterator[Pool]:
    """One process that forks for the whole run."""
    async with Pool.running(Confines(environ=visible({}, ())), SystemClock()) as pool:
        yield pool


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def session_bus(nats_server: NatsServer) -> AsyncIterator[Bus]:
    """A connection that lives as long as the pool does."""
    async with connect(nats_server) as bus:
        yield bus


@pytest.fixture
def bench(session_bus: Bus, nats_server: NatsServer, pool: Pool) -> Bench:
    """A tenant and a queue of the test's own."""
    return Bench(session_bus, nats_server, pool)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many processes were killed."""
    reports = [r for found in terminalreporter.stats.values() for r in found if isinstance(r, pytest.TestReport)]
    kills = [
        value
        for r in reports
        for name, value in r.user_properties
        if r.when == "call" and r.passed and name == "kills" and isinstance(value, int)
    ]
    if kills:
        terminalreporter.write_line(f"{sum(kills)} processes of Langflow flows were killed, in {len(kills)} tests")
