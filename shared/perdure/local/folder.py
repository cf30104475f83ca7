"""The data folder of `perdure up`: its lock, its format, the client's file, and who runs in it.

DATA/lock          flock, held by the supervisor and inherited by the broker: the store has no lock of its own
DATA/format.json   {data, perdure, nats_server}: which program may open the folder
DATA/client.json   {url, key}, 0600: how the command line finds the gateway
DATA/nats.json     {url, user, password, inbox_prefix}, 0600: for any NATS client, to follow the tenant's jobs
DATA/operator.json {nats, nats_user, nats_password, database}, 0600: for `perdure doctor`
DATA/master.key    the key that seals overrides (`perdure.seal`), 0600: whoever loses it loses them
DATA/up.json       {pid, url, processes: {name: pid}}: who runs now
DATA/nats/         the broker's store        DATA/perdure.db   SQLite
"""

import fcntl
import json
import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from perdure import __version__
from perdure.clock import Clock
from perdure.errors import PerdureError
from perdure.seal import new_master_key

DATA_FORMAT: Final = 1
LOCK_SECONDS: Final = 5.0  # a killed supervisor's broker is gone within milliseconds; then the lock is free


class StartRefused(PerdureError):
    """`up` cannot start here and trying again will not help: exit 2, the message says why and what to do."""


class Format(Struct, frozen=True):
    """What DATA/format.json says: format of the folder, and the versions that wrote it last."""

    data: int
    perdure: str
    nats_server: str | None = None


class ClientFile(Struct, frozen=True):
    """What DATA/client.json says."""

    url: str
    key: str | None = None  # None: the database had keys already when the folder was made


class NatsFile(Struct, frozen=True):
    """What DATA/nats.json says: a user of the broker who may follow and replay one tenant's jobs and nothing else.

    Made anew at each start of the broker.
    """

    url: str
    user: str
    password: str
    inbox_prefix: str


class OperatorFile(Struct, frozen=True):
    """What DATA/operator.json says: broker and database with an operator's rights. Made anew at each start."""

    nats: str
    nats_user: str
    nats_password: str
    database: str


class UpFile(Struct, frozen=True):
    """What DATA/up.json says: the supervisor, and its processes by name."""

    pid: int
    url: str
    processes: dict[str, int] = {}


def read_client(data: Path) -> ClientFile | None:
    """The client's file of a data folder, None where there is none. Raises StartRefused when it cannot be read."""
    try:
        return msgspec.json.decode((data / "client.json").read_bytes(), type=ClientFile)
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, OSError) as exc:
        raise StartRefused(f"{data / 'client.json'} cannot be read: {exc}") from exc


def read_nats(data: Path) -> NatsFile | None:
    """How a NATS client follows the jobs of what runs in the folder; None where `up` never started its own broker."""
    try:
        return msgspec.json.decode((data / "nats.json").read_bytes(), type=NatsFile)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def read_operator(data: Path) -> OperatorFile | None:
    """How an operator reaches what runs in the folder; None where `up` never started its own broker there."""
    try:
        return msgspec.json.decode((data / "operator.json").read_bytes(), type=OperatorFile)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def read_up(data: Path) -> UpFile | None:
    """Who runs in the folder by DATA/up.json; None where there is no such file. It may be stale: look at the pid."""
    try:
        return msgspec.json.decode((data / "up.json").read_bytes(), type=UpFile)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


