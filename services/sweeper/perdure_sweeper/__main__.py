"""`python -m perdure_sweeper`: a sweeper, settings from PERDURE_*."""

import sys

from perdure.config import SweeperSettings
from perdure.service import start
from perdure_sweeper.app import serve


def main() -> int:
    """Run until stopped; the exit code."""
    return start(SweeperSettings, serve, "sweeper")


if __name__ == "__main__":
    sys.exit(main())
