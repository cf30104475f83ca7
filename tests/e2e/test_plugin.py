"""The pytest plugin in a project of somebody else: the pages' own, run by pytest in a process of its own."""

import os
import re
from pathlib import Path
from typing import Final

import pytest

pytest_plugins = ["pytester"]
DOCS: Final = Path(__file__).resolve().parents[2] / "docs"
HOWTO: Final = (DOCS / "howto" / "test-your-flows.md").read_text()
CLIENT: Final = (DOCS / "reference" / "client.md").read_text()
FLOW, TESTS, CONFTEST = re.findall(r"^```python\n(.*?)^```", HOWTO, re.M | re.S)
[PYPROJECT] = re.findall(r"^```toml\n(.*?)^```", HOWTO, re.M | re.S)
EXAMPLES: Final = re.findall(r"^```python\n(.*?)^```", CLIENT, re.M | re.S)

PAGES: Final = """
import asyncio
from pathlib import Path

import pytest

PAGES = sorted(Path(__file__).parent.glob("page_*.txt"))


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_an_example_of_the_page_runs(page, perdure):
    exec(compile(page.read_text(), page.name, "exec"), {"url": perdure.url, "key": perdure.key})


def test_an_asynchronous_client_of_the_same_one(perdure):
    async def main():
        async with perdure.connect() as client:
            return await client.run("refund", 1, timeout=30)

    assert asyncio.run(main()) == {"result": "paid 1.00"}


def test_the_services_have_the_settings_and_none_of_the_caller(perdure):
    [runner] = perdure.client.runners()
    assert (runner.slots, perdure.client.whoami().tenant) == (4, "main")
"""
LIGHT: Final = """
import sys


def test_nothing_was_loaded(pytestconfig):
    assert pytestconfig.pluginmanager.hasplugin("perdure")
    assert [name for name in sys.modules if name.startswith("perdure")] == [
        "perdure", "perdure.testing", "perdure.testing.plugin",
    ]
    assert not {"aiohttp", "nats", "msgspec", "pydantic", "sqlalchemy"} & set(sys.modules)
"""
BROKEN: Final = """
def test_it_runs(perdure):
    raise AssertionError("it is ready")
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """An empty project, run strictly; whatever this run of pytest was told stays out of it."""
    for name in [name for name in os.environ if name.startswith(("PYTEST_", "COV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PERDURE_SLOTS", "no number")
    return pytester


def test_the_pages_project_passes_its_tests(project: pytest.Pytester) -> None:
    project.makefile(".toml", pyproject=PYPROJECT)
    project.makepyfile(refunds=FLOW, test_refunds=TESTS, conftest=CONFTEST, test_pages=PAGES)
    for number, example in enumerate(EXAMPLES, 1):
        (project.path / f"page_{number}.txt").write_text(example)
    done = project.runpytest_subprocess("-W", "error", "--strict-markers", "-p", "no:asyncio", timeout=300)
    done.assert_outcomes(passed=3 + len(EXAMPLES) + 2)
    assert len(EXAMPLES) == 4


def test_who_does_not_use_it_does_not_notice(project: pytest.Pytester) -> None:
    project.makepyfile(test_light=LIGHT)
    done = project.runpytest_subprocess("-W", "error", "-p", "no:asyncio", "-p", "no:hypothesispytest", timeout=60)
    done.assert_outcomes(passed=1)


def test_a_module_that_does_not_import_is_named_in_the_error(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\nperdure_app = no_such_module_at_all")
    project.makepyfile(test_broken=BROKEN)
    done = project.runpytest_subprocess(timeout=120)
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["*--app no_such_module_at_all does not import*"])
