"""The wheel, alone in a clean environment, imports whole and brings its data files: an editable install cannot tell.

The dependencies are the ones of this environment, joined by a .pth file, so that nothing is downloaded. A .pth file
inside a folder that another .pth file names is not read: the editable install of this checkout stays out of sight.
"""

import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMPORT_ALL = """
import importlib, pkgutil, sys
from pathlib import Path

names = []
for top in ("perdure", "perdure_gateway", "perdure_runner", "perdure_sweeper"):
    package = importlib.import_module(top)
    home = Path(package.__file__).parent
    assert home.is_relative_to(sys.prefix), f"{top} comes from {home}"
    assert (home / "py.typed").is_file(), f"{top} has no py.typed"
    for module in pkgutil.walk_packages(package.__path__, f"{top}."):
        extra = module.name.startswith("perdure_runner.langflow.child.")  # imports lfx, which base installs lack
        if not module.name.endswith("__main__") and "._migrations" not in module.name and not extra:
            importlib.import_module(module.name)
            names.append(module.name)
import perdure
assert (Path(perdure.__file__).parent / "_migrations").is_dir(), "the wheel has no migrations"
print(f"wheel: {len(names)} modules imported in a clean environment")
"""


def main() -> int:
    """Build, install, import; the exit code of the import."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(home / "dist")]
        subprocess.run(build, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        (wheel,) = (home / "dist").glob("*.whl")
        venv.create(home / "venv", with_pip=False)
        python = home / "venv/bin/python"
        install = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(python),
            "install",
            "--quiet",
            "--no-deps",
            "--no-index",
        ]
        subprocess.run([*install, str(wheel)], check=True)
        purelib = sysconfig.get_path("purelib", vars={"base": str(home / "venv"), "platbase": str(home / "venv")})
        (Path(purelib) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        return subprocess.run([python, "-I", "-W", "error", "-c", IMPORT_ALL], cwd=home, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
