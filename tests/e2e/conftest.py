"""A whole Perdure for a test: `perdure up` as a process on a folder of the test's own, and a chat model beside it."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from perdure.clock import SystemClock
from perdure.local.launch import UpProcess, launched
from perdure.testing import whole
from perdure.testing.chatmodel import ChatModel


@pytest.fixture
async def model() -> AsyncIterator[ChatModel]:
    """A chat model server in the test's own loop: it tells what it was asked, and may be told to fail."""
    async with ChatModel(SystemClock()).serve() as server:
        yield server


@pytest.fixture
def environ(model: ChatModel) -> dict[str, str]:
    """The environment of `up`: nothing of the caller's PERDURE_*, but a model."""
    return whole.environment(model)


@pytest.fixture
def up(tmp_path: Path, environ: dict[str, str]) -> Callable[..., AbstractAsyncContextManager[UpProcess]]:
    """`async with up(*arguments) as running`: the same folder each time it is called in a test."""
    return lambda *arguments: launched(tmp_path / "data", *arguments, environ=environ, log=tmp_path / "up.log")
