"""What a child may take, and where: its own limits, its own folder, an environment without anything of the runner's."""

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Final

from msgspec import Struct

_PDEATHSIG: Final = 1  # prctl(2)
_FILES: Final = 256
_FILE_BYTES: Final = 1 << 30


class Limits(Struct, frozen=True, kw_only=True):
    """`memory_mb`: address space beyond what lfx itself takes. `cpu_seconds`: of one pass."""

    memory_mb: int
    cpu_seconds: int


def confine(limits: Limits, folder: Path) -> None:
    """Bind this process, before flow code runs in it. `folder` is its own, and removed after it."""
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    taken = _address_space()
    if taken:
        _limit(resource.RLIMIT_AS, taken + limits.memory_mb * 1024 * 1024)
    _limit(resource.RLIMIT_CPU, limits.cpu_seconds)
    _limit(resource.RLIMIT_NOFILE, _FILES)
    _limit(resource.RLIMIT_FSIZE, _FILE_BYTES)
    _limit(resource.RLIMIT_CORE, 0)
    folder.mkdir(mode=0o700)
    os.chdir(folder)
    os.environ |= {"LANGFLOW_CONFIG_DIR": str(folder), "HOME": str(folder), "TMPDIR": str(folder)}


def _limit(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, most))


def _address_space() -> int:
    """Bytes of address space that this process has; 0 where the system does not say it, and nothing is bound."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (OSError, ValueError):
        return 0
