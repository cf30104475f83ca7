"""What fault tests share: `perdure up` with the flows of `flows.py`, a short lease, and a ledger of their effects."""

import os
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from perdure.client import Client, decode
from perdure.core import verify
from perdure.core.event import AnyEvent
from perdure.local.launch import UpProcess, launched
from perdure.testing import whole

ROOT: Final = Path(__file__).resolve().parents[2]
APP: Final = "tests.faults.flows"


class Cluster:
    """A running `perdure up`, a client of it, and what its jobs did."""

    def __init__(self, up: UpProcess, client: Client, ledger: Path) -> None:
        self.up, self.client, self._ledger = up, client, ledger

    async def submit(self, flow: str, value: Any = None) -> str:
        """Submit a job of a flow; its id."""
        return (await self.client.submit(flow, value)).id

    async def log(self, job: str) -> list[AnyEvent]:
        """The whole log of an ended job, judged."""
        found = [decode(frame) for frame in await whole.events(self.client, job)]
        events = [event for event in found if isinstance(event, AnyEvent)]
        assert len(events) == len(found)
        assert verify.log(events) == [], job
        return events

    async def statuses(self) -> Counter[str]:
        """How many jobs are where, by the projection."""
        return Counter(row.status for row in (await self.client.jobs(limit=200)).data)

    def effects(self) -> Counter[tuple[str, str]]:
        """How often each step of each job was carried out."""
        lines = self._ledger.read_text().splitlines() if self._ledger.exists() else []
        return Counter((line.split()[0], line.split()[1]) for line in lines)

    def attempts(self, job: str, step: str) -> list[int]:
        """By which attempts a step of a job was carried out."""
        lines = self._ledger.read_text().splitlines() if self._ledger.exists() else []
        return [int(line.split()[2]) for line in lines if line.split()[:2] == [job, step]]

    def said(self) -> str:
        """Everything that the processes logged."""
        return self.up.log.read_text(errors="replace")


@pytest.fixture
def cluster(tmp_path: Path) -> Callable[..., AbstractAsyncContextManager[Cluster]]:
    """`async with cluster("--runners", "2", lease_seconds="2") as running`: flags of `up`, and settings."""

    @asynccontextmanager
    async def start(*arguments: str, **settings: str) -> AsyncIterator[Cluster]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PERDURE_") or k == "PERDURE_NATS_SERVER"}
        ledger = tmp_path / "ledger"
        environ = kept | {f"PERDURE_{name.upper()}": value for name, value in settings.items()}
        environ |= {"PYTHONPATH": str(ROOT), "FAULTS_LEDGER": str(ledger)}
        data, log = tmp_path / "data", tmp_path / "up.log"
        async with (
            launched(data, "--app", APP, *arguments, environ=environ, log=log) as up,
            whole.client_of(up) as client,
        ):
            yield Cluster(up, client, ledger)

    return start


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many failpoint cases ran."""
    reports = [r for reports in terminalreporter.stats.values() for r in reports if isinstance(r, pytest.TestReport)]
    ran = [
        value
        for r in reports
        for name, value in r.user_properties
        if r.when == "call" and r.passed and name == "failpoint_cases" and isinstance(value, int)
    ]
    if ran:
        terminalreporter.write_line(f"{sum(ran)} failpoint cases ran, with real processes")
