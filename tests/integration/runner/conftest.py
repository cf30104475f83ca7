"""The bench that the runner's tests work at."""

import pytest
from tests.integration.runner.bench import Bench

from perdure.bus.connection import Bus
from perdure.bus.eventlog import EventLog
from perdure.ids import Tenant
from perdure.local.server import NatsServer


@pytest.fixture
def bench(bus: Bus, eventlog: EventLog, tenant: Tenant, nats_server: NatsServer) -> Bench:
    """A queue and a job id of the test's own."""
    return Bench(bus, eventlog, tenant, nats_server)