class DataFolder:
    """An opened data folder; the lock is held until `close` and by whoever inherits `lock_fd`."""

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.path, self.lock_fd = path, lock_fd

    @classmethod
    async def open(cls, path: Path, clock: Clock) -> "DataFolder":
        """Make the folder where it is missing, and lock it. Raises StartRefused: in use, not writable, or too new."""
        fd = _lock_file(path)
        try:
            await _lock(fd, path, clock)
            os.truncate(fd, 0)
            os.pwrite(fd, str(os.getpid()).encode(), 0)
            folder = cls(path, fd)
            folder._check_format()
        except BaseException:
            os.close(fd)
            raise
        return folder

    def close(self) -> None:
        """Forget who ran here and give the lock back."""
        with suppress(FileNotFoundError):
            (self.path / "up.json").unlink()
        os.close(self.lock_fd)

    @property
    def store(self) -> Path:
        """The broker's folder."""
        return self.path / "nats"

    @property
    def sqlite(self) -> Path:
        """The database file."""
        return self.path / "perdure.db"

    def _format(self) -> Format | None:
        """What the folder says of itself; None where no start has ended yet. Raises StartRefused."""
        try:
            return msgspec.json.decode((self.path / "format.json").read_bytes(), type=Format)
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError as exc:
            raise StartRefused(f"{self.path / 'format.json'} cannot be read: {exc}") from exc

    def _check_format(self) -> None:
        found = self._format()
        if found is not None and found.data > DATA_FORMAT:
            raise self.too_new(f"data format {found.data}, this version opens up to {DATA_FORMAT}")

    def too_new(self, why: str) -> StartRefused:
        """What to raise where a newer version has changed the folder."""
        found = self._format()
        writer = found.perdure if found is not None else "a newer version"
        return StartRefused(
            f"the data folder {self.path} was written by perdure {writer} ({why}); "
            f"this is perdure {__version__}: use {writer} or newer"
        )

    def write_format(self, nats_server: str | None) -> None:
        """Say which program the folder fits now; the last act of a start that may have changed it."""
        self._write("format.json", msgspec.json.encode(Format(DATA_FORMAT, __version__, nats_server)))

    def write_client(self, client: ClientFile) -> None:
        """Write the client's file (0600)."""
        self._write("client.json", msgspec.json.encode(client))

    def write_nats(self, nats: NatsFile) -> None:
        """Write how a NATS client of anybody's follows the jobs (0600)."""
        self._write("nats.json", msgspec.json.encode(nats))

    def write_operator(self, operator: OperatorFile) -> None:
        """Write how `perdure doctor` reaches broker and database (0600)."""
        self._write("operator.json", msgspec.json.encode(operator))

    def master_key(self) -> str:
        """The folder's master key, made when it is first needed (0600)."""
        file = self.path / "master.key"
        if not file.exists():
            temporary = self.path / f".master.key.{os.getpid()}"
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                os.write(fd, new_master_key().encode() + b"\n")
                os.fsync(fd)
            finally:
                os.close(fd)
            temporary.replace(file)
        return file.read_text().strip()

    def write_up(self, up: UpFile) -> None:
        """Write who runs."""
        self._write("up.json", msgspec.json.encode(up))

    def backup_sqlite(self) -> Path:
        """A copy of the database in DATA/backup-<the version that wrote the folder last>/, made before it is migrated;
        returns the copy. It is there whole or not at all, whatever kills us.
        """
        found = self._format()
        target = self.path / f"backup-{found.perdure if found is not None else 'unknown'}" / self.sqlite.name
        target.parent.mkdir(mode=0o700, exist_ok=True)
        half = target.with_suffix(".half")
        half.unlink(missing_ok=True)
        os.close(os.open(half, os.O_WRONLY | os.O_CREAT, 0o600))
        with closing(sqlite3.connect(self.sqlite)) as source, closing(sqlite3.connect(half)) as copy:
            source.backup(copy)
        with half.open("rb") as copied:
            os.fsync(copied.fileno())
        return half.replace(target)

    def _write(self, name: str, body: bytes) -> None:
        """Replace a file whole: who reads it sees the old or the new one, a power cut leaves one of them."""
        temporary = self.path / f".{name}.{os.getpid()}"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(fd, json.dumps(json.loads(body), indent=1).encode() + b"\n")
            os.fsync(fd)
        finally:
            os.close(fd)
        temporary.replace(self.path / name)


def _lock_file(path: Path) -> int:
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise StartRefused(f"the data folder {path} cannot be used: {exc.strerror}") from exc


async def _lock(fd: int, path: Path, clock: Clock) -> None:
    """Take the lock. While its holder's supervisor is alive this is refused at once, else it is about to be free."""
    until = clock.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
            if _alive(holder) or clock.monotonic() > until:
                raise StartRefused(
                    f"the data folder {path} is in use by another `perdure up` (process {holder or 'unknown'}): "
                    "stop that one, or give this one a folder of its own with --data"
                ) from None
        else:
            return
        await clock.sleep(0.05)


def _alive(pid: str) -> bool:
    if not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
