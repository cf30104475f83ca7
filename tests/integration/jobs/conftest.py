"""A desk on the run's broker, and jobs on it."""

import pytest

from perdure.bus.connection import Bus
from perdure.bus.doorbell import Doorbells
from perdure.bus.eventlog import EventLog
from perdure.ids import Digest, Principal, Tenant
from perdure.jobs.desk import Desk
from perdure.jobs.submit import Submission
from perdure.testing.factory import FLOW


@pytest.fixture
def desk(bus: Bus, eventlog: EventLog) -> Desk:
    """What the use cases get."""
    return Desk(eventlog, Doorbells(bus), bus.clock)


@pytest.fixture
def submission(tenant: Tenant) -> Submission:
    """A job of the test's tenant."""
    return Submission(
        tenant=tenant, owner=Principal("user:ann"), flow=FLOW, input={"brief": "hello"}, fingerprint=Digest("f" * 64)
    )
