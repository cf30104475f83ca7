"""The demo is a promise: one command, offline, under a minute; exit 0, and 1 when the story goes otherwise."""

import asyncio
import os
import pty
import re
import sys

from perdure.clock import SystemClock
from perdure.testing.chatmodel import ChatModel

STYLE = re.compile(r"\x1b\[[0-9;]*m")


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


async def test_on_a_terminal_a_person_is_asked(environ: dict[str, str]) -> None:
    offline = {k: v for k, v in environ.items() if not k.startswith("PERDURE_MODEL_")} | {
        "TERM": "xterm",
        "NO_COLOR": "1",
    }
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "perdure.cli.app", "demo", "--text", "hello", env=offline,
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    said = ""

    async def until(text: str) -> None:
        nonlocal said
        while text not in said:
            try:
                async with asyncio.timeout(60):
                    said += STYLE.sub("", (await asyncio.to_thread(os.read, ours, 4096)).decode(errors="replace"))
            except OSError as exc:  # a time-out, or the other end is closed: the program has ended
                raise AssertionError(f"it never said {text!r}: {said}") from exc

    try:
        await until("answer [approve/reject]")
        os.write(ours, b"approve\n")
        await until("edit the text first?")
        os.write(ours, b"y\n")
        await until("text (")
        os.write(ours, b"edited by a person\n")
        await until("go on?")
        os.write(ours, b"y\n")
        await until("SIGTERM ended everything in order")
        assert await process.wait() == 0, said
    finally:
        if process.returncode is None:
            process.kill()
        os.close(ours)
    assert "✗" not in said
    assert "the final output is the text as it was edited" in said
    assert "edited by a person" in said.rpartition("post:")[2]
