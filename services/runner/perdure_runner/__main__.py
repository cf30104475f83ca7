"""`python -m perdure_runner`: a runner, settings from PERDURE_*; with `--one JOB` the process of a suspect."""

import sys
from functools import partial

from perdure.config import RunnerSettings
from perdure.ids import JobId, is_uuid
from perdure.service import start
from perdure_runner.app import serve, serve_one


def main() -> int:
    """Run until stopped; the exit code."""
    match sys.argv[1:]:
        case []:
            return start(RunnerSettings, serve, "runner")
        case ["--one", job] if is_uuid(job):
            return start(RunnerSettings, partial(serve_one, job=JobId(job)), "suspect")
        case _:
            sys.stderr.write("usage: python -m perdure_runner [--one JOB]\n")
            return 2


if __name__ == "__main__":
    sys.exit(main())
