"""`Client` and `SyncClient` have the same calls, in the same words, and both are cheap to import."""

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from perdure import Client, SyncClient
from perdure.client import Follow, SyncFollow

OTHERS: Final = {
    "events",  # frames as they come, for programs that relay them; `follow` is made of it
}
OF_SYNC: Final = {"close", "closed"}  # `Client` is closed by `async with`


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


PAGE: Final = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "client.md").read_text()
CALLS: Final = sorted(public(Client) - OTHERS)


def test_no_call_is_missing_and_none_is_invented() -> None:
    assert public(SyncClient) - OF_SYNC - {"url"} == set(CALLS)
    assert len(CALLS) > 40


@pytest.mark.parametrize("name", CALLS)
def test_a_call_takes_and_says_the_same(name: str) -> None:
    model, call = getattr(Client, name), getattr(SyncClient, name)
    assert inspect.signature(call).parameters == inspect.signature(model).parameters
    assert call.__name__ == model.__name__
    assert call.__doc__ == model.__doc__
    assert call.__doc__
    assert not inspect.iscoroutinefunction(call)
    given, made = model.__annotations__["return"], call.__annotations__["return"]
    assert made is (SyncFollow if given is Follow else given)


def test_both_are_made_alike() -> None:
    assert inspect.signature(SyncClient).parameters == inspect.signature(Client).parameters
    assert public(SyncFollow) - {"close"} == public(Follow) - {"aclose"}


@pytest.mark.parametrize("name", [*CALLS, *OTHERS])
def test_a_call_has_its_place_on_the_page(name: str) -> None:
    assert name == "url" or re.search(rf"^\|.*`{name}[`(]", PAGE, re.M)


def test_the_client_brings_neither_engine_nor_broker_nor_database() -> None:
    program = (
        "import sys; from perdure import Client, SyncClient; "
        "heavy = {'nats', 'sqlalchemy', 'pydantic', 'structlog', 'jsonschema_rs', 'uvloop', 'perdure.engine'}; "
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
