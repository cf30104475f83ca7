"""A whole Perdure for a test: `perdure up` as a process on a folder of the test's own, and a chat model beside it."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from perdure.client import Client
from perdure.clock import SystemClock
from perdure.local.launch import UpProcess, launched
from perdure.testing.chatmodel import ChatModel

Up = Callable[..., AbstractAsyncContextManager[UpProcess]]


@pytest.fixture
async def model() -> AsyncIterator[ChatModel]:
    """A chat model server in the test's own loop: it tells what it was asked, and may be told to fail."""
    async with ChatModel(SystemClock()).serve() as server:
        yield server


@pytest.fixture
def environ(model: ChatModel) -> dict[str, str]:
    """The environment of `up`: nothing of the caller's PERDURE_*, but a model."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PERDURE_") or k == "PERDURE_NATS_SERVER"}
    return kept | {"PERDURE_MODEL_URL": model.url, "PERDURE_MODEL_KEY": "local", "PERDURE_MODEL_NAME": "local"}


@pytest.fixture
def up(tmp_path: Path, environ: dict[str, str]) -> Up:
    """`async with up(*arguments) as running`: the same folder each time it is called in a test."""
    return lambda *arguments: launched(tmp_path / "data", *arguments, environ=environ, log=tmp_path / "up.log")


@pytest.fixture
def client_of() -> Callable[[UpProcess], Client]:
    """A client of a running `up`."""

    def make(running: UpProcess) -> Client:
        found = running.client
        assert found.key is not None
        return Client(found.url, found.key, retry_seconds=40.0)

    return make


Eventually = Callable[..., Awaitable[None]]
