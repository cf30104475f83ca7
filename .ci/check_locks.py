"""Every range of pyproject.toml is met by the lock files, and they hold versions and hashes only: no host, no path."""

import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PIN = re.compile(r"([A-Za-z0-9._-]+)==([^\s;\\]+)(?: ; ([^\\]+?))? \\")
FOREIGN = re.compile(r"://|(?<!\S)--(?!hash=)\S*|(?<=\s)/\S+")


def pins(lock: Path) -> dict[str, set[Version]]:
    """The versions that `lock` pins for each package (several, when markers tell them apart)."""
    found: dict[str, set[Version]] = {}
    for line in lock.read_text().splitlines():
        if (match := PIN.fullmatch(line)) is not None:
            found.setdefault(canonicalize_name(match[1]), set()).add(Version(match[2]))
    return found


def complaints(lock: Path, ranges: list[str]) -> list[str]:
    """What is wrong with `lock` as the resolution of `ranges`."""
    pinned = pins(lock)
    found = [f"{lock.name} names a host, an option or a path: {m[0]!r}" for m in FOREIGN.finditer(lock.read_text())]
    for text in ranges:
        wanted = Requirement(text)
        versions = pinned.get(canonicalize_name(wanted.name))
        if not versions:
            found.append(f"{lock.name} lacks {text}")
        elif not all(wanted.specifier.contains(v) for v in versions):
            found.append(f"{lock.name} pins {', '.join(map(str, versions))} against {text}")
    return found


def main() -> int:
    """Print each complaint; 1 when there is one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base, dev = project["dependencies"], project["optional-dependencies"]["dev"]
    langflow = project["optional-dependencies"]["langflow"]
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    locks = ROOT / "requirements"
    found = complaints(locks / "dev.lock", base + dev)
    found += complaints(locks / "langflow.lock", base + dev + langflow)  # a set of its own: decision 0018
    tested = pins(locks / "dev.lock")
    for lock, ranges in ((locks / "base.lock", base), (locks / "build.lock", build)):
        found += complaints(lock, ranges)
        found += [f"{n} of {lock.name} is not what dev.lock tests" for n, v in pins(lock).items() if v != tested.get(n)]
    node = (ROOT / "tests" / "node" / "package-lock.json").read_text()
    found += [f"package-lock.json names a host: {m[0]!r}" for m in re.finditer(r'"resolved"|://', node)]
    sys.stdout.writelines(f"{line} (make lock)\n" for line in found)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
