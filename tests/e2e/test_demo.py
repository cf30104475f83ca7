"""The demo is a promise: one command, offline, under a minute; exit 0, and 1 when the story goes otherwise."""

import asyncio
import sys

from perdure.clock import SystemClock
from perdure.testing.chatmodel import ChatModel


async def demo(environ: dict[str, str], *arguments: str) -> tuple[int, str]:
    """Run it; exit code and everything that it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "perdure.cli.app", "demo", *arguments, env=environ, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(120):
        out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


async def test_the_story_goes_as_promised(environ: dict[str, str]) -> None:
    offline = {k: v for k, v in environ.items() if not k.startswith("PERDURE_MODEL_")}
    code, said = await demo(offline, "--text", "hello", "--no-input")
    assert code == 0, said
    assert "✗" not in said
    assert "no PERDURE_MODEL_URL is set: the words come from a local test server" in said
    for part in (
        "SIGKILL",
        "another runner took the job over",
        "re-attaching from event 7",
        "\npost:\n",
        "where the time went",
    ):
        assert part in said
    assert "hello" in said.rpartition("\npost:\n")[2]


async def test_a_story_that_goes_otherwise_is_a_failure(environ: dict[str, str]) -> None:
    async with ChatModel(SystemClock(), key="another key than the runner's").serve() as model:
        code, said = await demo(environ | {"PERDURE_MODEL_URL": model.url}, "--no-input")
    assert code == 1, said
    assert "✗ the story went otherwise: it ended with job.failed" in said
