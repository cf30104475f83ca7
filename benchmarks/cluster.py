"""A whole Perdure for a measurement: `perdure up` in a temporary folder, its processes counted and watched."""

import json
import os
import resource
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path

import aiohttp
import nats
from msgspec import Struct
from nats.aio.client import Client

from perdure.local.launch import UpProcess, launched

ROOT = Path(__file__).parents[1]
TICKS = os.sysconf("SC_CLK_TCK")


class Cluster(Struct, frozen=True):
    """One running `perdure up`. `http` bears the key; `nats` follows the tenant's jobs, as any client may."""

    up: UpProcess
    http: aiohttp.ClientSession
    nats: Client

    @property
    def key(self) -> str:
        """The first key."""
        key = self.up.client.key
        assert key is not None
        return key

    def processes(self) -> dict[str, int]:
        """Pids by name: every service, the broker, the supervisor."""
        return {**self.up.processes(), "up": self.up.pid}

    def memory_bytes(self) -> dict[str, int]:
        """Proportional set size by process: pages that several share count once in the sum."""
        return {name: pss(pid) for name, pid in self.processes().items()}

    def cpu_seconds(self) -> dict[str, float]:
        """CPU time by process so far."""
        return {name: cpu(pid) for name, pid in self.processes().items()}


def pss(pid: int) -> int:
    """The proportional set size of a process, in bytes."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"no Pss of {pid}")


def cpu(pid: int) -> float:
    """CPU seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def many_files() -> None:
    """As many open files as this process, and those that it starts, may have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextmanager
def folder() -> Iterator[Path]:
    """A temporary folder for the data of one Perdure, or of several, one after the other."""
    with tempfile.TemporaryDirectory(prefix="perdure-bench-") as made:
        yield Path(made)


@asynccontextmanager
async def cluster(place: Path | None = None, arguments: Sequence[str] = (), **settings: str) -> AsyncIterator[Cluster]:
    """Start with the workflows of `benchmarks.flows` and the data in `place`, wait until ready, stop. `arguments`: more
    flags of `up`; `settings`: PERDURE_* without their prefix.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PERDURE_") or k == "PERDURE_NATS_SERVER"}
    environ = kept | {"PYTHONPATH": str(ROOT)} | {f"PERDURE_{name.upper()}": value for name, value in settings.items()}
    with nullcontext(place) if place is not None else folder() as where:
        data, log = where / "data", where / "log"
        async with launched(data, "--app", "benchmarks.flows", *arguments, environ=environ, log=log) as up:
            broker = json.loads((data / "nats.json").read_text())
            nc = await nats.connect(
                broker["url"], user=broker["user"], password=broker["password"], inbox_prefix=broker["inbox_prefix"]
            )
            headers = {"Authorization": f"Bearer {up.client.key}"}
            connector = aiohttp.TCPConnector(limit=0)
            async with aiohttp.ClientSession(up.url, headers=headers, connector=connector) as http:
                yield Cluster(up, http, nc)
            await nc.close()
