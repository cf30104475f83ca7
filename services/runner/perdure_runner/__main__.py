"""`python -m perdure_runner`: a runner, settings from PERDURE_*."""

import sys

from perdure.config import RunnerSettings
from perdure.service import start
from perdure_runner.app import serve


def main() -> int:
    """Run until stopped; the exit code."""
    return start(RunnerSettings, serve, "runner")


if __name__ == "__main__":
    sys.exit(main())
