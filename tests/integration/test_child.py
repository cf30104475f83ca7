"""A supervised process: started again when it dies, killed when it does not end, given up when it never will live."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from perdure.clock import SystemClock
from perdure.config import Address
from perdure.local.child import Child
from perdure.testing.whole import alive

STUBBORN = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(sys.argv[0] + ".up", "w").close()
time.sleep(600)
"""


@asynccontextmanager
async def kept(
    module: str, environ: dict[str, str], gave_up: list[str], grace: float = 0.3, yields: int = 0
) -> AsyncIterator[Child]:
    child = Child(
        "it", module, sys.executable, {**os.environ, **environ}, Address("127.0.0.1", 1), SystemClock(),
        grace=grace, changed=lambda: None, gave_up=gave_up.append, yields=yields,
    )  # fmt: skip
    running = asyncio.ensure_future(child.run())
    try:
        yield child
    finally:
        await child.stop()
        await running


async def test_a_killed_process_is_started_again_and_one_that_does_not_end_is_killed(
    tmp_path: Path, eventually: Callable[..., Awaitable[None]]
) -> None:
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    started = tmp_path / "stubborn.py.up"
    gave_up: list[str] = []
    async with kept("stubborn", {"PYTHONPATH": str(tmp_path)}, gave_up) as child:
        await eventually(started.exists)
        first = child.pid
        assert first is not None
        started.unlink()
        os.kill(first, signal.SIGKILL)
        await eventually(started.exists)
        second = child.pid
        assert second not in (None, first)
    assert not alive(int(second or 0))
    assert child.pid is None
    assert gave_up == []


async def test_a_process_yields_as_much_as_it_is_told_to(
    tmp_path: Path, eventually: Callable[..., Awaitable[None]]
) -> None:
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    async with kept("stubborn", {"PYTHONPATH": str(tmp_path)}, [], yields=3) as child:
        await eventually((tmp_path / "stubborn.py.up").exists)
        ours = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, child.pid or 0) == min(19, ours + 3)


async def test_a_service_that_refuses_its_settings_is_given_up_at_once() -> None:
    gave_up: list[str] = []
    async with asyncio.timeout(30), kept("perdure_sweeper", {"PERDURE_NO_SUCH": "1"}, gave_up, grace=30) as child:
        while not gave_up:
            await SystemClock().sleep(0.01)
        assert child.pid is None
    assert gave_up == ["it: it refused its settings (last exit code 2)"]


async def test_a_process_dies_with_its_parent_however_that_ends(
    tmp_path: Path, eventually: Callable[..., Awaitable[None]]
) -> None:
    """The parent starts a service that would wait for its broker for ever, and is killed."""
    code = (
        "import os, subprocess, sys\n"
        "env = {**os.environ, 'PERDURE_PARENT': str(os.getpid()), 'PERDURE_NATS': 'nats://127.0.0.1:1'}\n"
        "p = subprocess.Popen([sys.executable, '-m', 'perdure_runner'], env=env, stderr=subprocess.DEVNULL)\n"
        "print(p.pid, flush=True)\n"
        "p.wait()\n"
    )
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    assert alive(pid)
    parent.kill()
    await parent.wait()
    await eventually(lambda: not alive(pid))
