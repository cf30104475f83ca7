"""A whole Perdure for somebody's tests: `perdure up` in a folder of its own, a blocking client, answers on cue."""

import os
import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from perdure.client import Answered, Client, SyncClient
from perdure.client.loop import LoopThread
from perdure.local.launch import UpFailed, launched, tail

ANSWER_SECONDS: Final = 30.0  # how long a request is waited for, unless a test says otherwise
RETRY_SECONDS: Final = 60.0  # a client outlasts the restart of any process


class Cluster:
    """A running Perdure. `client` is blocking; `connect()` is one for `async with` in the test's own loop.

    `data` is its data folder, `log` the file with the log lines of all its processes.
    """

    def __init__(self, url: str, key: str, data: Path, log: Path) -> None:
        self.url, self.key, self.data, self.log = url, key, data, log
        self.client = SyncClient(url, key, retry_seconds=RETRY_SECONDS)

    def connect(self) -> Client:
        """Another client, asynchronous: `async with perdure.connect() as client`."""
        return Client(self.url, self.key, retry_seconds=RETRY_SECONDS)

    def answer_next(
        self,
        job_id: str,
        name: str | None,
        action: str,
        *,
        payload: Any = msgspec.UNSET,  # Any: user value
        proposal: Any = msgspec.UNSET,  # Any: user value
        comment: str | None = None,
        timeout: float = ANSWER_SECONDS,
    ) -> Answered:
        """Answer the earliest open request of the job (of that `name`), once there is one: woken by its event.

        Raises JobEnded where the job ends without asking, WaitTimeout after `timeout` seconds, and what `answer`
        raises.
        """
        request = self.client.next_request(job_id, name, timeout=timeout)
        return self.client.answer(request, action, payload=payload, proposal=proposal, comment=comment)


@contextmanager
def cluster(folder: Path, app: Sequence[str], settings: Mapping[str, str], root: Path) -> Iterator[Cluster]:
    """`perdure up` in `folder`, with the workflows of the modules `app`; ended in order at the end.

    Its processes find what the tests find: `root` and whatever else was put on `sys.path`. Of the caller's PERDURE_*
    they see nothing but `settings`. Raises UpFailed with the end of its log.
    """
    log = folder / "up.log"
    modules = [part for module in app for part in ("--app", module)]
    running = launched(folder / "data", "--profile", "relaxed", *modules, environ=_environ(settings, root), log=log)
    thread = LoopThread("perdure-cluster", running)
    try:
        up = thread.start()
    except UpFailed as exc:
        raise UpFailed(f"{exc}:\n{tail(log)}") from None
    try:
        found = up.client
        assert found.key is not None  # `up.client` says so
        made = Cluster(found.url, found.key, up.data, log)
        with made.client:
            yield made
    finally:
        thread.close()


def _environ(settings: Mapping[str, str], root: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PERDURE_") or k == "PERDURE_NATS_SERVER"}
    paths = [str(root), *(path for path in sys.path if path and not _installed(path))]
    before = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return kept | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths + before))} | dict(settings)


def _installed(path: str) -> bool:
    """Whether every process of this interpreter finds `path` by itself."""
    homes = {*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()}
    return path in homes or path.startswith(sysconfig.get_path("stdlib") + os.sep) or path.endswith(".zip")
