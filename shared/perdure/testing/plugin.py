"""The pytest plugin, for tests of somebody's own workflows: a whole Perdure on this machine, once per test session.

Every pytest run in an environment with Perdure loads this module, so it imports nothing but pytest: what a fixture
needs is imported when a test first asks for it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from perdure.client import SyncClient
    from perdure.testing.cluster import Cluster


def pytest_addoption(parser: pytest.Parser) -> None:
    """The setting `perdure_app`."""
    parser.addini("perdure_app", "modules whose workflows the fixture `perdure` runs, a line each", type="args")


@pytest.fixture(scope="session")
def perdure_app(pytestconfig: pytest.Config) -> Sequence[str]:
    """The modules whose workflows are run: those of the setting `perdure_app`. Override it to choose others."""
    modules: list[str] = pytestconfig.getini("perdure_app")
    return modules


@pytest.fixture(scope="session")
def perdure_settings() -> Mapping[str, str]:
    """Environment variables of the services (`PERDURE_SLOTS`, …), none here. Override it to choose others."""
    return {}


@pytest.fixture(scope="session")
def perdure(
    perdure_app: Sequence[str],
    perdure_settings: Mapping[str, str],
    pytestconfig: pytest.Config,
    tmp_path_factory: pytest.TempPathFactory,
) -> "Iterator[Cluster]":
    """A running Perdure, the same for the whole session: `perdure up` in a temporary folder, with the chosen modules.

    `.client` is a blocking client, `.connect()` an asynchronous one, `.answer_next(job_id, name, action)` a person.
    """
    from perdure.testing.cluster import cluster

    folder = tmp_path_factory.mktemp("perdure")
    with cluster(folder, perdure_app, perdure_settings, pytestconfig.rootpath) as running:
        yield running


@pytest.fixture
def perdure_client(perdure: "Cluster") -> "SyncClient":
    """The blocking client of the running Perdure."""
    return perdure.client
