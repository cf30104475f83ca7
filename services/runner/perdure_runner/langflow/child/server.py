"""The process that has lfx in memory and forks children that are ready to run a flow; one fresh child per pass.

`python -m perdure_runner.langflow.child.server FD FOLDER MEMORY_MB CPU_SECONDS`. The runner asks over the socket FD, a
line each: `fork` with the child's end of a pipe, `kill <pid>`. Answers: `ready`, `forked <pid>`, `dead <pid> <status>`
(as `waitpid` has it). It has one thread, so that a fork takes no lock along. When the runner has gone, all end.
"""

import asyncio
import contextlib
import gc
import os
import select
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import Any, Final, NoReturn

import lfx.load.load as load
from lfx.cli.serve_app import _ensure_variable_service_registered
from lfx.services.deps import get_settings_service

from perdure_runner.langflow.child.guard import GUARD
from perdure_runner.langflow.child.limits import Limits, confine
from perdure_runner.langflow.child.once import Pass
from perdure_runner.langflow.child.pipe import Pipe
from perdure_runner.langflow.child.warm import warm
from perdure_runner.langflow.frames import Start

IDLE_SECONDS: Final = 0.05
_LINE: Final = 4_096
_FDS: Final = 16


def run_child(pipe: Pipe, folder: Path) -> None:
    """Wait for the parent's `Start`, and run it. Returns when the pass has ended, or the parent has gone.

    Who waits for a while runs a flow of its own meanwhile: what it then has touched no pass has to copy any more.
    """
    settings = get_settings_service()
    settings.settings.config_dir = str(folder)
    settings.auth_settings.CONFIG_DIR = str(folder)
    if not select.select([pipe], [], [], IDLE_SECONDS)[0]:
        asyncio.run(warm())
    start = pipe.receive()
    if isinstance(start, Start):
        with contextlib.suppress(OSError):  # the parent has gone
            asyncio.run(Pass(pipe, start).run())


class ForkServer:
    """Forks, kills and buries, as it is asked."""

    def __init__(self, control: socket.socket, folder: Path, limits: Limits) -> None:
        self._control, self._folder, self._limits = control, folder, limits
        self._children: set[int] = set()
        self._ends: list[int] = []
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        os.set_blocking(self._wake_read, False)

    def run(self) -> None:
        """Serve until the runner has gone."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self._say("ready")
        read = b""
        while True:
            watched: list[Any] = [self._control, self._wake_read]  # Any: a socket and a descriptor
            ready, _, _ = select.select(watched, [], [])
            if self._wake_read in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, _LINE)
                self._bury()
            if self._control in ready:
                data, ends, _, _ = socket.recv_fds(self._control, _LINE, _FDS)
                if not data:
                    break
                self._ends += ends
                *lines, read = (read + data).split(b"\n")
                for line in lines:
                    self._do(line.decode())
        for pid in self._children:
            _kill(pid)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _do(self, line: str) -> None:
        match line.split():
            case ["fork"]:
                end = socket.socket(fileno=self._ends.pop(0))
                end.set_inheritable(False)  # what came over a socket is not, by itself
                pid = os.fork()
                if pid == 0:
                    self._child(end)
                end.close()
                self._children.add(pid)
                self._say(f"forked {pid}")
            case ["kill", pid] if int(pid) in self._children:
                _kill(int(pid))
            case _:
                pass

    def _child(self, end: socket.socket) -> NoReturn:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._control.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
            folder = self._folder / str(os.getpid())
            confine(self._limits, folder)
            run_child(Pipe(end), folder)
            code = 0
        finally:
            os._exit(code)  # flow code may have left threads that never end

    def _bury(self) -> None:
        for pid in list(self._children):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                _kill(pid)  # what it has started, in its session, while nobody else can have its id
                _, status = os.waitpid(pid, 0)
                self._children.discard(pid)
                shutil.rmtree(self._folder / str(pid), ignore_errors=True)
                self._say(f"dead {pid} {status}")

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError):  # the runner has gone: the next look says so
            self._control.sendall(f"{line}\n".encode())


def _kill(pid: int) -> None:
    """The child and all of its session."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)
            return


def _once(**_: Any) -> None:
    """In place of what has been done."""


def main() -> None:
    """Have lfx ready, then serve."""
    fd, folder, memory, cpu = sys.argv[1:]
    _ensure_variable_service_registered()  # without it globals reach no model
    GUARD.install()
    asyncio.run(warm())
    load.configure = _once  # with each flow lfx would set its log up again, which takes as long as a component
    gc.collect()
    gc.freeze()  # else the first collection in a child would copy every page
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # flow code prints what it likes
        os.dup2(quiet, stream)
    limits = Limits(memory_mb=int(memory), cpu_seconds=int(cpu))
    ForkServer(socket.socket(fileno=int(fd)), Path(folder), limits).run()


if __name__ == "__main__":
    main()
